"""The paper's tables compared with themselves: `audit_paper`, which docs/paper-audit.md and the notebook read.

The paper is arXiv 2501.03152; ACC is accuracy, CE cross-entropy, MIUB its "mutual information upper bound" (eq. 9).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from averages import (
    AVERAGE,
    HALF_UNITS,
    ROUNDING,
    Slip,
    averages_of,
    find_slips,
    least_miss,
    plain_misses,
    wide_table,
)

from lorascope.analyze.fits.verdicts import Verdict, Word
from lorascope.analyze.results.format import format_number
from lorascope.study.paper_tables import paper_table

WEIGHTED = ("CE", "MIUB")
"""Metrics whose averages aren't plain means; they would share one vector of weights per model."""
ORDER = {"rank": ("r32", "r128", "r512"), "size": ("share8", "share4", "share2", "share1")}
DIRECTIONS = {"ACC": "rises", "MIUB": "falls"}
"""Section 4.5: along both orders MIUB falls and accuracy improves."""
RANKING = ["Prompt1", "Main", "Prompt3", "Prompt2"]
"""Section 4.8: prompts by MIUB, the largest first."""
CEILINGS = {
    # ln V: what taking all V tokens for equally likely would cost.
    "CE": ("a mean loss a token", {"Phi3": math.log(32_064), "LLaMA3": math.log(128_256)}),
    # ln 2 a linear layer: in each of 32 layers Phi3 has 4, fused, and LLaMA3 has 7.
    "MIUB": ("the sum of JS divergences of eq. 9", {"Phi3": 128 * math.log(2), "LLaMA3": 224 * math.log(2)}),
}
"""Metric -> an interpretation of it, and its largest possible value by model."""


class Claim(NamedTuple):
    """A ratio of two averages of Phi3, or a relative decrease, that section 4.5 of the paper states."""

    words: str
    value: float
    unit: float
    """Unit of the last digit that is stated."""
    metric: str
    top: str
    bottom: str
    is_decrease: bool


CLAIMS = (
    Claim("571 times", 571, 1, "CE", "share8", "share1", is_decrease=False),
    Claim("decreasing by 17 %", 0.17, 0.01, "MIUB", "share1", "share8", is_decrease=True),
)


def step_verdicts(table: pd.DataFrame, axis: list[str]) -> Iterator[Verdict]:
    """Yield verdicts on whether accuracy rises and MIUB falls at every step of rank and of model size.

    Rows of AVG are counted separately. Rounding keeps order: printed numbers that differ can't have been in the other
    order, equal ones say nothing.
    """
    wide = table.pivot(index=[*axis, "metric"], columns="setting", values="value")
    is_average = wide.index.get_level_values(axis[0]) == AVERAGE
    for order, settings in ORDER.items():
        for metric, direction in DIRECTIONS.items():
            own = wide.index.get_level_values("metric") == metric
            steps = np.diff(wide[list(settings)].to_numpy()) * (1 if direction == "rises" else -1)
            inside = steps[own & ~is_average]
            word: Word = "contradicted" if (inside < 0).any() else "supported" if inside.all() else "not identified"
            because = _count_steps(inside, direction)
            if (own & is_average).any():
                because += f"; of averages {_count_steps(steps[own & is_average], direction)}"
            yield Verdict(f"{metric} {direction} at every step of {order}", word, because)


def claimed_ratios() -> pd.DataFrame:
    """Return the ratios that the paper claims, computed for each data set and average of its table 1, by model.

    `low` and `high` are their range by rounding.
    """
    wide = wide_table()
    members = [name for name in wide.columns if name != AVERAGE]
    wide["plain mean"] = wide[members].mean(axis=1)
    rows = []
    for claim in CLAIMS:
        half = HALF_UNITS[claim.metric]
        for group in dict.fromkeys(wide.index.get_level_values("model")):
            for member in [*members, AVERAGE, "plain mean"]:
                top, bottom = (wide[member][group, claim.metric, place] for place in (claim.top, claim.bottom))
                ends = [(top + sign * half) / (bottom - sign * half) for sign in (-1, 1)]
                value, *ends = (1 - ratio if claim.is_decrease else ratio for ratio in (top / bottom, *ends))
                rows.append((claim.words, group, member, value, *sorted(ends), claim.value))
    return pd.DataFrame(rows, columns=["claim", "group", "member", "value", "low", "high", "claimed"])


