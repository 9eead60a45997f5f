"""Mutual information of two arrays, with its null, error, ceiling and verdict."""

from collections.abc import Sequence
from typing import Any

import dask.system
import numpy as np
import xarray as xr

from lorascope.analyze.results.options import N_SHUFFLES, require_whole
from lorascope.stores.progress import Progress
from lorascope.stores.threads import limiting_blas_to_one_thread

from .estimators import ESTIMATORS, PANEL, check_settings, resolve_estimators
from .evidence import MEANINGS, VERDICTS, effective_rows, estimate
from .pairs import Settings, Unit, check_pairs

UNITS_PER_NAT: dict[str, float] = {"nat": 1.0, "bit": 1 / np.log(2)}
"""Unit -> its number per nat."""


def mutual_information(
    x: Any,
    y: Any,
    *,
    estimator: str | Sequence[str] = "panel",
    groups: Any = None,
    k: int = 3,
    unit: Unit = "nat",
    n_shuffles: int = N_SHUFFLES,
    seed: int = 0,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Return the mutual information of x and y in nats by several estimators, with null, error, ceiling and verdict.

    Parameters
    ----------
    x, y
        Real numbers (n, dimension) or (n,); row i of x belongs to row i of y.
    estimator
        One or several names of `ESTIMATORS`, or `panel`: six estimators that, apart from noise, are too low, each for a
        different reason, and the largest of them. `docs/mutual-information.md` describes each.
    groups
        Labels (n,) of rows that depend on each other, such as the tokens of a sample. Rows with one label aren't
        neighbours, and stay together in shuffles, halves and parts. By default all rows are independent.
    k
        Number of nearest neighbours.
    unit
        `nat` or `bit`.
    n_shuffles
        Number of shuffles for the null: p can't be below 1 / (n_shuffles + 1).
    seed
        Seed of shuffles, halves and parts: the same seed gives the same numbers.
    n_workers
        Threads, by default one per processor; results don't depend on it.
    progress
        Called with (evaluations done, evaluations in all).

    Returns
    -------
    xr.Dataset
        Over `estimator`, in `unit`: `value`, from which `bias` is already subtracted if it is known (exact for
        Gaussians; for the panel the bias of a largest value, by parts; for noise curves the mean over shuffles); `se`,
        `low` and `high`; `null_mean`, `null_sd` and `p` of shuffles; `half`, `quarter` and `eighth`, values from parts
        of the rows; `ceiling`; and `verdict`: ok, lower bound only, saturated, undersampled, biased, assumes Gaussian,
        or serial. Attributes: settings, dimensions, numbers of rows and groups, and `n_effective` independent rows.

    Raises
    ------
    ValueError
        If arrays don't fit together, contain NaN, infinity, constant columns or repeated pairs, or have too few rows
        for their dimensions; or an option isn't allowed.

    Notes
    -----
    `se` and the interval come from disjoint parts of the groups, with a variance that falls as 1/n; a bootstrap would
    repeat pairs, which nearest neighbours see as dependence. The interval is extended by the change of the value from a
    quarter of the rows to all, in its direction: the remaining bias if that falls as the root of the rows. It doesn't
    include dependence that no member sees. Pairs of whole numbers, such as counts, may repeat; others must not.

    References
    ----------
    Kraskov et al. 2004; Ince et al. 2017; Holmes and Nemenman 2019, arXiv 1903.09280, on errors from parts; Czyz et al.
    2023, arXiv 2306.11078, on tasks with known values.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=1000)
    >>> found = mutual_information(x, x + rng.normal(size=1000), estimator=["ksg1", "gaussian"])
    >>> found["value"].values.round(2)  # the truth is ln(2) / 2 = 0.35
    array([0.36, 0.35])
    """
    names = resolve_estimators(estimator)
    settings = Settings(k=k, seed=seed)
    check_settings(settings, unit, n_shuffles)
    if n_workers is not None:
        require_whole("n_workers", n_workers)
    pairs = check_pairs(x, y, groups)
    threads = n_workers or dask.system.CPU_COUNT
    with limiting_blas_to_one_thread():
        values = estimate(pairs, names, settings, n_shuffles=n_shuffles, n_workers=threads, progress=progress)
    result = information_dataset(values, names, settings, unit=unit, n_shuffles=n_shuffles)
    return result.assign_attrs(
        n=len(pairs.x),
        n_groups=len(np.unique(pairs.groups_x)),
        n_effective=effective_rows(pairs),
        dimensions_x=pairs.x.shape[1],
        dimensions_y=pairs.y.shape[1],
    )


def information_dataset(
    estimates: np.ndarray,
    names: Sequence[str],
    settings: Settings,
    *,
    unit: Unit,
    n_shuffles: int,
    dims: Sequence[str] = (),
) -> xr.Dataset:
    """Return estimates, float64 (..., estimator, field) in nats, as a dataset with one variable per field."""
    variables: dict[str, Any] = {}
    for place, (field, meaning) in enumerate(MEANINGS.items()):
        values = estimates[..., place]
        if field == "verdict":
            words = np.array([*VERDICTS, ""], object)
            places = np.where(np.isnan(values), len(VERDICTS), np.nan_to_num(values)).astype(int)
            variables[field] = ((*dims, "estimator"), words[places], {"long_name": meaning})
        else:
            units, scale = ("1", 1.0) if field == "p" else (unit, UNITS_PER_NAT[unit])
            variables[field] = ((*dims, "estimator"), values * scale, {"long_name": meaning, "units": units})
    about = [f"largest of {', '.join(PANEL)}" if name == "panel" else ESTIMATORS[name].long_name for name in names]
    return xr.Dataset(
        variables,
        coords={"estimator": np.array(names, object), "long_name": ("estimator", np.array(about, object))},
        attrs={
            "units": unit,
            **settings._asdict(),
            "n_shuffles": n_shuffles,
            "p_floor": 1 / (n_shuffles + 1),
            "null": "y of other samples, whole samples moved together",
            "interval": "95 %: noise, from the scatter of disjoint parts, and the bias that these show",
        },
    )
