"""A law fitted to a study's table, and a report that puts it to the test: rivals, bootstrap, held-out cells."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.results.options import Residual
from lorascope.analyze.results.record import plain, provenance
from lorascope.stores.progress import Progress
from lorascope.stores.threads import one_blas_thread

from .estimate import automatic_delta, estimate
from .laws import LawName
from .profile import interval_text
from .refits import Bootstrap, cross_validate, influence
from .result import ScalingFit
from .summary import Summary, Table, Verdict, Word
from .table import make_design

MOST_DRAWS = 2000
"""Draws that a report's bootstrap takes at most, as each is a fit."""


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
    share: str | None = None,
    repeat: str | None = None,
    level: float = 0.95,
    n_starts: int = 24,
    seed: int = 0,
) -> ScalingFit:
    """Fit a scaling law of a response in model size N, LoRA rank R and data size D to a table of runs.

    Parameters
    ----------
    frame
        One row a cell: a run's response and sizes. Rows whose response is empty are left out, and counted.
    response
        Column that the law describes, such as MIUB (in its own unit) or a loss.
    N, R, D
        Columns of parameters of the model, LoRA rank and size of the data set; a size that doesn't vary drops out
        with a message.
    groups
        Columns that together define a group with its own level E, such as data set and model; without them there is one
        E.
    offsets
        Columns that shift the level of all groups by the same amount, such as two sweeps that were run differently.
    law
        `additive`: E + A (N0/N)^alpha + B (R0/R)^beta + C (D0/D)^gamma, eq. 8 of the paper as its text means it; N0 and
        D0 are the largest N and D, R0 the smallest R.
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
    share
        Column of how many layers share their weights, for the law 'share'.
    repeat
        Column that tells repeated runs of a setting apart, such as their seed; its values don't matter.
    level
        Confidence level of intervals; verdicts compare p-values with 1 - level.
    n_starts
        Random starts of the search, beside those from a grid.
    seed
        Seed of these starts.

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
    Exponents, alpha and gamma from 0.02 to 25 and beta from -1.5 to 12, are found on a grid and polished; everything
    linear is solved exactly for each (variable projection), and amplitudes may have either sign. Huber's loss, and
    residuals of the logarithm, go on from there over all parameters. The result depends on the cells, on N and on the
    loss. They are recorded in `provenance`; report them with the numbers.

    References
    ----------
    Zhang et al. (2025), arXiv 2501.03152, eq. 8. Golub, Pereyra (1973), SIAM J. Numer. Anal. 10, 413. Huber (1964),
    Ann. Math. Stat. 35, 73.

    Examples
    --------
    >>> from lorascope.study import paper_study
    >>> study = paper_study(once=True)
    >>> phi = study[study["model"] == "Phi3"]
    >>> fit = fit_scaling_law(phi, "MIUB", N="N", R="R", groups=["dataset"], offsets=["sweep"])
    >>> round(float(fit.params["alpha"]), 3)
    8.793
    """
    if not (isinstance(level, float) and 0 < level < 1):
        raise ValueError(f"`level` is {level!r}; it lies between 0 and 1, such as 0.95")
    for name, value in (("seed", seed), ("n_starts", n_starts)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"`{name}` is {value!r}; it is a whole number, 0 or more")
    is_number = isinstance(huber, int | float) and not isinstance(huber, bool) and huber > 0
    if not (is_number or huber in (None, "auto")):
        raise ValueError(f"`huber` is {huber!r}; give 'auto', or a number above zero in units of the residuals")
    design = make_design(
        frame, response, N, R, D, groups=groups, offsets=offsets, share=share, repeat=repeat, law=law,
        residuals=residuals,
    )  # fmt: skip
    delta = math.inf if huber in (None, "auto") else float(huber)
    with one_blas_thread():
        if huber == "auto":
            delta = automatic_delta(estimate(design).residuals)
        found = estimate(design, delta=delta, n_starts=n_starts, random=np.random.default_rng(seed))
    settings = {
        "response": response, "N": N, "R": R, "D": D, "groups": list(groups), "offsets": list(offsets), "law": law,
        "residuals": residuals, "huber": huber, "huber_delta": delta,
        "references": design.references, "bounds": design.limits, "share": share, "repeat": repeat,
        "level": level, "n_starts": n_starts, "seed": seed,
    }  # fmt: skip
    return ScalingFit(found, level, provenance(design.frame, settings))


