"""`lorascope mi`."""

import inspect
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import xarray as xr

from lorascope.analyze.information.dataset import Unit
from lorascope.analyze.information.estimators import N_SHUFFLES, Settings
from lorascope.analyze.information.export import refuse_npz
from lorascope.analyze.information.ksg import Norm
from lorascope.analyze.information.plan import chosen_sources, make_plan
from lorascope.analyze.measure_information import export_pairs, measure_information
from lorascope.analyze.save import refuse_target, save
from lorascope.stores import Run, open_run

from ..information.bound import print_bound
from ..information.remarks import MOST_REASONS, print_failed, remarks
from ..information.rows import number
from ..information.tables import print_adapters, print_estimators, print_values
from ..screen import progress_bar, say

__all__ = ["mi"]


def mi(
    run: str,
    *,
    adapter: Sequence[str] = (),
    component: Sequence[str] = (),
    estimator: Sequence[str] = ("panel",),
    against: Literal["lora", "delta"] = "lora",
    tokens: int = 2000,
    projection: Literal["pca", "random", "canonical"] = "pca",
    axes: int = 8,
    share: float = 0.9,
    blocks: int = 1,
    k: int = 3,
    norm: Literal["maximum", "euclidean"] = "maximum",
    unit: Unit = "nat",
    shuffles: int = N_SHUFFLES,
    seed: int = 0,
    bound: bool = False,
    top: int = 10,
    workers: int | None = None,
    scheduler: str | None = None,
    out: Path | None = None,
    export: Path | None = None,
) -> int:
    """Mutual information of base and LoRA states by component: finite estimates, and what each can and can't say.

    That of whole states is infinite, since an adapter leaves most directions as they are. What is printed is that of a
    few axes of each side, over tokens, with its null, its error and a verdict.

    Parameters
    ----------
    run
        Folder or url of a run that keeps states.
    adapter
        Name of the adapter, where the run holds several; give it again for another one, to be shown beside the first.
    component
        A component's path or a pattern, e.g. '*.q_proj'; may be given several times; by default all.
    estimator
        panel: five that err on the low side and the largest of them; or one of ksg1, ksg2, ksg_copula, gaussian,
        gaussian_copula, cca_ksg, quadratic_cca_ksg, radial_ksg, infonce, classifier, classifier_nwj, argmax,
        argmax_miller_madow, argmax_plugin, soft_index; noise: Gaussian, with noise of four sizes; give it again for
        another one.
    against
        What base is compared with: lora, or delta alone.
    tokens
        How many tokens to choose at most, as many of each sample as it has.
    projection
        pca: principal axes of each side; random: the same random axes for both; canonical: canonical directions, found
        on half of the samples.
    axes
        The most axes for each side.
    share
        Of a side's variance, which as many axes are to keep if so many do.
    blocks
        Cut each component's features into so many equal parts, such as heads, and look at each alone.
    k
        Nearest neighbours.
    norm
        Of ksg1 and ksg2.
    unit
        nat or bit.
    shuffles
        Shuffles of samples for the null: p can't be below 1 / (shuffles + 1).
    seed
        Of tokens, shuffles, halves and parts.
    bound
        MIUB beside the mutual information that the paper calls it a bound of, and beside the true bound, in nats.
    top
        How many components to list, the largest values first.
    workers
        Threads; by default one a processor.
    scheduler
        Address of a running Dask scheduler, such as tcp://host:8786; or threads, processes or synchronous.
    out
        Save all numbers here: a folder ending in .zarr, or a NetCDF file ending in .nc.
    export
        Write the projected pairs here, a file ending in .npz, for estimators of elsewhere; nothing is estimated.
    """
    _check(adapter, out=out, export=export, bound=bound, unit=unit, blocks=blocks, top=top, workers=workers)
    if export is not None:
        _refuse_unused(
            out=out, bound=bound, estimator=tuple(estimator), k=k, norm=norm, unit=unit, shuffles=shuffles, top=top
        )
    opened = open_run(run)
    options: dict[str, Any] = {
        "components": component or None, "against": against, "n_tokens": tokens, "projection": projection,
        "n_axes": axes, "share": share, "n_blocks": blocks, "seed": seed, "scheduler": scheduler, "n_workers": workers,
    }  # fmt: skip
    if export is not None:
        return _export(opened, export, adapter=adapter[0] if adapter else None, **options)
    names = ("panel", *estimator, "classifier") if bound else tuple(estimator)
    options |= {"estimator": names, "k": k, "norm": norm, "unit": unit, "n_shuffles": shuffles}
    _refuse_options(opened, adapter, **options)
    results = _results(opened, adapter, options)
    if len(results) > 1:
        print_adapters(results, top)
    failed = [_print_one(result, opened, top, bound=bound, alone=len(results) == 1) for result in results]
    if out is not None:
        save(results[0], out)
        say(f"saved to {out}")
    return int(any(failed))


