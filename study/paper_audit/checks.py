"""Checks of the paper's tables other than of averages: steps, claimed ratios, ceilings, repeated runs."""

import math
from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from averages import AVERAGE, HALF_UNITS, wide_table

from lorascope.analyze.fits.verdicts import Verdict, Word
from lorascope.analyze.results.format import format_number
from lorascope.study.paper_tables import paper_table

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
"""Metric -> a reading of it, and its largest value by model under this reading."""


class Claim(NamedTuple):
    """A ratio, or a relative decrease, that section 4.5 names of the averages of Phi3."""

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
    """Whether a metric rises, or falls, at every step of both orders; AVG rows are counted apart.

    Rounding keeps order: printed numbers that differ can't have been in the other order, equal ones tell nothing.
    """
    wide = table.pivot(index=[*axis, "metric"], columns="setting", values="value")
    is_average = wide.index.get_level_values(axis[0]) == AVERAGE
    for order, settings in ORDER.items():
        for metric, direction in DIRECTIONS.items():
            own = wide.index.get_level_values("metric") == metric
            steps = np.diff(wide[list(settings)].to_numpy()) * (1 if direction == "rises" else -1)
            inside = steps[own & ~is_average]
            word: Word = "contradicted" if (inside < 0).any() else "supported" if inside.all() else "not identified"
            because = _counts(inside, direction)
            if (own & is_average).any():
                because += f"; of averages {_counts(steps[own & is_average], direction)}"
            yield Verdict(f"{metric} {direction} at every step of {order}", word, because)


def claimed_ratios() -> pd.DataFrame:
    """Claimed ratios and changes, there and at all other places of table 1, with what rounding allows."""
    wide = wide_table()
    members = [name for name in wide.columns if name != AVERAGE]
    wide["plain mean"] = wide[members].mean(axis=1)
    rows = []
    for claim in CLAIMS:
        half = HALF_UNITS[claim.metric]
        for group in dict.fromkeys(wide.index.get_level_values("model")):
            for member in [*members, AVERAGE, "plain mean"]:
                top, bottom = (
                    wide[member][group, claim.metric, claim.top],
                    wide[member][group, claim.metric, claim.bottom],
                )
                ends = [(top + sign * half) / (bottom - sign * half) for sign in (-1, 1)]
                value, *ends = (1 - ratio if claim.is_decrease else ratio for ratio in (top / bottom, *ends))
                rows.append((claim.words, group, member, value, *sorted(ends), claim.value))
    return pd.DataFrame(rows, columns=["claim", "group", "member", "value", "low", "high", "claimed"])


def ratio_verdicts(ratios: pd.DataFrame) -> Iterator[Verdict]:
    """Whether the ratios that the paper names can be what the averages of Phi3 have, within rounding."""
    wide = wide_table()[AVERAGE]
    for claim in CLAIMS:
        row = ratios[(ratios["claim"] == claim.words) & (ratios["group"] == "Phi3") & (ratios["member"] == AVERAGE)]
        value, low, high = row[["value", "low", "high"]].to_numpy()[0]
        stated = claim.value - claim.unit / 2, claim.value + claim.unit / 2
        decimals = 3 if HALF_UNITS[claim.metric] < 0.01 else 1
        top, bottom = (f"{wide['Phi3', claim.metric, setting]:.{decimals}f}" for setting in (claim.top, claim.bottom))
        text = f"{claim.value:.0%}".replace("%", " %") if claim.is_decrease else f"{claim.value:g}"
        word: Word = "supported" if low <= stated[1] and stated[0] <= high else "contradicted"
        what = (
            f"{claim.metric} of {claim.top}, AVG of Phi3, can be {text} below that of {claim.bottom} within rounding"
            if claim.is_decrease
            else f"{claim.metric} of {claim.top} over {claim.bottom}, AVG of Phi3, can be {text} within rounding"
        )
        ratio = f"{'1 - ' if claim.is_decrease else ''}{top}/{bottom} = {_four(value)}"
        yield Verdict(
            what,
            word,
            f"{ratio}, {_four(low)} to {_four(high)} by rounding; {stated[0]:g} to {stated[1]:g} counts as {text}",
        )


def cells_above_ceilings() -> pd.DataFrame:
    """Cells of table 1, without averages, above the largest value that a metric can have."""
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
    """Whether metrics stay within their ceilings, under the reading that gives these."""
    for metric, (reading, _) in CEILINGS.items():
        counts = [
            f"{row.n_above} of {row.n_cells} cells of {row.model} (ceiling {_four(row.ceiling)}, largest "
            f"{_four(row.largest)})"
            for row in above[above["metric"] == metric].itertuples()
        ]
        word: Word = "contradicted" if above.loc[above["metric"] == metric, "n_above"].any() else "supported"
        yield Verdict(f"{metric}, if it is {reading}, stays within its ceiling", word, f"above it {', '.join(counts)}")


def repetition_verdict(wide: pd.DataFrame) -> Verdict:
    """Whether no two runs of table 1 have the same numbers in all cells."""
    runs = wide.unstack("metric")
    pairs = list(combinations(runs.index, 2))
    n_same = sum((runs.loc[a] == runs.loc[b]).all() for a, b in pairs)
    because = f"{n_same} of {len(pairs)} pairs of runs agree in all cells"
    return Verdict("every setting is a run of its own", "contradicted" if n_same else "supported", because)


def prompt_verdicts() -> Iterator[Verdict]:
    """Table 2 against table 1, and against the order of prompts that section 4.8 names."""
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
    """MIUB less MI in table 3."""
    table = paper_table(3).pivot(index="setting", columns="metric", values="value")
    excess = (table["MIUB"] - table["MI"]).dropna()
    listed = ", ".join(f"{value:.3f} ({setting})" for setting, value in excess.items())
    because = f"by {listed}, give or take 0.001; {', '.join(table.index.difference(excess.index))} can't be read"
    return Verdict("table 3: MIUB stays above MI", "supported" if (excess > 0).all() else "contradicted", because)


def _counts(steps: np.ndarray, direction: str) -> str:
    against, level = int((steps < 0).sum()), int((steps == 0).sum())
    verb = ("fall" if direction == "rises" else "rise") + ("s" if against == 1 else "")
    return f"{against} of {steps.size} steps {verb}" + (f", {level} level" if level else "")


def _four(value: float) -> str:
    return format_number(float(value), digits=4)
