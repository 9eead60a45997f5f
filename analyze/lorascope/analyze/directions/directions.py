"""Directions in which an adapter moves a component: the right singular vectors of its delta over a run's tokens."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import dask.system
import numpy as np
import xarray as xr
from jaxtyping import Bool, Float32, Float64, Int64

from lorascope.analyze.measuring.sources import weights_of
from lorascope.analyze.results.tree import run_attributes
from lorascope.kernels.linear import delta_rows
from lorascope.stores import StoreError
from lorascope.stores.format.spec import ROW_TOKENS
from lorascope.stores.progress import Progress
from lorascope.stores.reading.chosen_tokens import chosen_tokens
from lorascope.stores.reading.read import RunLike, as_run
from lorascope.stores.reading.source import Source, read_factors
from lorascope.stores.reading.token_choice import TokenChoice, describe_choice
from lorascope.stores.reading.walk import in_order

from .top_tokens import TopTokens, larger_tokens, largest, no_tokens, settled

N_TOP = 10
NEGLIGIBLE = 1e-13
"""Share of the strongest direction's |delta|² below which a direction is none: rounding of the factor has as much."""
TASK_BYTES = 2**20
"""Bytes of z that one task reads: handing a task to a thread takes as long as reading a row of few ranks."""
Result = TypeVar("Result")


class Directions(NamedTuple):
    """Directions of one component, by descending share; where there are fewer than ranks, the last are zero."""

    rotation: Float32[np.ndarray, "direction rank"]
    """Coordinates of delta along the directions are `rotation @ z`; NaN where lora_B isn't finite."""
    share: Float64[np.ndarray, " direction"]
    axes: Float64[np.ndarray, "direction basis"]
    """Their coordinates in the orthonormal basis of features that `basis` gives."""
    top_token: Int64[np.ndarray, "direction top"]
    top_score: Float32[np.ndarray, "direction top"]
    n_not_finite: int
    half_share: Float64[np.ndarray, "half direction"]
    """Shares as every other row with used tokens has them, each half along its own directions; NaN if it is but one."""


