"""`lorascope adapter`."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lorascope.analyze.adapters.factors import read_keys
from lorascope.analyze.adapters.settings import read_settings
from lorascope.analyze.results.format import format_number, format_percent
from lorascope.analyze.results.targets import RESULTS, TABLES, refuse_target
from lorascope.stores.names import matching

from ..screen import aside, print_table, progress_bar, say, write_json
from ..truncation import write_truncated

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    import xarray as xr


def adapter(
    *paths: Path,
    component: tuple[str, ...] = (),
    full: bool = False,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    out: Path | None = None,
    truncate: str | None = None,
    model: str | None = None,
    data: tuple[str, ...] = (),
    limit: int | None = None,
) -> None:
    """Compare LoRA adapters by their weights: size and rank of each layer's change. Needs no data, model or torch.

    Norms are Frobenius norms of s B A, the change of a layer's weight. The effective rank is exp of the entropy of its
    singular values, scaled to add up to one (Roy & Vetterli 2007). The stable rank is its squared Frobenius norm
    divided by its squared spectral norm. Several adapters are shown in one table.

    `--truncate 99% --out NEW` writes a smaller adapter: of each layer's change it keeps the fewest singular directions
    that hold so much of its squared Frobenius norm. With `--model` and `--data` both are measured on held-out data.

    Parameters
    ----------
    paths
        Folders with `adapter_config.json` and `adapter_model.safetensors`.
    component
        A component's path or a pattern, e.g. '*.q_proj'; may be given several times; by default all. Shares, the number
        of parameters and the total norm stay those of the whole adapter.
    full
        Also print every component, in the model's order.
    as_json
        Print one JSON object and nothing else: `adapters`, a list of `attributes` (`adapter`, its folder; `scaling`,
        `n_parameters`, `remarks`, `config`, ...), `total_norm`, and `rows`, one for each component: `rank`, `scaling`,
        `dtype`, `frobenius_norm`, `effective_rank`, `stable_rank`, `share`.
    out
        Save the numbers of all components here: a folder ending in .zarr or a file ending in .nc, of one adapter; or a
        file ending in .csv, .parquet or .json, of all. With `--truncate`, the folder of the new adapter.
    truncate
        Share of each layer's squared norm to keep, such as 99% or 0.99; takes one adapter.
    model
        With `--truncate`: the base model (a hub id, a local folder, or a .gguf file), on which cross-entropy, accuracy
        and KL divergence of both adapters are measured. Needs torch.
    data
        What to measure on, in the formats of docs/data.md; the adapter wasn't trained on it.
    limit
        Measure on only so many items from the start of each file.
    """
    if not paths:
        raise ValueError("`paths` is empty; give one adapter folder or several")
    if truncate is not None:
        if len(paths) > 1 or component or full or as_json:
            raise ValueError(
                "`truncate` takes one adapter, and neither `component`, `full` nor `as_json`; leave them out"
            )
        write_truncated(paths[0], out, truncate, model, data, limit)
        return
    if model is not None or data or limit is not None:
        raise ValueError("`model`, `data` and `limit` are for what `truncate` writes; give it too, such as 99%")
    if out is not None:
        if len(paths) > 1 and out.suffix in RESULTS:
            raise ValueError(
                f"`out` ending in `.zarr` or `.nc` takes one adapter, and there are {len(paths)}; call it once for each"
            )
        refuse_target(out, TABLES)  # before the work, not after it
    for path in paths:
        read_settings(path)
        read_keys(path)

    import pandas as pd

    from lorascope.analyze.adapters.adapter import adapter_report
    from lorascope.analyze.results.save_table import save_table, table_of

    with progress_bar("adapter") as update:
        reports = [adapter_report(path, progress=partial(update, title=path.name)) for path in paths]
    names = [report["component"].values.tolist() for report in reports]
    every = list(dict.fromkeys(name for one in names for name in one))
    chosen = {every[place] for place in matching(every, component or None, of="that the adapters change")}
    reports = [
        report.isel(component=[name in chosen for name in one]) for report, one in zip(reports, names, strict=True)
    ]
    frames = [table_of(report.drop_vars("total_norm")) for report in reports]
    labels = _labels(paths)
    if as_json:
        write_json({"adapters": [_answer(*one) for one in zip(reports, frames, strict=True)]})
    else:
        _print(paths, labels, reports, frames, [*map(len, names)], full=full)
    if out is not None:
        whole = pd.concat([frame.assign(adapter=label) for frame, label in zip(frames, labels, strict=True)])
        save_table(reports[0] if len(reports) == 1 else whole, out)
        say(f"saved to {out}", to=aside if as_json else None)


def _labels(paths: Sequence[Path]) -> list[str]:
    """Names that tell the adapters apart."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _answer(report: "xr.Dataset", frame: "pd.DataFrame") -> dict[str, Any]:
    """What `lorascope adapter --json` prints of one adapter."""
    texts = {name: json.loads(report.attrs[name]) for name in ("remarks", "config")}
    return {"attributes": {**report.attrs, **texts}, "total_norm": float(report["total_norm"]), "rows": frame}


