"""Everything that can be said of a law on a table, in one go: fit, rivals, bootstraps, held-out cells, influence."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, get_args

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..format import format_number
from ..stats.record import plain
from ..stats.summary import Summary, Table
from ..stats.verdict import Verdict, Word
from .bootstrap import Bootstrap, BootstrapKind
from .cross_validation import cross_validate
from .fit import fit_scaling_law
from .intervals import bootstrap_intervals
from .laws import LawName
from .result import ScalingFit
from .summarise import interval_text
from .wild_cluster import wild_cluster_test

__all__ = ["DELTAS", "FitReport", "fit_report"]

DELTAS = (1e-4, 1e-3, 1e-2, math.inf)
"""Huber's deltas of the sweep, in units of ln y - ln f; the last is least squares."""
SWEEP_STARTS = 8
"""Random starts for each of these, unless told otherwise."""
MOST_BOOTSTRAPPED = 2000
"""Draws that a report takes at most."""


class Progress(Protocol):
    """Told how far a part of the work is."""

    def __call__(self, done: int, n: int, part: str) -> None:
        """So much of it is done, of so much."""


@dataclass(frozen=True)
class FitReport:
    """A fit and what puts it to the test."""

    fit: ScalingFit
    laws: pd.DataFrame
    """A row a law that these cells can determine: `law`, `n_parameters`, `sigma`, `AICc`, `d_AICc` (less the least),
    `BIC`, `lack_of_fit_p`, and root mean squared relative errors of cells held out: `rmse_cell`, `rmse_setting`,
    `rmse_group`."""
    refused: dict[str, str]
    """Law -> why these cells can't determine it, or don't tell it from another."""
    bootstraps: dict[str, Bootstrap]
    """Kind -> refits; empty for a single group."""
    slope_tests: pd.DataFrame
    """Of a law that is straight, a row a slope: restricted wild cluster bootstrap-t, see `wild_cluster_test`; else
    empty."""
    held_out: pd.DataFrame
    influence: pd.DataFrame
    deltas: pd.DataFrame
    """A row a Huber delta, of ln y - ln f: `delta`, the exponents and amplitudes, `loss`, `share_of_starts`; empty
    where a response isn't above zero."""
    notes: tuple[str, ...]

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Those of the fit, of its rivals and of prediction."""
        return (*self.fit.verdicts, *_rival(self), *_prediction(self))

    def summary(self) -> Summary:
        """All of it in print."""
        own = self.fit.summary()
        tables = [
            *own.tables,
            Table("bootstrap intervals over groups", _bootstrap_rows(self), _bootstrap_note(self)),
            Table(
                "slopes: wild bootstrap-t by group, the slope held at 0", self.slope_tests,
                "p can't go below p_floor, nor an interval close where that is above its level.",
            ),
            Table("laws on the same cells", self.laws, _laws_note(self)),
            Table(
                "cells held out", cross_validate(self.held_out),
                "errors in units of the fit; rmse_plain: of the group's level alone; of larger sizes, of the law "
                "without their terms.",
            ),
            Table(
                "cells that pull most", self.influence.head(5),
                "d_: the estimate without the cell less that with it; pull: the largest over its standard error.",
            ),
            Table("Huber's delta, residuals ln y - ln f, losses summed", self.deltas, "∞: least squares."),
        ]  # fmt: skip
        kept = [table for table in tables if len(table.rows)]
        return Summary(own.title, own.facts, kept, self.verdicts, [*own.notes, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it, at full precision."""
        boots = {
            kind: {
                "exact": one.exact, "n_draws": len(one.values), "n_undetermined": one.n_undetermined,
                "intervals": bootstrap_intervals(one, self.fit.level).to_dict(orient="index"),
            }
            for kind, one in self.bootstraps.items()
        }  # fmt: skip
        found = {
            **self.fit.to_dict(), "slope_tests": self.slope_tests, "laws": self.laws, "refused_laws": self.refused,
            "bootstraps": boots,
            "held_out": cross_validate(self.held_out), "held_out_cells": self.held_out, "influence": self.influence,
            "huber_deltas": self.deltas, "verdicts": self.verdicts, "notes": [*self.fit.notes, *self.notes],
        }  # fmt: skip
        converted: dict[str, Any] = plain(found)
        return converted


