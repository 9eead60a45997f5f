"""The paper's claim 6: mutual information beside js, component by component."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr
from scipy import stats  # type: ignore[import-untyped]

from lorascope.analyze.fits.verdicts import Word
from lorascope.analyze.results.format import format_number, format_percent

from .findings import Finding, lacking, plural
from .tables import Layout
from .trainings import LEVEL
from .units import UnitResult

NEAR = 0.1
"""Share of js within which MI counts as nearly equal."""
FROM_BELOW = ("ok", "lower bound only")
"""Verdicts of estimates that bound mutual information from below but for their noise; `saturated` says only "much"."""


def information_claims(layout: Layout, units: Mapping[str, Sequence[UnitResult]], of: str) -> Iterator[Finding]:
    """Claim 6, by component: mutual information of the panel beside js of the same components and tokens."""
    estimates = {name: [one.information for one in own if one.information is not None] for name, own in units.items()}
    panels = {column: _panel(known) for column, known in estimates.items() if known}
    if not panels:
        yield lacking(6, f"js{of} lies above MI", "mutual information was estimated of no unit")
        return
    distinct = [panels[name] for name in layout.settings if name in panels]
    yield from _beside(of, pd.concat(distinct), len(distinct))
    for along, columns in (("rank", layout.ranks), ("model size", layout.sizes)):
        known = {name: panels[name] for name in columns if name in panels}
        claim = f"MI{of} falls as {along} grows"
        if len(known) < 2:
            yield lacking(6, claim, f"{plural(len(known))} of {along} with estimates; a change takes two")
        else:
            yield _falls(claim, known)


def _beside(of: str, panel: pd.DataFrame, n_settings: int) -> Iterator[Finding]:
    """Whether js lies above MI: contradicted where most estimates lie above js, as the truth can't lie below these."""
    believed, n = panel[panel["is_believed"]], len(panel)
    n_believed, n_below = len(believed), int((believed["js"] < believed["mi"]).sum())
    word: Word = "contradicted" if n_below > n_believed / 2 else "not identified"
    because = (
        f"the panel's MI lies above js in {n_below} of {n_believed} components of {plural(n_settings)} whose verdict "
        f"is ok or lower bound only, of {n} in all"
    )
    because += "" if word == "contradicted" else "; where it doesn't, the truth may"
    ratios = panel["mi"] / panel["js"].where(panel["js"] > 0, 0)
    if n_below:
        low, high = (format_number(float(end)) for end in ratios[panel["is_believed"]].agg(["min", "max"]))
        because += f"; MI over js is {low} to {high} there"
    yield _finding(f"js{of} lies above MI", word, because, n_believed)
    is_near = (ratios - 1).abs() <= NEAR
    is_higher = ((ratios > 1 + NEAR) & panel["is_believed"]).sum() > n / 2
    is_clean_near = (is_near & panel["is_clean"]).sum() > n / 2
    word = "contradicted" if is_higher else "supported" if is_clean_near else "not identified"
    middle = format_number(float(ratios.median())) if n else "n/a"
    share = format_percent(float(is_near.mean())) if n else "n/a"
    because = f"MI over js: median {middle}, {share} near 1, {panel['is_clean'].sum()} verdicts ok, n = {n} components"
    yield _finding(f"MI and js{of} nearly coincide, within {100 * NEAR:g} %", word, because, n)


def _falls(claim: str, panels: Mapping[str, pd.DataFrame]) -> Finding:
    """By a sign test over the components that both ends of a sweep have; bounds of what isn't known don't count."""
    (first, start), *_, (last, end) = panels.items()
    both = start.add_suffix("_first").join(end.add_suffix("_last"), how="inner")
    change = both["mi_last"] - both["mi_first"]
    clean = change[both["is_clean_first"] & both["is_clean_last"]]
    if not len(clean):
        because = (
            f"none of {len(both)} components has a verdict of ok at both ends: from {first} to {last} the "
            f"numbers fall in {(change < 0).sum()}, but they are bounds, or less"
        )
        return _finding(claim, "not identified", because, 0)
    n_falls, n_moved = int((clean < 0).sum()), int((clean != 0).sum())
    if not n_moved:
        return lacking(6, claim, "no component has an estimate that differs at both ends")
    p = float(stats.binomtest(n_falls, n_moved).pvalue)
    word: Word = "not identified" if p > 1 - LEVEL else "supported" if n_falls > n_moved / 2 else "contradicted"
    because = (
        f"from {first} to {last} it falls in {n_falls} of the {len(clean)} components, of {len(both)}, whose verdict "
        f"is ok at both ends, median change {format_number(float(clean.median()))} nat, sign test "
        f"p = {format_number(p)}; components depend on each other, so that p is too small"
    )
    return _finding(claim, word, because, len(clean))


def _finding(claim: str, word: Word, because: str, n_components: int) -> Finding:
    return Finding(6, claim, word, because, unit="components", n_items=n_components)


def _panel(estimates: Sequence[xr.Dataset]) -> pd.DataFrame:
    """By component with an estimate in every seed: means of `mi` and `js` in nats, and whether all verdicts hold."""
    frames = []
    for panel in (one.sel(estimator="panel") for one in estimates):
        words = panel["verdict"].values.astype(str)
        columns = {"mi": panel["value"].values, "js": panel["js"].values, "is_clean": words == "ok"}
        columns["is_believed"] = np.isin(words, FROM_BELOW)
        frames.append(pd.DataFrame(columns, index=panel["component"].values.astype(str)))
    seeds = pd.concat(frames)
    seeds = seeds[np.isfinite(seeds[["mi", "js"]]).all(axis=1)]
    by_component = seeds.groupby(level=0, sort=False)
    found = by_component.agg({"mi": "mean", "js": "mean", "is_clean": "all", "is_believed": "all"})
    return found[by_component.size() == len(frames)]
