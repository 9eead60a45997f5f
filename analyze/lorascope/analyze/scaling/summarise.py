"""A fit in print."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd  # type: ignore[import-untyped]

from ..format import format_number
from ..stats.summary import Summary, Table
from .estimate import Estimate
from .verdicts import interval_text

if TYPE_CHECKING:
    from .result import ScalingFit

__all__ = ["search_notes", "summarise"]

UNITS = {"relative": "(y - f) / y", "log": "ln y - ln f", "absolute": "y - f"}
NOISY = 0.07
"""Sigma of relative residuals above which weights by the observed response do harm (by simulation: 10 % noise)."""


def summarise(fit: ScalingFit) -> Summary:
    """Verdicts, parameters with intervals, what each size adds, residuals by setting, and remarks."""
    design, has = fit.design, fit.has_profiles
    intervals = f"{100 * fit.level:g} % profile intervals; (open): the data don't bound it inside of what was looked at"
    note = f"{intervals}. se: linear theory, a contrast." if has else "A fit of this kind has no profile intervals."
    n_levels = len(design.level_names) - design.n_offsets
    tables = [
        Table("parameters", _parameter_rows(fit, fit.params.index[n_levels:]), note),
        Table("what each size adds to the others", fit.axis_tests, "F against the law without it; p is a rough one."),
        Table("residuals by setting", fit.residuals_by_setting(), f"mean of {UNITS[design.residual]} over cells."),
    ]
    if design.columns and not design.exponents and not fit.estimate.is_exact:
        found = fit.linear_models()
        about = ["of y itself, each cell alike", *found.notes] if design.residual == "relative" else found.notes
        slopes = found.slopes.drop(columns=["df", "t"])
        tables.append(Table("slopes by other models", slopes, " ".join(f"{one}." for one in about)))
    levels = pd.DataFrame({"name": design.level_names, "estimate": fit.params[:n_levels], "se": fit.bse[:n_levels]})
    tables.append(Table("levels of groups", levels))
    notes = [*fit.notes, *(fit.identifiability.sentences if fit.identifiability else ())]
    return Summary(f"Scaling law of {design.response}", _facts(fit), tables, fit.verdicts, notes)


def search_notes(fit: Estimate) -> list[str]:
    """How the search went, where it isn't as it should be, and what a fit's numbers can't be taken for."""
    search, said = fit.search, []
    if not search.converged:
        said.append("the search ended before it converged: numbers are what it had reached")
    for name in search.at_bound:
        low, high = fit.design.limits[name]
        said.append(f"{name} is at an end of its range, {low:g} to {high:g}: it isn't an estimate")
    if search.share_of_starts < 0.5:
        said.append(
            f"only {100 * search.share_of_starts:.0f} % of {search.n_starts} random starts ended at the optimum"
        )
    if fit.design.residual == "relative" and fit.sigma >= NOISY:
        said.append(
            f"relative residuals divide by the observed response; with as much noise, sigma {fit.sigma:.2g}, that "
            "pulls the fit down and makes tests reject too often: compare residuals of the logarithm"
        )
    if math.isfinite(fit.delta):
        said.append("what each size adds and lack of fit are tests of least squares, beside parameters by Huber's loss")
    return said


def _parameter_rows(fit: ScalingFit, names: Iterable[str]) -> pd.DataFrame:
    """A row a parameter: name, estimate, se, intervals by F and chi-square as text."""
    rows = []
    for name in names:
        row: dict[str, object] = {"name": name, "estimate": fit.params[name], "se": fit.bse[name]}
        if fit.has_profiles:
            one = fit.profiles.get(name)
            row |= {rule: interval_text(one.intervals[rule]) if one else "" for rule in ("F", "chi2")}
        rows.append(row)
    return pd.DataFrame(rows)


def _facts(fit: ScalingFit) -> dict[str, str]:
    design, search = fit.design, fit.estimate.search
    refs = ", ".join(f"{axis}0 = {design.references[axis]:.6g}" for axis in design.axes)
    loss = "least squares" if fit.is_least_squares else f"Huber, delta {format_number(fit.estimate.delta)}, summed"
    residual = "ln y - ln f" if design.law.logarithmic else UNITS[design.residual]
    bound = f"; at a bound: {', '.join(search.at_bound)}" if search.at_bound else ""
    starts = f"; {100 * search.share_of_starts:.0f} % of {search.n_starts} random starts ended at the best optimum"
    return {
        "law": f"{design.equation} ({design.law.source})",
        "references": f"{refs}, held" if refs else "none",
        "cells": f"{fit.nobs}; groups: {len(set(design.groups))}; settings: {len(set(design.settings))}; "
        f"parameters: {len(design.names)}; degrees of freedom: {fit.df_resid}",
        "loss": f"{loss} of {residual}; sum of squares {format_number(fit.ssr, digits=6)}, "
        f"sigma {format_number(fit.sigma)}; AICc {fit.criteria.aicc:.2f}, BIC {fit.criteria.bic:.2f}",
        "search": f"{'' if search.converged else 'not '}converged{bound}{starts if search.n_starts else ''}",
        "data": f"sha256 {fit.provenance['data_sha256'][:12]}",
    }
