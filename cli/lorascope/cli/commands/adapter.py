"""`lorascope adapter`."""

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lorascope.analyze.adapters.factors import read_settings, read_tensors
from lorascope.analyze.results.format import format_change, format_error, format_number, format_percent, run_names
from lorascope.analyze.results.options import RESULT_FORMATS, TABLE_FORMATS, refuse_target
from lorascope.stores.names import matching_indices

from ..merged import print_merged
from ..options import AsJson, Components
from ..screen import aside, print_frame, progress_bar, quiet_libraries, say, write_json

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    import xarray as xr


def adapter(
    *paths: Path,
    component: Components = (),
    full: bool = False,
    as_json: AsJson = False,
    out: Path | None = None,
    truncate: str | None = None,
    run: str | None = None,
    model: str | None = None,
    data: tuple[str, ...] = (),
    limit: int | None = None,
    merged: Path | None = None,
    check_merge: Literal["float32", "float16", "bfloat16", "int8"] | None = None,
) -> int:
    """Compare LoRA adapters by their weights: size and rank of each layer's change.

    This needs no data, model or torch. With --truncate, a smaller adapter is written instead. With --merged or
    --check-merge, a merged model's weights are compared with the adapter; the exit code is then 0 if it is the adapter,
    1 if not, and 3 if some of it couldn't be compared.

    Parameters
    ----------
    paths
        Folders with `adapter_config.json` and `adapter_model.safetensors`.
    full
        Also print every component, in the model's order, and its experts with the largest and the smallest norm.
    as_json
        Print one JSON object and nothing else. With `--merged` and `--check-merge`: `attributes`, `rows` (by component)
        and `others`, as `compare_merged` returns them; else `adapters`, a list of `attributes` (`adapter`, its folder;
        `scaling`, `n_parameters`, `remarks`, `config`, ...), `total_norm`, and `rows`, one for each component: `rank`,
        `n_experts`, `scaling`, `dtype`, `frobenius_norm`, `effective_rank`, `stable_rank`, `share`; and `experts`, rows
        of the last four by component and `expert`, empty without LoRA on experts.
    out
        Save the numbers here: of one adapter in .zarr or .nc, of all in .csv, .parquet or .json. With `--truncate`, the
        folder of the new adapter.
    truncate
        Write a smaller adapter that keeps this share, such as 99% or 0.99, of what its directions are worth to
        predictions; takes one adapter.
    run
        With `--truncate`: a run of this adapter that was captured with `--importance`.
    model
        The base model (a hub id, a local folder, or a .gguf file). With `--truncate`, both adapters are measured on
        it; with `--merged` and `--check-merge`, the adapter is merged into it. Needs torch.
    data
        With `--truncate`: data to measure on, in the formats of docs/data.md, which the adapter wasn't trained on.
    limit
        Number of items from the start of each file to measure on; by default all.
    merged
        Folder with a merged model: compare each layer with PEFT's merge of the adapter into `--model`.
    check_merge
        Foretell, without a merged model, what rounding takes of the change if PEFT merges it into `--model` in this
        type; `int8` is that of bitsandbytes.
    """
    if not paths:
        raise ValueError("`paths` is empty; give one adapter folder or several")
    if merged is not None or check_merge is not None:
        others = (component, out, truncate, run, data, limit)
        if len(paths) > 1 or model is None or None not in (merged, check_merge) or any(others):
            raise ValueError(
                "`--merged FOLDER` or `--check-merge TYPE` takes one adapter, `--model` with its base, and otherwise "
                "only `--full` and `--json`"
            )
        return print_merged(paths[0], model, merged, check_merge, full=full, as_json=as_json)
    if truncate is not None:
        if len(paths) > 1 or component or full or as_json:
            raise ValueError(
                "`--truncate` takes one adapter, and neither `--component`, `--full` nor `--json`; leave them out"
            )
        _truncate(paths[0], out, truncate, run, model, data, limit)
        return 0
    if run is not None or model is not None or data or limit is not None:
        raise ValueError(
            "`--run`, `--model`, `--data` and `--limit` go with `--truncate`, such as 99%, and `--model` also with "
            "`--merged` and `--check-merge`; give one of these too"
        )
    if out is not None:
        if len(paths) > 1 and out.suffix in RESULT_FORMATS:
            raise ValueError(
                f"`--out` ending in `.zarr` or `.nc` takes one adapter of the {len(paths)}; call it for each alone"
            )
        refuse_target(out, TABLE_FORMATS)  # before the work, not after it
    for path in paths:
        read_settings(path)
        read_tensors(path)

    import pandas as pd

    from lorascope.analyze.adapters.adapter import measure_weights
    from lorascope.analyze.results.save import dataset_to_table, save_table

    with progress_bar("adapter") as update:
        measured = [measure_weights(path, progress=partial(update, title=path.name)) for path in paths]
    reports = [report for report, _ in measured]
    names = [report["component"].values.tolist() for report in reports]
    every = list(dict.fromkeys(name for paths in names for name in paths))
    chosen = {
        every[place] for place in matching_indices(every, component or None, of="components that the adapters change")
    }
    reports = [
        report.isel(component=[path in chosen for path in paths]) for report, paths in zip(reports, names, strict=True)
    ]
    frames = [dataset_to_table(report.drop_vars("total_norm")) for report in reports]
    by_expert = [dataset_to_table(experts).dropna(subset="frobenius_norm") for _, experts in measured]
    by_expert = [rows[rows["component"].isin(chosen)] for rows in by_expert]
    labels = run_names([str(path.resolve()) for path in paths])
    if as_json:
        texts = [{name: json.loads(report.attrs[name]) for name in ("remarks", "config")} for report in reports]
        answers = [
            {"attributes": {**report.attrs, **text}, "total_norm": float(report["total_norm"]), "rows": frame}
            | {"experts": experts}
            for report, text, frame, experts in zip(reports, texts, frames, by_expert, strict=True)
        ]
        write_json({"adapters": answers})
    else:
        _print_adapters(paths, labels, reports, frames, [*map(len, names)], full=full)
        for label, experts in zip(labels, by_expert, strict=True):
            if full and len(experts):
                _print_experts(label, experts)
    if out is not None:
        whole = pd.concat([frame.assign(adapter=label) for frame, label in zip(frames, labels, strict=True)])
        save_table(reports[0] if len(reports) == 1 else whole, out)
        say(f"saved to {out}", to=aside if as_json else None)
    return 0


