"""Result of a fitted law: parameters, intervals, tests, predictions and a summary."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.results.options import require_whole
from lorascope.stores.progress import Progress
from lorascope.stores.threads import limiting_blas_to_one_thread

from .design import Design, apply_design
from .estimate import Estimate
from .profile import Profile, profiles
from .refits import Bootstrap, bootstrap, held_out
from .verdicts import Summary, Verdict, axis_tests, search_notes, verdicts


@dataclass(frozen=True)
class ScalingFit:
    """A scaling law fitted to a table: parameters, intervals, tests and predictions, with statsmodels' names."""

    estimate: Estimate
    """The parameters and the design that they were fitted to."""
    level: float
    """Confidence level of intervals; verdicts compare p-values with 1 - level."""
    provenance: dict[str, Any]
    """Settings, versions, and a hash of the rows in use."""

    @property
    def design(self) -> Design:
        """Design matrix of the law, and the fitted rows."""
        return self.estimate.design

    @property
    def params(self) -> pd.Series:
        """Value of each parameter, as in the printed law: levels of groups and offsets, amplitudes, exponents."""
        return pd.Series(self.estimate.values, name="estimate")

    @property
    def bse(self) -> pd.Series:
        """Standard errors by linear theory, wrong if the data don't bound a parameter."""
        return pd.Series(self.estimate.standard_errors, name="se")

    @property
    def nobs(self) -> int:
        """Number of fitted cells, one per row of the table."""
        return self.estimate.n

    @property
    def df_resid(self) -> int:
        """Number of cells minus number of parameters."""
        return self.estimate.df

    @property
    def ssr(self) -> float:
        """Sum of squared residuals, in units of `resid`."""
        return self.estimate.ssr

    @property
    def sigma(self) -> float:
        """Standard deviation of residuals, with `df_resid` in the denominator."""
        return self.estimate.sigma

    @property
    def resid(self) -> pd.Series:
        """Residuals by row label of the table: relative, or in the unit of the fit."""
        return pd.Series(self.estimate.residuals, index=self.design.frame.index, name="residual")

    @property
    def fittedvalues(self) -> pd.Series:
        """Fitted value of each cell, in the unit of the response."""
        values = np.exp(self.estimate.fitted) if self.design.law.logarithmic else self.estimate.fitted
        return pd.Series(values, index=self.design.frame.index, name="fitted")

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on excluded rows, on the search, and on limits of the fit's numbers."""
        return (*self.design.notes, *search_notes(self.estimate))

    @cached_property
    def profiles(self) -> dict[str, Profile]:
        """Profile of each amplitude, slope and exponent by name; empty if the law goes through every cell."""
        if self.estimate.is_exact:
            return {}
        with limiting_blas_to_one_thread():
            return profiles(self.estimate, self.level)

    @cached_property
    def axis_tests(self) -> pd.DataFrame:
        """F tests of the law against the law without each size, one row per size.

        Columns are `axis`, `F`, `n_more` (parameters), `df`, `p` and `ssr_ratio` (sum of squared residuals without the
        terms, divided by that with them). Without a term its exponent has no meaning, so p is rough (Davies 1987,
        Biometrika 74, 33).
        """
        return axis_tests(self.estimate)

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Verdicts on the direction along each size, and on whether the data determine each exponent."""
        intervals = {name: profile.interval for name, profile in self.profiles.items()}
        return verdicts(self.estimate, intervals, self.axis_tests, self.level)

    def conf_int(self) -> pd.DataFrame:
        """Return profile intervals of amplitudes, slopes and exponents; an end is open if the data don't limit it.

        Returns
        -------
        DataFrame
            `low`, `high`, `low_open`, `high_open` and `in_parts` (whether some values inside are excluded).

        Raises
        ------
        ValueError
            If the law goes through every cell.
        """
        if not self.profiles:
            raise ValueError("no profile intervals: the law goes through every cell, so its error can't be estimated")
        intervals = {name: profile.interval._asdict() for name, profile in self.profiles.items()}
        return pd.DataFrame.from_dict(intervals, orient="index")

    def bootstrap(self, *, n_draws: int = 1000, seed: int = 0, progress: Progress | None = None) -> Bootstrap:
        """Refit the law to groups drawn with replacement: as many groups as the fit has, `n_draws` times.

        If there are at most `n_draws` different draws, all of them are made. Intervals from few groups are coarse, with
        extreme values as ends: they don't replace the profile.

        Raises ValueError if there is one group, `n_draws` is below 1, or `seed` is below 0.
        """
        require_whole("seed", seed, 0)
        with limiting_blas_to_one_thread():
            return bootstrap(self.estimate, n_draws=n_draws, random=np.random.default_rng(seed), progress=progress)

    def predict(self, frame: pd.DataFrame | None = None) -> pd.DataFrame:
        """Return predictions: `mean` for each row, in the unit of the response, and its interval `low` to `high`.

        Parameters
        ----------
        frame
            Table with the columns of sizes, groups and offsets; by default, the fitted rows.

        Raises
        ------
        ValueError
            If a column is missing, or a group wasn't in the fit.

        Notes
        -----
        Linear theory (the delta method), for logarithms on their own scale. If a parameter isn't identified, intervals
        may still be right between the settings, but not beyond them.
        """
        from scipy import stats  # type: ignore[import-untyped]

        rows = self.design if frame is None else apply_design(self.design, frame)
        mean, errors = self.estimate.predicted(rows), self.estimate.prediction_errors(rows)
        half = errors * stats.t.ppf((1 + self.level) / 2, self.df_resid)
        low, high = mean - half, mean + half
        if rows.law.logarithmic:
            mean, low, high = np.exp(mean), np.exp(low), np.exp(high)
        return pd.DataFrame({"mean": mean, "low": low, "high": high}, index=rows.frame.index)

    def held_out(self, *, progress: Progress | None = None) -> pd.DataFrame:
        """Return prediction errors of held-out cells, from laws that are fitted to the other cells.

        Returns
        -------
        DataFrame
            One row per cell and way of holding out. `split`: `cell` (each alone), `setting` (a setting in all groups),
            `group` (a group, whose level comes from its other cells), `ordered N` and so on (all cells of one size,
            predicted from smaller sizes only, from the third size on). `held_out`: name of what is held out. `row`,
            `group`, `setting` of the cell; `observed`; `predicted`; `error`: observed minus predicted, in units of the
            fit; `error_plain`: the same for a prediction by the group's level only, or by the law without the terms of
            an ordered size. NaN if the other cells don't determine the law.
        """
        with limiting_blas_to_one_thread():
            return held_out(self.estimate, progress=progress)

    def summary(self) -> Summary:
        """Return verdicts, parameters with their intervals, tests of each size, and how the fit was made, to print."""
        design = self.design
        parameters = pd.DataFrame({"name": self.params.index, "estimate": self.params.array, "se": self.bse.array})
        terms = parameters.iloc[design.n_groups :]
        tables = {"each size against the law without it": self.axis_tests}
        if self.profiles:
            texts = {name: profile.interval.text() for name, profile in self.profiles.items()}
            terms = terms.assign(interval=[texts.get(name, "") for name in terms["name"]])
            tables["profile intervals"] = self.conf_int().rename_axis("name").reset_index()
        tables = {"parameters": terms, **tables, "levels of groups": parameters.iloc[: design.n_groups]}
        references = ", ".join(f"{axis}0 = {size:.6g}" for axis, size in design.references.items())
        unit = "ln y - ln f" if design.law.logarithmic else "(y - f) / y" if design.residual == "relative" else "y - f"
        notes = [
            f"{design.equation} ({design.law.source}){f'; {references}' if references else ''}",
            f"least squares of {unit}: sum of squares {self.ssr:.6g}, sigma {self.sigma:.3g}; {self.nobs} cells, "
            f"{len(set(design.groups))} groups, {len(set(design.settings))} settings, {self.df_resid} degrees of "
            "freedom",
            f"intervals: {100 * self.level:g} % profiles by F; an end is (open) where the data don't limit it",
            *self.notes,
        ]
        return Summary(f"Scaling law of {design.response}", self.verdicts, tables, notes, self.provenance)
