"""`lorascope miub`."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import xarray as xr

from lorascope.analyze.compare_runs import RUN_KEYS, paired, side_by_side
from lorascope.analyze.format import format_error, format_number
from lorascope.analyze.groups import KEYS, to_dataframe
from lorascope.analyze.groups import group_by as grouped
from lorascope.analyze.miub import misfit, not_finite
from lorascope.analyze.miub import miub as miub_of
from lorascope.analyze.readings import PRINTED, miub_readings
from lorascope.analyze.reduce import Reduction, Unit
from lorascope.analyze.save import refuse_target
from lorascope.stores import Run, open_run

from ..screen import left_out, print_table, progress_bar, say

__all__ = ["miub"]


def miub(
    *runs: str,
    adapter: Sequence[str] = (),
    reduction: Reduction = "mean",
    unit: Unit = "nat",
    group_by: str = "",
    components: Literal["sum", "mean"] = "sum",
    paper: bool = False,
    top: int = 10,
    workers: int | None = None,
    scheduler: str | None = None,
    out: Path | None = None,
) -> int:
    """MIUB of a run: how far the adapter moves each layer's softmax away from the frozen base's, in nats.

    It is the paper's quantity (arXiv 2501.03152, eq. 9), the size of a perturbation. It bounds no mutual information.
    Errors are standard errors over samples.

    Parameters
    ----------
    runs
        Folders or urls of one run or several; several are put side by side and compared, paired by sample.
    adapter
        Name of the adapter, where a run holds several; give it again for another one, to be compared with the first.
    reduction
        What becomes of a sample's captured tokens at a component: their mean or sum, the last one, or the mean of those
        that are the answer.
    unit
        nat, bit, or sqrt: the root of each token's JS in nats.
    group_by
        Also by these, with commas between: dataset, split, prompt, length, component, layer, kind, rank, role,
        position; for several runs also run, model, adapter, stream, datasets.
    components
        What becomes of the components of a group: their sum or mean.
    paper
        Every reading of the paper's equation side by side, and how it compares in size with the paper's tables.
    top
        How many components to list.
    workers
        Threads; by default one a processor.
    scheduler
        Address of a running Dask scheduler, such as tcp://host:8786, on whose workers it is computed; or threads,
        processes or synchronous on this machine.
    out
        Save token-level js and its reductions here: a folder ending in .zarr, or a NetCDF file ending in .nc. A call
        that was stopped goes on after what it had done.
    """
    given = {"out": out is not None, "paper": paper}
    others = {
        "out": out is not None,
        "group_by": bool(group_by),
        "reduction": reduction != "mean",
        "unit": unit != "nat",
        "components": components != "sum",
    }
    keys = _checked(runs, adapter, group_by, given=given, beside_paper=others, top=top, workers=workers)
    target = None if out is None else refuse_target(out)  # before the work, not after it
    options: dict[str, Any] = {"scheduler": scheduler, "n_workers": workers}
    opened = [open_run(run) for run in runs]
    pairs = [(run, name) for run in opened for name in adapter or (None,)]
    if paper:
        with progress_bar("paper") as update:
            cells = miub_readings(opened[0], adapter=pairs[0][1], progress=update, **options)
        _print_cells(cells)
        return 0
    with progress_bar("miub") as update:
        results = [
            miub_of(
                run,
                adapter=name,
                reduction=reduction,
                unit=unit,
                out=target,
                progress=partial(update, title=_title(run, name)),
                **options,
            )
            for run, name in pairs
        ]
    codes = [
        _print_one(result, run, top if len(results) == 1 else 0)
        for result, (run, _) in zip(results, pairs, strict=True)
    ]
    if len(results) == 1 and keys:
        _print_groups(grouped(results[0], keys, components=components), keys)
    if len(results) > 1:
        _print_groups(side_by_side(results, keys), keys)
        _print_pairs(results)
    if out is not None:
        say(f"saved to {out}")
    return max(codes)


def _checked(
    runs: Sequence[str],
    adapters: Sequence[str],
    group_by: str,
    *,
    given: Mapping[str, bool],
    beside_paper: Mapping[str, bool],
    top: int,
    workers: int | None,
) -> tuple[str, ...]:
    """Keys of `group_by`; raises where options don't go together."""
    if not runs:
        raise ValueError("`runs` is empty; name one run or several")
    for name, value in (("top", top), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` is {value}; give at least 1")
    n = len(runs) * max(1, len(adapters))
    for name, is_given in given.items():
        if is_given and n > 1:
            raise ValueError(f"`{name}` takes one run and one adapter, and there are {n}; call it once for each")
    keys = tuple(key.strip() for key in group_by.split(",") if key.strip())
    allowed = KEYS if n == 1 else tuple(dict.fromkeys((*RUN_KEYS, *KEYS)))
    for key in keys:
        if key not in allowed:
            raise ValueError(f"`group_by` names {key!r}; allowed are {', '.join(allowed)}, with commas between")
    if len(set(keys)) < len(keys):
        raise ValueError(f"`group_by` is {group_by!r}; name each key once")
    if given["paper"] and any(beside_paper.values()):
        name = next(name for name, is_given in beside_paper.items() if is_given)
        raise ValueError(f"`paper` goes without `{name}`: it shows every reduction and unit, and saves nothing")
    if n > 1 and not set(keys) & set(RUN_KEYS):
        return ("run", *(("adapter",) if len(adapters) > 1 else ()), *keys)
    return keys


def _title(run: Run, adapter: str | None) -> str:
    return Path(run.place.name).name + (f" {adapter}" if adapter else "")


def _print_one(result: xr.Dataset, run: Run, top: int) -> int:
    """Returns the exit code: 1 where something isn't finite."""
    if top:
        _print_components(result, top)
    attrs, unit = result.attrs, result.attrs["units"]
    say(
        f"{'MIUB' if top else run.place.name + ': MIUB'} {float(result['miub']):.6g} ± {float(result['miub_se']):.2g} "
        f"{unit} ({attrs['reduction']}; {attrs['n_samples']} samples, {attrs['n_tokens']} tokens, "
        f"{attrs['n_components']} components)"
    )
    for line in _remarks(result, run):
        say(line)
    return _report_not_finite(result, run)


def _print_components(result: xr.Dataset, top: int) -> None:
    frame = to_dataframe(result).nlargest(top, "js")
    total, unit = float(result["miub"]), result.attrs["units"]
    print_table(
        f"JS by component, the {len(frame)} largest of {result.sizes['component']}",
        ["component", f"js ({unit})", "share of MIUB"],
        [
            (row.component, format_error(row.js, row.js_se), f"{row.js / total:.1%}" if total else "-")
            for row in frame.itertuples()
        ],
    )


def _remarks(result: xr.Dataset, run: Run) -> Iterator[str]:
    attrs = result.attrs
    if attrs["n_samples_incomplete"]:
        yield f"{left_out(attrs['n_samples_incomplete'], run)} and are left out"
    if attrs["js_source"] == "capture":
        kept = "no states" if run.states == "none" else "states of some rows only"
        yield f"js is that of the capture itself: the run keeps {kept}, from which it could be computed again"
    elif not attrs["fidelity_n"]:
        yield "fidelity: no token's js was measured during capture, so there is nothing to compare with"
    else:
        yield (
            f"fidelity: js from the store against js during capture differs by {attrs['fidelity_median']:.2g} (median) "
            f"and {attrs['fidelity_max']:.2g} (largest), relative, over {attrs['fidelity_n']} values"
        )
    if text := misfit(result, run):
        yield text


def _print_groups(table: xr.Dataset, keys: Sequence[str]) -> None:
    frame = table.to_dataframe().reset_index()
    of_runs = "n_runs" in frame
    frame = frame[frame["n_runs" if of_runs else "n_samples"] > 0]
    columns = ["n_samples", "n_components"]
    if of_runs:
        columns = ["n_runs", "miub_sd"] if (frame["n_runs"] > 1).any() else []
    names = {"n_samples": "samples", "n_components": "components", "n_runs": "runs", "miub_sd": "sd of runs"}
    print_table(
        f"MIUB by {', '.join(keys)}",
        [*keys, f"MIUB ({table.attrs['units']})", *(names[name] for name in columns)],
        [
            (
                *(str(row[key]) for key in keys),
                format_error(row["miub"], row["miub_se"]),
                *(format_number(row[name]) if name == "miub_sd" else str(int(row[name])) for name in columns),
            )
            for row in frame.to_dict("records")
        ],
    )


def _print_pairs(results: Sequence[xr.Dataset]) -> None:
    try:
        tests = [paired(results[0], other) for other in results[1:]]
    except ValueError as error:
        say(f"not paired: {error}")
        return
    unit = results[0].attrs["units"]
    print_table(
        f"against {tests[0].attrs['first']}, paired by sample",
        ["run", f"difference ({unit})", "p (t)", "p (Wilcoxon)", "samples"],
        [
            (
                test.attrs["second"],
                format_error(float(test["difference"]), float(test["difference_se"])),
                format_number(float(test["p_t"]), digits=2),
                format_number(float(test["p_wilcoxon"]), digits=2),
                str(int(test["n_samples"])),
            )
            for test in tests
        ],
    )


def _print_cells(cells: xr.Dataset) -> None:
    rows = [
        (str(states), str(tokens), cells.sel(states=states, tokens=tokens))
        for states in cells["states"].values
        for tokens in cells["tokens"].values
    ]
    columns = ["against", "tokens", "nat", "bit", "nat^0.5"]
    print_table(
        "MIUB under each reading of the paper's eq. 9, ± standard error over samples",
        columns,
        [
            (
                states,
                tokens,
                *(f"{m:.4g} ± {e:.1g}" for m, e in zip(row["miub"].values, row["miub_se"].values, strict=True)),
            )
            for states, tokens, row in rows
        ],
    )
    print_table(
        "how many times as large the paper's values per component are",
        columns,
        [
            (
                states,
                tokens,
                *(
                    f"{format_number(low, digits=2)} to {format_number(high, digits=2)}"
                    for low, high in zip(row["times_low"].values, row["times_high"].values, strict=True)
                ),
            )
            for states, tokens, row in rows
        ],
    )
    models = "; ".join(f"{name} {low} to {high} over {m} layers" for name, (low, high, m) in PRINTED.items())
    attrs = cells.attrs
    say(
        f"the paper's table 1 has {attrs['printed_low']:.1f} to {attrs['printed_high']:.1f} per component ({models}), "
        f"where a mean over tokens can reach ln 2 = 0.693 nat; this run has {attrs['n_components']} components and "
        f"{attrs['n_tokens']} tokens in {attrs['n_samples']} samples"
    )
    say("size alone can't tell which of these the paper used, and its models and data are others than this run's")


def _report_not_finite(result: xr.Dataset, run: Run) -> int:
    bad = not_finite(result, run) if result.attrs["n_not_finite"] else []
    if not bad:
        return 0
    token, component = bad[0]
    sample = str(run.samples["id"].values[run.tokens["sample"].values[token]])
    say(
        f"{len(bad)} values aren't finite, the first at token {token} (sample {sample!r}, position "
        f"{int(run.tokens['position'].values[token])}) of {component}; what they enter is NaN"
    )
    return 1