def fit_report(
    frame: pd.DataFrame,
    response: str,
    N: str | None = None,
    R: str | None = None,
    D: str | None = None,
    *,
    law: LawName = "additive",
    share: str | None = None,
    n_draws: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> FitReport:
    """A fit, its rivals on the same cells, bootstraps over groups, predictions of cells held out, and influence.

    Parameters
    ----------
    frame, response, N, R, D, law, share, seed
        As for `fit_scaling_law`.
    n_draws
        Of each bootstrap, where groups are too many to look at all draws; 1000 by default, at most 2000.
    progress
        Called with how much of a part is done, of how much, and the part's name.
    **options
        Further ones of `fit_scaling_law`.

    Raises
    ------
    TypeError, ValueError
        As `fit_scaling_law`; rivals that the cells can't determine are left out, and named in `refused`.
    """
    if not 1 <= n_draws <= MOST_BOOTSTRAPPED:
        raise ValueError(f"`n_draws` is {n_draws!r}; it lies between 1 and {MOST_BOOTSTRAPPED}")
    tell: Progress = progress or _silent
    roles = {"N": N, "R": R, "D": D}
    fit = fit_scaling_law(frame, response, N, R, D, law=law, share=share, seed=seed, **options)
    held = fit.held_out(progress=lambda done, n: tell(done, n, "held out"))
    laws, refused = _laws(frame, response, roles, fit, held, share, options, tell)
    boots, notes = _bootstraps(fit, n_draws, seed, tell)
    pulls = fit.influence(progress=lambda done, n: tell(done, n, "influence"))
    deltas = pd.DataFrame()
    if (fit.design.frame[response] > 0).all():
        deltas = _delta_sweep(frame, response, roles, law, share, seed, options, tell)
    else:
        notes += (f"there is no sweep of Huber's delta, which is of ln y, as some {response!r} isn't above zero",)
    slopes, more = _slope_tests(fit, seed)
    return FitReport(fit, laws, refused, boots, slopes, held, pulls, deltas, (*notes, *more))


def _silent(done: int, n: int, part: str) -> None:
    """Nobody is told."""


def _laws(
    frame: pd.DataFrame, response: str, roles: dict[str, Any], fit: ScalingFit, held: pd.DataFrame,
    share: str | None, options: dict[str, Any], tell: Progress,
) -> tuple[pd.DataFrame, dict[str, str]]:  # fmt: skip
    rows, refused = [], {}
    seen = {fit.design.equation: fit.design.law_name}
    names = [name for name in get_args(LawName) if name != "share" or share is not None]
    for done, name in enumerate(names, 1):
        own = {key: value for key, value in options.items() if key != "n_starts"}
        try:
            one = fit if name == fit.design.law_name else fit_scaling_law(
                frame, response, **roles, law=name, share=share, n_starts=0, **own
            )  # fmt: skip
        except ValueError as error:
            refused[name] = str(error)
            tell(done, len(names), "laws")
            continue
        same = seen.setdefault(one.design.equation, name)
        if same != name:
            refused[name] = f"with one size it is the law {same!r}"
        else:
            rows.append(_law_row(name, one, held if one is fit else one.held_out()))
        tell(done, len(names), "laws")
    table = pd.DataFrame(rows)
    table.insert(4, "d_AICc", table["AICc"] - table["AICc"].min())
    return table.sort_values("d_AICc", kind="stable", ignore_index=True), refused


def _law_row(name: str, fit: ScalingFit, held: pd.DataFrame) -> dict[str, object]:
    errors = cross_validate(held).set_index("split")
    row = {
        "law": name, "n_parameters": len(fit.design.names), "sigma": fit.sigma, "AICc": fit.criteria.aicc,
        "BIC": fit.criteria.bic, "lack_of_fit_p": float(fit.lack_of_fit["p"].iloc[0]),
    }  # fmt: skip
    splits = [split for split in ("cell", "setting", "group") if split in errors.index]
    return row | {f"rmse_{split}": float(errors.loc[split, "rmse"]) for split in splits}


def _bootstraps(
    fit: ScalingFit, n_draws: int, seed: int, tell: Progress
) -> tuple[dict[str, Bootstrap], tuple[str, ...]]:
    if len(set(fit.design.groups)) < 2:
        return {}, ("there is no bootstrap over groups, as there is one group",)
    found: dict[str, Bootstrap] = {}
    for kind in get_args(BootstrapKind):
        part = partial(tell, part=f"{kind} bootstrap")
        found[kind] = fit.bootstrap(kind, n_draws=n_draws, seed=seed, progress=part)
    return found, ()


def _slope_tests(fit: ScalingFit, seed: int) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The tests, and why there are none of a straight law."""
    if fit.design.exponents or not fit.design.columns or len(set(fit.design.groups)) < 2:
        return pd.DataFrame(), ()
    y, x, names = fit.linear_arrays()
    slopes = [one.amplitude for one in fit.design.columns]
    groups = list(fit.design.groups)
    try:
        return wild_cluster_test(y, x, names, groups, which=slopes, seed=seed, level=fit.level), ()
    except ValueError as error:  # such as a slope that varies in one group only
        return pd.DataFrame(), (f"no wild bootstrap-t of slopes: {error}",)


def _delta_sweep(
    frame: pd.DataFrame, response: str, roles: dict[str, Any], law: LawName, share: str | None, seed: int,
    options: dict[str, Any], tell: Progress,
) -> pd.DataFrame:  # fmt: skip
    own = {"n_starts": SWEEP_STARTS} | {
        key: value for key, value in options.items() if key not in ("residuals", "huber")
    }
    rows = []
    for done, delta in enumerate(DELTAS, 1):
        huber = None if math.isinf(delta) else delta
        one = fit_scaling_law(
            frame, response, **roles, law=law, share=share, residuals="log", huber=huber, seed=seed, **own
        )
        names = one.design.names[len(one.design.level_names) :]
        found = {name: one.params[name] for name in names}
        rows.append(
            {"delta": delta, **found, "loss": one.estimate.loss, "share_of_starts": one.estimate.search.share_of_starts}
        )
        tell(done, len(DELTAS), "Huber's delta")
    return pd.DataFrame(rows)


def _rival(report: FitReport) -> list[Verdict]:
    """Whether the fit's law is the best of those looked at."""
    name, laws = report.fit.design.law_name, report.laws
    known = laws[laws["AICc"].notna()]
    if len(known) < 2 or name not in known["law"].values:
        return []
    own = known.set_index("law").loc[name]
    others = known[known["law"] != name].iloc[0]
    gap = float(own["AICc"] - others["AICc"])
    because = f"AICc {own['AICc']:.2f} against {others['AICc']:.2f} of {others['law']!r}, n = {report.fit.nobs}"
    word: Word = "supported" if gap < -2 else "contradicted" if gap > 2 else "not identified"
    return [Verdict(f"of the laws looked at, {name!r} describes these cells best", word, because)]


def _prediction(report: FitReport) -> list[Verdict]:
    """Whether the law predicts sizes beyond those that it saw."""
    found = []
    table = cross_validate(report.held_out)
    for row in table[table["split"].str.startswith("ordered")].itertuples():
        axis = row.split.removeprefix("ordered ")
        claim = f"the law predicts larger {axis} from smaller ones better than without its term of {axis}"
        if not row.n:
            found.append(Verdict(claim, "not identified", "the smaller sizes alone don't determine it"))
            continue
        part = report.held_out[(report.held_out["split"] == row.split) & report.held_out["error"].notna()]
        gains = (part["error_plain"] ** 2 - part["error"] ** 2).groupby(part["group"]).mean().to_numpy()
        p = _paired_p(gains)
        because = (
            f"root mean squared error {format_number(row.rmse)} over {row.n} cells against "
            f"{format_number(row.rmse_plain)} without it, sigma {format_number(report.fit.sigma)}; "
            f"t-test over {len(gains)} groups p = {format_number(p)}"
        )
        better: Word = "supported" if gains.mean() > 0 else "contradicted"
        found.append(Verdict(claim, better if p <= 1 - report.fit.level else "not identified", because))
    return found


def _paired_p(gains: np.ndarray) -> float:
    """Two-sided p of a mean that isn't 0, by Student's t; NaN of a single value."""
    from scipy import stats  # type: ignore[import-untyped]

    if len(gains) < 2 or not gains.std() > 1e-12 * np.abs(gains).max():
        return math.nan
    return float(stats.ttest_1samp(gains, 0).pvalue)


def _bootstrap_rows(report: FitReport) -> pd.DataFrame:
    names = report.fit.design.names[len(report.fit.design.level_names) :]
    rows = []
    for name in names:
        row: dict[str, object] = {"name": name, "estimate": report.fit.params[name]}
        for kind, one in report.bootstraps.items():
            row[kind] = interval_text((*one.interval(name, report.fit.level), False))
        rows.append(row)
    return pd.DataFrame(rows) if report.bootstraps else pd.DataFrame()


def _bootstrap_note(report: FitReport) -> str:
    parts = []
    for kind, one in report.bootstraps.items():
        draws = f"all {len(one.values)} draws" if one.exact else f"{len(one.values)} draws"
        parts.append(
            f"{kind}: {draws}" + (f", {one.n_undetermined} left out as undetermined" if one.n_undetermined else "")
        )
    return f"{100 * report.fit.level:g} % percentiles. " + "; ".join(parts) + "."


def _laws_note(report: FitReport) -> str:
    refused = "".join(f" {name!r} is left out: {why}." for name, why in report.refused.items())
    return "sigma and rmse are in units of each law's own residuals, relative or of the logarithm." + refused
