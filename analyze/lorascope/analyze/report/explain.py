"""Compute the numbers behind the report: replies, changed predictions, what matters, directions, where it acts."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import dask.config
import dask.threaded
import xarray as xr

from lorascope.analyze.results.stored import COMPUTED, results_folder, stored_or_computed
from lorascope.stores import Run, StoreError
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.names import Patterns
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike
from lorascope.stores.threads import limiting_blas_to_one_thread


class Explanation(NamedTuple):
    """Numbers behind a run's report, as datasets; `reasons` says why a field is None."""

    qualified: xr.DataTree
    """Result of `qualify` without js by token and component."""
    ablation: xr.Dataset | None
    """Result of `ablation_by_part`."""
    directions: xr.Dataset | None
    """Result of `directions_by_component`, over tokens after position 0 if there are any."""
    changes: xr.DataTree | None
    """Result of `changes`."""
    importance: xr.DataTree | None
    """Result of `importance`."""
    replies: xr.Dataset | None
    """Result of `reply_words`."""
    reasons: dict[str, str]
    """Name of a field that is None -> why, as the end of a sentence that begins with "Can't tell, since"."""


def explain(
    run: RunLike,
    *,
    adapter: str | None = None,
    component: Patterns = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Compute all that a run shows about what its adapter learned, each number with its error or null distribution.

    Results are stored next to the run, in `run.zarr.results`, and read from there as long as its digests don't change
    (see `stored_or_computed`); they have the attribute `computed` then, and `stored_note` says so in a sentence.

    Parameters
    ----------
    run, adapter, component, n_workers, progress
        As for `miub`. If `component` is given, there is no ablation and no importance. Every step counts its progress
        from 0 again.

    Raises
    ------
    StoreError
        If no sample is wholly committed, the adapter changes no component, or a chunk is broken.
    """
    run = open_as_written(run)
    options: dict[str, Any] = {"adapter": adapter, "component": component, "n_workers": n_workers, "progress": progress}
    return complete_explanation(run, qualified_numbers(run, **options), **options)


def complete_explanation(
    run: Run, qualified: xr.DataTree, *, adapter: str | None, component: str | Sequence[str] | None, **options: Any
) -> Explanation:
    """Compute all of `explain` that follows from the result of `qualified_numbers`, whose options it takes."""
    options["paths"] = qualified.dataset["component"].values.tolist()
    some = "it is only known of all components, and some were chosen"
    reasons = {} if component is None else dict.fromkeys(("ablation", "importance"), some)
    computed = dict[str, Any].fromkeys(("ablation", "directions", "changes", "importance", "replies"))
    for name in computed:
        try:
            if name not in reasons:
                compute = partial(_compute, name, run, adapter, **options)
                computed[name] = stored_or_computed(run, name, compute, adapter=adapter, options=component)
        except StoreError as error:
            reasons[name] = str(error).replace(repr(run.place.name), "the run")
    if computed["ablation"] is None:
        reasons.setdefault("ablation", "no sample was wholly ablated yet; capture more of the run")
    return Explanation(qualified, **computed, reasons=reasons)


def qualified_numbers(
    run: Run, *, adapter: str | None = None, component: str | Sequence[str] | None = None, **options: Any
) -> xr.DataTree:
    """Return the result of `qualify` without js by token and component, read from its file if it was stored."""

    def compute() -> xr.DataTree:
        """Return it from the run's rows."""
        from lorascope.analyze.miub.qualify import qualify  # as in `_compute`

        result = qualify(run, adapter=adapter, component=component, **options)
        del result["tokens"]["js"]  # nearly all of its size
        return result

    return stored_or_computed(run, "qualified", compute, adapter=adapter, options=component)


def stored_note(run: Run, results: Sequence[xr.Dataset | xr.DataTree | None]) -> str:
    """Return a sentence (plain text) on results that were read from files, and what wasn't checked; else no text."""
    times = [result.attrs.get(COMPUTED) for result in results if result is not None]
    folder = results_folder(run)
    if folder is None or not any(times):
        return ""
    what = "These numbers" if all(times) else "Some of these numbers"
    return (
        f"{what} were computed earlier ({min(filter(None, times))}) and read from `{folder.name}`: the run has the "
        "same files as then, by name, size and time of change. Its rows weren't read again; `lorascope verify` reads "
        "them, and without that folder all is computed again."
    )


def _compute(name: str, run: Run, adapter: str | None, **options: Any) -> Any:
    """Compute a field of `Explanation`; `options` are those of `_directions`."""
    # Imported here since they take a second with numba and SciPy, which stored results don't need.
    from lorascope.analyze.changes.changes import changes
    from lorascope.analyze.changes.reply_words import reply_words
    from lorascope.analyze.importance.compare_measures import ablation_by_part
    from lorascope.analyze.importance.importance import importance

    functions: dict[str, Any] = {"ablation": ablation_by_part, "directions": partial(_directions, **options)}
    functions |= {"changes": changes, "importance": importance, "replies": reply_words}
    # A name would make Dask import `distributed`, half a second; threads of BLAS would wait for each other in loops.
    with dask.config.set(scheduler=dask.threaded.get), limiting_blas_to_one_thread():
        return functions[name](run, adapter=adapter)


def _directions(run: Run, adapter: str | None, paths: Sequence[str], **options: Any) -> xr.Dataset:
    """Return the directions of components, over tokens after position 0; raise StoreError if the run can't give any."""
    from lorascope.analyze.directions.drivers import directions_by_component

    if not run.has_states:
        raise StoreError("the run stores no states, the outputs of modules; capture it with `--states all`")
    if not (run.committed & run.with_states).any():
        raise StoreError("no token with states is committed yet; capture more of the run")
    if run.stream == "pair":
        raise StoreError("stream 'pair' stores changes as a whole, not in low-rank form; capture stream 'adapted'")
    sources = [source for path in paths if (source := run.source(path, adapter)).delta.lora_B is not None]
    if not sources:
        raise StoreError(
            "no module's change is stored in low-rank form (as with DoRA), which directions and ranks need"
        )
    # A model's attention sink is at position 0, where some components' delta is far larger than everywhere else.
    position = run.read_static("tokens/position")[(run.committed & run.with_states).values]
    tokens = "from:1" if position.any() and not position.all() else "all"
    return directions_by_component(run, sources, tokens, **options)