def _print_adapters(
    paths: Sequence[Path], labels: Sequence[str], reports: Sequence["xr.Dataset"], frames: Sequence["pd.DataFrame"],
    counts: Sequence[int], *, full: bool,
) -> None:  # fmt: skip
    """Print a line on each adapter, and tables of norm and rank by kind of layer (with `full`, by component).

    `frames` have the chosen components; `counts` has each adapter's number of all.
    """
    import pandas as pd

    for path, report, frame, n in zip(paths, reports, frames, counts, strict=True):
        if frame.empty:
            say(f"{path}: changes none of these components")
            continue
        attrs = report.attrs
        chosen, whole = (f" of {n}", "; the whole adapter:") if len(frame) < n else ("", ",")
        say(
            f"{path}: {len(frame)}{chosen} components, rank {_format_range(frame['rank'])}, scaling "
            f"{_format_range(frame['scaling'])} ({attrs['scaling']}){whole} {attrs['n_parameters']:,} parameters in "
            f"{', '.join(sorted(frame['dtype'].unique()))}, total norm "
            f"{format_number(float(report['total_norm']), digits=4)}"
        )
        for remark in json.loads(attrs["remarks"]):
            say(f"  {remark}")
    for key in ("kind", "component") if full else ("kind",):
        if len(reports) == 1:
            title = f"Norm of s B A by {key}, its effective and stable rank{' (medians)' if key == 'kind' else ''}"
            print_frame([_table_row(key, str(name), part) for name, part in frames[0].groupby(key, sort=False)], title)
            continue
        for column, title in [("frobenius_norm", "Norm of s B A"), ("effective_rank", "Effective rank")][: 1 + full]:
            medians = [frame.groupby(key, sort=False)[column].median() for frame in frames]
            print_frame(
                pd.concat(medians, axis=1, keys=map(str, range(len(frames)))).reset_index(),
                f"{title} by {key}",
                names={str(number): label for number, label in enumerate(labels)},
            )
    if len(reports) == 1:
        say("share: part of the squared total norm")


def _print_experts(label: str, experts: "pd.DataFrame") -> None:
    """Print a table of the experts of each component whose change has the largest and the smallest norm."""
    rows = []
    for name, norms in experts.set_index("expert").groupby("component", sort=False)["frobenius_norm"]:
        extremes = {"largest": norms.idxmax(), "smallest": norms.idxmin()}
        texts = {key: f"{format_number(norms[expert])} (expert {expert})" for key, expert in extremes.items()}
        rows.append({"component": name, "n": len(norms), **texts})
    print_frame(rows, f"Experts with the largest and the smallest norm of s B A in {label}")


