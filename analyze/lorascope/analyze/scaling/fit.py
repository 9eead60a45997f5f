"""`fit_scaling_law`: a law fitted to a study's table, and what the fit can and can't say."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..stats.record import provenance
from ..threads import one_blas_thread
from .design import Residual
from .estimate import automatic_delta, estimate
from .laws import LawName
from .result import ScalingFit
from .table import make_design

__all__ = ["fit_scaling_law"]


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
    bounds: Mapping[str, tuple[float, float]] | None = None,
    share: str | None = None,
    repeat: str | None = None,
    level: float = 0.95,
    n_starts: int = 24,
    seed: int = 0,
) -> ScalingFit:
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
    bounds
        Exponent -> (low, high) in which it is looked for; by default alpha and gamma from 0.02 to 25, beta from -1.5 to
        12.
    share
        Column of how many layers share their weights, for the law 'share'.
    repeat
        Column that tells repeated runs of a setting apart, such as their seed; its values don't matter.
    level
        Level of confidence of intervals; verdicts hold p-values against 1 - level.
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
    Exponents are found on a grid over their bounds and polished, everything linear is solved exactly for each (variable
    projection); amplitudes may have either sign. Huber's loss, and residuals of the logarithm, go on from there over
    all parameters. Which cells, which N and which loss were used is in `provenance` and moves the numbers: say it with
    them.

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
    _refuse_settings(huber, level, n_starts, seed)
    design = make_design(
        frame, response, N, R, D, groups=groups, offsets=offsets, share=share, repeat=repeat, law=law,
        residuals=residuals, bounds=bounds or {},
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


def _refuse_settings(huber: Any, level: float, n_starts: int, seed: int) -> None:
    if not (isinstance(level, float) and 0 < level < 1):
        raise ValueError(f"`level` is {level!r}; it lies between 0 and 1, such as 0.95")
    for name, value in (("seed", seed), ("n_starts", n_starts)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"`{name}` is {value!r}; it is a whole number, 0 or more")
    if huber is None or huber == "auto":
        return
    if isinstance(huber, bool) or not isinstance(huber, int | float) or not huber > 0:
        raise ValueError(f"`huber` is {huber!r}; give 'auto', or a number above zero in units of the residuals")