@dataclass(frozen=True)
class FitReport:
    """A fit and what puts it to the test."""

    fit: ScalingFit
    laws: pd.DataFrame
    """A row a law that these cells can determine: `law`, `n_parameters`, `sigma`, `AICc`, `d_AICc` (less the least),
    `BIC`, `lack_of_fit_p`, and root mean squared errors of cells held out, in units of each law's own residuals:
    `rmse_cell`, `rmse_setting`, `rmse_group`."""
    refused: dict[str, str]
    """Law -> why these cells can't determine it, or don't tell it from another."""
    bootstrap: Bootstrap | None
    """Refits on redrawn groups; None of a single group."""
    held_out: pd.DataFrame
    influence: pd.DataFrame

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The fit's verdicts, and one on its rivals."""
        return (*self.fit.verdicts, *_rival(self))

    def summary(self) -> Summary:
        """All of it in print."""
        own = self.fit.summary()
        units = "sigma and rmse are in units of each law's own residuals, relative or of the logarithm."
        refused = "".join(f" {name!r} is left out: {why}." for name, why in self.refused.items())
        plainer = "errors in units of the fit; rmse_plain: of the group's level alone, or of the law without that size."
        pull = "d_: the estimate without the cell less that with it; pull: the largest over its standard error."
        tables = [
            *own.tables,
            Table("laws on the same cells", self.laws, units + refused),
            Table("cells held out", cross_validate(self.held_out), plainer),
            Table("cells that pull most", self.influence.head(5), pull),
        ]
        if self.bootstrap is not None:
            boot, intervals = self.bootstrap, self.bootstrap.intervals(self.fit.level)
            texts = [interval_text(tuple(row)) for row in intervals.itertuples(index=False)]
            draws = f"{'all ' if boot.is_exact else ''}{len(boot.values)} draws"
            left_out = f", {boot.n_undetermined} left out as undetermined" if boot.n_undetermined else ""
            rows = pd.DataFrame({"name": intervals.index, "interval": texts})
            note = "; ".join([f"{100 * self.fit.level:g} % percentiles of {draws}{left_out}", *boot.notes])
            tables.append(Table("bootstrap over groups", rows, f"{note}."))
        return Summary(own.title, own.facts, tables, self.verdicts, own.notes)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it, at full precision."""
        boot = self.bootstrap
        intervals = None if boot is None else {
            "is_exact": boot.is_exact, "n_groups": boot.n_groups, "n_draws": len(boot.values),
            "n_undetermined": boot.n_undetermined, "notes": boot.notes,
            "intervals": boot.intervals(self.fit.level).to_dict(orient="index"),
        }  # fmt: skip
        found = {
            **self.fit.to_dict(), "laws": self.laws, "refused_laws": self.refused, "bootstrap": intervals,
            "held_out": cross_validate(self.held_out), "held_out_cells": self.held_out, "influence": self.influence,
            "verdicts": self.verdicts,
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
    """A fit with its tests: other laws, a bootstrap over groups, predictions of held-out cells, and influence.

    Parameters
    ----------
    frame, response, N, R, D, law, share, seed
        As for `fit_scaling_law`.
    n_draws
        How many draws the bootstrap may make, at most 2000.
    progress
        Called with (steps done, steps in all, name of the part).
    **options
        Further ones of `fit_scaling_law`.

    Raises
    ------
    TypeError, ValueError
        As `fit_scaling_law`. Other laws that the cells can't determine are left out, and named in `refused`.
    """
    if not 1 <= n_draws <= MOST_DRAWS:
        raise ValueError(f"`n_draws` is {n_draws!r}; it lies between 1 and {MOST_DRAWS}")
    sizes: dict[str, Any] = {"N": N, "R": R, "D": D, "share": share}
    fit = fit_scaling_law(frame, response, **sizes, law=law, seed=seed, **options)
    held = fit.held_out(progress=progress)
    rows, refused = [], {}
    names = [name for name in get_args(LawName) if name != "share" or share is not None]
    equations = {fit.design.equation: law}
    for done, name in enumerate(names, 1):
        try:
            rival = fit if name == law else fit_scaling_law(
                frame, response, **sizes, law=name, **{**options, "n_starts": 0}
            )  # fmt: skip
        except ValueError as error:
            refused[name] = str(error)
            continue
        same = equations.setdefault(rival.design.equation, name)
        if same != name:
            refused[name] = f"with one size it is the law {same!r}"
        else:
            errors = cross_validate(held if rival is fit else rival.held_out()).set_index("split")["rmse"]
            rows.append({
                "law": name, "n_parameters": len(rival.design.names), "sigma": rival.sigma,
                "AICc": rival.criteria.aicc, "BIC": rival.criteria.bic,
                "lack_of_fit_p": float(rival.lack_of_fit["p"].iloc[0]),
                **{f"rmse_{way}": errors[way] for way in ("cell", "setting", "group") if way in errors},
            })  # fmt: skip
        if progress is not None:
            progress(done, len(names), "laws")
    laws = pd.DataFrame(rows)
    laws.insert(4, "d_AICc", laws["AICc"] - laws["AICc"].min())
    several = len(set(fit.design.groups)) > 1
    return FitReport(
        fit, laws.sort_values("d_AICc", kind="stable", ignore_index=True), refused,
        fit.bootstrap(n_draws=n_draws, seed=seed, progress=progress) if several else None,
        held, influence(fit.estimate, held),
    )  # fmt: skip


def _rival(report: FitReport) -> list[Verdict]:
    """Whether the fit's law is the best of those looked at."""
    name = report.fit.design.law_name
    known = report.laws[report.laws["AICc"].notna()].set_index("law")["AICc"]
    if len(known) < 2 or name not in known.index:
        return []
    other = known.drop(name)
    gap = known[name] - other.iloc[0]
    because = f"AICc {known[name]:.2f} against {other.iloc[0]:.2f} of {other.index[0]!r}, n = {report.fit.nobs}"
    word: Word = "supported" if gap < -2 else "contradicted" if gap > 2 else "not identified"
    return [Verdict(f"of the laws looked at, {name!r} describes these cells best", word, because)]
