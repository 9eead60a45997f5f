"""The page of `lorascope explain`: a paragraph, and the numbers that it is made from."""

import re
from pathlib import Path
from typing import Any

from lorascope.analyze.figures import js_figure
from lorascope.analyze.results.format import format_error, format_number, format_percent
from lorascope.analyze.words.contexts import contexts
from lorascope.stores import Run
from lorascope.stores.places.atomic_write import atomic_write
from lorascope.stores.reading.read import RunLike, as_run
from lorascope.stores.visible import one_line

from . import about_run
from .ablation import ablation
from .document import document
from .explain import Explanation, explain
from .markup import contents, escape, figure, notice, section, table, with_minus
from .paragraph import but_first, chosen_component, first_words, paragraph, quoted

TITLE = "What the adapter learned"
N_ROWS = 10
"""Rows of a table that would have one for each component."""
N_CONTEXTS = 3
"""Strongest tokens of a direction whose contexts are shown."""


def write_explanation(run: RunLike, path: str | Path, **options: Any) -> str:
    """Write a page that says what an adapter learned; returns the paragraph at its head in lines.

    Nothing in it is fetched from elsewhere. A page that is there already is replaced, and only by a whole one.

    Parameters
    ----------
    run
        An open run or its path or url, finished or not.
    path
        File of the page; its folder is made where it is missing.
    **options
        Those of `explain`.

    Raises
    ------
    IsADirectoryError
        If `path` is a folder.
    StoreError
        As `explain`.
    """
    page = Path(path)
    if page.is_dir():
        raise IsADirectoryError(f"`path` is {str(path)!r}, a folder; name a file, e.g. {str(page / 'explain.html')!r}")
    run = as_run(run)
    found = explain(run, **options)
    told = paragraph(run, found)
    body = "".join((_acts(found), _matters(run, found), _directions(run, found), _words(found)))
    opening = " ".join(f"<b>{escape(head)}.</b> {_with_code(text)}" for head, text in told)
    head = (
        f'<p class="opening">{opening}</p>',
        *(notice(one) for one in about_run.notices(run, found.qualified)),
        contents(body),
    )
    with atomic_write(page) as partial:
        whole = document(TITLE, about_run.source(run, found.qualified), "".join((*head, body)))
        partial.write_text(whole, encoding="utf-8")
    return "\n".join(f"{head}. {text}" for head, text in told)


def _acts(found: Explanation) -> str:
    """The heat map of js."""
    n_samples = found.qualified.attrs["n_samples"]
    caption = (
        f"Mean JS of each component in nats, over {n_samples} samples. The colour scale is logarithmic, and its low "
        "end stands for everything below. Grey: exactly 0, not finite, or no such component. Hover over a cell for its "
        "name, standard error and what qualifies it."
    )
    return section("components", "Where it acts", figure("js-map", js_figure(found.qualified, titled=False), caption))


def _missing(found: Explanation, name: str, title: str) -> str:
    return section(name, title, f"<p>Can't tell, since {_with_code(found.why[name])}.</p>")


