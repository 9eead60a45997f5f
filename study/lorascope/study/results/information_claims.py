"""The paper's claim 6: mutual information compared with js, component by component."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr
from scipy import stats  # type: ignore[import-untyped]

from lorascope.analyze.fits.verdicts import Word
from lorascope.analyze.results.format import format_number

from .findings import Finding, lacking, plural
from .tables import Layout
from .trainings import LEVEL
from .units import UnitResult

NEAR = 0.1
"""MI and js count as nearly equal if they differ by at most this share of js."""
FROM_BELOW = ("ok", "lower bound only")
"""Verdicts of estimates that bound mutual information from below but for their noise; `saturated` says only "much"."""


def information_claims(layout: Layout, units: Mapping[str, Sequence[UnitResult]], of: str) -> Iterator[Finding]:
    """Claim 6 by component: the panel's mutual information compared with js of the same components and tokens."""
    estimates = {
        name: [unit.information for unit in own if unit.information is not None] for name, own in units.items()
    }
    panels = {column: _panel(known) for column, known in estimates.items() if known}
    if not panels:
        yield lacking(6, f"js{of} lies above MI", "mutual information was estimated of no unit")
        return
    yield from _beside(of, pd.concat([panels[name] for name in layout.settings if name in panels]))
    for along, columns in (("rank", layout.ranks), ("model size", layout.sizes)):
        known = {name: panels[name] for name in columns if name in panels}
        claim = f"MI{of} falls as {along} grows"
        if len(known) < 2:
            yield lacking(6, claim, f"{plural(len(known))} of {along} with estimates; a change takes two")
        else:
            yield _falls(claim, known)


def _beside(of: str, panel: pd.DataFrame) -> Iterator[Finding]:
    """Whether js lies above MI: contradicted where most estimates lie above js, as the truth can't lie below these."""
    believed, n = panel[panel["is_believed"]], len(panel)
    n_believed, n_below = len(believed), int((believed["js"] < believed["mi"]).sum())
    word: Word = "contradicted" if n_below > n_believed / 2 else "not identified"
    because = (
        f"MI is above js in {n_below} of the {n_believed} components, of {n}, with a verdict of ok or lower bound only"
    )
    yield _finding(f"js{of} lies above MI", word, because, n_believed)
    ratios = panel["mi"] / panel["js"].where(panel["js"] > 0, 0)
    is_higher = ((ratios > 1 + NEAR) & panel["is_believed"]).sum() > n / 2
    is_clean_near = (((ratios - 1).abs() <= NEAR) & panel["is_clean"]).sum() > n / 2
    word = "contradicted" if is_higher else "supported" if is_clean_near else "not identified"
    middle = format_number(float(ratios.median())) if n else "n/a"
    because = f"median of MI over js: {middle}, n = {n} components, {panel['is_clean'].sum()} with a verdict of ok"
    yield _finding(f"MI and js{of} nearly coincide, within {100 * NEAR:g} %", word, because, n)


def _falls(claim: str, panels: Mapping[str, pd.DataFrame]) -> Finding:
    """A sign test over the components whose verdict is ok at both ends of a sweep; others are bounds, or less."""
    (first, start), *_, (last, end) = panels.items()
    both = start.add_suffix("_first").join(end.add_suffix("_last"), how="inner")
    change = (both["mi_last"] - both["mi_first"])[both["is_clean_first"] & both["is_clean_last"]]
    n_falls, n_moved = int((change < 0).sum()), int((change != 0).sum())
    n = f"{n_falls} of the {len(change)} components, of {len(both)}"
    because = f"from {first} to {last} it falls in {n}, with a verdict of ok at both ends"
    if not n_moved:
        return _finding(claim, "not identified", because, len(change))
    p = float(stats.binomtest(n_falls, n_moved).pvalue)
    word: Word = "not identified" if p > 1 - LEVEL else "supported" if n_falls > n_moved / 2 else "contradicted"
    because += f", sign test p = {format_number(p)}, which is too small as components depend on each other"
    return _finding(claim, word, because, len(change))


def _finding(claim: str, word: Word, because: str, n_components: int) -> Finding:
    return Finding(6, claim, word, because, unit="components", n_items=n_components)


def _panel(estimates: Sequence[xr.Dataset]) -> pd.DataFrame:
    """Means over seeds of `mi` and `js` in nats by component, and whether all verdicts hold."""
    frames = []
    for panel in (seed.sel(estimator="panel") for seed in estimates):
        words = panel["verdict"].values.astype(str)
        columns = {"mi": panel["value"].values, "js": panel["js"].values, "is_clean": words == "ok"}
        columns["is_believed"] = np.isin(words, FROM_BELOW)
        frames.append(pd.DataFrame(columns, index=panel["component"].values.astype(str)))
    seeds = pd.concat(frames)
    seeds = seeds[np.isfinite(seeds[["mi", "js"]]).all(axis=1)]
    by_component = seeds.groupby(level=0, sort=False)
    means = by_component.agg({"mi": "mean", "js": "mean", "is_clean": "all", "is_believed": "all"})
    return means[by_component.size() == len(frames)]
