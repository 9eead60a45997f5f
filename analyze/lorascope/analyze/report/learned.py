"""Sentences and section on the directions in which the adapter moves modules, and on how many of them it uses.

Delta is what the adapter adds to a component, a module that it changes. JS is the Jensen-Shannon divergence that shows
how far this moves the module's output.
"""

from collections import Counter

import numpy as np
import xarray as xr

from lorascope.analyze.directions.directions import contexts
from lorascope.analyze.results.format import format_number, format_percent
from lorascope.stores import Run
from lorascope.stores.visible import one_line

from .explain import Explanation
from .markup import section, table_of, unknown
from .wording import LEVEL, quoted

N_WORDS = 2
"""Most tokens of a direction that a sentence names."""
N_ROWS = 10
"""Most rows of a table with one row per component."""
N_CONTEXTS = 3
"""Strongest tokens of a direction whose contexts are shown."""
N_AROUND = 4
"""Tokens before and after a token that are its context."""


def answer_which_directions(run: Run, explanation: Explanation, before: str) -> str:
    """Return sentences (plain text) on one module's strongest direction, and on how many directions modules use.

    `before` is the text before them: if it ends with the module's name and numbers, they don't repeat the name.
    """
    directions = explanation.directions
    if directions is None:
        return f"Can't tell which directions, since {explanation.reasons['directions']}."
    name, reason = main_component(explanation)
    where = "there" if explanation.importance is not None and name in before else f"to {name}, {reason}"
    return f"{_direction_sentence(run, directions, name, where)} {_rank_sentence(directions)}"


def _direction_sentence(run: Run, directions: xr.Dataset, name: str, where: str) -> str:
    """Return a sentence on the strongest direction of one module's delta, and on its strongest tokens."""
    if name not in directions["component"]:
        return f"Can't tell which directions {name} has, whose change isn't stored in low-rank form."
    row = directions.sel(component=name)
    share, rank, p = float(row["first_share"]), int(row["rank"]), float(row["driver_p"])
    if not share > 0:
        return f"Can't tell which directions {name} has, since what the adapter adds to it is 0, or not finite."
    top = row["token"].values[row["token"].values >= 0]
    words = Counter(contexts(run, top, width=0)["text"].values.tolist()).most_common(N_WORDS)
    counts = ", ".join(
        f"{quoted(word)} ({n}{'' if place else f' of {len(top)} places'})" for place, (word, n) in enumerate(words)
    )
    names = "" if "text" in run.tokens else "token ids "
    return (
        f"One of {rank} directions has {format_percent(share)} of what the adapter adds {where}, strongest at "
        f"{names}{counts}, {'' if p <= LEVEL else 'not significantly '}more than random directions (p = "
        f"{format_number(p)})."
    )


def _rank_sentence(directions: xr.Dataset) -> str:
    """Return a sentence on how many directions hold 99 % of what the adapter adds."""
    known = directions.isel(component=(directions["n_99"] > 0).values)
    if not known.sizes["component"]:
        return "Can't tell how many it uses, since what the adapter adds is 0 or not finite everywhere."
    n_99, rank, n = int(known["n_99"].sum()), int(known["rank"].sum()), known.sizes["component"]
    halves = known["n_99_half"].sum("component", skipna=False)
    error = "too few tokens for an error"
    if np.isfinite(halves).all():
        error = f"{halves[0] / n:.1f} and {halves[1] / n:.1f} in halves of the tokens"
    return (
        f"Modules use {round(n_99 / n, 1):g} of {round(rank / n, 1):g} directions on average (99 % of squared length; "
        f"{error})."
    )


def directions_section(run: Run, explanation: Explanation) -> str:
    """Return the HTML section with a table of some components' strongest direction and its contexts, or why not."""
    directions = explanation.directions
    if directions is None:
        return section("directions", "Directions", unknown(explanation.reasons["directions"]))
    js = explanation.qualified.dataset["js"].fillna(-1)
    order = [main_component(explanation)[0], *js.sortby(-js)["component"].values.tolist()]
    names = [name for name in dict.fromkeys(order) if name in directions["component"].values][:N_ROWS]
    texts = contexts(run, directions["token"].sel(component=names).values[:, :N_CONTEXTS], width=N_AROUND)
    pieces = np.stack([texts[part].values for part in ("before", "text", "after")], axis=-1)
    strongest = {
        name: " ⋯ ".join(one_line(f"{before}[{text}]{after}") for before, text, after in own if text)
        for name, own in zip(names, pieces, strict=True)
    }
    columns = {
        "component": lambda row: row["component"].item(),
        "strongest at": lambda row: strongest[row["component"].item()],
        "share": lambda row: format_percent(float(row["first_share"])),
        "for 99\u00a0%": lambda row: f"{int(row['n_99'])} of {int(row['rank'])}",
        "same token": lambda row: f"{int(row['driver_count'])} of {int((row['token'] >= 0).sum())}",
        "p": lambda row: format_number(float(row["driver_p"])),
    }
    excluded = ", without the first of each sample" if directions.attrs["tokens"] == "from:1" else ""
    excluded += f", in {directions.attrs['rows']}" if "rows" in directions.attrs else ""
    caption = (
        "The strongest direction of what the adapter adds: in the module of the opening, and in those with the largest "
        "JS. Strongest at: its three strongest tokens in square brackets, with the text around them. Share: of the "
        f"squared length |delta|² over {directions.attrs['n_tokens']} tokens{excluded}. For 99 %: how many directions "
        "hold that much; if fewer than the rank, <code>lorascope adapter --truncate</code> may help. Same token: how "
        "often the most over-represented token occurs among the ten strongest. p: the share of random directions "
        "(mixtures of all of the component's, equally scaled) whose strongest tokens are as much of one id."
    )
    rows = [directions.sel(component=name) for name in names]
    return section("directions", "Directions", table_of(rows, columns, n_names=2, caption=caption))


def main_component(explanation: Explanation) -> tuple[str, str]:
    """Return the module whose directions the report shows, and why: the most important, costliest or most moved."""
    ablation, importance = explanation.ablation, explanation.importance
    if importance is not None:
        value = importance["components"].to_dataset()["value"]
        return str(value["component"].values[value.values.argmax()]), "the module of largest importance"
    if ablation is not None and ablation.attrs["parts"] == "components":
        return str(ablation["part"].values[ablation["kl"].values.argmax()]), "the module of largest KL when removed"
    js = explanation.qualified.dataset["js"].fillna(-1)
    return str(js["component"].values[int(js.values.argmax())]), "the module of largest JS"
