"""`lorascope miub`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import xarray as xr
from cyclopts import Parameter

from lorascope.analyze.compare_runs import RUN_KEYS, paired, side_by_side
from lorascope.analyze.format import format_error, format_number
from lorascope.analyze.groups import KEYS, to_dataframe
from lorascope.analyze.groups import group_by as grouped
from lorascope.analyze.miub import misfit
from lorascope.analyze.miub import miub as miub_of
from lorascope.analyze.readings import PRINTED, miub_readings
from lorascope.analyze.reduce import UNITS, Reduction, Unit
from lorascope.analyze.save import refuse_target
from lorascope.stores import Run, open_run

from ..screen import left_out, print_table, progress_bar, say

TOP, MOST_ROWS = 10, 32
"""Rows that are shown of a longer table without `--full`, and the longest table that is shown whole."""


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
    n_workers: Annotated[int | None, Parameter(name="--workers")] = None,
    scheduler: str | None = None,
    out: Path | None = None,
) -> int:
    """MIUB of a run: how far the adapter moves each layer's softmax away from the frozen base's, in nats.

    It is the paper's quantity (arXiv 2501.03152, eq. 9, there called a mutual information upper bound), the size of a
    perturbation. It bounds no mutual information. Errors are standard errors over samples.

    Parameters
    ----------
    runs
        Folders or urls of one run or several; several are put side by side and compared, paired by sample.
    adapter
        Name of the adapter, where a run holds several; give it again for another one, to be compared with the first.
    component
        Paths of components or patterns, such as '*.q_proj', that MIUB is to be of; all by default.
    reduction
        What becomes of a sample's captured tokens at a component: their mean or sum, the last one, or the mean of those
        that are the answer.
    unit
        nat, bit, or sqrt: the root of each token's JS in nats.
    group_by
        Take it apart by these, with commas between: dataset, split, prompt, length, component, layer, kind, rank, role,
        position; for several runs also run, model, adapter, stream, datasets.
    over_components
        What becomes of the components of a group: their sum or mean.
    paper
        Every reading of the paper's equation side by side, and how it compares in size with the paper's tables.
    full
        Tables whole, and how far js from the store lies from js during capture.
    n_workers
        Threads; by default one a processor.
    scheduler
        Address of a running Dask scheduler, such as tcp://host:8786, on whose workers it is computed; or threads,
        processes or synchronous on this machine.
    out
        Save token-level js and its reductions here: a folder ending in .zarr, or a NetCDF file ending in .nc. A call
        that was stopped goes on after what it had done.
    """
    n = len(runs) * max(1, len(adapter))
    keys = _keys(group_by, n, several_adapters=len(adapter) > 1)
    if not runs:
        raise ValueError("`runs` is empty; name one run or several")
    for name, given in (("out", out is not None), ("paper", paper)):
        if given and n > 1:
            raise ValueError(f"`{name}` takes one run and one adapter, and there are {n}; call it once for each")
    changed = {"out": out, "group_by": group_by, "over_components": over_components != "sum"}
    changed |= {"reduction": reduction != "mean", "unit": unit != "nat"}
    if paper and any(changed.values()):
        name = next(name for name in changed if changed[name])
        raise ValueError(f"`paper` goes without `{name}`: it shows every reduction and unit, and saves nothing")
    target = None if out is None else refuse_target(out)  # before the work, not after it
    options: dict[str, Any] = {"components": component or None, "scheduler": scheduler, "n_workers": n_workers}
    pairs = [(run, name) for run in map(open_run, runs) for name in adapter or (None,)]
    if paper:
        with progress_bar("paper") as update:
            _print_readings(miub_readings(pairs[0][0], adapter=pairs[0][1], progress=update, **options))
        return 0
    options |= {"reduction": reduction, "unit": unit, "out": target}
    with progress_bar("miub") as update:
        titles = [f"{Path(run.place.name).name} {name or ''}".rstrip() for run, name in pairs]
        results = [
            miub_of(run, adapter=name, progress=partial(update, title=title), **options)
            for (run, name), title in zip(pairs, titles, strict=True)
        ]
    if len(results) == 1:
        _print_conclusion(results[0], pairs[0][0], full=full)
        if keys:
            _print_groups(grouped(results[0], keys, over_components=over_components), keys, full=full)
        if full or not keys:
            _print_components(results[0], full=full)
    else:
        _print_pairs(results)
        for result, (run, _) in zip(results, pairs, strict=True):
            _print_conclusion(result, run, full=full, name=f"{run.place.name}: ")
        _print_groups(side_by_side(results, keys), keys, full=full)
    if out is not None:
        say(f"saved to {out}")
    return int(any(result.attrs["n_not_finite"] for result in results))


def _keys(group_by: str, n: int, *, several_adapters: bool) -> tuple[str, ...]:
    """Keys of `group_by`; of several results the one that tells them apart comes first."""
    keys = tuple(key.strip() for key in group_by.split(",") if key.strip())
    allowed = KEYS if n <= 1 else tuple(dict.fromkeys((*RUN_KEYS, *KEYS)))
    for key in keys:
        if key not in allowed:
            raise ValueError(f"`group_by` names {key!r}; allowed are {', '.join(allowed)}, with commas between")
    if len(set(keys)) < len(keys):
        raise ValueError(f"`group_by` is {group_by!r}; name each key once")
    if n > 1 and not set(keys) & set(RUN_KEYS):
        return ("run", *(("adapter",) if several_adapters else ()), *keys)
    return keys


def _print_conclusion(result: xr.Dataset, run: Run, *, full: bool, name: str = "") -> None:
    attrs = result.attrs
    say(
        f"{name}MIUB {float(result['miub']):.6g} ± {float(result['miub_se']):.2g} {attrs['units']} "
        f"({attrs['reduction']}; {attrs['n_samples']} samples, {attrs['n_tokens']} tokens, "
        f"{attrs['n_components']} components)"
    )
    if attrs["n_samples_incomplete"]:
        say(f"{left_out(attrs['n_samples_incomplete'], run)} and are left out")
    if attrs["js_source"] == "capture":
        kept = "no states" if run.states == "none" else "states of some rows only"
        say(f"js is that of the capture itself: the run keeps {kept}, from which it could be computed again")
    if text := misfit(result, run):
        say(text)
    if attrs["n_not_finite"]:
        token = attrs["not_finite_token"]
        sample = str(run.samples["id"].values[run.tokens["sample"].values[token]])
        say(
            f"{attrs['n_not_finite']} values aren't finite, the first at token {token} (sample {sample!r}, position "
            f"{int(run.tokens['position'].values[token])}) of {attrs['not_finite_component']}; what they enter is NaN"
        )
    if full and attrs["fidelity_n"]:
        say(
            f"fidelity: js from the store against js during capture differs by {attrs['fidelity_median']:.2g} (median) "
            f"and {attrs['fidelity_max']:.2g} (largest), relative, over {attrs['fidelity_n']} values"
        )
    elif full and attrs["js_source"] == "states":
        say("fidelity: no token's js was measured during capture, so there is nothing to compare with")


def _print_components(result: xr.Dataset, *, full: bool) -> None:
    frame, total = to_dataframe(result).sort_values("js", ascending=False, kind="stable"), float(result["miub"])
    shares = [f"{js / total:.1%}" if total > 0 else "-" for js in frame["js"]]
    columns = ["component", f"js ({result.attrs['units']})", "share of MIUB"]
    rows = list(zip(frame["component"], map(format_error, frame["js"], frame["js_se"]), shares, strict=True))
    n_shown = len(rows) if full else min(TOP, len(rows))
    print_table(f"JS by component, {_counted(n_shown, len(rows)) or f'all {n_shown}'}", columns, rows[:n_shown])


def _print_groups(table: xr.Dataset, keys: Sequence[str], *, full: bool) -> None:
    frame = to_dataframe(table, "group")
    columns = {"n_samples": "samples", "n_components": "components"}
    if "n_runs" in frame:
        columns = {"n_runs": "runs", "miub_sd": "sd of runs"} if (frame["n_runs"] > 1).any() else {}
    shown = frame if full or len(frame) <= MOST_ROWS else frame.nlargest(TOP, "miub")
    rows = [
        [*(str(row[key]) for key in keys), format_error(row["miub"], row["miub_se"])]
        + [format_number(row[name]) if name == "miub_sd" else str(int(row[name])) for name in columns]
        for row in shown.to_dict("records")
    ]
    title = ", ".join(filter(None, (f"MIUB by {', '.join(keys)}", _counted(len(shown), len(frame)))))
    print_table(title, [*keys, f"MIUB ({table.attrs['units']})", *columns.values()], rows)


def _counted(n_shown: int, n: int) -> str:
    """How much of a table is shown; empty for all of it."""
    return "" if n_shown == n else f"the {n_shown} largest of {n} (--full: all)"


def _print_pairs(results: Sequence[xr.Dataset]) -> None:
    try:
        tests = [paired(results[0], other) for other in results[1:]]
    except ValueError as error:
        say(f"not paired: {error}")
        return
    for test in tests:
        p_t, p_ranks = (format_number(float(test[name]), digits=2) for name in ("p_t", "p_wilcoxon"))
        difference = format_error(float(test["difference"]), float(test["difference_se"]))
        say(
            f"{test.attrs['second']} less {test.attrs['first']}: {difference} {test.attrs['units']}, paired by "
            f"{int(test['n_samples'])} samples, p = {p_t} (t), {p_ranks} (Wilcoxon)"
        )


def _print_readings(cells: xr.Dataset) -> None:
    attrs = cells.attrs
    models = "; ".join(f"{name} {low} to {high} over {m} layers" for name, (low, high, m) in PRINTED.items())
    say(
        "size alone can't tell which reading of eq. 9 the paper used, and its models and data are others than this "
        f"run's: its table 1 has {attrs['printed_low']:.1f} to {attrs['printed_high']:.1f} per component ({models}), "
        f"where a mean over tokens can reach ln 2 = 0.693 nat; this run has {attrs['n_components']} components and "
        f"{attrs['n_tokens']} tokens in {attrs['n_samples']} samples"
    )
    print_table(
        "MIUB under each reading of eq. 9, and how many times as large the paper's values per component are",
        ["against", "tokens", "unit", "MIUB", "times as large"],
        [
            (
                *(one.states, one.tokens, UNITS[one.unit].symbol, f"{one.miub:.4g} ± {one.miub_se:.1g}"),
                f"{format_number(one.times_low, digits=2)} to {format_number(one.times_high, digits=2)}",
            )
            for one in cells.to_dataframe().reset_index().itertuples()
        ],
    )
