"""Sentences and sections on the directions in which the adapter moves modules, and on ranks.

Delta is what the adapter adds to a component, a module that it changes. JS is the Jensen-Shannon divergence that shows
how far this moves the module's output.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.directions.directions import contexts
from lorascope.analyze.results.format import format_number, format_percent
from lorascope.stores import Run
from lorascope.stores.visible import one_line

from .explain import Explanation
from .markup import NO_BREAK, section, table, with_code
from .matters import has_significant_removal

LEVEL = 0.05
"""Largest p at which a sentence claims something; above it the sentence says that it can't tell."""
N_WORDS = 4
"""Most tokens of a direction that a sentence names."""
N_ROWS = 10
"""Most rows of a table with one row per component."""
N_CONTEXTS = 3
"""Strongest tokens of a direction whose contexts are shown."""
N_AROUND = 4
"""Tokens before and after a token that are its context."""


def answer_which_directions(run: Run, explanation: Explanation) -> str:
    """Return sentences (plain text) on the strongest direction of one module's delta, and on its strongest tokens."""
    if explanation.directions is None:
        return f"Can't tell, since {explanation.reasons['directions']}."
    name = main_component(explanation)
    if name not in explanation.directions["component"]:
        return f"Can't tell for {name}, whose change isn't stored in low-rank form."
    row = explanation.directions.sel(component=name)
    share, rank, p = float(row["first_share"]), int(row["rank"]), float(row["driver_p"])
    if not share > 0:
        return f"Can't tell, since what the adapter adds to {name} is 0, or not finite."
    top = row["token"].values[row["token"].values >= 0]
    texts = contexts(run, top, width=N_AROUND)
    words = Counter(texts["text"].values.tolist()).most_common(N_WORDS)
    counts = ", ".join(
        f"{quoted([word])} ({n}{'' if place else f' of its {len(top)} strongest places'})"
        for place, (word, n) in enumerate(words)
    )
    example = one_line(f"{texts['before'].values[0]}[{texts['text'].values[0]}]{texts['after'].values[0]}")
    names = "" if "text" in run.tokens else "token ids "
    return (
        f"Of what the adapter adds to {name}{_main_component_reason(explanation)}, one direction of {rank} has "
        f"{format_percent(share)} ({format_percent(1 / rank)} if all were equal). It is "
        f"strongest at {names}{counts}, first of all in “{example}”, and {'' if p <= LEVEL else 'not significantly '}"
        f"more about one token than random directions (p = {format_number(p)})."
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
        f"A module needs {round(n_99 / n, 1):g} of its {round(rank / n, 1):g} directions on average for 99 % of what "
        f"the adapter adds ({n_99} of {rank} in {n} modules; {error}), and {round(n_90 / n, 1):g} for 90 % (squared "
        f"length over {tokens}).{zero}"
    )


def directions_section(run: Run, explanation: Explanation) -> str:
    """Return the HTML section with a table of modules' directions, or why they are unknown."""
    if explanation.directions is None:
        text = f"<p>Can't tell, since {with_code(explanation.reasons['directions'])}.</p>"
        return section("directions", "Directions", text)
    return section("directions", "Directions", _directions_table(run, explanation, explanation.directions))


def _directions_table(run: Run, explanation: Explanation, directions: xr.Dataset) -> str:
    """Return an HTML table of some components' strongest direction, with contexts of its strongest tokens."""
    js = explanation.qualified.dataset["js"].fillna(-1)
    order = [main_component(explanation), *js.sortby(-js)["component"].values.tolist()]
    names = [name for name in dict.fromkeys(order) if name in directions["component"].values][:N_ROWS]
    rows = []
    for name in names:
        row = directions.sel(component=name)
        tokens = row["token"].values
        texts = contexts(run, tokens[:N_CONTEXTS], width=N_AROUND)
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
    """Return the module whose directions the report shows: costliest to remove, most important, or of largest JS."""
    if explanation.measures is not None:
        costs = explanation.measures["ablation"].values
        return str(explanation.measures["component"].values[costs.argmax()])
    if explanation.importance is not None:
        components = explanation.importance["components"].to_dataset()
        return str(components["component"].values[components["value"].values.argmax()])
    js = explanation.qualified.dataset["js"].fillna(-1)
    return str(js["component"].values[int(js.values.argmax())])


def _main_component_reason(explanation: Explanation) -> str:
    """Return a clause on why the report shows its main component; empty if earlier answers can't name the largest."""
    if explanation.measures is not None and explanation.ablation is not None:
        return ", whose removal changes predictions most" if has_significant_removal(explanation.ablation) else ""
    if explanation.importance is not None:
        return ", on which predictions depend most"
    return ", where its effect is largest" if np.isfinite(explanation.qualified["miub"].item()) else ""


def describe_tokens(result: xr.Dataset, n_tokens: int) -> str:
    """Return text on how many tokens a result is about, and on whether first tokens are excluded."""
    excluded = ", without the first of each sample" if result.attrs["tokens"] == "from:1" else ""
    return f"{n_tokens} token{'' if n_tokens == 1 else 's'}{excluded}"


def quoted(texts: Sequence[str]) -> str:
    """Return tokens in quotes, with line breaks as escapes and no-break spaces.

    A browser neither joins nor breaks these.
    """
    return ", ".join(f"“{one_line(text).replace(' ', NO_BREAK)}”" for text in texts)
