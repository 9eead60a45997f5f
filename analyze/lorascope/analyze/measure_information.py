"""Mutual information of base and lora, component by component of a run."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dask.config
import xarray as xr

from lorascope.stores import Run
from lorascope.stores.progress import Progress

from .information.component_dataset import choices, component_dataset, provenance
from .information.components import lazily, records_of
from .information.dataset import Unit
from .information.estimators import N_SHUFFLES, Settings
from .information.export import refuse_npz, write_pairs
from .information.ksg import Norm
from .information.pairs import NoPairs, Projected, projected
from .information.plan import Against, Plan, Projection, chosen_sources, make_plan
from .measuring.compute import workers
from .measuring.sources import Source
from .measuring.workers import Workers
from .mutual_information import record_attributes
from .threads import one_blas_thread

__all__ = ["export_pairs", "measure_information"]

PAIR_BYTES = 2**28
"""Of projected tokens that an export holds in memory: as many components as fit are computed together."""
ONE_BY_ONE = {"chunksize": 1}
"""Of Dask's processes: what is handed out together can't be called off."""
TOKEN_BYTES = 32
"""Of a token beside its two sides along axes: its place, its sample, that of the other side and two js."""


def measure_information(
    run: Run,
    *,
    adapter: str | None = None,
    components: Sequence[str] | None = None,
    estimator: str | Sequence[str] = "panel",
    against: Against = "lora",
    n_tokens: int = 2000,
    projection: Projection = "pca",
    n_axes: int = 8,
    share: float = 0.9,
    n_blocks: int = 1,
    k: int = 3,
    norm: Norm = "maximum",
    unit: Unit = "nat",
    n_shuffles: int = N_SHUFFLES,
    seed: int = 0,
    scheduler: Any = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Mutual information of base and lora over tokens, by component and estimator, in nats, beside js of those tokens.

    Parameters
    ----------
    run
        An open run that keeps states, finished or not.
    adapter
        Name of the adapter; may be left out where there is one.
    components
        Their paths or patterns, such as `*.q_proj`; by default all that the adapter touches.
    estimator
        Names of `ESTIMATORS`, or `panel`; see `mutual_information`.
    against
        What base is compared with: `lora`, or `delta` alone.
    n_tokens
        How many tokens to choose at most, as many of each sample as it has. Repeated states are left out, and those
        that aren't finite.
    projection
        `pca`: each side's principal axes, from all tokens of the run; `random`: the same random axes for both sides;
        `canonical`: canonical directions of principal axes, found on half of the chosen samples, estimates from the
        other half.
    n_axes, share
        As many axes of a side as keep this share of its variance, at most `n_axes`.
    n_blocks
        Cut the features of every component into so many equal parts, such as heads, and look at each alone.
    k, norm, unit, n_shuffles, seed
        As in `mutual_information`. Shuffles, halves and parts keep samples whole, and tokens of one sample are no
        neighbours.
    scheduler, n_workers
        Where tasks run; see `miub`. A task is a component.
    progress
        Called with (components done, components in all).

    Returns
    -------
    xr.Dataset
        The variables of `mutual_information` over (component, estimator), with `block` between them where features are
        cut. By component, and block: `js`, the mean over the same tokens of JS(softmax(base), softmax(lora)) over all
        features, always in nats, and `js_delta_alone`, the same with delta in place of lora; `n_tokens` and `n_samples`
        of the pairs, `n_repeats` and `n_not_finite` left out; `n_axes_x` and `n_axes_y` of base and of the other side,
        `share_x` and `share_y`, the variance that they keep; `note`, why values are missing, or nothing; with the
        estimator `classifier` also `js_joint`, what it says of JS(joint, product), in nats. By component: kind, layer,
        d_in, d_out, rank, and `singular`, whether whole states are known to share directions, so that their mutual
        information is infinite where x varies continuously. The attribute `n_prefix_repeats` counts tokens of the run
        that couldn't be chosen, since an earlier one has the same id after the same ids.

    Raises
    ------
    StoreError
        If the run keeps no states, or a chunk is broken.
    ValueError
        If an option isn't allowed, a component isn't known, `n_blocks` doesn't divide its features, or the chosen
        tokens are of fewer than four samples.

    Notes
    -----
    lora = base + scaling B A x: outside of B's columns both are equal, so that the mutual information of whole states
    is infinite wherever the rank is below the width, and what is stored has as many distinct rows as tokens. Every
    number here is that of a projection, or of symbols made of states, and finite for that reason. It compares
    components and adapters; it is no property of the model alone.

    `singular` counts directions. Base and delta together see min(d_in, d_out + rank) directions of x at most; where
    those that each side sees alone add up to more, they share some exactly. Delta sees as many as its rank, or all of
    base's where it comes from no factor (DoRA). That supposes that x varies continuously: where states are functions of
    the token id, as of embeddings and of what reads them before any attention, they are discrete, and mutual
    information is at most the logarithm of the vocabulary. False never means finite: it says that these counts don't
    show it, as of a run of stream `pair`, whose sides see different x.

    References
    ----------
    arXiv 2501.03152, whose table 3 has one such number; Amjad and Geiger 2018, arXiv 1802.09766, on why it is infinite.
    """
    plan = make_plan(
        run, estimator=estimator, against=against, n_tokens=n_tokens, projection=projection, n_axes=n_axes,
        share=share, n_blocks=n_blocks, settings=Settings(k=k, norm=norm, seed=seed), unit=unit, n_shuffles=n_shuffles,
    )  # fmt: skip
    sources = chosen_sources(run, adapter, components, n_blocks)
    with one_blas_thread(), dask.config.set(ONE_BY_ONE), workers(scheduler, n_workers) as found:
        records = found.compute(lazily(records_of, sources, plan), _Counter(len(sources), progress))
    result = component_dataset(run, adapter, sources, plan, records, unit)
    return result.assign_attrs(record_attributes(plan.settings, unit, n_shuffles))


