"""`lorascope mi`."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from lorascope.analyze.results.options import N_SHUFFLES
from lorascope.analyze.results.targets import PAIRS, TABLES, refuse_target
from lorascope.stores.reading.there import require_store

from ..screen import aside, progress_bar, say, write_json


def mi(
    run: str,
    *,
    adapter: str | None = None,
    component: Sequence[str] = (),
    estimator: Sequence[str] = ("panel",),
    against: Literal["lora", "delta"] = "lora",
    tokens: int = 2000,
    axes: int = 8,
    share: float = 0.9,
    k: int = 3,
    unit: Literal["nat", "bit"] = "nat",
    shuffles: int = N_SHUFFLES,
    seed: int = 0,
    bound: bool = False,
    full: bool = False,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    workers: int | None = None,
    scheduler: str | None = None,
    out: Path | None = None,
    export: Path | None = None,
) -> int:
    """Estimate the mutual information of base and LoRA states by component, with errors and verdicts.

    The mutual information of whole states is infinite, because an adapter doesn't change most directions. So the
    command estimates it for a few axes of each side, over tokens, with its null (the value on shuffled data), its error
    and a verdict.

    Parameters
    ----------
    run
        Folder or url of a run that keeps states.
    adapter
        Name of the adapter, where the run holds several.
    component
        A component's path or a pattern, e.g. '*.q_proj'; may be given several times; by default all.
    estimator
        panel: six estimators that are too low but for noise, and the largest of them; or one of ksg1, ksg_copula,
        gaussian, gaussian_copula, cca_ksg, quadratic_cca_ksg, characteristic_ksg, radial_ksg, classifier; noise:
        Gaussian, with noise of four sizes; give it again for another one.
    against
        What base is compared with: lora, or delta alone.
    tokens
        Largest number of tokens to use; they are taken evenly from the samples.
    axes
        The most principal axes for each side.
    share
        Share of a side's variance that its axes should keep, as far as `axes` allows.
    k
        Nearest neighbours.
    unit
        nat or bit.
    shuffles
        Shuffles of samples for the null: p can't be below 1 / (shuffles + 1).
    seed
        Seed of tokens, shuffles, halves and parts.
    bound
        Also print MIUB and the true bound, in nats, to compare with the paper's claim that MIUB is an upper bound.
    full
        Print all components, every estimator, and everything that comes with an estimate.
    as_json
        Print one JSON object and nothing else: `attributes` (how it was measured), `units` (column -> unit), and
        `rows`, one for each component and estimator: `value`, its error `se`, `low` and `high` of its interval, `p`,
        `verdict`, `js` and all that qualifies them; null for what there isn't, "inf" for an infinity.
    workers
        Threads; by default one a processor.
    scheduler
        Address of a running Dask scheduler, such as tcp://host:8786; or threads, processes or synchronous.
    out
        Save all numbers here: a folder ending in .zarr, or a file ending in .nc, .csv, .parquet or .json, with a row
        for each component and estimator.
    export
        Write the projected pairs to this file, ending in .npz, for other software; nothing is estimated.
    """
    if bound and unit != "nat":
        raise ValueError(f"`bound` compares nats with nats, and `unit` is {unit!r}; leave it out")
    if out is not None:
        refuse_target(out, TABLES)  # before the work, not after it
    run = require_store(run)

    from lorascope.analyze.information.measure_information import export_pairs, measure_information
    from lorascope.analyze.results.save_table import json_of, save_table, table_of
    from lorascope.stores import open_run

    from ..information_tables import MOST_NOTES, print_result

    opened = open_run(run)
    options: dict[str, Any] = {
        "adapter": adapter, "components": component or None, "against": against, "n_tokens": tokens, "n_axes": axes,
        "share": share, "seed": seed, "scheduler": scheduler, "n_workers": workers,
    }  # fmt: skip
    if export is not None:
        _refuse_unused(
            out=out, bound=bound, full=full, as_json=as_json, estimator=tuple(estimator), k=k, unit=unit,
            shuffles=shuffles,
        )  # fmt: skip
        refuse_target(export, PAIRS, option="export")
        with progress_bar("mi --export") as update:
            left_out = export_pairs(opened, export, progress=update, **options)
        say(f"pairs to {export}" + (f", but for those of {len(left_out)} components:" if left_out else ""))
        for name, why in list(left_out.items())[:MOST_NOTES]:
            say(f"{name}: {why}")
        return int(bool(left_out))
    names = ("panel", *estimator, "classifier") if bound else tuple(estimator)
    with progress_bar("mi") as update:
        result = measure_information(
            opened, estimator=names, k=k, unit=unit, n_shuffles=shuffles, progress=update, **options
        )
    if as_json:
        write_json(json_of(table_of(result)))
    else:
        print_result(result, opened, bound=bound, full=full)
    if out is not None:
        save_table(result, out)
        say(f"saved to {out}", to=aside if as_json else None)
    return int((result["note"].values != "").any())


def _refuse_unused(**given: object) -> None:
    """Raise where an export is given what only estimates look at."""
    defaults = inspect.signature(mi).parameters
    unused = [f"`{name}`" for name, value in given.items() if value != defaults[name].default]
    if unused:
        raise ValueError(f"`export` writes pairs and estimates nothing; leave {', '.join(unused)} out")
