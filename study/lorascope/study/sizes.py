"""The paper's claims 1 to 4: what falls and what rises along rank and model size, and how evenly."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.format import format_number
from lorascope.analyze.stats.trends import trend_tests

from .changes import UNITS, Finding, change, finding, lacking, log_ratio, seeds_finding
from .items import Estimate, ItemTable, Means
from .sweeps import Sweeps, difference, of_choices, of_text, too_few

__all__ = ["size_claims", "text_claims", "trend_claims"]


def size_claims(sweeps: Sweeps) -> Iterator[Finding]:
    """Claims 1, 2 and 3, by differences between settings on the same items."""
    for name, columns in sweeps.along.items():
        yield from _falls(sweeps, columns, name)
    yield _little_and_much(sweeps)
    yield from _steadily(sweeps)
    for metric in ("CE", "ACC"):
        claim = f"{metric}{sweeps.of} rises with rank"
        table = sweeps.items(sweeps.layout.ranks, [metric], of_choices)
        if table is None:
            yield lacking(3, claim, too_few(sweeps.layout.ranks, "rank"))
            continue
        first, last = table.ends
        found, what = table.estimate(difference(metric, first, last)), f"{last} less {first}:"
        yield finding(3, claim, found, UNITS[metric], what, n_seeds=table.n_seeds(first, last), falls=False)


def text_claims(sweeps: Sweeps) -> Iterator[Finding]:
    """Claim 4, for each text."""
    texts = sweeps.layout.cells[sweeps.layout.cells["is_text"]]
    for dataset in dict.fromkeys(texts["dataset"]):
        claim = f"MIUB{sweeps.of} of the text {dataset} falls as the model grows"
        evenly = f"along model size{sweeps.of}, steps of ln PPL of the text {dataset} differ more than those of ln MIUB"
        table = sweeps.items(sweeps.layout.sizes, ["MIUB", "CE"], of_text(dataset))
        if table is None:
            why = too_few(sweeps.layout.sizes, "model size")
            yield from (lacking(4, one, why) for one in (claim, evenly))
            continue
        (first, last), n = table.ends, table.n_seeds()
        what = f"{last} against {first}, windows of a text, which aren't as independent as items:"
        yield finding(4, claim, change(table, "MIUB", first, last), "%", what, n_seeds=n, falls=True)
        if len(table.settings) < 3:
            yield lacking(4, evenly, f"{len(table.settings)} sizes have one step, which is as even as any")
            continue
        found = table.estimate(lambda means, sizes=table.settings: _unevenness_gap(means, sizes))  # type: ignore[misc]
        what = "spread of steps over their mean size, PPL's less MIUB's:"
        yield finding(4, evenly, found, "", what, n_seeds=n, falls=False)


def trend_claims(cells: pd.DataFrame, of: str) -> Iterator[Finding]:
    """Claim 1 by exact tests of trend over data sets; `cells` are of one model, with `label`."""
    for along, other, name in (("R", "share", "rank"), ("N", "R", "model size")):
        claim = f"MIUB{of} falls along {name} in all data sets together"
        if cells[along].isna().any():
            yield lacking(1, claim, f"the runs don't say {along}")
            continue
        rows = cells.assign(held=cells[other].astype(str), at=cells[along].astype(float))
        try:
            tested = trend_tests(rows, "MIUB", "at", groups=["label", "held"])
        except ValueError as error:
            yield lacking(1, claim, f"no test of trend: {error}")
            continue
        overall = tested.verdicts[0]
        because = f"{overall.because}; data sets share adapters, so that p is too small"
        verdict = overall._replace(claim=claim, because=because)
        yield Finding(1, verdict, np.nan, np.nan, np.nan, "", int(rows["n_samples"].sum()), 0)


def _falls(sweeps: Sweeps, columns: Sequence[str], name: str) -> Iterator[Finding]:
    claim = f"MIUB{sweeps.of} falls as {name} grows"
    table = sweeps.items(columns, ["MIUB"], of_choices)
    if table is None:
        yield lacking(1, claim, too_few(columns, name))
        return
    first, last = table.ends
    n_sets = len(table.datasets)
    what = f"{last} against {first}, {f'mean over {n_sets} data sets' if n_sets > 1 else 'one data set'}:"
    n_seeds = table.n_seeds(first, last)
    yield finding(1, claim, change(table, "MIUB", first, last), "%", what, n_seeds=n_seeds, falls=True)
    yield seeds_finding(1, table, "MIUB", first, last, falls=True, of=sweeps.of)


def _little_and_much(sweeps: Sweeps) -> Finding:
    claim = f"ln MIUB{sweeps.of} changes less over the ranks than over the model sizes"
    table = sweeps.items(sweeps.layout.columns, ["MIUB"], of_choices)
    known = table.settings if table else ()
    ranks, sizes = ([name for name in one if name in known] for one in (sweeps.layout.ranks, sweeps.layout.sizes))
    if table is None or len(ranks) < 2 or len(sizes) < 2:
        return lacking(1, claim, "it takes two ranks and two model sizes")

    def gap(means: Means) -> np.ndarray:
        ends = [np.abs(log_ratio(means["MIUB", one[0]], means["MIUB", one[-1]])) for one in (ranks, sizes)]
        return np.asarray(ends[0] - ends[1])

    ratios = [
        f"{one[-1]} over {one[0]} {format_number(table.mean('MIUB', one[-1]) / table.mean('MIUB', one[0]))}"
        for one in (ranks, sizes)
    ]
    what = f"{', '.join(ratios)}; |ln| of the first less that of the second:"
    return finding(1, claim, table.estimate(gap), "", what, n_seeds=table.n_seeds(), falls=True)


def _steadily(sweeps: Sweeps) -> Iterator[Finding]:
    """Claim 2: every step falls, the first one more than the last, and CE changes far more than MIUB."""
    steadily = f"MIUB{sweeps.of} falls at every step of model size"
    steeply = f"MIUB{sweeps.of} falls less at the last step of model size than at the first"
    milder = f"over the model sizes{sweeps.of}, ln MIUB changes less than ln CE"
    table = sweeps.items(sweeps.layout.sizes, ["MIUB", "CE"], of_choices)
    if table is None:
        why = too_few(sweeps.layout.sizes, "model size")
        yield from (lacking(2, claim, why) for claim in (steadily, steeply, milder))
        return
    steps, n = list(pairwise(table.settings)), table.n_seeds()
    found = {f"{a} to {b}": table.estimate(difference("MIUB", a, b)) for a, b in steps}
    least = _deciding(found)
    what = f"of {len(steps)} steps the one that decides, {least}:"
    yield finding(2, steadily, found[least], "nat", what, n_seeds=n, falls=True)
    if len(steps) < 2:
        yield lacking(2, steeply, "there is one step")
    else:
        (a, b), (c, d) = steps[0], steps[-1]
        gap = table.estimate(
            lambda means: (means["MIUB", a] - means["MIUB", b]) - (means["MIUB", c] - means["MIUB", d])
        )
        what = f"fall of {a} to {b} less that of {c} to {d}:"
        yield finding(2, steeply, gap, "nat", what, n_seeds=n, falls=False)
    yield _milder(sweeps, table, milder)


def _deciding(steps: Mapping[str, Estimate]) -> str:
    """The step that rises most surely, if one does; else that of which it is least sure that it falls."""
    rising = [name for name, one in steps.items() if one.low > 0]
    if rising:
        return max(rising, key=lambda name: steps[name].low)
    return max(steps, key=lambda name: steps[name].high)


def _milder(sweeps: Sweeps, table: ItemTable, claim: str) -> Finding:
    first, last = table.ends
    found = table.estimate(
        lambda means: (
            np.abs(log_ratio(means["MIUB", first], means["MIUB", last]))
            - np.abs(log_ratio(means["CE", first], means["CE", last]))
        )
    )
    ends = {metric: (table.mean(metric, first), table.mean(metric, last)) for metric in ("MIUB", "CE")}
    ratios = {metric: one / other if other else np.nan for metric, (one, other) in ends.items()}
    sizes = [sweeps.layout.cells[sweeps.layout.cells["column"] == name]["N"].dropna() for name in (first, last)]
    grown = "" if any(one.empty for one in sizes) else f", N {format_number(sizes[0].iloc[0] / sizes[1].iloc[0])}"
    what = (
        f"{first} over {last}: MIUB {format_number(ratios['MIUB'])}, CE {format_number(ratios['CE'])}{grown}; "
        "|ln| of MIUB's less CE's:"
    )
    return finding(2, claim, found, "", what, n_seeds=table.n_seeds(first, last), falls=True)


def _unevenness_gap(means: Means, sizes: Sequence[str]) -> np.ndarray:
    """Spread of steps over their mean size: of ln PPL, which is CE, less that of ln MIUB."""
    ce = np.stack([means["CE", name] for name in sizes])
    miub = np.log(np.maximum(np.stack([means["MIUB", name] for name in sizes]), np.finfo(float).tiny))
    spreads = []
    for values in (ce, miub):
        steps = np.diff(values, axis=0)
        size = np.abs(steps).mean(axis=0)
        spreads.append(np.divide(steps.std(axis=0, ddof=1), size, out=np.zeros_like(size), where=size > 0))
    return np.asarray(spreads[0] - spreads[1])
