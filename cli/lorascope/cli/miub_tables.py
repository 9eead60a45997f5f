"""What `lorascope miub` prints: a conclusion, and a table that fits a screen."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import xarray as xr

from lorascope.analyze.miub.compare_runs import paired
from lorascope.analyze.miub.groups import to_dataframe
from lorascope.analyze.miub.miub import misfit
from lorascope.analyze.miub.readings import PRINTED
from lorascope.analyze.miub.reduce import UNITS
from lorascope.analyze.results.format import format_error, format_number, format_percent, in_common_power, run_names
from lorascope.analyze.results.save_table import with_units
from lorascope.stores import Run

from .screen import left_out, print_table, say

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

TOP, MOST_ROWS = 20, 32
"""Rows that are shown of a longer table without `--full`, and the longest table that is shown whole."""


def print_conclusion(result: xr.DataTree, run: Run, *, full: bool, name: str = "") -> None:
    """MIUB of a run with its error, and what it rests on."""
    attrs = result.attrs
    say(
        f"{name}MIUB {format_error(float(result['miub']), float(result['miub_se']))} {attrs['units']} "
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


def components_table(result: xr.DataTree) -> "pd.DataFrame":
    """js of each component, in the run's order."""
    units = result.attrs["units"]
    return with_units(to_dataframe(result), {"js": units, "js_se": units}, result.attrs)


def groups_table(table: xr.Dataset) -> "pd.DataFrame":
    """MIUB of each group that occurs; by the texts of tokens, which have no order of their own, the largest first."""
    units, frame = table.attrs["units"], to_dataframe(table, "group")
    if "text" in frame:
        frame = frame.sort_values("miub", ascending=False, kind="stable", ignore_index=True)
    return with_units(frame, dict.fromkeys(("miub", "miub_se", "miub_sd"), units), table.attrs)


def answer(results: Sequence[xr.DataTree], table: "pd.DataFrame") -> dict[str, Any]:
    """What `lorascope miub --json` prints of results and of the table of their groups or components."""
    tests, why = pairs_of(results)
    numbers = [{"miub": float(one["miub"]), "miub_se": float(one["miub_se"]), **one.attrs} for one in results]
    paired = [{**one.attrs, **{name: one[name].item() for name in one.data_vars}} for one in tests]
    more = {"not_paired": why} if why else {}
    return {"results": numbers, "units": table.attrs["units"], "rows": table, "paired": paired, **more}


def print_components(frame: "pd.DataFrame", total: float, *, full: bool) -> None:
    """The largest components, or all."""
    units, frame = frame.attrs["units"]["js"], frame.sort_values("js", ascending=False, kind="stable")
    shares = [format_percent(js / total) if total > 0 else "-" for js in frame["js"]]
    scale, units = in_common_power(frame["js"], units)
    columns = ["component", f"js ({units})", "share of MIUB"]
    js = map(format_error, scale * frame["js"], scale * frame["js_se"])
    rows = list(zip(frame["component"], js, shares, strict=True))
    n_shown = len(rows) if full else min(TOP, len(rows))
    print_table(f"JS by component, {_counted(n_shown, len(rows)) or f'all {n_shown}'}", columns, rows[:n_shown])


def print_groups(frame: "pd.DataFrame", keys: Sequence[str], *, full: bool) -> None:
    """MIUB by the keys of `group_by`."""
    names = {"n_samples": "samples", "n_tokens": "tokens", "n_components": "components"}
    columns = {name: title for name, title in names.items() if name in frame}
    if "n_runs" in frame:
        columns = {"n_runs": "runs", "miub_sd": "sd of runs"} if (frame["n_runs"] > 1).any() else {}
    shown = frame if full or len(frame) <= MOST_ROWS else frame.nlargest(TOP, "miub")
    scale, units = in_common_power(shown["miub"], frame.attrs["units"]["miub"])
    runs = list(dict.fromkeys(frame["run"])) if "run" in keys else []
    named = dict(zip(runs, run_names(runs), strict=True)) if runs else {}
    rows = [
        # A space is part of a token's text.
        [repr(row[key]) if key == "text" else str(named.get(row[key], row[key])) for key in keys]
        + [format_error(scale * row["miub"], scale * row["miub_se"])]
        + [format_number(scale * row[name]) if name == "miub_sd" else str(int(row[name])) for name in columns]
        for row in shown.to_dict("records")
    ]
    title = ", ".join(filter(None, (f"MIUB by {', '.join(keys)}", _counted(len(shown), len(frame)))))
    print_table(title, [*keys, f"MIUB ({units})", *columns.values()], rows)


def print_differences(
    results: Sequence[xr.DataTree], frame: "pd.DataFrame", keys: Sequence[str], *, full: bool
) -> None:
    """MIUB of each run by keys of components, a column a run, and how the others differ from the first, by sample."""
    runs = list(dict.fromkeys(frame["run"]))
    names = run_names(runs)
    columns = dict(zip(names, (frame[frame["run"] == run] for run in runs), strict=True))
    if not pairs_of(results)[1]:  # else it was said why
        for name, other in zip(names[1:], results[1:], strict=True):
            test = paired(results[0], other, keys)  # of the samples that both have, so that columns may differ by more
            head = f"{name} less {names[0]}, {int(test['n_samples'])} pairs"
            columns[head] = to_dataframe(test, " ".join(keys))
    alike = {"difference": "miub", "difference_se": "miub_se"}
    found = [one.rename(columns=alike).set_index(list(keys))[["miub", "miub_se"]] for one in columns.values()]
    scale, units = in_common_power(frame["miub"], frame.attrs["units"]["miub"])
    shown = found[0].index if full or len(found[0]) <= MOST_ROWS else found[0]["miub"].nlargest(TOP).index
    rows = [
        [*map(str, group if isinstance(group, tuple) else (group,))]
        + [format_error(*(scale * one.reindex([group]).to_numpy()[0])) for one in found]
        for group in shown
    ]
    title = ", ".join(filter(None, (f"MIUB ({units}) by {', '.join(keys)}", _counted(len(shown), len(found[0])))))
    print_table(title, [*keys, *columns], rows)


def _counted(n_shown: int, n: int) -> str:
    """How much of a table is shown; empty for all of it."""
    return "" if n_shown == n else f"the {n_shown} largest of {n} (--full or --out: all)"


def pairs_of(results: Sequence[xr.DataTree]) -> tuple[list[xr.Dataset], str]:
    """How each result differs from the first one, and why that can't be told; one of the two is empty."""
    try:
        return [paired(results[0], other) for other in results[1:]], ""
    except ValueError as error:
        return [], str(error)


def print_pairs(results: Sequence[xr.DataTree]) -> None:
    """How results differ from the first one, paired by sample."""
    tests, why = pairs_of(results)
    if why:
        say(f"not paired: {why}")
    for test in tests:
        p_t, p_ranks = (format_number(float(test[name]), digits=2) for name in ("p_t", "p_wilcoxon"))
        difference = format_error(float(test["difference"]), float(test["difference_se"]))
        say(
            f"{test.attrs['second']} less {test.attrs['first']}: {difference} {test.attrs['units']}, paired by "
            f"{int(test['n_samples'])} samples, p = {p_t} (t), {p_ranks} (Wilcoxon)"
        )


def print_readings(cells: xr.Dataset) -> None:
    """Every reading of the paper's equation beside the paper's numbers."""
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
