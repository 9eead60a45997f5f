"""`fit_scaling_law`: a law fitted to a study's table, and what the fit can and can't say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..studies.record import plain, provenance
from ..studies.summary import Summary
from ..studies.verdict import Verdict
from ..threads import one_blas_thread
from .bands import bands
from .bootstrap import Bootstrap, BootstrapKind, Progress, bootstrap
from .cross_validation import held_out
from .design import Design, applied, make_design
from .diagnostics import axis_tests, influence, lack_of_fit, residuals_by_setting
from .estimate import Estimate, estimated
from .identify import Identifiability, identifiability
from .intervals import bootstrap_intervals, profile_intervals, profiles, wald_intervals
from .laws import LawName
from .linear import LinearModels, linear_models
from .objective import Residual, automatic_delta
from .profile import Profile
from .selection import Criteria, criteria
from .summarise import summarise
from .verdicts import verdicts

__all__ = ["IntervalKind", "ScalingFit", "fit_scaling_law"]

NOISY = 0.07
"""Sigma of relative residuals from which weights by the observed response do harm (by simulation: 10 % noise)."""
IntervalKind = Literal["F", "chi2", "wald", "cluster", "wild"]
SAME = 0.01
"""Exponents of equally good answers may differ so much and count as one."""


def fit_scaling_law(
    frame: pd.DataFrame,
    response: str,
    N: str | None = None,
    R: str | None = None,
    D: str | None = None,
    *,
    groups: Sequence[str] = (),
    offsets: Sequence[str] = (),
    law: LawName = "additive",
    residuals: Residual = "relative",
    huber: float | Literal["auto"] | None = None,
    N0: float | None = None,
    R0: float | None = None,
    D0: float | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    share: str | None = None,
    repeat: str | None = None,
    level: float = 0.95,
    n_starts: int = 24,
    seed: int = 0,
) -> "ScalingFit":
    """A scaling law of a response in model size N, LoRA rank R and data size D, fitted to a table of runs.

    Parameters
    ----------
    frame
        One row a cell: a run's response and sizes. Rows whose response is empty are left out, and counted.
    response
        Column of what the law is about, such as MIUB (in its own unit) or a loss.
    N, R, D
        Columns of parameters of the model, LoRA rank and size of the data set; a size that doesn't vary drops out
        with a message.
    groups
        Columns whose combinations have a level E of their own, such as data set and model; without, there is one E.
    offsets
        Columns whose values shift the level of all groups alike, such as two sweeps that were run differently.
    law
        `additive`: E + A (N0/N)^alpha + B (R0/R)^beta + C (D0/D)^gamma, eq. 8 of the paper as its text means it.
        `as printed`: with C (D/R)^alpha in its place, as eq. 8 is printed. `log`: E + slopes times ln(N0/N) and so on,
        the limit of eq. 8 for exponents that go to 0. `log-log`: ln y = E + alpha ln(N0/N) + beta ln(R0/R) + gamma
        ln(D0/D), no floor. `multiplicative`: E + A (N0/N)^alpha (R0/R)^beta (D0/D)^gamma, arXiv 2402.17193. `share`:
        linear in how many layers share their weights, in place of N.
    residuals
        `relative`: (y - f) / y. `log`: ln y - ln f. `absolute`: y - f. The law 'log-log' is fitted to ln y in any case.
    huber
        Huber's delta, in units of the residuals: beyond it they count by their size in place of its square. `auto`:
        1.345 times the spread (median absolute deviation) of least-squares residuals. Losses are summed. None:
        least squares.
    N0, R0, D0
        References, which are held: by default the largest N, the smallest R, the largest D.
    bounds
        Exponent -> (low, high) in which it is looked for; by default alpha and gamma from 0.02 to 25, beta from -1.5 to
        12.
    share
        Column of how many layers share their weights, for the law 'share'.
    repeat
        Column that tells repeated runs of a setting apart, such as their seed; its values don't matter.
    level
        Of intervals; verdicts hold p-values against 1 - level.
    n_starts
        Random starts of a second method, which checks the first.
    seed
        Of these starts.

    Returns
    -------
    ScalingFit

    Raises
    ------
    TypeError
        If `frame` isn't a DataFrame.
    ValueError
        If a column isn't there, holds something else than finite numbers, or sizes aren't positive; two rows are the
        same; sizes have too few levels or go along with each other, so that parameters aren't determined; or a setting
        isn't allowed.

    Notes
    -----
    Exponents are found on a grid over their bounds and polished, everything linear is solved exactly for each (variable
    projection); amplitudes may have either sign. L-BFGS on all parameters from random starts is the check. Which cells,
    which N and which loss were used is in `provenance` and moves the numbers: say it with them.

    References
    ----------
    Zhang et al. (2025), arXiv 2501.03152, eq. 8. Golub, Pereyra (1973), SIAM J. Numer. Anal. 10, 413. Huber (1964),
    Ann. Math. Stat. 35, 73.

    Examples
    --------
    >>> from lorascope.analyze import paper_study
    >>> study = paper_study(once=True)
    >>> phi = study[study["model"] == "Phi3"]
    >>> fit = fit_scaling_law(phi, "MIUB", N="N", R="R", groups=["dataset"], offsets=["sweep"])
    >>> round(float(fit.params["alpha"]), 3)
    8.793
    """
    _refuse_settings(huber, level, n_starts, seed)
    references = {"N": N0, "R": R0, "D": D0}
    design = make_design(
        frame, response, N, R, D, groups=groups, offsets=offsets, share=share, repeat=repeat, law=law,
        residuals=residuals, references=references, bounds=bounds or {},
    )  # fmt: skip
    delta = math.inf if huber in (None, "auto") else float(huber)
    with one_blas_thread():
        if huber == "auto":
            delta = automatic_delta(estimated(design).residuals)
        found = estimated(design, delta=delta, n_starts=n_starts, random=np.random.default_rng(seed))
    settings = {
        "response": response, "N": N, "R": R, "D": D, "groups": list(groups), "offsets": list(offsets), "law": law,
        "residuals": residuals, "huber": huber, "huber_delta": delta, "references": design.references,
        "bounds": dict(zip(design.exponents, design.bounds.tolist(), strict=True)), "share": share, "repeat": repeat,
        "level": level, "n_starts": n_starts, "seed": seed,
    }  # fmt: skip
    return ScalingFit(found, level, provenance(design.frame, settings))


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
            *_search_notes(self.estimate),
            *_group_notes(self.design),
            *_weight_notes(self.estimate),
            *_huber_notes(self),
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


def _refuse_settings(huber: object, level: float, n_starts: int, seed: int) -> None:
    if not (isinstance(level, float) and 0 < level < 1):
        raise ValueError(f"`level` is {level!r}; it lies between 0 and 1, such as 0.95")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"`seed` is {seed!r}; it is a whole number, 0 or more")
    if isinstance(n_starts, bool) or not isinstance(n_starts, int) or n_starts < 0:
        raise ValueError(f"`n_starts` is {n_starts!r}; it is a whole number, 0 or more")
    if huber is None or huber == "auto":
        return
    if isinstance(huber, bool) or not isinstance(huber, int | float) or not huber > 0:
        raise ValueError(f"`huber` is {huber!r}; give 'auto', or a number above zero in units of the residuals")


def _search_notes(estimate: Estimate) -> list[str]:
    search, said = estimate.search, []
    if not search.converged:
        said.append("the search ended before it converged: numbers are what it had reached")
    for name in search.at_bound:
        place = estimate.design.exponents.index(name)
        low, high = estimate.design.bounds[place]
        said.append(f"{name} is at an end of its range, {low:g} to {high:g}: it isn't an estimate")
    if search.found_better:
        said.append(f"a random start found a loss lower by {100 * search.found_better:.2g} %, which is the one given")
    if search.n_starts and search.share_of_starts < 0.5:
        said.append(
            f"only {100 * search.share_of_starts:.0f} % of {search.n_starts} random starts ended at the best optimum: "
            "the loss has several valleys, or is hard to descend"
        )
    if search.spread > SAME:
        said.append(
            f"random starts that ended at the best optimum differ by {search.spread:.2g} in an exponent: several "
            "answers are equally good, and the one given is one of them"
        )
    return said


def _weight_notes(estimate: Estimate) -> list[str]:
    if estimate.design.residual != "relative" or estimate.sigma < NOISY:
        return []
    return [
        f"relative residuals divide by the observed response; with as much noise, sigma {estimate.sigma:.2g}, that "
        "pulls the fit down and makes tests reject too often: compare residuals='log'"
    ]


def _huber_notes(fit: ScalingFit) -> list[str]:
    if fit.is_least_squares:
        return []
    return ["what each size adds and lack of fit are tests of least squares, beside parameters by Huber's loss"]


def _group_notes(design: Design) -> list[str]:
    n = len(set(design.groups))
    return (
        ["there is one group: nothing can be said of how groups differ, and no bootstrap draws them"] if n < 2 else []
    )
