"""A fit in print."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..format import format_number
from ..stats.summary import Summary, Table

if TYPE_CHECKING:
    from .result import ScalingFit

__all__ = ["end_text", "interval_text", "parameter_rows", "summarise"]

NO_PROFILES = "no profile intervals of this fit; see conf_int('cluster')."
UNWEIGHTED = "of y itself, each cell alike: the fit above has other residuals."
UNITS = {"relative": "(y - f) / y", "log": "ln y - ln f", "absolute": "y - f"}


def summarise(fit: ScalingFit) -> Summary:
    """Parameters with intervals, what each size adds, residuals by setting, verdicts and remarks."""
    design = fit.design
    tables = [
        Table(
            "parameters",
            parameter_rows(fit),
            f"{100 * fit.level:g} % intervals; (open): the data don't bound it inside of what was looked at. "
            "se: linear theory, a contrast." if fit.has_profiles else NO_PROFILES,
        ),
        Table("what each size adds to the others", fit.axis_tests, "F against the law without it; p is a rough one."),
        Table("residuals by setting", fit.residuals_by_setting(), f"mean of {UNITS[design.residual]} over cells."),
    ]  # fmt: skip
    if not design.exponents and design.columns and not fit.estimate.is_exact:
        models = fit.linear_models()
        note = UNWEIGHTED if design.residual != "absolute" else ""
        tables.insert(1, Table("slopes by model and kind of error", models.slopes, note))
    return Summary(
        title=f"Scaling law of {design.response}",
        facts=_facts(fit),
        tables=tables,
        verdicts=fit.verdicts,
        notes=[*fit.notes, *(fit.identifiability.sentences if fit.identifiability else ())],
    )


def parameter_rows(fit: ScalingFit) -> pd.DataFrame:
    """A row a parameter: name, estimate, se, intervals by F and chi-square as text."""
    rows = []
    for name, value in fit.params.items():
        row: dict[str, object] = {"name": name, "estimate": value, "se": fit.bse[name]}
        if fit.has_profiles:
            one = fit.profiles.get(name)
            row |= {rule: interval_text(one.intervals[rule]) if one else "" for rule in ("F", "chi2")}
        rows.append(row)
    return pd.DataFrame(rows)


def interval_text(interval: tuple[float, float, bool, bool, bool]) -> str:
    """Such as `0.2 to 0.5`, `(open) to 0.5`."""
    low, high, low_open, high_open, in_parts = interval
    return f"{end_text(low, low_open)} to {end_text(high, high_open)}{', in parts' if in_parts else ''}"


def end_text(end: float, is_open: bool) -> str:
    """An end of an interval, or that it is open."""
    return "(open)" if is_open else format_number(end, digits=4)


def _counted(labels: np.ndarray, what: str) -> str:
    n = len(set(labels))
    return f"{n} {what}{'s' if n > 1 else ''}"


def _facts(fit: ScalingFit) -> dict[str, str]:
    design, search = fit.design, fit.estimate.search
    refs = ", ".join(f"{axis}0 = {value:.6g}" for axis, value in design.references.items())
    loss = "least squares" if fit.is_least_squares else f"Huber, delta {format_number(fit.estimate.delta)}, summed"
    residual = "ln y - ln f" if design.law.logarithmic else UNITS[design.residual]
    facts = {
        "law": f"{design.equation} ({design.law.source})",
        "references": f"{refs}, held" if refs else "none",
        "cells": f"{fit.nobs} in {_counted(design.groups, 'group')} and {_counted(design.settings, 'setting')}; "
        f"{len(design.names)} parameters, {fit.df_resid} degrees of freedom",
        "loss": f"{loss} of {residual}; sum of squares "
        f"{format_number(fit.ssr, digits=6)}, sigma {format_number(fit.sigma)}",
        "AICc, BIC": f"{fit.criteria.aicc:.2f}, {fit.criteria.bic:.2f}",
        "search": f"{'converged' if search.converged else 'not converged'}; "
        + (f"at a bound: {', '.join(search.at_bound)}; " if search.at_bound else "")
        + (
            f"{100 * search.share_of_starts:.0f} % of {search.n_starts} random starts ended at the best optimum"
            if search.n_starts
            else "not checked by random starts"
        ),
        "data": f"sha256 {fit.provenance['data_sha256'][:12]}",
    }
    row = fit.lack_of_fit.iloc[0]
    if not math.isnan(row["p"]):
        facts["lack of fit"] = (
            f"F({row['n_more']}, {row['df']}) = {format_number(row['F'])}, p = {format_number(row['p'])}"
        )
    return facts
