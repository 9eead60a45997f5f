"""What speaks against a law: free effects of settings, residuals by setting, single cells; and what each size adds."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .design import Design, determined
from .estimate import Estimate, estimated, residuals_of
from .solve import RANK

__all__ = ["axis_tests", "f_test", "influence", "lack_of_fit", "residuals_by_setting"]

Progress = Callable[[int, int], None]


def f_test(larger: float, smaller: float, n_more: int, df: int) -> tuple[float, float]:
    """F and its p of nested least-squares fits: sums of squares of the narrower and the wider one.

    `n_more` parameters are added by the wider one, which leaves `df` degrees of freedom.
    """
    from scipy import stats  # type: ignore[import-untyped]

    if smaller <= 0:
        return (math.inf, 0.0) if larger > 0 else (math.nan, math.nan)
    f = max(larger - smaller, 0.0) / n_more / (smaller / df)
    return float(f), float(stats.f.sf(f, n_more, df))


def lack_of_fit(estimate: Estimate) -> pd.DataFrame:
    """The law against free effects of settings beside the same levels, as one row: F, its p, and what it stands on.

    Returns
    -------
    DataFrame
        `F`, `n_more` (parameters that free settings have more than the law), `df`, `p`, `sigma_free` (of what even free
        settings leave), `n_settings`, `note`. F is NaN, and the note says why, where settings have no more parameters
        than the law, or leave no degrees of freedom: the law then can't be put to this test.

    Notes
    -----
    Both are least squares, of an estimate with Huber's loss too. A small p says that no parameters of this law make it
    follow the settings as closely as cells of one setting follow each other.
    """
    design = estimate.design
    levels = _free_levels(design)
    names = tuple(f"setting {k}" for k in range(levels.shape[1]))
    free = replace(
        design, columns=(), exponents=(), bounds=np.zeros((0, 2)), levels=levels, level_names=names, n_offsets=0
    )
    n_more = free.levels.shape[1] - len(estimate.parameters)
    df = estimate.n - free.levels.shape[1]
    row = {"F": math.nan, "n_more": n_more, "df": df, "p": math.nan, "sigma_free": math.nan}
    if n_more <= 0:
        note = f"{len(set(design.settings))} settings leave the law no freedom to be wrong"
    elif estimate.is_exact:
        note = "the law goes through every cell, but for rounding"
    elif df <= 0:
        note = "no setting was measured in several groups or several times, so nothing tells error from lack of fit"
    else:
        ssr, note = estimated(free).ssr, ""
        row["F"], row["p"] = f_test(_least_squares(estimate).ssr, ssr, n_more, df)
        row["sigma_free"] = math.sqrt(ssr / df)
    return pd.DataFrame([{**row, "n_settings": len(set(design.settings)), "note": note}])


def axis_tests(estimate: Estimate) -> pd.DataFrame:
    """What each size adds to the others: F of the law against the law without its terms, a row for each.

    Returns
    -------
    DataFrame
        `axis`, `F`, `n_more`, `df`, `p`, `ssr_ratio` (sum of squares without the terms over that with them).

    Notes
    -----
    Least squares. Without a term its exponent means nothing, so that F isn't distributed quite as said (Davies 1987,
    Biometrika 74, 33): p is a rough one.
    """
    full = _least_squares(estimate)
    rows = []
    for axis in estimate.design.terms.names:
        narrower = estimate.design.without(axis)
        without = estimated(narrower)
        ssr = without.ssr
        n_more = len(full.parameters) - len(narrower.names)
        f, p = (math.nan, math.nan) if without.is_exact else f_test(ssr, full.ssr, n_more, full.df)
        ratio = ssr / full.ssr if full.ssr else math.inf
        rows.append({"axis": axis, "F": f, "n_more": n_more, "df": full.df, "p": p, "ssr_ratio": ratio})
    return pd.DataFrame(rows)


def residuals_by_setting(estimate: Estimate) -> pd.DataFrame:
    """Mean residual of each setting over its cells: `setting`, `n`, `mean`, `se`, `t`, `p`.

    In units of the fit: relative, of the logarithm or of the response. p is of a two-sided t-test that takes cells for
    independent, and NaN for a single cell.
    """
    from scipy import stats

    rows = []
    for setting in dict.fromkeys(estimate.design.settings):
        values = estimate.residuals[np.asarray(estimate.design.settings == setting)]
        n, mean = len(values), float(values.mean())
        error = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
        t = mean / error if error and not math.isnan(error) else math.nan
        p = float(2 * stats.t.sf(abs(t), n - 1)) if not math.isnan(t) else math.nan
        rows.append({"setting": setting, "n": n, "mean": mean, "se": error, "t": t, "p": p})
    return pd.DataFrame(rows)


def influence(estimate: Estimate, *, progress: Progress | None = None) -> pd.DataFrame:
    """How far each single cell pulls the exponents and amplitudes, and how the rest predicts it.

    Returns
    -------
    DataFrame
        A row a cell, the most influential first: `row` (label in the table), `group`, `setting`, `residual`,
        `left_out_residual` (of a fit without it), and for each amplitude and exponent `d_<name>`: the estimate without
        the cell less that with it. `pull` is the largest of their sizes over their standard errors. A cell without
        which the law isn't determined has NaN.
    """
    names = estimate.design.names[len(estimate.design.level_names) :]
    rows = []
    for cell in range(estimate.n):
        kept = np.delete(np.arange(estimate.n), cell)
        rest = estimate.design.take(kept)
        moved, left_out = dict.fromkeys(names, math.nan), math.nan
        if determined(rest, spare=0):
            again = estimated(rest, delta=estimate.delta, starts=(estimate.parts[2],), grid="coarse")
            moved = {name: again.values[name] - estimate.values[name] for name in names}
            one = estimate.design.take(np.array([cell]))
            if rest.levels[:, estimate.design.levels[cell] > 0].any(axis=0).all():
                left_out = float(residuals_of(one, again.predicted(one))[0])
        pulls = [abs(moved[name]) / max(estimate.standard_errors[name], 1e-300) for name in names]
        rows.append(
            {
                "row": str(estimate.design.frame.index[cell]),
                "group": estimate.design.groups[cell],
                "setting": estimate.design.settings[cell],
                "residual": float(estimate.residuals[cell]),
                "left_out_residual": left_out,
                **{f"d_{name}": value for name, value in moved.items()},
                "pull": max(pulls, default=math.nan),
            }
        )
        if progress is not None:
            progress(cell + 1, estimate.n)
    return pd.DataFrame(rows).sort_values("pull", ascending=False, ignore_index=True)


def _least_squares(estimate: Estimate) -> Estimate:
    return estimate if not math.isfinite(estimate.delta) else estimated(estimate.design, starts=(estimate.parts[2],))


def _free_levels(design: Design) -> np.ndarray:
    """(n, rank) levels and a column for each setting, as many of them as don't follow from the others."""
    settings = [design.settings == one for one in dict.fromkeys(design.settings)]
    kept: list[np.ndarray] = []
    for column in [*design.levels.T, *np.array(settings, np.float64)]:
        trial = np.stack([*kept, column], axis=1)
        if np.linalg.matrix_rank(trial, tol=RANK * 1e3 * np.linalg.norm(trial)) == trial.shape[1]:
            kept.append(column)
    return np.stack(kept, axis=1)
