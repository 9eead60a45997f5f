"""The paper's claim 6: mutual information beside MIUB, component by component."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy import stats  # type: ignore[import-untyped]

from lorascope.analyze.format import format_number, format_percent
from lorascope.analyze.stats.verdict import Verdict, Word

from .changes import Finding, lacking
from .sweeps import Sweeps, plural

__all__ = ["information_claims"]

NEAR = 0.1
"""Of js, within which MI counts as nearly the same."""
FROM_BELOW = ("ok", "lower bound only", "saturated")
"""Verdicts of estimates that don't lie above the truth but for their noise."""
SIGNIFICANCE = 0.05


class Panel(NamedTuple):
    """The panel's estimates of a setting, by component, of those that have one; means over seeds."""

    mi: np.ndarray
    """Nats."""
    js: np.ndarray
    """Nats, of the same components and tokens."""
    paths: tuple[str, ...]
    is_believed: np.ndarray
    """Whether every seed's verdict is one of `FROM_BELOW`."""
    is_clean: np.ndarray
    """Whether every seed's verdict is `ok`."""


def information_claims(sweeps: Sweeps) -> Iterator[Finding]:
    """Claim 6, by component: mutual information of the panel beside js of the same components and tokens."""
    panels = {}
    for column, some in sweeps.units.items():
        if known := [one.information for one in some if one.information is not None]:
            panels[column] = _panel(known)
    distinct = [panels[name] for name in sweeps.layout.settings if name in panels]
    above, near = f"js{sweeps.of} lies above MI", f"MI and js{sweeps.of} nearly coincide, within {100 * NEAR:g} %"
    if not panels:
        yield lacking(6, above, "mutual information was estimated of no unit")
        return
    fields = ("mi", "js", "is_believed", "is_clean")
    mi, js, is_believed, is_clean = (np.concatenate([getattr(one, name) for one in distinct]) for name in fields)
    yield _above(above, mi[is_believed], js[is_believed], len(mi), len(distinct))
    yield _near(near, mi, js, is_clean, is_believed)
    for name, columns in sweeps.along.items():
        yield _falls(f"MI{sweeps.of} falls as {name} grows", [one for one in columns if one in panels], name, panels)


def _above(claim: str, mi: np.ndarray, js: np.ndarray, n_all: int, n_settings: int) -> Finding:
    """Contradicted where most estimates lie above js: the truth can't lie below these."""
    n, n_below = len(mi), int((js < mi).sum())
    because = (
        f"the panel's MI lies above js in {n_below} of {n} components of {plural(n_settings)} whose verdict is ok, "
        f"lower bound only or saturated, of {n_all} in all"
    )
    word: Word = "contradicted" if n_below > n / 2 else "not identified"
    return _finding(claim, word, because if n_below > n / 2 else f"{because}; where it doesn't, the truth may", n)


def _near(claim: str, mi: np.ndarray, js: np.ndarray, is_clean: np.ndarray, is_believed: np.ndarray) -> Finding:
    ratios = np.divide(mi, js, out=np.full_like(mi, np.inf), where=js > 0)
    is_near, is_far = np.abs(ratios - 1) <= NEAR, (ratios > 1 + NEAR) & is_believed
    n = len(mi)
    word: Word = "not identified"
    if is_far.sum() > n / 2:
        word = "contradicted"
    elif (is_near & is_clean).sum() > n / 2:
        word = "supported"
    middle = format_number(float(np.median(ratios))) if n else "n/a"
    share = format_percent(float(is_near.mean())) if n else "n/a"
    because = f"MI over js: median {middle}, {share} near 1, {int(is_clean.sum())} verdicts ok, n = {n} components"
    return _finding(claim, word, because, n)


def _falls(claim: str, columns: Sequence[str], name: str, panels: Mapping[str, Panel]) -> Finding:
    """By a sign test over the components that both ends of a sweep have; bounds of what isn't known don't count."""
    if len(columns) < 2:
        return lacking(6, claim, f"{plural(len(columns))} of {name} with estimates; a change takes two")
    first, last = (_by_path(panels[one]) for one in (columns[0], columns[-1]))
    both = [(*first[path], *last[path]) for path in first if path in last]
    differences = np.array([end - start for start, is_clean, end, still_clean in both if is_clean and still_clean])
    if not len(differences):
        n_down = sum(end < start for start, _, end, _ in both)
        because = (
            f"none of {len(both)} components has a verdict of ok at both ends: from {columns[0]} to {columns[-1]} the "
            f"numbers fall in {n_down}, but they are bounds, or less"
        )
        return _finding(claim, "not identified", because, 0)
    n_falls, n_moved = int((differences < 0).sum()), int((differences != 0).sum())
    if not n_moved:
        return lacking(6, claim, "no component has an estimate that differs at both ends")
    p = float(stats.binomtest(n_falls, n_moved).pvalue)
    word: Word = "not identified" if p > SIGNIFICANCE else "supported" if n_falls > n_moved / 2 else "contradicted"
    because = (
        f"from {columns[0]} to {columns[-1]} it falls in {n_falls} of the {len(differences)} components, of "
        f"{len(both)}, whose verdict is ok at both ends, median change "
        f"{format_number(float(np.median(differences)))} nat, sign test p = {format_number(p)}; components depend on "
        "each other, so that p is too small"
    )
    return _finding(claim, word, because, len(differences))


def _by_path(panel: Panel) -> dict[str, tuple[float, bool]]:
    """Estimate of each component, and whether its verdict is `ok`."""
    return {path: (float(mi), bool(ok)) for path, mi, ok in zip(panel.paths, panel.mi, panel.is_clean, strict=True)}


def _finding(claim: str, word: Word, because: str, n_components: int) -> Finding:
    return Finding(6, Verdict(claim, word, because), np.nan, np.nan, np.nan, "components", n_components, 0)


def _panel(estimates: Sequence[xr.Dataset]) -> Panel:
    """Of the components that have a finite estimate in every seed."""
    panels = [one.sel(estimator="panel") for one in estimates]
    paths = [one["component"].values.tolist() for one in panels]
    shared = [path for path in paths[0] if all(path in others for others in paths)]
    rows = [one.sel(component=shared) for one in panels]
    mi = np.mean([one["value"].values for one in rows], axis=0)
    js = np.mean([one["js"].values for one in rows], axis=0)
    verdicts = np.array([one["verdict"].values.astype(str) for one in rows])
    kept = np.isfinite(mi) & np.isfinite(js)
    return Panel(
        mi[kept],
        js[kept],
        tuple(str(path) for path, one in zip(shared, kept, strict=True) if one),
        np.all(np.isin(verdicts[:, kept], FROM_BELOW), axis=0),
        np.all(verdicts[:, kept] == "ok", axis=0),
    )