def _print_one(result: xr.Dataset, run: Run, top: int, *, bound: bool, alone: bool) -> bool:
    """Returns whether values are missing."""
    if not alone:
        say(f"\nadapter {result.attrs['adapter']}")
    if bound:
        print_bound(result, top)
    elif alone:
        print_values(result, top)
    if result.sizes["estimator"] > 1:
        print_estimators(result)
    for line in remarks(result, run):
        say(line)
    return print_failed(result) > 0


def _check(
    adapters: Sequence[str], *, out: Path | None, export: Path | None, bound: bool, unit: str, blocks: int, top: int,
    workers: int | None,
) -> None:  # fmt: skip
    """Raise where options don't go together: before the work, not after it."""
    for name, value in (("top", top), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` is {value}; give at least 1")
    if len(set(adapters)) < len(adapters):
        raise ValueError(f"`adapter` is {list(adapters)}; name each once")
    for name, target in (("out", out), ("export", export)):
        if target is not None and len(adapters) > 1:
            raise ValueError(f"`{name}` takes one adapter, and there are {len(adapters)}; call it once for each")
    if bound and unit != "nat":
        raise ValueError(f"`bound` compares nats with nats, and `unit` is {unit!r}; leave it out")
    if bound and blocks != 1:
        raise ValueError(f"`bound` is about whole components, and `blocks` is {blocks}; leave it out")
    if export is not None:
        refuse_npz(export)
    if out is not None:
        refuse_target(out)


def _refuse_unused(**given: object) -> None:
    """Raise where an export is given what only estimates look at."""
    defaults = inspect.signature(mi).parameters
    unused = [f"`{name}`" for name, value in given.items() if value != defaults[name].default]
    if unused:
        raise ValueError(f"`export` writes pairs and estimates nothing; leave {', '.join(unused)} out")


def _refuse_options(
    run: Run, adapters: Sequence[str], *, components: Sequence[str] | None, n_blocks: int, seed: int, k: int = 3,
    norm: Norm = "maximum", estimator: Sequence[str] = ("panel",), unit: Unit = "nat", n_shuffles: int = 0,
    scheduler: str | None, n_workers: int | None, **options: Any,
) -> None:  # fmt: skip
    """Raise what the work would raise of its options, before a bar is drawn."""
    settings = Settings(k=k, norm=norm, seed=seed)
    make_plan(
        run, estimator=estimator, n_blocks=n_blocks, settings=settings, unit=unit, n_shuffles=n_shuffles, **options
    )
    for name in adapters or (None,):
        chosen_sources(run, name, components, n_blocks)


def _results(run: Run, adapters: Sequence[str], options: dict[str, Any]) -> list[xr.Dataset]:
    """One for each adapter named, or that of the only one."""
    with progress_bar("mi") as update:
        return [
            measure_information(
                run, adapter=name, progress=partial(update, title=f"mi {name}" if name else "mi"), **options
            )
            for name in adapters or (None,)
        ]


def _export(run: Run, path: Path, *, adapter: str | None, **options: Any) -> int:
    _refuse_options(run, [adapter] if adapter else [], **options)
    done = {"components": 0}
    with progress_bar("mi --export") as update:

        def progress(n_done: int, n: int) -> None:
            done["components"] = n
            update(n_done, n)

        left_out = export_pairs(run, path, adapter=adapter, progress=progress, **options)
    say(
        f"pairs of {number(done['components'], 'component')} to {path}"
        + (f", but for {len(left_out)}:" if left_out else "")
    )
    for name, why in list(left_out.items())[:MOST_REASONS]:
        say(f"{name}: {why}")
    return int(bool(left_out))