def ratio_verdicts(ratios: pd.DataFrame) -> Iterator[Verdict]:
    """Yield verdicts on whether the averages of Phi3 can have the ratios that the paper claims.

    `ratios` are those of `claimed_ratios`; rounding is allowed for.
    """
    wide = wide_table()[AVERAGE]
    for claim in CLAIMS:
        row = ratios[(ratios["claim"] == claim.words) & (ratios["group"] == "Phi3") & (ratios["member"] == AVERAGE)]
        value, low, high = row[["value", "low", "high"]].to_numpy()[0]
        stated = claim.value - claim.unit / 2, claim.value + claim.unit / 2
        decimals = 3 if HALF_UNITS[claim.metric] < 0.01 else 1
        top, bottom = (f"{wide['Phi3', claim.metric, setting]:.{decimals}f}" for setting in (claim.top, claim.bottom))
        text = f"{claim.value:.0%}".replace("%", " %") if claim.is_decrease else f"{claim.value:g}"
        word: Word = "supported" if low <= stated[1] and stated[0] <= high else "contradicted"
        subject = f"{claim.metric} of {claim.top}"
        what = f"{subject} over {claim.bottom}, AVG of Phi3, can be {text} within rounding"
        if claim.is_decrease:
            what = f"{subject}, AVG of Phi3, can be {text} below that of {claim.bottom} within rounding"
        ratio = f"{'1 - ' if claim.is_decrease else ''}{top}/{bottom} = {_format_four(value)}"
        by_rounding = f"{_format_four(low)} to {_format_four(high)} by rounding"
        yield Verdict(what, word, f"{ratio}, {by_rounding}; {stated[0]:g} to {stated[1]:g} counts as {text}")


def cells_above_ceilings() -> pd.DataFrame:
    """Return how many cells of the paper's table 1 exceed a metric's largest possible value, by metric and model.

    Averages aren't counted.
    """
    table = paper_table(1)
    rows = []
    for metric, (_, limits) in CEILINGS.items():
        for model, limit in limits.items():
            own = (table["metric"] == metric) & (table["model"] == model) & (table["dataset"] != AVERAGE)
            values = table.loc[own, "value"]
            n_above = int((values - HALF_UNITS[metric] > limit).sum())
            rows.append((metric, model, limit, len(values), n_above, float(values.max())))
    return pd.DataFrame(rows, columns=["metric", "model", "ceiling", "n_cells", "n_above", "largest"])


def ceiling_verdicts(above: pd.DataFrame) -> Iterator[Verdict]:
    """Yield verdicts on whether CE and MIUB stay below their largest possible values (`CEILINGS`)."""
    for metric, (reading, _) in CEILINGS.items():
        counts = [
            f"{row.n_above} of {row.n_cells} cells of {row.model} (ceiling {_format_four(row.ceiling)}, largest "
            f"{_format_four(row.largest)})"
            for row in above[above["metric"] == metric].itertuples()
        ]
        word: Word = "contradicted" if above.loc[above["metric"] == metric, "n_above"].any() else "supported"
        yield Verdict(f"{metric}, if it is {reading}, stays within its ceiling", word, f"above it {', '.join(counts)}")


def repetition_verdict(wide: pd.DataFrame) -> Verdict:
    """Return the verdict on whether no two runs of the paper's table 1 have the same numbers in all cells."""
    runs = wide.unstack("metric")
    pairs = list(combinations(runs.index, 2))
    n_same = sum((runs.loc[a] == runs.loc[b]).all() for a, b in pairs)
    because = f"{n_same} of {len(pairs)} pairs of runs agree in all cells"
    return Verdict("every setting is a run of its own", "contradicted" if n_same else "supported", because)


def prompt_verdicts() -> Iterator[Verdict]:
    """Yield verdicts on the paper's table 2: Main is table 1's average, and prompts rank as section 4.8 says."""
    first, second = paper_table(1), paper_table(2)
    average = first[(first["dataset"] == AVERAGE) & (first["model"] == "Phi3")]
    both = second[second["prompt"] == "Main"].merge(average, on=["metric", "setting"])
    equal = int((both["value_x"] == both["value_y"]).sum())
    word: Word = "supported" if equal == len(both) else "contradicted"
    yield Verdict("Main is table 1's average of Phi3", word, f"{equal} of {len(both)} cells are equal")
    values = second[second["metric"] == "MIUB"].pivot(index="setting", columns="prompt", values="value")
    values = values.loc[[setting for some in ORDER.values() for setting in some]]
    holds = np.all([values[a] > values[b] for a, b in pairwise(RANKING)], axis=0)
    lowest = int((values.idxmin(axis=1) == RANKING[-1]).sum())
    because = f"in {holds.sum()} of {len(values)} settings ({', '.join(values.index[holds])})"
    word = "supported" if holds.all() else "contradicted"
    claim = f"MIUB ranks the prompts {' > '.join(RANKING)} in every setting"
    yield Verdict(claim, word, f"{because}, and {RANKING[-1]} lowest in {lowest}")


