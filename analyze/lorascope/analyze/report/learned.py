"""Sentences and sections on what the adapter learned: directions, words and ranks.

Delta is what the adapter adds to a component, a module that it changes. JS is the Jensen-Shannon divergence that shows
how far this moves the module's output.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.directions.directions import contexts
from lorascope.analyze.directions.drivers import N_DRAWS
from lorascope.analyze.results.format import format_number, format_percent
from lorascope.analyze.results.largest import largest_places
from lorascope.stores import Run
from lorascope.stores.visible import one_line

from .explain import Explanation
from .markup import NO_BREAK, section, table, with_code
from .matters import has_significant_removal
from .where_it_acts import join_names

LEVEL = 0.05
"""Largest p at which a sentence claims something; above it the sentence says that it can't tell."""
N_WORDS = 8
"""Most tokens that a sentence names."""
N_ROWS = 10
"""Most rows of a table with one row per component or site."""
N_CONTEXTS = 3
"""Strongest tokens of a direction whose contexts are shown."""


def answer_which_directions(run: Run, explanation: Explanation) -> str:
    """Return sentences (plain text) on the strongest direction of one module's delta, and the token it is about."""
    if explanation.directions is None:
        return f"Can't tell, since {explanation.reasons['directions']}."
    name = main_component(explanation)
    if name not in explanation.directions["component"]:
        return f"Can't tell for {name}, whose change isn't stored in low-rank form."
    row = explanation.directions.sel(component=name)
    share, rank, p = float(row["first_share"]), int(row["rank"]), float(row["driver_p"])
    if not share > 0:
        return f"Can't tell, since what the adapter adds to {name} is 0, or not finite."
    tokens = describe_tokens(explanation.directions, explanation.directions.attrs["n_tokens"])
    if explanation.directions.attrs["tokens"] == "from:1":
        tokens += ", whose values can swamp the rest"
    first = (
        f"What the adapter adds to the output of {name}{_main_component_reason(explanation)} is a mix of at most "
        f"{rank} directions (its rank). One direction has {format_percent(share)} of it "
        f"({format_percent(1 / rank)} if all were equal; squared length over {tokens})."
    )
    count, n_top = int(row["driver_count"]), int((row["token"] >= 0).sum())
    if not p <= LEVEL:
        return (
            f"{first} Can't tell at which token this direction is strongest: its {n_top} strongest places hold as many "
            f"different tokens as those of random directions (p = {format_number(p)})."
        )
    return (
        f"{first} This direction is strongest at the token {_token_text(run, int(row['driver']))} ({count} of its "
        f"{n_top} strongest places; {format_percent(float(row['driver_share']))} of all places). That is only "
        f"a hint: none of {N_DRAWS} random mixtures of the module's directions is as much about one token (p = "
        f"{format_number(p)}, the lowest that {N_DRAWS} can give)."
    )


def answer_which_words(explanation: Explanation) -> str:
    """Return sentences (plain text) on tokens that the mean delta at one place makes more and less likely.

    A site is a component, or the residual stream after a layer.
    """
    if explanation.lens is None:
        return f"Can't tell, since {explanation.reasons['lens']}."
    site = main_place(explanation.lens)
    (more, _, n_more), (less, _, n_less) = (
        top_words(explanation.lens, site, side) for side in ("promoted", "suppressed")
    )
    null = f"compared with {explanation.lens.attrs['n_draws']} random changes of the same size"
    kinds = join_names(np.unique(explanation.lens["kind"]).tolist())
    what, why = f"to the output of {site}", f" (the largest average change among all {kinds})"
    if site.startswith("after "):
        what, why = f"to the residual stream {site}", ""
    if not n_more + n_less:
        return f"Can't tell: no token stands out in what the adapter adds {what} on average ({null})."
    first = [("none", "the first")[n] if n < 2 else f"the first {min(n, N_WORDS)}" for n in (n_more, n_less)]
    return (
        f"On average, what the adapter adds {what}{why} makes these next tokens more likely: {more}; and these less "
        f"likely: {less}. Beyond chance are {first[0]} of the former and {first[1]} of the latter (p up to {LEVEL}, "
        f"{null}). This is a rough look, an average over all captured tokens: "
        f"{'other modules can outweigh it' if why else 'single tokens can differ from it'}, and a token that is less "
        "likely overall can still be chosen at some places."
    )


