"""Fit a scaling law to a study's table, and test it with other laws, a bootstrap and held-out cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.results.options import Residual
from lorascope.analyze.results.save import result_provenance
from lorascope.stores.progress import Progress
from lorascope.stores.threads import limiting_blas_to_one_thread

from .design import make_design
from .estimate import estimate
from .laws import LawName
from .refits import Bootstrap, cross_validate
from .resampling import few_groups_note
from .result import ScalingFit
from .verdicts import Summary


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
    share: str | None = None,
    repeat: str | None = None,
    level: float = 0.95,
) -> ScalingFit:
    """Fit a scaling law of a response in model size N, LoRA rank R and data size D to a table of runs.

    Parameters
    ----------
    frame
        One row per cell: a run's response and sizes. Rows with an empty response are excluded, and a note counts them.
    response
        Column that the law describes, such as MIUB (in its own unit) or a loss.
    N, R, D
        Columns of the model's number of parameters, LoRA rank and size of the data set; a size that doesn't vary is
        dropped, with a note.
    groups
        Columns that together define a group with its own level E, such as data set and model; by default there is one
        level.
    offsets
        Columns that shift the level of all groups by the same amount, such as two sweeps that were run differently.
    law
        `additive`: E + A (N0/N)^alpha + B (R0/R)^beta + C (D0/D)^gamma, eq. 8 of the paper as its text means it; N0 and
        D0 are the largest N and D, R0 the smallest R. `log`: its limit for exponents that go to 0, linear in ln(N0/N)
        and so on. `log-log`: the same for ln y, a power law without a floor. `multiplicative`: E + A times the product
        of all powers. `share`: linear in the number of layers that share their weights, in place of N.
    residuals
        Residuals whose squares are summed. `relative`: (y - f) / y. `absolute`: y - f. The law 'log-log' is fitted to
        ln y in any case.
    share
        Column of the number of layers that share their weights, for the law 'share'.
    repeat
        Column that distinguishes repeated runs of a setting, such as their seed; its values don't matter.
    level
        Confidence level of intervals; verdicts compare p-values with 1 - level.

    Returns
    -------
    ScalingFit

    Raises
    ------
    TypeError
        If `frame` isn't a DataFrame.
    ValueError
        If a column is missing or contains anything but finite numbers; a size isn't positive; two rows are the same;
        sizes have too few values or vary together, so that parameters aren't determined; or a setting isn't allowed.

    Notes
    -----
    Exponents (alpha and gamma from 0.02 to 25, beta from -1.5 to 12) are searched on a grid and refined; for each of
    their values, all linear parameters are solved exactly (variable projection), and amplitudes may have either sign.

    References
    ----------
    Zhang et al. (2025), arXiv 2501.03152, eq. 8.

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
    roles = {"response": response, "N": N, "R": R, "D": D, "groups": groups, "offsets": offsets, "share": share}
    options: dict[str, Any] = {**roles, "repeat": repeat, "law": law, "residuals": residuals}
    design = make_design(frame, **options)
    with limiting_blas_to_one_thread():
        fitted = estimate(design)
    settings = {**options, "references": design.references, "bounds": design.limits, "level": level}
    return ScalingFit(fitted, level, result_provenance(design.frame, settings))


@dataclass(frozen=True)
class FitReport:
    """A fitted scaling law with its tests: other laws, a bootstrap and held-out cells."""

    fit: ScalingFit
    laws: pd.DataFrame
    """One row per law that these cells can determine: `law`, `n_parameters`, `sigma`, and root mean squared errors of
    held-out cells in units of its residuals: `rmse_cell`, `rmse_setting` (of `n_setting` cells) and `rmse_group`."""
    refused: dict[str, str]
    """Law -> why these cells can't determine it, or can't distinguish it from another law."""
    bootstrap: Bootstrap | None
    """Refits on redrawn groups; None if there is one group."""
    held_out: pd.DataFrame
    """Errors of held-out cells, see `ScalingFit.held_out`."""

    def summary(self) -> Summary:
        """Return the fit's summary, with tables of other laws, held-out cells and bootstrap intervals added."""
        own, boot = self.fit.summary(), self.bootstrap
        tables = {**own.tables, "laws on the same cells": self.laws, "cells held out": cross_validate(self.held_out)}
        notes = [*own.notes, *(f"the law {name!r} is excluded: {why}" for name, why in self.refused.items())]
        if boot is not None:
            tables["bootstrap over groups"] = boot.intervals(self.fit.level).rename_axis("name").reset_index()
            draws = f"{'' if boot.weights is None else 'all '}{len(boot.values)} draws of groups"
            excluded = f", {boot.n_undetermined} excluded as undetermined" if boot.n_undetermined else ""
            notes += [f"bootstrap: {100 * self.fit.level:g} % percentiles of {draws}{excluded}"]
            notes += few_groups_note("the bootstrap", boot.n_groups)
        return Summary(own.title, own.verdicts, tables, notes, own.provenance)


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
    """Fit a scaling law and test it: other laws, a bootstrap over groups, and predictions of held-out cells.

    Parameters
    ----------
    frame, response, N, R, D, law, share
        As for `fit_scaling_law`.
    n_draws
        Number of bootstrap draws (each is a fit); fewer if there are fewer different draws.
    seed
        Seed of random draws.
    progress
        Called with (steps done, steps in all, name of the part).
    **options
        Other options of `fit_scaling_law`.

    Raises
    ------
    TypeError, ValueError
        As for `fit_scaling_law`. Other laws that the cells can't determine are only named in `refused`.
    """
    sizes: dict[str, Any] = {"N": N, "R": R, "D": D, "share": share}
    fit = fit_scaling_law(frame, response, **sizes, law=law, **options)
    has_groups = len(set(fit.design.groups)) > 1
    boot = fit.bootstrap(n_draws=n_draws, seed=seed, progress=progress) if has_groups else None
    errors = fit.held_out(progress=progress)
    rows, refused = [], {}
    names = [name for name in get_args(LawName) if name != "share" or share is not None]
    equations = {fit.design.equation: law}
    for done, name in enumerate(names, 1):
        try:
            rival = fit if name == law else fit_scaling_law(frame, response, **sizes, law=name, **options)
        except ValueError as error:
            refused[name] = str(error)
            continue
        same = equations.setdefault(rival.design.equation, name)
        if same != name:
            refused[name] = f"with one size it is the law {same!r}"
        else:
            splits = cross_validate(errors if rival is fit else rival.held_out()).set_index("split")
            rows.append({
                "law": name, "n_parameters": len(rival.design.names), "sigma": rival.sigma,
                **{f"rmse_{split}": rmse for split, rmse in splits["rmse"].items() if "ordered" not in split},
                "n_setting": splits.loc["setting", "n"],
            })  # fmt: skip
        if progress is not None:
            progress(done, len(names), "laws")
    return FitReport(fit, pd.DataFrame(rows), refused, boot, errors)