def excess_verdict() -> Verdict:
    """Return the verdict on whether MIUB is above mutual information (MI) in the paper's table 3."""
    table = paper_table(3).pivot(index="setting", columns="metric", values="value")
    excess = (table["MIUB"] - table["MI"]).dropna()
    listed = ", ".join(f"{value:.3f} ({setting})" for setting, value in excess.items())
    because = f"by {listed}, give or take 0.001; {', '.join(table.index.difference(excess.index))} can't be read"
    return Verdict("table 3: MIUB stays above MI", "supported" if (excess > 0).all() else "contradicted", because)


def _count_steps(steps: np.ndarray, direction: str) -> str:
    """Return as text how many steps go against `direction` (rises or falls), and how many are level."""
    against, level = int((steps < 0).sum()), int((steps == 0).sum())
    verb = ("fall" if direction == "rises" else "rise") + ("s" if against == 1 else "")
    return f"{against} of {steps.size} steps {verb}" + (f", {level} level" if level else "")


def _format_four(value: float) -> str:
    """Return a number with four significant digits."""
    return format_number(float(value), digits=4)


@dataclass(frozen=True)
class Audit:
    """Results of checking the paper's tables against themselves: verdicts, and three tables with their details."""

    verdicts: tuple[Verdict, ...]
    slips: pd.DataFrame
    """Values that may be printed in the wrong column; columns as in `Slip`."""
    ratios: pd.DataFrame
    """Ratios that the paper claims, computed at the stated place and at all others."""
    ceilings: pd.DataFrame
    """Counts of cells above a ceiling."""


def audit_paper() -> Audit:
    """Return the Audit of tables 1 to 3 of arXiv 2501.03152, from the printed numbers alone.

    A printed number means any number that rounds to it: an average and a weighted mean of its members may differ by
    half a unit of the last decimal of either.
    """
    wide, ratios, above = wide_table(), claimed_ratios(), cells_above_ceilings()
    models = list(dict.fromkeys(wide.index.get_level_values("model")))
    table_2 = (*step_verdicts(paper_table(2), ["prompt"]), *prompt_verdicts())
    verdicts = (
        _plain_verdict(wide),
        *(_weights_verdict(wide, model) for model in models),
        repetition_verdict(wide),
        *step_verdicts(paper_table(1), ["dataset", "model"]),
        *ratio_verdicts(ratios),
        *ceiling_verdicts(above),
        *(verdict._replace(claim=f"table 2: {verdict.claim}") for verdict in table_2),
        excess_verdict(),
    )
    slips: list[Slip] = []
    for model in models:
        if least_miss(averages_of(wide, model, WEIGHTED)) > 1 + ROUNDING:  # else some weights give its averages
            slips += [*find_slips(wide, model, "ACC", ()), *find_slips(wide, model, WEIGHTED[0], WEIGHTED[1:])]
    return Audit(verdicts, pd.DataFrame(slips, columns=Slip._fields), ratios, above)


def _plain_verdict(wide: pd.DataFrame) -> Verdict:
    """Return the verdict on whether printed averages are plain means over the data sets, within rounding."""
    pairs = wide.index.droplevel("setting").unique()
    misses = [miss for model, metric in pairs for miss in plain_misses(averages_of(wide, model, (metric,)))]
    n_wrong = sum(miss > 1 + ROUNDING for miss in misses)
    because = f"{n_wrong} of {len(wide)} differ by more than rounding of average and members allows"
    return Verdict(f"{AVERAGE} is the plain mean of its members", "contradicted" if n_wrong else "supported", because)


def _weights_verdict(wide: pd.DataFrame, model: str) -> Verdict:
    """Return the verdict on whether one vector of weights for data sets gives all CE and MIUB averages of a model."""
    averages = averages_of(wide, model, WEIGHTED)
    miss = least_miss(averages)
    because = (
        f"the best weights miss {len(averages.printed)} averages by up to {format_number(miss)} times what rounding "
        "allows"
    )
    claim = f"one vector of weights gives {AVERAGE} of {', '.join(WEIGHTED)} of {model}"
    return Verdict(claim, "supported" if miss <= 1 + ROUNDING else "contradicted", because)
