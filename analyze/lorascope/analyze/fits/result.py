"""A fitted law, and what can be asked of it."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.results.format import format_number
from lorascope.analyze.results.record import plain
from lorascope.stores.progress import Progress
from lorascope.stores.threads import one_blas_thread

from .design import Design, applied
from .diagnostics import Criteria, axis_tests, criteria, lack_of_fit, residuals_by_setting, search_notes, verdicts
from .estimate import Estimate
from .identify import Identifiability, identifiability
from .profile import Profile, interval_text, profiles
from .refits import Bootstrap, bootstrap, held_out
from .straight import LinearModels, linear_models
from .summary import Summary, Table, Verdict

IntervalKind = Literal["F", "wald", "bootstrap"]
UNITS = {"relative": "(y - f) / y", "log": "ln y - ln f", "absolute": "y - f"}
"""What residuals are, by their name."""


@dataclass(frozen=True)
class ScalingFit:
    """A fitted law. Names follow statsmodels where it has them."""

    estimate: Estimate
    """The parameters and the arrays that they came from."""
    level: float
    """Level of confidence of intervals; verdicts hold p-values against 1 - level."""
    provenance: dict[str, Any]
    """Settings, versions, and a hash of the rows in use."""

    @property
    def design(self) -> Design:
        """The table as arrays."""
        return self.estimate.design

    @property
    def params(self) -> pd.Series:
        """Every parameter as the law is printed: levels and offsets, amplitudes, exponents."""
        return pd.Series(self.estimate.values, name="estimate")

    @property
    def bse(self) -> pd.Series:
        """Standard errors by linear theory (Wald), a contrast to profile intervals; NaN with Huber's loss."""
        errors = pd.Series(self.estimate.standard_errors, name="se")
        return errors if self.is_least_squares else errors * math.nan

    @property
    def is_least_squares(self) -> bool:
        """Whether residuals are squared, rather than Huber's."""
        return not math.isfinite(self.estimate.delta)

    @property
    def nobs(self) -> int:
        """Cells."""
        return self.estimate.n

    @property
    def df_resid(self) -> int:
        """Cells less parameters."""
        return self.estimate.df

    @property
    def ssr(self) -> float:
        """Sum of squared residuals, in units of `resid`."""
        return self.estimate.ssr

    @property
    def sigma(self) -> float:
        """Standard deviation of residuals, degrees of freedom taken off."""
        return self.estimate.sigma

    @property
    def resid(self) -> pd.Series:
        """Residuals under the table's row labels: relative, of the logarithm, or of the response."""
        return pd.Series(self.estimate.residuals, index=self.design.frame.index, name="residual")

    @property
    def fittedvalues(self) -> pd.Series:
        """What the law says of each cell, in the unit of the response."""
        values = np.exp(self.estimate.fitted) if self.design.law.logarithmic else self.estimate.fitted
        return pd.Series(values, index=self.design.frame.index, name="fitted")

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what was left out, on the search, and on what the fit's numbers can't be taken for."""
        return (*self.design.notes, *search_notes(self.estimate))

    @cached_property
    def criteria(self) -> Criteria:
        """AIC, AICc and BIC."""
        return criteria(self.estimate)

    @cached_property
    def identifiability(self) -> Identifiability | None:
        """What the settings alone determine; None for the law 'share'."""
        design = self.design
        if "share" in design.sizes:
            return None
        groups, offsets = design.group_columns, design.offset_columns
        return identifiability(design.frame, **design.sizes, groups=groups, offsets=offsets, law=design.law_name)

    @cached_property
    def profiles(self) -> dict[str, Profile]:
        """Profile of each amplitude, slope and exponent; empty where `has_profiles` is False."""
        with one_blas_thread():
            return profiles(self.estimate, self.level) if self.has_profiles else {}

    @property
    def has_profiles(self) -> bool:
        """Whether this fit has profile intervals: least squares of relative or absolute residuals that aren't all 0."""
        return self.is_least_squares and self.design.residual != "log" and not self.estimate.is_exact

    @cached_property
    def lack_of_fit(self) -> pd.DataFrame:
        """One row: the law against free effects of settings beside the same levels, both by least squares.

        `F`, `n_more` (parameters that free settings have more than the law), `df`, `p`, `sigma_free` (of what even free
        settings leave), `n_settings`, `note`: where F is NaN, why the law can't be put to this test. A small p says
        that no parameters of this law make it follow the settings as closely as cells of one setting follow each other.
        """
        return lack_of_fit(self.estimate)

    @cached_property
    def axis_tests(self) -> pd.DataFrame:
        """A row a size: the law against the law without its terms, by least squares.

        `axis`, `F`, `n_more`, `df`, `p`, `ssr_ratio` (sum of squares without the terms over that with them). Without a
        term its exponent means nothing, so that p is a rough one (Davies 1987, Biometrika 74, 33).
        """
        return axis_tests(self.estimate)

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What the data say of the law's claims."""
        intervals = {name: one.interval for name, one in self.profiles.items()}
        return verdicts(self.estimate, intervals, self.axis_tests, self.lack_of_fit, self.level)

    def conf_int(self, kind: IntervalKind = "F", *, n_draws: int = 1000, seed: int = 0) -> pd.DataFrame:
        """Intervals of amplitudes and exponents: `low`, `high`, and whether either end is open.

        Parameters
        ----------
        kind
            `F`: profile intervals, whose ends may be open: then the data don't bound the parameter inside of
            what was looked at. `wald`: linear theory, of levels too, which can't be open and is wrong where those are.
            `bootstrap`: percentiles over redrawn groups; `bootstrap().notes` says where groups are few.
        n_draws, seed
            For the bootstrap, see `bootstrap`.

        Raises
        ------
        ValueError
            If the kind isn't known, or the fit doesn't have it.
        """
        if kind == "bootstrap":
            return self.bootstrap(n_draws=n_draws, seed=seed).intervals(self.level)
        if kind not in get_args(IntervalKind):
            raise ValueError(f"`kind` is {kind!r}; it is one of {list(get_args(IntervalKind))}")
        if not (self.is_least_squares if kind == "wald" else self.has_profiles):
            raise ValueError(
                f"this fit has no {kind} intervals: they need least squares, and profiles residuals that are relative "
                "or absolute and not all 0; the bootstrap has intervals of any fit"
            )
        if kind == "wald":
            return pd.DataFrame({"low": self.params - self._t * self.bse, "high": self.params + self._t * self.bse})
        found = {name: one.interval._asdict() for name, one in self.profiles.items()}
        return pd.DataFrame.from_dict(found, orient="index")

    @property
    def _t(self) -> float:
        """Student's t with the fit's degrees of freedom, at its level."""
        from scipy import stats  # type: ignore[import-untyped]

        return float(stats.t.ppf((1 + self.level) / 2, self.df_resid))

    def bootstrap(self, *, n_draws: int = 1000, seed: int = 0, progress: Progress | None = None) -> Bootstrap:
        """Refits on as many groups as there are, drawn with replacement.

        `n_draws` is how many may be made: all that differ if there are no more, else so many random ones. Intervals
        from few groups are coarse, and their ends are extremes: a contrast to the profile, not a replacement.

        Raises ValueError if there is one group, or `n_draws` isn't at least 1.
        """
        with one_blas_thread():
            return bootstrap(self.estimate, n_draws=n_draws, random=np.random.default_rng(seed), progress=progress)

    def predict(self, frame: pd.DataFrame | None = None) -> pd.DataFrame:
        """What the law says of rows, in units of the response: `mean`, and an interval of it, `low` and `high`.

        Parameters
        ----------
        frame
            Has the columns of sizes, groups and offsets; the fit's own if None.

        Raises
        ------
        ValueError
            If a column is missing, or a group wasn't in the fit.

        Notes
        -----
        Linear theory (the delta method), of logarithms on their own scale; NaN with Huber's loss. Where a parameter
        isn't identified, intervals between the settings may still hold; beyond them they don't.
        """
        rows = self.design if frame is None else applied(self.design, frame)
        mean, half = self.estimate.predicted(rows), self._t * self.estimate.prediction_errors(rows)
        if not self.is_least_squares:
            half = half * math.nan
        low, high = mean - half, mean + half
        if rows.law.logarithmic:
            mean, low, high = np.exp(mean), np.exp(low), np.exp(high)
        elif rows.residual == "log":
            positive = np.where(mean > 0, mean, math.nan)
            low, high = positive * np.exp(-half / positive), positive * np.exp(half / positive)
        return pd.DataFrame({"mean": mean, "low": low, "high": high}, index=rows.frame.index)

    def residuals_by_setting(self) -> pd.DataFrame:
        """Mean residual of each setting over its cells, in units of the fit: `setting`, `n`, `mean`, `se`, `t`, `p`.

        p is of a two-sided t-test that takes cells for independent, and NaN for a single cell.
        """
        return residuals_by_setting(self.estimate)

    def held_out(self, *, progress: Progress | None = None) -> pd.DataFrame:
        """Errors of prediction of cells held out, a row for each cell and way of holding out.

        Returns
        -------
        DataFrame
            `split`: `cell` (each alone), `setting` (a setting in all groups), `group` (a group, whose level comes from
            its other cells), `ordered N` and so on (all cells of a size, from those of smaller sizes alone, from the
            third size on). `held_out`: its name. `row`, `group`, `setting` of the cell; `observed`; `predicted`;
            `error`: observed less predicted, in units of the fit; `error_plain`: of the group's level alone, or of the
            law without the terms of an ordered size. For each amplitude and exponent its `name`: the estimate from the
            other cells. Splits that leave the law undetermined have NaN.
        """
        with one_blas_thread():
            return held_out(self.estimate, progress=progress)

    def linear_models(self) -> LinearModels:
        """Slopes of a straight law by OLS with three kinds of errors, Huber's norm and a random intercept.

        Sizes are taken relative to that of each group which is nearest to the reference: it doesn't matter to fixed
        effects, and lets a random intercept be the level where groups are alike.

        Raises ValueError if the law has exponents to search for.
        """
        design = self.design
        if design.exponents or not design.columns:
            raise ValueError(f"the law {design.law_name!r} isn't linear; take 'log-log' or 'log'")
        x = pd.DataFrame({one.amplitude: one.log_x[:, 0] for one in design.columns})
        x -= x.groupby(design.groups).transform(lambda logs: logs.loc[logs.abs().idxmin()])
        names = [*x.columns, *design.level_names[design.n_groups :]]
        x = np.column_stack([x, design.levels[:, design.n_groups :]])
        return linear_models(design.y, x, names, design.groups, level=self.level)

    def summary(self) -> Summary:
        """What a reader wants to see first: verdicts, parameters with intervals, what each size adds."""
        design, search = self.design, self.estimate.search
        note = (
            f"{100 * self.level:g} % profile intervals by F; (open): the data don't bound it inside of what was looked "
            "at. se: linear theory, a contrast."
        )
        rows = pd.DataFrame({"name": self.params.index, "estimate": self.params.array, "se": self.bse.array})
        terms = rows.iloc[design.n_groups :]
        if self.has_profiles:
            known = {name: interval_text(one.interval) for name, one in self.profiles.items()}
            terms = terms.assign(interval=[known.get(name, "") for name in terms["name"]])
        tables = [
            Table("parameters", terms, note if self.has_profiles else "A fit of this kind has no profile intervals."),
            Table(
                "what each size adds to the others", self.axis_tests, "F against the law without it; p is a rough one."
            ),
            Table("residuals by setting", self.residuals_by_setting(), f"mean of {UNITS[design.residual]} over cells."),
        ]
        if design.columns and not design.exponents and not self.estimate.is_exact:
            found = self.linear_models()
            about = ["of y itself, each cell alike", *found.notes] if design.residual == "relative" else found.notes
            slopes = found.slopes.drop(columns=["df", "t"])
            tables.append(Table("slopes by other models", slopes, " ".join(f"{one}." for one in about)))
        tables.append(Table("levels of groups", rows.iloc[: design.n_groups], "se: linear theory."))
        refs = ", ".join(f"{axis}0 = {size:.6g}" for axis, size in design.references.items())
        loss = (
            "least squares" if self.is_least_squares else f"Huber, delta {format_number(self.estimate.delta)}, summed"
        )
        bound = f"; at a bound: {', '.join(search.at_bound)}" if search.at_bound else ""
        starts = f"; {100 * search.share_of_starts:.0f} % of {search.n_starts} random starts ended at the best optimum"
        facts = {
            "law": f"{design.equation} ({design.law.source})",
            "references": f"{refs}, held" if refs else "none",
            "cells": f"{self.nobs}; groups: {len(set(design.groups))}; settings: {len(set(design.settings))}; "
            f"parameters: {len(design.names)}; degrees of freedom: {self.df_resid}",
            "loss": f"{loss} of {UNITS['log' if design.law.logarithmic else design.residual]}; sum of squares "
            f"{format_number(self.ssr, digits=6)}, sigma {format_number(self.sigma)}; "
            f"AICc {self.criteria.aicc:.2f}, BIC {self.criteria.bic:.2f}",
            "search": f"{'' if search.converged else 'not '}converged{bound}{starts if search.n_starts else ''}",
            "data": f"sha256 {self.provenance['data_sha256'][:12]}",
        }
        notes = [*self.notes, *(self.identifiability.sentences if self.identifiability else ())]
        return Summary(f"Scaling law of {design.response}", facts, tables, self.verdicts, notes)

    def to_dict(self) -> dict[str, Any]:
        """Everything in `summary`, as JSON has it, at full precision."""
        found = {
            "params": self.params, "bse": self.bse, "nobs": self.nobs, "df_resid": self.df_resid, "ssr": self.ssr,
            "sigma": self.sigma, "loss": self.estimate.loss, "huber_delta": self.estimate.delta,
            "criteria": self.criteria, "search": self.estimate.search, "identifiability": self.identifiability,
            "intervals": {name: one.interval for name, one in self.profiles.items()},
            "axis_tests": self.axis_tests, "lack_of_fit": self.lack_of_fit,
            "residuals_by_setting": self.residuals_by_setting(), "verdicts": self.verdicts, "notes": self.notes,
            "provenance": self.provenance,
        }  # fmt: skip
        converted: dict[str, Any] = plain(found)
        return converted
