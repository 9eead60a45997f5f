"""`lorascope miub`: MIUB, the Jensen-Shannon divergence (js) of base and adapted outputs, summed over layers."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope import analyze, stores
from lorascope.analyze.results.format import format_error, format_number, format_percent, run_names
from lorascope.analyze.results.options import (
    EXPERT,
    KEYS,
    RESULT_FORMATS,
    RUN_KEYS,
    TABLE_FORMATS,
    Reduction,
    Unit,
    refuse_target,
)
from lorascope.stores.names import suggestion
from lorascope.stores.reading.require_run import require_store

from ..options import AsJson, Components, Scheduler, Workers
from ..screen import (
    aside,
    describe_components,
    describe_incomplete,
    print_frame,
    progress_bar,
    report_when_stopped,
    say,
    write_json,
)

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    import xarray as xr

    from lorascope.stores import Run


def miub(
    *runs: str,
    adapter: Sequence[str] = (),
    component: Components = (),
    reduction: Reduction = "mean",
    unit: Unit = "nat",
    group_by: str = "",
    paper: bool = False,
    full: bool = False,
    as_json: AsJson = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    out: Path | None = None,
) -> int:
    """Compute MIUB of a run: how far the adapter moves each layer's softmax away from the frozen base's, in nats.

    Several runs, or several adapters of one run, are compared with the first, paired by sample. MIUB is eq. 9 of arXiv
    2501.03152; `lorascope mi` estimates the mutual information itself.

    Parameters
    ----------
    runs
        Folders or urls of one or several runs.
    adapter
        Name of the adapter, if a run has several; repeat it to compare others with the first.
    reduction
        What is taken of a sample's tokens: their mean or sum, the last one, or the mean over the answer.
    unit
        nat, bit, or sqrt: the root of each token's JS in nats.
    group_by
        Print MIUB by these keys, separated by commas: dataset, split, prompt, length, component, layer, kind, rank,
        role, position, text (tokens of one text, those that moved most first), and expert (of an adapter on a
        mixture's experts, by layer: share of tokens, the base's share, |delta| / |base|); for several runs, without
        expert, also run, model, adapter, stream, datasets.
    paper
        Print MIUB under every reading of the paper's equation, and its size compared with the paper's tables.
    full
        Print whole tables, and how far js (the divergence of a layer and token) is from that measured during capture.
    as_json
        Print one JSON object and nothing else: `results` (one for each run and adapter: `miub`, `miub_se`, and the
        attributes of a result, such as `run`, `adapter`, `units`, `n_samples`), `units` (column -> unit), `rows` (the
        table that would be printed, whole: by component `js` and `js_se`, by groups `miub` and `miub_se`), and `paired`
        (`first`, `second`, `units`, `difference`, `difference_se`, `n_samples`, `p_t`, `p_wilcoxon`; empty for one
        result, and if samples can't be paired, which `not_paired` explains). With --paper: `attributes`, `units`, and
        `rows`, one per reading.
    out
        Save token-level js and its reductions to a name ending in .zarr or .nc, which the same command continues after
        it was stopped; or the whole printed table to a name ending in .csv, .parquet or .json.
    """
    n = len(runs) * max(1, len(adapter))
    keys = _parse_keys(group_by, n, several_adapters=len(adapter) > 1)
    if not runs:
        raise ValueError("`runs` is empty; name one run or several")
    result_path = out if out is not None and out.suffix in RESULT_FORMATS else None
    single = {
        "--out` ending in `.zarr` or `.nc": result_path is not None,
        "--paper": paper,
        "--group-by expert": EXPERT in keys,
    }
    for name, is_asked in single.items():
        if is_asked and n > 1:
            raise ValueError(f"`{name}` takes one run and one adapter, and there are {n}; call it once for each")
    changed = {"out": out, "group_by": group_by, "reduction": reduction != "mean", "unit": unit != "nat"}
    if paper and any(changed.values()):
        name = next(name for name in changed if changed[name])
        raise ValueError(
            f"`--paper` goes without `--{name.replace('_', '-')}`: it shows every reduction and unit, and saves nothing"
        )
    if out is not None:
        refuse_target(out, TABLE_FORMATS)  # before the work, not after it
    paths = [require_store(run) for run in runs]  # before anything heavy is imported
    pairs = [(run, name) for run in map(stores.open_run, paths) for name in adapter or (None,)]
    options: dict[str, Any] = {"component": component or None, "scheduler": scheduler, "n_workers": workers}
    if paper:
        with progress_bar("paper") as update:
            table = analyze.miub_readings(pairs[0][0], adapter=pairs[0][1], progress=update, **options)
        if as_json:
            from lorascope.analyze.results.save import dataset_to_table, table_to_json_object

            write_json(table_to_json_object(dataset_to_table(table)))
        else:
            _print_readings(table)
        return 0
    options |= {"reduction": reduction, "unit": unit, "out": result_path}
    results = []
    remains = partial(describe_components, result_path) if result_path is not None else str
    with report_when_stopped(remains), progress_bar("miub") as update:
        for run, adapter_name in pairs:
            title = f"{Path(run.place.name).name} {adapter_name or ''}".rstrip()
            results.append(analyze.miub(run, adapter=adapter_name, progress=partial(update, title=title), **options))
    table = _groups_frame(results, keys, pairs[0][0]) if keys else _components_frame(results[0])
    tests: list[xr.Dataset] = []
    why_unpaired = ""
    try:
        tests = [analyze.paired(results[0], other) for other in results[1:]]
    except ValueError as error:
        why_unpaired = str(error)
    if as_json:
        totals = [
            {"miub": float(total["miub"]), "miub_se": float(total["miub_se"]), **total.attrs} for total in results
        ]
        paired = [{**test.attrs, **{name: test[name].item() for name in test.data_vars}} for test in tests]
        more = {"not_paired": why_unpaired} if why_unpaired else {}
        write_json({"results": totals, "units": table.attrs["units"], "rows": table, "paired": paired, **more})
    else:
        _print_tests(tests, why_unpaired)
        for result, (run, _) in zip(results, pairs, strict=True):
            _print_conclusion(result, run, full=full, name=f"{run.place.name}: " if n > 1 else "")
        inner = [key for key in keys if key != "run"]
        if n > 1 and len(inner) < len(keys) and inner and set(inner) <= {"component", "layer", "kind"}:
            _print_differences(results, table, inner, is_paired=not why_unpaired, full=full)
        elif keys:
            _print_groups(table, keys, full=full)
        if n == 1 and (full or not keys):
            _print_components(results[0], full=full)
    if out is not None:
        if result_path is None:
            analyze.save_table(table, out)
        say(f"saved to {out}", to=aside if as_json else None)
    return int(any(result.attrs["n_not_finite"] for result in results))


def _parse_keys(group_by: str, n: int, *, several_adapters: bool) -> tuple[str, ...]:
    """Return the keys in `--group-by`: for `n` > 1 results `run` (and `adapter` if several) first; experts by layer."""
    keys = tuple(key.strip() for key in group_by.split(",") if key.strip())
    allowed = (*(dict.fromkeys((*RUN_KEYS, *KEYS)) if n > 1 else KEYS), EXPERT)
    for key in keys:
        if key not in allowed:
            words = f"allowed are {', '.join(allowed)}, with commas between{suggestion(key, allowed)}"
            raise ValueError(f"`--group-by` names {key!r}; {words}")
    if len(set(keys)) < len(keys):
        raise ValueError(f"`--group-by` is {group_by!r}; name each key once")
    if n > 1 and not set(keys) & set(RUN_KEYS):
        return ("run", *(("adapter",) if several_adapters else ()), *keys)
    return ("layer", *keys) if EXPERT in keys and not {"component", "layer"} & set(keys) else keys


def _components_frame(result: "xr.DataTree") -> "pd.DataFrame":
    """Return a table of js (JS divergence) and its standard error by component, in the run's order."""
    from lorascope.analyze.results.save import with_units

    units = result.attrs["units"]
    return with_units(analyze.to_dataframe(result), {"js": units, "js_se": units}, result.attrs)


def _groups_frame(results: "Sequence[xr.DataTree]", keys: Sequence[str], run: "Run") -> "pd.DataFrame":
    """Return a table of MIUB by group, in the order of the keys; groups by text have the largest first.

    `run` is that of a single result, for its experts.
    """
    from lorascope.analyze.miub.compare_runs import group_runs
    from lorascope.analyze.results.save import with_units

    if EXPERT in keys:
        groups = analyze.experts(run, results[0], keys)
    else:
        groups = group_runs(results, keys) if len(results) > 1 else analyze.group_by(results[0], keys)
    units, frame = groups.attrs["units"], analyze.to_dataframe(groups, "group")
    if "text" in frame:
        frame = frame.sort_values("miub", ascending=False, kind="stable", ignore_index=True)
    return with_units(frame, dict.fromkeys(("miub", "miub_se", "miub_sd"), units), groups.attrs)


def _print_conclusion(result: "xr.DataTree", run: "Run", *, full: bool, name: str = "") -> None:
    """Print a run's MIUB with its error, sample size, and what limits it, such as incomplete samples or NaN."""
    from lorascope.analyze.results.tree import mismatch_warning

    attrs = result.attrs
    say(
        f"{name}MIUB {format_error(float(result['miub']), float(result['miub_se']))} {attrs['units']} "
        f"({attrs['reduction']}; {attrs['n_samples']} samples, {attrs['n_tokens']} tokens, "
        f"{attrs['n_components']} components)"
    )
    if attrs["n_samples_incomplete"]:
        say(f"{describe_incomplete(attrs['n_samples_incomplete'], run)} and are excluded")
    if attrs["js_source"] == "capture":
        stored = "no states" if run.states == "none" else "states of some rows only"
        say(f"js was measured during capture: the run keeps {stored}, so that it can't be computed again")
    if message := mismatch_warning(result, run):
        say(message)
    if attrs["n_not_finite"]:
        token = attrs["not_finite_token"]
        sample = str(run.samples["id"].values[run.tokens["sample"].values[token]])
        say(
            f"{attrs['n_not_finite']} values aren't finite, the first at token {token} (sample {sample!r}, position "
            f"{int(run.tokens['position'].values[token])}) of {attrs['not_finite_component']}; numbers made of them "
            "are NaN"
        )
    if full and attrs["fidelity_n"]:
        say(
            f"fidelity: js from the store against js during capture differs by {attrs['fidelity_median']:.2g} (median) "
            f"and {attrs['fidelity_max']:.2g} (largest), relative, over {attrs['fidelity_n']} values"
        )
    elif full and attrs["js_source"] == "states":
        say("fidelity: no token's js was measured during capture, so there is nothing to compare with")


def _print_tests(tests: "Sequence[xr.Dataset]", why_unpaired: str) -> None:
    """Print the paired difference of each result from the first, or why samples can't be paired."""
    if why_unpaired:
        say(f"not paired: {why_unpaired}")
    for test in tests:
        p_t, p_ranks = (format_number(float(test[name]), digits=2) for name in ("p_t", "p_wilcoxon"))
        difference = format_error(float(test["difference"]), float(test["difference_se"]))
        say(
            f"{test.attrs['second']} minus {test.attrs['first']}: {difference} {test.attrs['units']}, paired by "
            f"{int(test['n_samples'])} samples, p = {p_t} (t), {p_ranks} (Wilcoxon)"
        )


def _print_components(result: "xr.DataTree", *, full: bool) -> None:
    """Print a table of js (JS divergence) by component, the largest first, with each one's share of MIUB."""
    frame, total = _components_frame(result), float(result["miub"])
    shares = [format_percent(js / total) if total > 0 else "-" for js in frame["js"]]
    table = frame[["component", "js", "js_se"]].assign(share=shares).sort_values("js", ascending=False, kind="stable")
    print_frame(table, "JS by component", names={"share": "share of MIUB"}, largest="js", full=full)


def _print_groups(frame: "pd.DataFrame", keys: Sequence[str], *, full: bool) -> None:
    """Print a table of MIUB by the keys of `--group-by`, with errors and counts."""
    counts = ["share", "base_share", "gained", "delta_ratio", "n_samples", "n_tokens", "n_components"]
    if "n_runs" in frame:
        counts = ["n_runs", "miub_sd"] if (frame["n_runs"] > 1).any() else []
    columns = [*keys, "miub", "miub_se", *(name for name in counts if name in frame)]
    shown = frame[columns].copy()
    if "run" in keys:
        runs = list(dict.fromkeys(frame["run"]))
        shown["run"] = frame["run"].map(dict(zip(runs, run_names(runs), strict=True)))
    if "text" in keys:
        shown["text"] = frame["text"].map(repr)  # shows spaces
    names = {"miub": "MIUB", "miub_sd": "sd of runs", "base_share": "base's share", "delta_ratio": "|delta| / |base|"}
    names |= {name: name[2:] for name in counts if name[:2] == "n_"}
    print_frame(shown, f"MIUB by {', '.join(keys)}", names=names, largest="miub", full=full)


def _print_differences(
    results: "Sequence[xr.DataTree]", frame: "pd.DataFrame", keys: Sequence[str], *, is_paired: bool, full: bool
) -> None:
    """Print a table of MIUB by `keys`: one column per run, then paired differences from the first run."""
    import pandas as pd

    runs = list(dict.fromkeys(frame["run"]))
    heads, index = run_names(runs), list(keys)
    parts = [frame[frame["run"] == run].set_index(index)[["miub", "miub_se"]] for run in runs]
    for name, other in zip(heads[1:], results[1:], strict=True) if is_paired else ():
        test = analyze.paired(results[0], other, keys)  # over shared samples alone: columns may differ by more
        heads.append(f"{name} minus {heads[0]}, {int(test['n_samples'])} pairs")
        parts.append(analyze.to_dataframe(test, " ".join(keys)).set_index(index)[["difference", "difference_se"]])
    columns = [str(number) for number in range(len(parts))]
    whole = pd.concat(
        [part.set_axis([name, f"{name}_se"], axis=1) for name, part in zip(columns, parts, strict=True)], axis=1
    )
    units = dict.fromkeys(columns, frame.attrs["units"]["miub"])
    print_frame(
        whole.reset_index(), f"MIUB by {', '.join(keys)}", units=units, names=dict(zip(columns, heads, strict=True)),
        largest="0", full=full,
    )  # fmt: skip


def _print_readings(cells: "xr.Dataset") -> None:
    """Print MIUB under every reading of its formula (the paper's eq. 9), compared with the paper's numbers."""
    from lorascope.analyze.miub.miub import PRINTED_MIUB
    from lorascope.analyze.miub.reduce import UNITS

    attrs = cells.attrs
    models = "; ".join(f"{name} {low} to {high} over {m} layers" for name, (low, high, m) in PRINTED_MIUB.items())
    say(
        "size alone can't tell which reading of eq. 9 the paper used, and its models and data are others than this "
        f"run's: its table 1 has {attrs['printed_low']:.1f} to {attrs['printed_high']:.1f} per component ({models}), "
        f"where a mean over tokens can reach ln 2 = 0.693 nat; this run has {attrs['n_components']} components and "
        f"{attrs['n_tokens']} tokens in {attrs['n_samples']} samples"
    )
    table = cells.to_dataframe().reset_index()
    table["unit"] = [UNITS[unit].symbol for unit in table["unit"]]
    ratios = [(format_number(low, digits=2), format_number(high, digits=2))
              for low, high in zip(table["times_low"], table["times_high"], strict=True)]  # fmt: skip
    table["times as large"] = [" to ".join(ratio) for ratio in ratios]
    print_frame(
        table[["states", "tokens", "unit", "miub", "miub_se", "times as large"]],
        "MIUB under each reading of eq. 9, and how many times as large the paper's values per component are",
        units={},
        names={"states": "against", "miub": "MIUB"},
    )