def export_pairs(
    run: Run,
    path: str | Path,
    *,
    adapter: str | None = None,
    components: Sequence[str] | None = None,
    against: Against = "lora",
    n_tokens: int = 2000,
    projection: Projection = "pca",
    n_axes: int = 8,
    share: float = 0.9,
    n_blocks: int = 1,
    seed: int = 0,
    scheduler: Any = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Write the pairs that `measure_information` makes its estimates of as `.npz`; returns what was left out, and why.

    Parameters and errors as of `measure_information`; `information.export.write_pairs` says what the file holds.

    Raises
    ------
    ValueError
        If the name ends otherwise or lies inside a store, or no states can be projected.
    FileExistsError
        If something of that name is there, or appears meanwhile.
    PermissionError
        If nothing can be written there.
    """
    target = Path(path)
    refuse_npz(target)
    plan = make_plan(
        run, estimator="panel", against=against, n_tokens=n_tokens, projection=projection, n_axes=n_axes,
        share=share, n_blocks=n_blocks, settings=Settings(seed=seed), unit="nat", n_shuffles=0,
    )  # fmt: skip
    sources = chosen_sources(run, adapter, components, n_blocks)
    about = provenance(run, adapter) | choices(plan)
    with one_blas_thread(), dask.config.set(ONE_BY_ONE), workers(scheduler, n_workers) as found:
        return write_pairs(target, _projected(sources, plan, found, _Counter(len(sources), progress)), about)


def _projected(
    sources: Sequence[Source], plan: Plan, found: Workers, done: Callable[[], None]
) -> Iterator[tuple[str, list[Projected | NoPairs]]]:
    """(component, pairs of each block of its features), some components at a time."""
    n_together = _batch_size(sources, plan)
    for start in range(0, len(sources), n_together):
        batch = sources[start : start + n_together]
        pairs = found.compute(lazily(projected, batch, plan), done)
        yield from ((source.component, list(row)) for source, row in zip(batch, pairs, strict=True))


def _batch_size(sources: Sequence[Source], plan: Plan) -> int:
    """How many components' pairs `PAIR_BYTES` hold, one at least."""
    n_axes = min(plan.n_axes, max(source.base.shape[1] for source in sources) // plan.n_blocks)
    n_bytes = len(plan.tokens) * plan.n_blocks * (2 * 8 * n_axes + TOKEN_BYTES)
    return max(1, PAIR_BYTES // n_bytes)


class _Counter:
    """Components that are done, of all."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)