def _with_code(text: str) -> str:
    """HTML of a sentence; what stands between backquotes is what one types."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(with_minus(text)))


def _matters(run: Run, found: Explanation) -> str:
    """What was taken out, and how far the next token moved."""
    title = "What matters"
    if found.ablation is None:
        return _missing(found, "ablation", title)
    taken = found.ablation.sortby("kl", ascending=False)
    n_parts = taken.sizes["part"]
    shown = taken.isel(part=slice(N_ROWS))
    total = float(taken["kl"].sum())
    rows = [
        (str(part), format_error(float(kl), float(error)), format_percent(float(kl) / total) if total else "n/a")
        for part, kl, error in zip(shown["part"].values, shown["kl"].values, shown["kl_se"].values, strict=True)
    ]
    caption = (
        f"The {len(rows)} largest of {n_parts} {taken.attrs['parts']}: KL(adapted || adapted without that delta) of "
        f"the next-token distributions, mean over a sample's tokens, ± standard error over "
        f"{taken.attrs['n_samples']} samples ({taken.attrs['n_tokens']} tokens). Share: of the sum over all parts, "
        "which needn't be what all of them do together."
    )
    more = "" if found.measures is None else ablation(found.measures)
    return section("parts", title, table(("part", "KL (nat)", "share"), rows, caption=caption)) + more


def _directions(run: Run, found: Explanation) -> str:
    """Directions of the components that matter most, and how many ranks each kind uses."""
    title = "Directions and ranks"
    if found.directions is None:
        return _missing(found, "directions", title)
    every = found.directions
    by_kind = [
        (
            str(kind),
            str(part.sizes["component"]),
            *(f"{float(part[name].median()):g}" for name in ("rank", "n_90", "n_99")),
            f"{int(part['n_99'].min())} to {int(part['n_99'].max())}",
        )
        for kind, part in every.groupby("kind")
    ]
    caption = (
        f"How many directions hold 90 and 99 % of the summed |delta|² over {every.attrs['n_tokens']} tokens"
        f"{but_first(every)}; medians over components. Fewer than the rank: a smaller one would do for these tokens. "
        "<code>lorascope adapter --truncate</code> makes such an adapter, and says what it loses."
    )
    columns = ("kind", "components", "rank", "for 90 %", "for 99 %", "range")
    return section("directions", title, _first_directions(run, found), table(columns, by_kind, caption=caption))


def _first_directions(run: Run, found: Explanation) -> str:
    """The first direction of some components, and the contexts of its strongest tokens."""
    assert found.directions is not None
    every = found.directions
    order = found.qualified.dataset["js"].fillna(-1).sortby(-found.qualified.dataset["js"])["component"].values.tolist()
    first = chosen_component(found)
    names = [name for name in dict.fromkeys((first, *order)) if name in every["component"].values][:N_ROWS]
    rows = []
    for name in names:
        one = every.sel(component=name)
        tokens = one["token"].values
        parts = contexts(run, tokens[:N_CONTEXTS], width=4)
        words = zip(*(parts[part].values for part in ("before", "text", "after")), strict=True)
        told = [one_line(f"{before}[{text}]{after}") for before, text, after in words if text]
        rows.append(
            (
                name,
                " ⋯ ".join(told),
                format_percent(float(one["first_share"])),
                format_percent(1 / int(one["rank"])),
                f"{int(one['driver_count'])} of {int((tokens >= 0).sum())}",
                format_number(float(one["driver_p"])),
            )
        )
    caption = (
        "The first direction of the component that costs most and of those with the largest JS: the contexts of its "
        "three strongest tokens (of those with id and position in common the first), its share of the summed |delta|²"
        f"{but_first(every)}, and what it would be if all directions had an equal one. Same token: how often the most "
        "over-represented token occurs among the strongest, and the share of random mixtures of the component's "
        "directions, equally scaled, of which that is as true (above 0.05, nothing can be told from it)."
    )
    columns = ("component", "strongest at", "share", "if equal", "same token", "p")
    return table(columns, rows, n_names=2, caption=caption)


def _words(found: Explanation) -> str:
    """What the mean delta says through the unembedding."""
    title = "In words"
    if found.lens is None:
        return _missing(found, "lens", title)
    words = found.lens
    sites = words["site"].values[words["delta_norm"].values.argsort()[::-1]].tolist()
    after = [site for site in words["site"].values.tolist() if site.startswith("after layer ")]
    rows = []
    for site in (after[::-1] or sites)[:N_ROWS]:
        sides = [first_words(words, site, side) for side in ("promoted", "suppressed")]
        cells = zip(*((quoted(texts), format_number(p), str(n)) for texts, p, n in sides), strict=True)
        rows.append((site, *(cell for pair in cells for cell in pair)))
    caption = (
        f"Mean change over {int(words['n_tokens'].max())} tokens{but_first(words)}, through the final norm and the "
        "unembedding: the tokens that it promotes and suppresses most. p: of the first of them, the chance that the "
        "same change with random signs of its features moves some token as far; beyond: tokens with p up to 0.05. The "
        "null knows nothing of what words have in common, so ten words of one topic may say more than their p."
    )
    columns = ("site", "promotes", "suppresses", "p promoted", "p suppressed", "beyond", "beyond")
    return section("lens", title, table(columns, rows, n_names=3, caption=caption))