def answer_how_many_ranks(explanation: Explanation) -> str:
    """Return sentences (plain text) on how many directions hold 90 and 99 % of what the adapter adds."""
    if explanation.directions is None:
        return f"Can't tell, since {explanation.reasons['directions']}."
    directions = explanation.directions.isel(component=(explanation.directions["n_99"] > 0).values)
    tokens = describe_tokens(directions, directions.attrs["n_tokens"])
    n_zero = explanation.directions.sizes["component"] - directions.sizes["component"]
    if not directions.sizes["component"]:
        return f"Can't tell, since what the adapter adds is 0 or not finite on all of {tokens}."
    n_99, n_90, rank = (int(directions[name].sum()) for name in ("n_99", "n_90", "rank"))
    n, halves = directions.sizes["component"], directions["n_99_half"].sum("component", skipna=False)
    error = "too few tokens for an error"
    if np.isfinite(halves).all():
        error = f"{int(halves[0])} and {int(halves[1])} in two halves of the tokens"
    zero = f" Not counted: {n_zero} modules where what is added is 0 or not finite." if n_zero else ""
    return (
        f"On these tokens, a module needs {round(n_99 / n, 1):g} of its {round(rank / n, 1):g} directions on average "
        f"for 99 % of what the adapter adds ({n_99} of {rank} in {n} modules; {error}), and {round(n_90 / n, 1):g} for "
        f"90 % ({n_90} of {rank}; squared length over {tokens}).{zero} To try a smaller rank, use `lorascope adapter "
        "--truncate`: it chooses directions by the weights, not by these tokens, and can measure what is lost."
    )


def directions_section(run: Run, explanation: Explanation) -> str:
    """Return the HTML section with tables of modules' directions and promoted tokens, or why they are unknown."""
    directions, words = (
        f"<p>Can't tell {what}, since {with_code(explanation.reasons[field])}.</p>"
        if field in explanation.reasons
        else ""
        for field, what in (("directions", "which directions"), ("lens", "which words"))
    )
    if explanation.directions is not None:
        directions = _directions_table(run, explanation, explanation.directions)
    if explanation.lens is not None:
        words = _words_table(explanation.lens)
    return section("directions", "Directions and words", directions, words)


def _directions_table(run: Run, explanation: Explanation, directions: xr.Dataset) -> str:
    """Return an HTML table of some components' strongest direction, with contexts of its strongest tokens."""
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
        "The strongest direction of what the adapter adds: in the component that the paragraph above names, and in "
        "those with the largest JS. Strongest at: its three strongest tokens in square brackets, with the text around "
        "them; tokens with the same id and position are shown once. Share: of the summed squared length |delta|² over "
        f"{describe_tokens(directions, directions.attrs['n_tokens'])}. Same token: how often the most over-represented "
        "token occurs among the ten strongest ones. p: the share of random directions (mixtures of all of the "
        "component's, equally scaled) whose strongest tokens are as much of one id."
    )
    columns = ("component", "strongest at", "share", "if all were equal", "same token", "p")
    return table(columns, rows, n_names=2, caption=caption)


def _words_table(lens: xr.Dataset) -> str:
    """Return an HTML table of tokens that mean deltas of some modules or layers make more and less likely."""
    longest = lens["site"].values[largest_places(lens["delta_norm"].values, N_ROWS)].tolist()
    rows = []
    for site in (_stream_places(lens)[::-1] or longest)[:N_ROWS]:
        sides = [top_words(lens, site, side) for side in ("promoted", "suppressed")]
        cells = zip(*((words, format_number(p), str(n)) for words, p, n in sides), strict=True)
        rows.append((site, *(cell for pair in cells for cell in pair)))
    caption = (
        "Tokens that become more and less likely by what the adapter adds on average over "
        f"{describe_tokens(lens, int(lens['n_tokens'].max()))}, seen through the model's final norm and unembedding. "
        "p: for the first of them, the chance that the same change with random signs of its features moves some token "
        "as far. Significant: number of tokens with p up to 0.05. Random signs ignore what words have in common, so "
        "ten words of one topic may say more than their p."
    )
    columns = ("site", "more likely", "less likely", "p, more", "p, less", "significant, more", "significant, less")
    return table(columns, rows, n_names=3, caption=caption)


