"""A fitted law, and what can be asked of it."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..stats.record import plain
from ..stats.summary import Summary
from ..stats.verdict import Verdict
from ..threads import one_blas_thread
from .bands import bands
from .bootstrap import Bootstrap, BootstrapKind, Progress, bootstrap
from .cross_validation import held_out
from .design import Design, applied
from .diagnostics import axis_tests, influence, lack_of_fit, residuals_by_setting
from .estimate import Estimate
from .identify import Identifiability, identifiability
from .intervals import bootstrap_intervals, profile_intervals, profiles, wald_intervals
from .linear import LinearModels, linear_models
from .profile import Profile
from .remarks import group_notes, huber_notes, search_notes, weight_notes
from .selection import Criteria, criteria
from .summarise import summarise
from .verdicts import verdicts

__all__ = ["IntervalKind", "ScalingFit"]

IntervalKind = Literal["F", "chi2", "wald", "cluster", "wild"]


@dataclass(frozen=True)
class ScalingFit:
    """A fitted law. Names follow statsmodels where it has them."""

    estimate: Estimate
    """The parameters and the arrays that they came from."""
    level: float
    """Of intervals."""
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
        """Sum of squared residuals, in units of `residuals`."""
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
        values = self.estimate.fitted
        return pd.Series(
            np.exp(values) if self.design.law.logarithmic else values, index=self.design.frame.index, name="fitted"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what was left out, on the search, and on what the design can't tell."""
        return (
            *self.design.notes,
            *search_notes(self.estimate),
            *group_notes(self.design),
            *weight_notes(self.estimate),
            *huber_notes(self.estimate),
        )

    @cached_property
    def criteria(self) -> Criteria:
        """AIC, AICc and BIC."""
        return criteria(self.estimate)

    @cached_property
    def identifiability(self) -> Identifiability | None:
        """What the settings alone determine, at the estimates; None for the law 'share'."""
        if self.design.law_name == "share":
            return None
        axes = self.design.axes
        at = {name: value for name, value in self.params.items() if math.isfinite(value) and value != 0}
        return identifiability(
            self.design.frame, N=axes.get("N"), R=axes.get("R"), D=axes.get("D"), groups=self.design.group_columns,
            offsets=self.design.offset_columns, law=self.design.law_name, at=at,
        )  # fmt: skip

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
        """The law against free effects of settings; see `diagnostics.lack_of_fit`."""
        return lack_of_fit(self.estimate)

    @cached_property
    def axis_tests(self) -> pd.DataFrame:
        """What each size adds to the others; see `diagnostics.axis_tests`."""
        return axis_tests(self.estimate)

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What the data say of the law's claims."""
        intervals = {name: one.intervals["F"] for name, one in self.profiles.items()}
        return verdicts(self.estimate, intervals, self.axis_tests, self.lack_of_fit, self.level)

    def conf_int(self, kind: IntervalKind = "F", *, n_draws: int = 1000, seed: int = 0) -> pd.DataFrame:
        """Intervals of amplitudes and exponents: `low`, `high`, and whether either end is open.

        Parameters
        ----------
        kind
            `F` or `chi2`: profile intervals, whose ends may be open: then the data don't bound the parameter inside of
            what was looked at. `wald`: linear theory, of levels too, which can't be open and is wrong where those are.
            `cluster`, `wild`: percentiles of a bootstrap over groups.
        n_draws, seed
            Of a bootstrap, see `bootstrap`.

        Raises
        ------
        ValueError
            If the kind isn't known, or the fit doesn't have it.
        """
        if kind in ("F", "chi2"):
            self._refuse_without_profiles()
            return profile_intervals(self.profiles, kind)
        if kind == "wald":
            if not self.is_least_squares:
                raise ValueError("Huber's loss has no Wald intervals here; take kind='cluster' or 'wild'")
            return wald_intervals(self.estimate, self.level)
        if kind in ("cluster", "wild"):
            return bootstrap_intervals(self.bootstrap(kind, n_draws=n_draws, seed=seed), self.level)
        raise ValueError(f"`kind` is {kind!r}; it is one of {['F', 'chi2', 'wald', 'cluster', 'wild']}")

    def _refuse_without_profiles(self) -> None:
        if self.is_least_squares and self.estimate.is_exact:
            raise ValueError("the law goes through every cell, so that there is no error to make intervals from")
        if not self.has_profiles:
            what = "Huber's loss" if not self.is_least_squares else "a fit of residuals of the logarithm"
            raise ValueError(
                f"{what} has no profile intervals; fit relative residuals by least squares, or take kind='cluster'"
            )

    def bootstrap(
        self, kind: BootstrapKind = "cluster", *, n_draws: int = 1000, seed: int = 0, progress: Progress | None = None
    ) -> Bootstrap:
        """Refits on redrawn groups or flipped residuals; see `bootstrap.bootstrap`."""
        with one_blas_thread():
            return bootstrap(
                self.estimate, kind, n_draws=n_draws, random=np.random.default_rng(seed), progress=progress
            )

    def predict(self, frame: pd.DataFrame | None = None) -> pd.DataFrame:
        """What the law says of rows, with bands of the mean and of a further cell; see `bands.bands`.

        `frame` has the columns of sizes, groups and offsets; by default it is the fit's own. Raises ValueError where it
        lacks one, or a group wasn't in the fit.
        """
        rows = self.design if frame is None else applied(self.design, frame)
        return bands(self.estimate, rows, self.level)

    def residuals_by_setting(self) -> pd.DataFrame:
        """Mean residual of each setting; see `diagnostics.residuals_by_setting`."""
        return residuals_by_setting(self.estimate)

    def influence(self, *, progress: Progress | None = None) -> pd.DataFrame:
        """How far each cell pulls the parameters; see `diagnostics.influence`."""
        with one_blas_thread():
            return influence(self.estimate, progress=progress)

    def held_out(self, *, progress: Progress | None = None) -> pd.DataFrame:
        """Errors of prediction of cells held out; see `cross_validation.held_out`."""
        with one_blas_thread():
            return held_out(self.estimate, progress=progress)

    def linear_models(self) -> LinearModels:
        """Slopes of a straight law by OLS with three kinds of errors, Huber's norm and a random intercept.

        Sizes are taken relative to that of each group which is nearest to the reference: it doesn't matter to fixed
        effects, and lets a random intercept be the level where groups are alike.

        Raises ValueError if the law has exponents to search for.
        """
        if self.design.exponents or not self.design.columns:
            raise ValueError(f"the law {self.design.law_name!r} isn't linear; take 'log-log' or 'log'")
        y, x, names = self.linear_arrays()
        return linear_models(y, x, names, list(self.design.groups), level=self.level)

    def linear_arrays(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Response (n,), columns (n, k) and their names, offsets last, of a straight law."""
        first = self.design.levels.shape[1] - self.design.n_offsets
        straight = [_from_own_reference(one.centred(np.zeros(0)), self.design.groups) for one in self.design.columns]
        names = [one.amplitude for one in self.design.columns] + list(self.design.level_names[first:])
        return self.design.y, np.column_stack([*straight, self.design.levels[:, first:]]), names

    def summary(self) -> Summary:
        """What a reader wants to see first: parameters with intervals, what each size adds, verdicts."""
        return summarise(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything in `summary`, as JSON has it, at full precision."""
        found = {
            "params": self.params, "bse": self.bse, "nobs": self.nobs, "df_resid": self.df_resid, "ssr": self.ssr,
            "sigma": self.sigma, "loss": self.estimate.loss, "huber_delta": self.estimate.delta,
            "criteria": self.criteria, "search": self.estimate.search, "identifiability": self.identifiability,
            "intervals": {
                rule: {name: one.intervals[rule] for name, one in self.profiles.items()} for rule in ("F", "chi2")
            },
            "axis_tests": self.axis_tests, "lack_of_fit": self.lack_of_fit,
            "residuals_by_setting": self.residuals_by_setting(), "verdicts": self.verdicts, "notes": self.notes,
            "provenance": self.provenance,
        }  # fmt: skip
        converted: dict[str, Any] = plain(found)
        return converted


def _from_own_reference(x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(n,) a column less what it is in the row of the group where it is nearest to 0."""
    moved = x.copy()
    for group in dict.fromkeys(groups):
        rows = np.flatnonzero(groups == group)
        moved[rows] -= x[rows[np.abs(x[rows]).argmin()]]
    return moved