def directions(
    run: RunLike,
    component: str,
    *,
    adapter: str | None = None,
    tokens: TokenChoice = "all",
    n_top: int = N_TOP,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Singular directions of a component's delta over tokens, and the tokens at which each acts most.

    PEFT's own basis of z = A x is arbitrary: any invertible matrix can be moved between A and B. These directions
    aren't: they are the right singular vectors of delta (token, feature).

    Parameters
    ----------
    run
        An open run or its path or url, finished or not; tokens that aren't committed, or keep no states, are left out.
    component
        Its path.
    adapter
        Name of the adapter; not needed if there is only one.
    tokens
        Over which tokens with states: `all`; `first:N`, `last:N` or `from:N`, by position in each sample; a role such
        as `answer`; `every:K` or `share:P`, drawn from each sample; or indices on the token axis. `from:1` leaves
        position 0 out, often an attention sink, whose delta may hold nearly all of |delta|².
    n_top
        Tokens that are kept of each direction.
    n_workers
        Threads; by default one a processor. No number depends on it.
    progress
        Called with (rows read, rows in all); every row with chosen tokens is read twice.

    Returns
    -------
    xarray.Dataset
        By `direction`, in descending order of `share`, which is that of the summed |delta|²:

        `rotation` (direction, rank), float32: `rotation @ z` are the scores of a token, the coordinates of its delta
        along the directions, in the units of delta. `vector` (direction, feature): the directions themselves, of length
        1. `top_token` and `top_score` (direction, top): numbers and scores of the tokens with the largest |score|,
        equal ones in the tokens' order; -1 and NaN where fewer than `n_top` have one other than 0. The first is
        positive, which settles the sign of a direction. `n_90` and `n_99`: how many directions, the first ones, hold
        90 % and 99 % of the summed |delta|²; 0 where it is zero or not finite.

        A direction without delta, as where lora_B has a lower rank, is zero and has no tokens. So are those whose share
        is less than 1e-13 of the largest. Directions with equal shares are determined only together.

        Attributes: provenance, `tokens` and `n_tokens` that were used, and `n_not_finite` of them that were left out,
        since their z isn't finite.

    Raises
    ------
    StoreError
        If delta isn't kept as a factor, as with DoRA or in a run of stream `pair`, the adapter leaves the component
        alone, none of the tokens is committed and has states, or a chunk is broken.
    ValueError, IndexError
        If `tokens` isn't what it may be, or `n_top` or `n_workers` isn't a whole number of at least 1.

    Notes
    -----
    With delta = s Z B^T, s B = Q R and Z^T Z summed over rows in float64, the eigenvectors W of R Z^T Z R^T give
    rotation = W^T R and vector = W^T Q^T. A bias of lora_B isn't in it: it moves all tokens by the same.
    """
    for name, value in (("n_top", n_top), ("n_workers", n_workers)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"`{name}` is {value!r}; it must be a whole number of at least 1")
    run = as_run(run)
    source = run.source(component, adapter)
    if source.delta.lora_B is None:
        why = "stream 'pair'" if run.stream == "pair" else "its delta is stored itself"
        raise StoreError(f"component {component!r} has no directions in this run ({why}); only a factor gives them")
    rows = state_rows(source)
    if not rows:
        raise StoreError(f"no row with states of {run.place.name!r} is committed yet; capture more of it")
    used = None if isinstance(tokens, str) and tokens == "all" else chosen_tokens(run, tokens) > 0
    n_tokens = sum(map(source.base.n_tokens, rows)) if used is None else int(used.sum())
    (found,) = directions_of([source], used, n_top=n_top, n_workers=n_workers, progress=progress)
    values = found._asdict() | {"vector": (found.axes @ basis(source)[0].T).astype(np.float32)}
    variables: dict[str, Any] = {
        name: (("direction", *axis), values[name], {"long_name": text, "units": "1"})
        for name, axis, text in (
            ("rotation", ["rank"], "rotation @ z: coordinates of delta along the directions"),
            ("share", [], "share of the direction in the summed |delta|²"),
            ("vector", ["feature"], "right singular vectors of delta"),
            ("top_token", ["top"], "tokens with the largest |score|"),
            ("top_score", ["top"], "coordinate of these tokens' delta along the direction"),
        )
    }
    for percent in (90, 99):
        text = f"directions that hold {percent} % of the summed |delta|²"
        variables[f"n_{percent}"] = ((), n_holding(found.share, percent / 100), {"long_name": text, "units": "1"})
    counts = {"tokens": describe_choice(tokens), "n_tokens": n_tokens, "n_not_finite": found.n_not_finite}
    return xr.Dataset(variables, attrs={"component": component, **run_attributes(run, adapter), **counts})


def directions_of(
    sources: Sequence[Source],
    used: Bool[np.ndarray, " token"] | None = None,
    *,
    n_top: int = N_TOP,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> list[Directions]:
    """Directions of components of one adapter that have a factor, over the used tokens of rows with states: two trips.

    In memory are a few factors for each worker, of a row or of `TASK_BYTES`, and few weights; see `directions`.
    """

    def on_trip(trip: int, done: int, total: int, _: str = "") -> None:
        if progress is not None:
            progress(trip * total + done, 2 * total)

    halves = [np.zeros((2, source.delta.rows.shape[1], source.delta.rows.shape[1])) for source in sources]
    n_not_finite, index = np.zeros(len(sources), np.int64), 0
    for found in _by_task(_grams, sources, used, n_workers, partial(on_trip, 0)):
        for row in found:
            for half, (one, _) in zip(halves, row, strict=True):
                half[index % 2] += one
            n_not_finite += [n for _, n in row]
            index += 1
    rotated = [
        tuple(rotate(one, basis(source)[1]) for one in (half.sum(axis=0), *half))
        for half, source in zip(halves, sources, strict=True)
    ]
    tops = strongest(sources, [whole[0] for whole, *_ in rotated], used, n_top, n_workers, partial(on_trip, 1))
    shares = [
        np.stack([one[1] for one in half]) if index > 1 else np.full((2, len(whole[0])), np.nan)
        for whole, *half in rotated
    ]
    return [
        _settled(*whole, top, int(n), share)
        for (whole, *_), top, n, share in zip(rotated, tops, n_not_finite, shares, strict=True)
    ]


def strongest(
    sources: Sequence[Source],
    rotations: Sequence[Float32[np.ndarray, "direction rank"]],
    used: Bool[np.ndarray, " token"] | None,
    n_top: int,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> list[TopTokens]:
    """The used tokens with the largest |score| along some directions of each component, in one trip."""
    tops = [no_tokens(len(rotation), n_top) for rotation in rotations]

    def task_tops(rows: Sequence[int], factors: Sequence[np.ndarray]) -> list[TopTokens]:
        tokens = (np.asarray(rows)[:, None] * ROW_TOKENS + np.arange(ROW_TOKENS)).ravel()
        each = zip(factors, rotations, tops, strict=True)
        return [larger_tokens(top, scores(z, rotation), tokens[: len(z)]) for z, rotation, top in each]

    for later in _by_task(task_tops, sources, used, n_workers, progress):
        tops = [largest(top, some) if some.token.size else top for top, some in zip(tops, later, strict=True)]
    return [settled(top) for top in tops]


def _by_task(
    function: Callable[[Sequence[int], Sequence[np.ndarray]], Result],
    sources: Sequence[Source],
    used: Bool[np.ndarray, " token"] | None,
    n_workers: int | None,
    progress: Progress | None,
) -> Iterator[Result]:
    """What a function of rows and of each component's factors gives, for some rows with used tokens after the other.

    Factors of tokens that aren't used are 0, which adds nothing to a sum and is nobody's largest score.
    """
    rows, n_done = state_rows(sources[0]), 0
    if used is not None:
        rows = [row for row in rows if used[row * ROW_TOKENS :][:ROW_TOKENS].any()]
    step = max(1, TASK_BYTES // (4 * ROW_TOKENS * sum(source.delta.rows.shape[1] for source in sources)))
    tasks = [rows[start : start + step] for start in range(0, len(rows), step)]

    def of_row(row: int) -> list[np.ndarray]:
        factors = [factor for factor in read_factors(sources, row) if factor is not None]
        here = None if used is None else used[row * ROW_TOKENS :][: len(factors[0]), None]
        return factors if here is None or here.all() else [np.where(here, factor, 0) for factor in factors]

    def of_task(task: Sequence[int]) -> Result:
        blocks = [of_row(row) for row in task]
        return function(task, [np.concatenate(each) for each in zip(*blocks, strict=True)])

    for task, found in zip(tasks, in_order(of_task, tasks, n_threads=n_workers or dask.system.CPU_COUNT), strict=True):
        yield found
        n_done += len(task)
        if progress is not None:
            progress(n_done, len(rows))


def _grams(rows: Sequence[int], factors: Sequence[np.ndarray]) -> list[list[tuple[np.ndarray, int]]]:
    """`gram` of each row and component."""
    starts = range(0, len(rows) * ROW_TOKENS, ROW_TOKENS)
    return [[gram(z[start : start + ROW_TOKENS]) for z in factors] for start in starts]


def n_holding(share: Float64[np.ndarray, " direction"], least: float) -> int:
    """How many directions, the first ones, hold at least this share together; 0 where there are none."""
    return int(np.searchsorted(np.cumsum(share), least)) + 1 if share[0] > 0 else 0


def state_rows(source: Source) -> list[int]:
    """Rows whose states are there to be read."""
    return [row for row in range(source.base.n_rows) if source.base.is_committed(row)]


def gram(z: Float32[np.ndarray, "token rank"]) -> tuple[Float64[np.ndarray, "rank rank"], int]:
    """Z^T Z over tokens whose z is finite, and how many others there are."""
    is_finite = np.isfinite(z)
    wide = (z if is_finite.all() else z[is_finite.all(axis=1)]).astype(np.float64)
    return wide.T @ wide, len(z) - len(wide)


def basis(source: Source) -> tuple[Float64[np.ndarray, "feature basis"], Float64[np.ndarray, "basis rank"]]:
    """An orthonormal basis Q of what a component's delta can be, and R of scaling * lora_B = Q R."""
    weights = weights_of(source)
    q, r = np.linalg.qr(float(weights.scaling) * weights.lora_B_T.T.astype(np.float64))
    return q, r


def rotate(
    gram: Float64[np.ndarray, "rank rank"], r: Float64[np.ndarray, "basis rank"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation (direction, rank), share (direction,) and axes (direction, basis), as in `Directions`."""
    if not np.isfinite(r).all():
        return np.full(r.shape, np.nan, np.float32), np.full(len(r), np.nan), np.full((len(r), len(r)), np.nan)
    energy, w = np.linalg.eigh(r @ gram @ r.T)
    energy, axes = np.maximum(energy[::-1], 0), w.T[::-1]
    axes = np.where(energy[:, None] > NEGLIGIBLE * energy[0], axes, 0)
    share = energy / energy.sum() if energy[0] > 0 else energy
    return (axes @ r).astype(np.float32), share, axes


def scores(
    z: Float32[np.ndarray, "token rank"], rotation: Float32[np.ndarray, "direction rank"]
) -> Float32[np.ndarray, "direction token"]:
    """Coordinates of delta along directions; equal z have equal ones, to the last bit. NaN where z isn't finite."""
    out = np.empty((len(z), len(rotation)), np.float32)
    delta_rows(z, np.ascontiguousarray(rotation.T), np.float32(1), np.empty(0, np.float32), out)
    out[~np.isfinite(z).all(axis=1)] = np.nan
    return np.ascontiguousarray(out.T)


def _settled(
    rotation: np.ndarray, share: np.ndarray, axes: np.ndarray, top: TopTokens, n: int, half_share: np.ndarray
) -> Directions:
    """Directions with the sign that makes the largest |score| positive."""
    sign = np.where(top.score[:, :1] < 0, np.float32(-1), np.float32(1))
    return Directions(rotation * sign, share, axes * sign, top.token, top.score * sign, n, half_share)