def ranks_section(explanation: Explanation) -> str:
    """Return the HTML section on how many directions each kind of module uses, compared with its rank."""
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
        "How many directions hold 90 and 99 % of what the adapter adds (of the summed |delta|² over "
        f"{describe_tokens(directions, directions.attrs['n_tokens'])}): medians over components, and the range for "
        "99 %. If that is fewer than the rank, a smaller rank would do for these tokens. "
        "<code>lorascope adapter --truncate</code> makes such an adapter, and reports what it loses."
    )
    columns = ("kind", "components", "rank", "for 90 %", "for 99 %", "range")
    return section("ranks", "Ranks", table(columns, rows, caption=caption))


def main_component(explanation: Explanation) -> str:
    """Return the module whose directions the report describes: the costliest to remove, or of largest JS."""
    if explanation.measures is not None:
        costs = explanation.measures["ablation"].values
        return str(explanation.measures["component"].values[costs.argmax()])
    js = explanation.qualified.dataset["js"].fillna(-1)
    return str(js["component"].values[int(js.values.argmax())])


def _main_component_reason(explanation: Explanation) -> str:
    """Return a clause on why the report shows its main component; empty if earlier answers can't name the largest."""
    if explanation.measures is not None and explanation.ablation is not None:
        return ", whose removal changes predictions most," if has_significant_removal(explanation.ablation) else ""
    return ", where its effect is largest," if np.isfinite(explanation.qualified["miub"].item()) else ""


def main_place(lens: xr.Dataset) -> str:
    """Return the site whose words the report describes: the stream after the last layer, else the longest delta.

    A site is a component, or the residual stream after a layer.
    """
    stream = _stream_places(lens)
    return stream[-1] if stream else str(lens["site"].values[int(lens["delta_norm"].fillna(-1).values.argmax())])


def _stream_places(lens: xr.Dataset) -> list[str]:
    """Return the names of places in the residual stream, such as `after layer 3`, in the order of layers."""
    return [site for site in lens["site"].values.tolist() if site.startswith("after layer ")]


def top_words(lens: xr.Dataset, site: str, side: str) -> tuple[str, float, int]:
    """Return (tokens, p of the first, number with p <= 0.05) that the mean delta at a site raises or lowers most.

    `side` is `promoted` or `suppressed`; a site is a component, or the residual stream after a layer.
    """
    row = lens.sel(site=site)
    return quoted(row[side].values[:N_WORDS].tolist()), float(row[f"{side}_p"].values[0]), int(row[f"n_{side}"])


def describe_tokens(result: xr.Dataset, n_tokens: int) -> str:
    """Return text on how many tokens a result is about, and on whether first tokens are excluded."""
    excluded = ", without the first of each sample" if result.attrs["tokens"] == "from:1" else ""
    return f"{n_tokens} token{'' if n_tokens == 1 else 's'}{excluded}"


def quoted(texts: Sequence[str]) -> str:
    """Return tokens in quotes, with line breaks as escapes and no-break spaces.

    A browser neither joins nor breaks these.
    """
    return ", ".join(f"“{one_line(text).replace(' ', NO_BREAK)}”" for text in texts)


def _token_text(run: Run, token_id: int) -> str:
    """Return a token's text in quotes, or its id if the run keeps no text."""
    if "text" not in run.tokens:
        return f"with id {token_id}"
    place = int(np.flatnonzero(run.tokens["token_id"].values == token_id)[0])
    return quoted([str(run.tokens["text"][place].item())])
