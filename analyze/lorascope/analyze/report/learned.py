"""The sections on directions, words and ranks: the tables behind what the paragraph says of them."""

import xarray as xr

from lorascope.analyze.results.format import format_number, format_percent
from lorascope.analyze.words.contexts import contexts
from lorascope.stores import Run
from lorascope.stores.visible import one_line

from .explain import Explanation
from .markup import section, table, with_code
from .paragraph import main_component, over_tokens, top_words

N_ROWS = 10
"""Most rows of a table that would have one for each component or site."""
N_CONTEXTS = 3
"""Strongest tokens of a direction whose contexts are shown."""


def directions_and_words(run: Run, explanation: Explanation) -> str:
    """HTML of the section: the first directions of some components, and the words of some sites."""
    directions, words = (
        f"<p>Can't tell {what}, since {with_code(explanation.reasons[field])}.</p>"
        if field in explanation.reasons
        else ""
        for field, what in (("directions", "which directions"), ("lens", "which words"))
    )
    if explanation.directions is not None:
        directions = _first_directions(run, explanation, explanation.directions)
    if explanation.lens is not None:
        words = _words(explanation.lens)
    return section("directions", "Directions and words", directions, words)


def _first_directions(run: Run, explanation: Explanation, directions: xr.Dataset) -> str:
    """The first direction of some components, with the contexts of its strongest tokens."""
    js = explanation.qualified.dataset["js"].fillna(-1)
    order = [main_component(explanation), *js.sortby(-js)["component"].values.tolist()]
    names = [name for name in dict.fromkeys(order) if name in directions["component"].values][:N_ROWS]
    rows = []
    for name in names:
        row = directions.sel(component=name)
        tokens = row["token"].values
        texts = contexts(run, tokens[:N_CONTEXTS], width=4)
        pieces = zip(*(texts[part].values for part in ("before", "text", "after")), strict=True)
        rows.append(
            (
                name,
                " ⋯ ".join(one_line(f"{before}[{text}]{after}") for before, text, after in pieces if text),
                format_percent(float(row["first_share"])),
                format_percent(1 / int(row["rank"])),
                f"{int(row['driver_count'])} of {int((tokens >= 0).sum())}",
                format_number(float(row["driver_p"])),
            )
        )
    caption = (
        "First direction of the component that the paragraph names and of those with the largest JS: its three "
        "strongest tokens (in brackets, those with the same id and position once) in their context, and its share of "
        f"the summed |delta|² over {over_tokens(directions, directions.attrs['n_tokens'])}. Same token: how often the "
        "most over-represented token occurs among the strongest ones; p is the share of random directions (mixtures of "
        "all of the component's, equally scaled) whose strongest tokens are as much of one id."
    )
    columns = ("component", "strongest at", "share", "if all were equal", "same token", "p")
    return table(columns, rows, n_names=2, caption=caption)


def _words(lens: xr.Dataset) -> str:
    """What the mean deltas of some sites say through the unembedding."""
    longest = lens["site"].values[lens["delta_norm"].values.argsort()[::-1]].tolist()
    after = [site for site in lens["site"].values.tolist() if site.startswith("after layer ")]
    rows = []
    for site in (after[::-1] or longest)[:N_ROWS]:
        sides = [top_words(lens, site, side) for side in ("promoted", "suppressed")]
        cells = zip(*((words, format_number(p), str(n)) for words, p, n in sides), strict=True)
        rows.append((site, *(cell for pair in cells for cell in pair)))
    caption = (
        f"What is added on average over {over_tokens(lens, int(lens['n_tokens'].max()))}, read through the final norm "
        "and the unembedding: the tokens that become more and less likely. p: of the first of them, the chance that "
        "the same change with random signs of its features moves some token as far; significant: tokens with p up to "
        "0.05. Random signs know nothing of what words have in common: ten words of a topic may say more than their p."
    )
    columns = ("site", "more likely", "less likely", "p, more", "p, less", "significant, more", "significant, less")
    return table(columns, rows, n_names=3, caption=caption)


def ranks(explanation: Explanation) -> str:
    """HTML of the section: how many directions each kind of module uses."""
    directions = explanation.directions
    if directions is None:
        text = f"<p>Can't tell, since {with_code(explanation.reasons['directions'])}.</p>"
        return section("ranks", "Ranks", text)
    rows = [
        (
            str(kind),
            str(part.sizes["component"]),
            *(f"{float(part[name].median()):g}" for name in ("rank", "n_90", "n_99")),
            f"{int(part['n_99'].min())} to {int(part['n_99'].max())}",
        )
        for kind, part in directions.groupby("kind")
    ]
    caption = (
        "How many directions hold 90 and 99 % of the summed |delta|² over "
        f"{over_tokens(directions, directions.attrs['n_tokens'])}; medians over components. Fewer than the rank: a "
        "smaller one would do for these tokens. <code>lorascope adapter --truncate</code> makes such an adapter, and "
        "says what it loses."
    )
    columns = ("kind", "components", "rank", "for 90 %", "for 99 %", "range")
    return section("ranks", "Ranks", table(columns, rows, caption=caption))
