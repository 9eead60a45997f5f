"""Overlaps of an adapter's directions with those in which the base varies, and with another adapter's."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from lorascope.analyze.information.projections import Axes, n_axes_for, principal_axes, project
from lorascope.analyze.results.tree import run_attributes
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.reading.read import RunLike
from lorascope.stores.reading.walk import walk_rows

from .directions import directions

BASE_SHARE, MOST_AXES = 0.9, 64
"""Share of the base's variance that its principal directions have together, and their largest number."""
N_DRAWS = 200
"""Number of random subspaces that an overlap is compared with."""
ROUNDING = 1e-6
"""Overlaps of float32 vectors that differ by less than this count as equal."""


def base_overlap(
    run: RunLike, component: str, *, adapter: str | None = None, n_workers: int | None = None
) -> xr.Dataset:
    """Return, for each direction of a component's delta, its overlap with those in which the base varies most.

    Intruders (Shuttleworth et al., arXiv 2410.21228) are singular vectors of tuned weights that are unlike all singular
    vectors of the original weights. Here, directions of delta and base on data are compared instead, and an
    intruder has a low overlap. The base is read three times. Arguments are those of `directions`.

    Returns
    -------
    xarray.Dataset
        By `direction`, as in `directions`; NaN for a direction that is zero. `base_share`: share of the base's centred
        variance along it. `base_overlap`: squared norm of its projection onto the base's first k principal directions.
        `base_overlap_quantile`: share of random directions with a smaller overlap, near 0 for an intruder; NaN if
        k = d_out.

        Attributes: provenance; `n_axes`, which is k: as many directions as have 90 % of the base's variance, at most
        64; `axes_share`, their share of the variance; `base_share_null` = 1/d_out and `base_overlap_null` = k/d_out,
        means over random directions; `n_tokens`, the number of tokens whose base is finite.

    Raises
    ------
    StoreError, ValueError
        As for `directions`; ValueError also if the base has fewer than two tokens, or all are equal.

    Notes
    -----
    A random direction's overlap has the distribution Beta(k/2, (d_out - k)/2). Principal directions come from a random
    projection with a fixed seed (Halko et al. 2011; see `principal_axes`), in memory of a few times 74 d_out numbers.
    """
    from scipy import stats  # type: ignore[import-untyped]  # a quarter of a second

    run = open_as_written(run)
    result = directions(run, component, adapter=adapter, n_top=1, n_workers=n_workers)
    vectors, width = result["vector"].values.astype(np.float64), result.sizes["feature"]
    source = run.source(component, adapter)

    def blocks() -> Iterator[tuple[np.ndarray]]:
        """Yield the base of each row, float32 (token, feature), as a tuple of one; tokens not finite are skipped."""
        for row in walk_rows([source], ["base"], n_threads=n_workers):
            base = row.base[component]
            yield (base[np.isfinite(base).all(axis=1)],)

    (axes,) = principal_axes(blocks, MOST_AXES, names=("base",))
    k, share = n_axes_for(axes, BASE_SHARE, MOST_AXES)
    along, n_tokens = np.zeros(len(vectors)), 0
    for (block,) in blocks():
        along += (project(block, Axes(axes.mean, vectors.T)) ** 2).sum(axis=0)
        n_tokens += len(block)
    overlap = ((vectors @ axes.vectors[:, :k]) ** 2).sum(axis=1)
    values = {
        "base_share": (along / (n_tokens - 1) / axes.total_variance, "share of the base's variance along it"),
        "base_overlap": (overlap, "squared norm of the projection onto the base's principal directions"),
        "base_overlap_quantile": (stats.beta.cdf(overlap, k / 2, (width - k) / 2), "random ones that overlap less"),
    }
    variables = {
        name: ("direction", np.where(result["share"] > 0, value, np.nan), {"long_name": text, "units": "1"})
        for name, (value, text) in values.items()
    }
    about = {"n_axes": k, "axes_share": share, "base_share_null": 1 / width, "base_overlap_null": k / width}
    attributes = {"component": component, **run_attributes(run, adapter), **about, "n_tokens": n_tokens}
    return xr.Dataset(variables, attrs=attributes)


def compare_directions(
    run: RunLike,
    other: RunLike,
    component: str,
    *,
    adapter: str | None = None,
    other_adapter: str | None = None,
) -> xr.Dataset:
    """Return the overlap of two adapters' directions of delta at a component, compared with random directions.

    For each adapter, the leading directions that have 99 % of its summed |delta|² are taken: k and l of them.

    Returns
    -------
    xarray.Dataset
        `cosine` (angle): cosines of the min(k, l) principal angles, descending. `overlap`: the mean of their squares, 1
        if one subspace contains the other, 0 if they are orthogonal. `null_mean`: the mean over random subspaces, which
        is exactly max(k, l)/d_out; `null_95`: the 95 % quantile of 200 random subspaces; `p` = (1 + number of these
        with an overlap at least as large) / 201. Attributes: provenance, the other run's as `other_...`; k and l as
        `n_directions` and `other_n_directions`.

        Random subspaces have nothing in common, but unrelated adapters of one model do: gradients reach a component
        along directions that the model prefers, and one seed gives both the same lora_A. A small p alone doesn't show
        that both learned the same.

    Raises
    ------
    StoreError
        As for `directions`, for either run.
    ValueError
        If models or widths differ, or a delta is zero or isn't finite.

    References
    ----------
    Principal angles: Bjorck & Golub 1973, Mathematics of Computation 27, pp. 579-594.
    """
    runs, adapters = (open_as_written(run), open_as_written(other)), (adapter, other_adapter)
    models = [str(opened.attributes.get("provenance", {}).get("model", {}).get("sha256", "")) for opened in runs]
    if all(models) and models[0] != models[1]:
        hashes = " and ".join(sha256[:12] for sha256 in models)
        raise ValueError(f"these runs are of different models (sha256 {hashes}); compare adapters of one model")
    both = [directions(opened, component, adapter=name, n_top=1) for opened, name in zip(runs, adapters, strict=True)]
    width, other_width = (result.sizes["feature"] for result in both)
    if width != other_width:
        raise ValueError(f"{component!r} has {width} features in one run, {other_width} in the other: different models")
    if empty := [result.attrs["adapter"] for result in both if not result["n_99"]]:
        raise ValueError(f"delta of {component!r} by {empty[0]!r} is zero or isn't finite; it has no directions")
    first, second = (result["vector"].values[: int(result["n_99"])].astype(np.float64) for result in both)
    few, many = sorted((len(first), len(second)))
    cosine = np.minimum(np.linalg.svd(first @ second.T, compute_uv=False), 1)
    overlap, generator = float((cosine**2).mean()), np.random.default_rng(0)
    frames = (np.linalg.qr(generator.standard_normal((width, few))).Q for _ in range(N_DRAWS))
    drawn = np.array([(frame[:many] ** 2).sum() / few for frame in frames])  # any `many` axes are as good as others
    numbers = {"overlap": overlap, "null_mean": many / width, "null_95": float(np.quantile(drawn, 0.95))}
    numbers["p"] = (1 + int((drawn >= overlap - ROUNDING).sum())) / (N_DRAWS + 1)
    theirs = {f"other_{key}": value for key, value in run_attributes(runs[1], other_adapter).items()}
    counts = {"n_directions": len(first), "other_n_directions": len(second)}
    attributes = {"component": component, **run_attributes(runs[0], adapter), **theirs, **counts}
    return xr.Dataset({"cosine": ("angle", cosine), **numbers}, attrs=attributes)
