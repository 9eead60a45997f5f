"""The paper's claims 1 to 4, about rank and model size, by differences between settings on the same items."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from .findings import SCALES, UNITS, Finding, finding, lacking, seeds_finding
from .item_table import Means, Statistic
from .sweeps import Sweeps, in_text, is_tested

__all__ = ["difference", "log_ratio", "percent_change", "size_claims", "text_claims"]

Settings = tuple[str, ...]


def size_claims(sweeps: Sweeps) -> Iterator[Finding]:
    """Claims 1, 2 and 3, on test items with choices."""
    of = sweeps.of
    for name in sweeps.along:
        table = sweeps.along_one(name, ["MIUB"], is_tested)
        n_sets = 0 if isinstance(table, str) else len(table.values)
        what = f"{{last}} against {{first}}, {f'mean over {n_sets} data sets' if n_sets > 1 else 'one data set'}:"
        yield sweeps.test(1, f"MIUB{of} falls as {name} grows", table, percent_change, "%", what, falls=True)
        if not isinstance(table, str):
            yield seeds_finding(1, table, "MIUB", of)
    yield _little_and_much(sweeps)
    yield from _steadily(sweeps)
    for metric in ("CE", "ACC"):
        table = sweeps.along_one("rank", [metric], is_tested)
        claim, what = f"{metric}{of} rises with rank", "{last} less {first}:"
        yield sweeps.test(3, claim, table, difference(metric), UNITS[metric], what, falls=False)


def text_claims(sweeps: Sweeps) -> Iterator[Finding]:
    """Claim 4, for each text."""
    cells = sweeps.layout.cells
    for dataset in dict.fromkeys(cells[cells["is_text"]]["dataset"]):
        claim = f"MIUB{sweeps.of} of the text {dataset} falls as the model grows"
        table = sweeps.along_one("model size", ["MIUB", "CE"], in_text(dataset))
        what = "{last} against {first}, windows of a text, which aren't as independent as items:"
        yield sweeps.test(4, claim, table, percent_change, "%", what, falls=True)
        claim = f"along model size{sweeps.of}, steps of ln PPL of the text {dataset} differ more than those of ln MIUB"
        if not isinstance(table, str) and len(table.settings) < 3:
            table = "2 sizes have one step, which is as even as any"
        what = "spread of steps over their mean size, PPL's less MIUB's:"
        yield sweeps.test(4, claim, table, _unevenness_gap, "", what, falls=False)


def difference(metric: str, first: int = 0, last: int = -1) -> Statistic:
    """One setting less another, the last less the first, in the unit of `UNITS`."""
    return lambda means, names: SCALES[metric] * (means[metric, names[last]] - means[metric, names[first]])


def percent_change(means: Means, names: Settings) -> np.ndarray:
    """Change of MIUB from the first setting to the last, in percent of the first; NaN where that is 0."""
    first, last = means["MIUB", names[0]], means["MIUB", names[-1]]
    return np.asarray(100 * (np.divide(last, first, out=np.full_like(last, np.nan), where=first != 0) - 1))


def log_ratio(means: Means, metric: str, first: str, last: str) -> np.ndarray:
    """Size of the logarithm of last over first; NaN where one of them isn't above 0."""
    one, other = means[metric, first], means[metric, last]
    is_known = (one > 0) & (other > 0)
    ratio = np.divide(other, one, out=np.full_like(other, np.nan), where=is_known)
    return np.abs(np.log(ratio, where=is_known, out=ratio))


def _little_and_much(sweeps: Sweeps) -> Finding:
    claim = f"ln MIUB{sweeps.of} changes less over the ranks than over the model sizes"
    table = sweeps.items(sweeps.layout.columns, ["MIUB"], is_tested)
    known = table.settings if table else ()
    ranks, sizes = ([name for name in columns if name in known] for columns in sweeps.along.values())
    if table is None or len(ranks) < 2 or len(sizes) < 2:
        return lacking(1, claim, "it takes two ranks and two model sizes")
    what = f"|ln| of {ranks[-1]} over {ranks[0]} less that of {sizes[-1]} over {sizes[0]}:"

    def gap(means: Means, _: Settings) -> np.ndarray:
        one, other = (log_ratio(means, "MIUB", some[0], some[-1]) for some in (ranks, sizes))
        return np.asarray(one - other)

    return sweeps.test(1, claim, table, gap, "", what, falls=True)


def _steadily(sweeps: Sweeps) -> Iterator[Finding]:
    """Claim 2: every step falls, the first one more than the last, and CE changes far more than MIUB."""
    table = sweeps.along_one("model size", ["MIUB", "CE"], is_tested)
    claim = f"MIUB{sweeps.of} falls at every step of model size"
    names: Settings = () if isinstance(table, str) else table.settings
    if isinstance(table, str):
        yield lacking(2, claim, table)
    else:
        steps = enumerate(pairwise(names))
        found = {f"{a} to {b}": table.estimate(difference("MIUB", k, k + 1)) for k, (a, b) in steps}
        # The step that rises most surely, if one does; else that of which it is least sure that it falls.
        rising = [name for name, one in found.items() if one.low > 0]
        step = max(rising or found, key=lambda name: found[name].low if rising else found[name].high)
        what = f"of {len(found)} steps the one that decides, {step}:"
        yield finding(2, claim, found[step], "nat", what, n_seeds=table.n_seeds, falls=True)
    claim = f"MIUB{sweeps.of} falls less at the last step of model size than at the first"
    what = "" if len(names) < 3 else f"fall of {names[0]} to {names[1]} less that of {names[-2]} to {names[-1]}:"
    ends = "there is one step" if len(names) == 2 else table
    yield sweeps.test(2, claim, ends, _flattening, "nat", what, falls=False)
    claim = f"over the model sizes{sweeps.of}, ln MIUB changes less than ln CE"
    what = "|ln| of {last} over {first}, MIUB's less CE's:"
    yield sweeps.test(2, claim, table, _milder, "", what, falls=True)


def _flattening(means: Means, names: Settings) -> np.ndarray:
    a, b, c, d = (means["MIUB", names[k]] for k in (0, 1, -2, -1))
    return np.asarray((a - b) - (c - d))


def _milder(means: Means, names: Settings) -> np.ndarray:
    ends = names[0], names[-1]
    return np.asarray(log_ratio(means, "MIUB", *ends) - log_ratio(means, "CE", *ends))


def _unevenness_gap(means: Means, names: Settings) -> np.ndarray:
    """Spread of steps over their mean size: of ln PPL, which is CE, less that of ln MIUB."""

    def spread(values: np.ndarray) -> np.ndarray:
        steps = np.diff(values, axis=0)
        size = np.abs(steps).mean(axis=0)
        return np.asarray(np.divide(steps.std(axis=0, ddof=1), size, out=np.zeros_like(size), where=size > 0))

    ce, miub = (np.stack([means[metric, name] for name in names]) for metric in ("CE", "MIUB"))
    return np.asarray(spread(ce) - spread(np.log(np.maximum(miub, np.finfo(float).tiny))))