def _table_row(key: str, name: str, part: "pd.DataFrame") -> dict[str, Any]:
    """Return a table's row (column -> value): medians of norm and rank over layers' changes, and their share."""
    norms, ranks = part["frobenius_norm"], part["rank"] * part["n_experts"]
    return {
        key: name,
        "n": len(part),
        "norm": norms.median(),
        "range": f"{format_number(norms.min())} to {format_number(norms.max())}" if len(norms) > 1 else "",
        "effective": f"{format_number(part['effective_rank'].median())} of {_format_range(ranks)}",
        "stable": part["stable_rank"].median(),
        "share": format_percent(float(part["share"].sum(min_count=1))),
    }


def _format_range(values: "pd.Series") -> str:
    """Return the least and the largest value as text, such as `2 to 8`, or one number if all are equal."""
    least, most = f"{values.min():.4g}", f"{values.max():.4g}"
    return least if least == most else f"{least} to {most}"


def _truncate(
    path: Path, out: Path | None, text: str, run: str | None, model: str | None, data: Sequence[str], limit: int | None
) -> None:
    """Write an adapter of lower rank that keeps the share `text` of the importance that a run has.

    With a model and data, measure and print what it loses.
    """
    number = re.fullmatch(r"(\d*\.?\d+) ?(%?)", text.strip())
    share = float(number[1]) / (100 if number[2] else 1) if number else 0.0
    if not 0 < share <= 1:
        raise ValueError(f"`--truncate` is {text!r}; give a share above 0 and at most 1, such as 99% or 0.99")
    if out is None or out.suffix in TABLE_FORMATS:
        raise ValueError(f"`--out` is {out and str(out)!r}; with `--truncate` it names the new adapter's folder")
    if run is None:
        raise ValueError(
            "`--run` is missing; with `--truncate` it's a run of this adapter, captured with `--importance`"
        )
    if (model is None) != (not data) or (limit is not None and (limit < 1 or not data)):
        raise ValueError(
            "`--model` and `--data` go together, and a `--limit` of at least 1 with them; give both or none"
        )
    if model is not None:
        from lorascope.capture.models.gguf import describe_loading
        from lorascope.capture.models.source import locate_model
        from lorascope.capture.samples.sources import require_data

        for place in data:
            require_data(place)
        locate_model(model)
        from lorascope.capture import compare_adapters, load_model, read_items  # fails without torch, before writing
    from lorascope.analyze.importance.truncate import truncate_adapter

    was_there = out.exists()
    truncated = truncate_adapter(path, out, run=run, share=share)
    before, after = (truncated.attrs[name] for name in ("n_parameters_before", "n_parameters"))
    rows = [
        {
            "kind": kind,
            "n": len(part),
            "before": f"{part['rank_before'].median():g}",
            "rank": f"{part['rank'].median():g}",
            "range": f"{part['rank'].min()} to {part['rank'].max()}",
        }
        for kind, part in truncated[["rank_before", "rank"]].to_dataframe().groupby("kind", sort=False)
    ]
    print_frame(rows, f"Ranks (medians) that keep {100 * share:g} % of the importance for predictions")
    ending = ", there already" if was_there else ""
    say(f"{path}: {before:,} parameters -> {out}: {after:,}, {format_percent(after / before)}{ending}")
    lost = format_error(float(truncated["lost"]), float(truncated["lost_se"]))
    say(f"estimated KL from the whole adapter: {lost} nat/token ({truncated.attrs['n_samples']} samples of {run})")
    if model is not None:
        quiet_libraries()
        say(describe_loading(model), to=aside)
        base, tokenizer = load_model(model, device="auto")
        items = [item for place in data for item in read_items(place)[:limit]]
        with progress_bar("measure") as update:
            measured = compare_adapters(base, tokenizer, items, {"whole": path, "truncated": out}, progress=update)
        _print_measured(measured)


def _print_measured(measured: "xr.Dataset") -> None:
    """Print CE, accuracy and KL of the whole and the truncated adapter, and by how much the two differ."""
    from lorascope.analyze.importance.truncate import mean_scores

    means = mean_scores(measured)
    lost = means.iloc[-1]
    print_frame(
        means.iloc[:-1].reset_index(),
        f"On {measured.sizes['sample']} samples, {measured.attrs['n_tokens']:,} tokens (means ± standard errors)",
        units={"ce": "nat/token", "accuracy": "%", "kl": "nat"},
        names={"ce": "CE", "kl": "KL from the whole"},
    )
    ce, accuracy = (format_change(lost[name], lost[f"{name}_se"]) for name in ("ce", "accuracy"))
    say(f"truncated - whole, by sample: CE {ce} nat/token, accuracy {accuracy} points")
