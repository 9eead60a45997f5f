"""The paper's claim 6: mutual information beside js, component by component."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr
from scipy import stats  # type: ignore[import-untyped]

from lorascope.analyze.format import format_number, format_percent
from lorascope.analyze.stats.summary import Verdict, Word

from .findings import Finding, lacking
from .sweeps import Sweeps, plural

__all__ = ["information_claims"]

NEAR = 0.1
"""Share of js within which MI counts as nearly equal."""
FROM_BELOW = ("ok", "lower bound only", "saturated")
"""Verdicts of estimates that don't lie above the truth but for their noise."""
MOST_P = 0.05
"""Largest p of a sign test that decides, which is 1 less the level of 0.95."""


def information_claims(sweeps: Sweeps) -> Iterator[Finding]:
    """Claim 6, by component: mutual information of the panel beside js of the same components and tokens."""
    of, panels = sweeps.of, {}
    for column, some in sweeps.units.items():
        if known := [one.information for one in some if one.information is not None]:
            panels[column] = _panel(known)
    distinct = [panels[name] for name in sweeps.layout.settings if name in panels]
    if not panels:
        yield lacking(6, f"js{of} lies above MI", "mutual information was estimated of no unit")
        return
    yield from _beside(of, pd.concat(distinct), len(distinct))
    for name, columns in sweeps.along.items():
        yield _falls(f"MI{of} falls as {name} grows", [one for one in columns if one in panels], name, panels)


def _beside(of: str, panel: pd.DataFrame, n_settings: int) -> Iterator[Finding]:
    """js above MI is contradicted where most estimates lie above js: the truth can't lie below these."""
    believed = panel[panel["is_believed"]]
    n, n_below = len(believed), int((believed["js"] < believed["mi"]).sum())
    because = (
        f"the panel's MI lies above js in {n_below} of {n} components of {plural(n_settings)} whose verdict is ok, "
        f"lower bound only or saturated, of {len(panel)} in all"
    )
    word: Word = "contradicted" if n_below > n / 2 else "not identified"
    because += "" if n_below > n / 2 else "; where it doesn't, the truth may"
    yield _finding(f"js{of} lies above MI", word, because, n)
    ratios, n = panel["mi"] / panel["js"].where(panel["js"] > 0, 0), len(panel)
    is_near = (ratios - 1).abs() <= NEAR
    is_higher = ((ratios > 1 + NEAR) & panel["is_believed"]).sum() > n / 2
    is_clean_near = (is_near & panel["is_clean"]).sum() > n / 2
    word = "contradicted" if is_higher else "supported" if is_clean_near else "not identified"
    middle = format_number(float(ratios.median())) if n else "n/a"
    share = format_percent(float(is_near.mean())) if n else "n/a"
    n_clean = int(panel["is_clean"].sum())
    because = f"MI over js: median {middle}, {share} near 1, {n_clean} verdicts ok, n = {n} components"
    yield _finding(f"MI and js{of} nearly coincide, within {100 * NEAR:g} %", word, because, n)


def _falls(claim: str, columns: Sequence[str], name: str, panels: dict[str, pd.DataFrame]) -> Finding:
    """By a sign test over the components that both ends of a sweep have; bounds of what isn't known don't count."""
    if len(columns) < 2:
        return lacking(6, claim, f"{plural(len(columns))} of {name} with estimates; a change takes two")
    first, last = columns[0], columns[-1]
    both = panels[first].add_suffix("_first").join(panels[last].add_suffix("_last"), how="inner")
    change = both["mi_last"] - both["mi_first"]
    clean = change[both["is_clean_first"] & both["is_clean_last"]]
    if not len(clean):
        because = (
            f"none of {len(both)} components has a verdict of ok at both ends: from {first} to {last} the "
            f"numbers fall in {int((change < 0).sum())}, but they are bounds, or less"
        )
        return _finding(claim, "not identified", because, 0)
    n_falls, n_moved = int((clean < 0).sum()), int((clean != 0).sum())
    if not n_moved:
        return lacking(6, claim, "no component has an estimate that differs at both ends")
    p = float(stats.binomtest(n_falls, n_moved).pvalue)
    word: Word = "not identified" if p > MOST_P else "supported" if n_falls > n_moved / 2 else "contradicted"
    because = (
        f"from {first} to {last} it falls in {n_falls} of the {len(clean)} components, of {len(both)}, whose verdict "
        f"is ok at both ends, median change {format_number(float(clean.median()))} nat, sign test "
        f"p = {format_number(p)}; components depend on each other, so that p is too small"
    )
    return _finding(claim, word, because, len(clean))


def _finding(claim: str, word: Word, because: str, n_components: int) -> Finding:
    return Finding(6, Verdict(claim, word, because), unit="components", n_items=n_components)


def _panel(estimates: Sequence[xr.Dataset]) -> pd.DataFrame:
    """By component with an estimate in every seed: means of `mi` and `js` in nats, and whether all verdicts hold."""
    frames = []
    for one in estimates:
        panel = one.sel(estimator="panel")
        words = panel["verdict"].values.astype(str)
        columns = {"mi": panel["value"].values, "js": panel["js"].values, "is_clean": words == "ok"}
        columns["is_believed"] = np.isin(words, FROM_BELOW)
        frames.append(pd.DataFrame(columns, index=panel["component"].values.astype(str)))
    by_component = pd.concat(frames, join="inner").groupby(level=0, sort=False)
    found = by_component.agg({"mi": "mean", "js": "mean", "is_clean": "all", "is_believed": "all"})
    is_whole = by_component["mi"].agg(lambda values: len(values) == len(frames) and np.isfinite(values).all())
    return found[is_whole.astype(bool) & np.isfinite(found["js"])]
