"""`lorascope miub`."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from lorascope.analyze.results.options import KEYS, RUN_KEYS, Reduction, Unit
from lorascope.analyze.results.targets import RESULTS, TABLES, refuse_target
from lorascope.stores.names import meant
from lorascope.stores.reading.there import require_store

from ..screen import aside, progress_bar, say, write_json
from ..stopped import components_that_remain, saying_what_remains


def miub(
    *runs: str,
    adapter: Sequence[str] = (),
    component: Sequence[str] = (),
    reduction: Reduction = "mean",
    unit: Unit = "nat",
    group_by: str = "",
    over_components: Literal["sum", "mean"] = "sum",
    paper: bool = False,
    full: bool = False,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    workers: int | None = None,
    scheduler: str | None = None,
    out: Path | None = None,
) -> int:
    """MIUB of a run: how far the adapter moves each layer's softmax away from the frozen base's, in nats.

    MIUB is defined by eq. 9 of arXiv 2501.03152, which calls it a mutual information upper bound. It measures the size
    of the adapter's change; it is no bound of a mutual information. Errors are standard errors over samples.

    Parameters
    ----------
    runs
        Folders or urls of one or several runs; several runs are compared with the first, paired by sample.
    adapter
        Name of the adapter, where a run holds several; give it again for another one, to be compared with the first.
    component
        Paths of components or patterns, such as '*.q_proj', to compute MIUB for; all by default.
    reduction
        How a sample's captured tokens are reduced: their mean or sum, the last token, or the mean of the answer's
        tokens.
    unit
        nat, bit, or sqrt: the root of each token's JS in nats.
    group_by
        Print MIUB by these keys, separated by commas: dataset, split, prompt, length, component, layer, kind, rank,
        role, position, text (tokens of one text, those that moved most first); for several runs also run, model,
        adapter, stream, datasets.
    over_components
        How a group's components are combined: their sum or mean.
    paper
        Print MIUB for every reading of the paper's equation, and how it compares in size with the paper's tables.
    full
        Print whole tables, and the difference between js from the store and js measured during capture.
    as_json
        Print one JSON object and nothing else: `results` (one for each run and adapter: `miub`, `miub_se`, and the
        attributes of a result, such as `run`, `adapter`, `units`, `n_samples`), `units` (column -> unit), `rows` (the
        table that would be printed, whole: by component `js` and `js_se`, by groups `miub` and `miub_se`), and `paired`
        (`first`, `second`, `units`, `difference`, `difference_se`, `n_samples`, `p_t`, `p_wilcoxon`; empty for one
        result, and where samples can't be paired, which `not_paired` explains). With --paper: `attributes`, `units`,
        and `rows`, a reading each.
    workers
        Threads; by default one a processor.
    scheduler
        Address of a running Dask scheduler, such as tcp://host:8786, on whose workers it is computed; or threads,
        processes or synchronous on this machine.
    out
        Save token-level js and its reductions here: a folder ending in .zarr, or a NetCDF file ending in .nc. If it is
        stopped, run the same command again to continue. In a file ending in .csv, .parquet or .json, the table that is
        printed, whole.
    """
    n = len(runs) * max(1, len(adapter))
    keys = _keys(group_by, n, several_adapters=len(adapter) > 1)
    if not runs:
        raise ValueError("`runs` is empty; name one run or several")
    is_result = out is not None and out.suffix in RESULTS
    for name, given in (("out` ending in `.zarr` or `.nc", is_result), ("paper", paper)):
        if given and n > 1:
            raise ValueError(f"`{name}` takes one run and one adapter, and there are {n}; call it once for each")
    changed = {"out": out, "group_by": group_by, "over_components": over_components != "sum"}
    changed |= {"reduction": reduction != "mean", "unit": unit != "nat"}
    if paper and any(changed.values()):
        name = next(name for name in changed if changed[name])
        raise ValueError(f"`paper` goes without `{name}`: it shows every reduction and unit, and saves nothing")
    if out is not None:
        refuse_target(out, TABLES)  # before the work, not after it
    target = out if is_result else None
    found = [require_store(run) for run in runs]

    from lorascope.analyze.miub.compare_runs import PAIR_KEYS, side_by_side
    from lorascope.analyze.miub.groups import group_by as group_by_keys
    from lorascope.analyze.miub.miub import miub as miub_of
    from lorascope.analyze.miub.readings import miub_readings
    from lorascope.analyze.results.save_table import json_of, save_table, table_of
    from lorascope.stores import open_run

    from .. import miub_tables

    options: dict[str, Any] = {"components": component or None, "scheduler": scheduler, "n_workers": workers}
    pairs = [(run, name) for run in map(open_run, found) for name in adapter or (None,)]
    if paper:
        with progress_bar("paper") as update:
            readings = miub_readings(pairs[0][0], adapter=pairs[0][1], progress=update, **options)
        if as_json:
            write_json(json_of(table_of(readings)))
        else:
            miub_tables.print_readings(readings)
        return 0
    options |= {"reduction": reduction, "unit": unit, "out": target}
    saying = nullcontext() if target is None else saying_what_remains(partial(components_that_remain, target))
    with saying, progress_bar("miub") as update:
        titles = [f"{Path(run.place.name).name} {name or ''}".rstrip() for run, name in pairs]
        results = [
            miub_of(run, adapter=name, progress=partial(update, title=title), **options)
            for (run, name), title in zip(pairs, titles, strict=True)
        ]
    grouped = side_by_side(results, keys) if n > 1 else None
    if keys and grouped is None:
        grouped = group_by_keys(results[0], keys, over_components=over_components)
    by_component = miub_tables.components_table(results[0])
    table = by_component if grouped is None else miub_tables.groups_table(grouped)
    if as_json:
        write_json(miub_tables.answer(results, table))
    else:
        if n > 1:
            miub_tables.print_pairs(results)
        for result, (run, _) in zip(results, pairs, strict=True):
            miub_tables.print_conclusion(result, run, full=full, name=f"{run.place.name}: " if n > 1 else "")
        inner = [key for key in keys if key != "run"]
        if n > 1 and len(inner) < len(keys) and inner and set(inner) <= set(PAIR_KEYS):
            miub_tables.print_differences(results, table, inner, full=full)
        elif grouped is not None:
            miub_tables.print_groups(table, keys, full=full)
        if n == 1 and (full or not keys):
            miub_tables.print_components(by_component, float(results[0]["miub"]), full=full)
    if out is not None:
        if not is_result:
            save_table(table, out)
        say(f"saved to {out}", to=aside if as_json else None)
    return int(any(result.attrs["n_not_finite"] for result in results))


def _keys(group_by: str, n: int, *, several_adapters: bool) -> tuple[str, ...]:
    """Keys of `group_by`; of several results the one that tells them apart comes first."""
    keys = tuple(key.strip() for key in group_by.split(",") if key.strip())
    allowed = KEYS if n <= 1 else tuple(dict.fromkeys((*RUN_KEYS, *KEYS)))
    for key in keys:
        if key not in allowed:
            words = f"allowed are {', '.join(allowed)}, with commas between{meant(key, allowed)}"
            raise ValueError(f"`group_by` names {key!r}; {words}")
    if len(set(keys)) < len(keys):
        raise ValueError(f"`group_by` is {group_by!r}; name each key once")
    if n > 1 and not set(keys) & set(RUN_KEYS):
        return ("run", *(("adapter",) if several_adapters else ()), *keys)
    return keys