def _print(
    paths: Sequence[Path], labels: Sequence[str], reports: Sequence["xr.Dataset"], frames: Sequence["pd.DataFrame"],
    counts: Sequence[int], *, full: bool,
) -> None:  # fmt: skip
    """Each adapter in a line, `counts` being how many components it has in all, and tables of the chosen ones."""
    for path, report, frame, n in zip(paths, reports, frames, counts, strict=True):
        if frame.empty:
            say(f"{path}: changes none of these components")
            continue
        attrs = report.attrs
        chosen, whole = (f" of {n}", "; the whole adapter:") if len(frame) < n else ("", ",")
        say(
            f"{path}: {len(frame)}{chosen} components, rank {_range(frame['rank'])}, scaling "
            f"{_range(frame['scaling'])} ({attrs['scaling']}){whole} {attrs['n_parameters']:,} parameters in "
            f"{', '.join(sorted(frame['dtype'].unique()))}, total norm "
            f"{format_number(float(report['total_norm']), digits=4)}"
        )
        for remark in json.loads(attrs["remarks"]):
            say(f"  {remark}")
    for key in ("kind", "component") if full else ("kind",):
        if len(reports) == 1:
            title = f"Norm of s B A by {key}, its effective and stable rank{' (medians)' if key == 'kind' else ''}"
            columns = [key, "n", "norm", "range", "effective", "stable", "share"]
            print_table(title, columns, [_row(str(name), part) for name, part in frames[0].groupby(key, sort=False)])
        else:
            for name, title in [("frobenius_norm", "Norm of s B A"), ("effective_rank", "Effective rank")][: 1 + full]:
                print_table(f"{title} by {key}", [key, *labels], _beside(frames, key, name))
    if len(reports) == 1:
        say("share: the part of the squared total norm that these layers hold")


def _row(name: str, part: "pd.DataFrame") -> tuple[str, ...]:
    norms = part["frobenius_norm"]
    return (
        name,
        str(len(part)),
        format_number(norms.median()),
        f"{format_number(norms.min())} to {format_number(norms.max())}" if len(norms) > 1 else "",
        f"{format_number(part['effective_rank'].median())} of {_range(part['rank'])}",
        format_number(part["stable_rank"].median()),
        format_percent(float(part["share"].sum(min_count=1))),
    )


def _beside(frames: Sequence["pd.DataFrame"], key: str, name: str) -> Iterator[tuple[str, ...]]:
    """A row for each kind or component that any of the adapters has, in the model's order: the median of its values."""
    columns = [frame.groupby(key, sort=False)[name].median() for frame in frames]
    for group in dict.fromkeys(group for column in columns for group in column.index):
        yield str(group), *(format_number(column[group]) if group in column.index else "-" for column in columns)


def _range(values: "pd.Series") -> str:
    """One number where all agree, else the least and the most."""
    least, most = f"{values.min():.4g}", f"{values.max():.4g}"
    return least if least == most else f"{least} to {most}"
