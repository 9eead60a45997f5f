"""`lorascope adapter`."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import xarray as xr
from cyclopts import Parameter

from lorascope.analyze.adapters.adapter import adapter_report
from lorascope.analyze.format import format_number, format_percent
from lorascope.analyze.save import refuse_target, save

from ..screen import print_table, progress_bar, say

__all__ = ["adapter"]


def adapter(
    *paths: Path, top: int = 10, every: Annotated[bool, Parameter(name="--all")] = False, out: Path | None = None
) -> None:
    """Size and rank of what LoRA adapters change, from their folders alone: no data, no model, no torch.

    Norms are Frobenius norms of s B A, the change of a layer's weight. The effective rank is exp of the entropy of its
    singular values, scaled to add up to one (Roy & Vetterli 2007); the stable rank is its squared Frobenius norm by its
    squared spectral norm. Several adapters are put side by side.

    Parameters
    ----------
    paths
        Folders with `adapter_config.json` and `adapter_model.safetensors`.
    top
        How many components to list, the largest norms first; with several adapters none are listed.
    every
        List every component, in the model's order.
    out
        Save all numbers of one adapter here: a folder ending in .zarr, or a NetCDF file ending in .nc.
    """
    if not paths:
        raise ValueError("`paths` is empty; give one adapter folder or several")
    if top < 1:
        raise ValueError(f"`top` is {top}; give at least 1")
    if out is not None:
        if len(paths) > 1:
            raise ValueError(f"`out` takes one adapter, and there are {len(paths)}; call it once for each")
        refuse_target(out)  # before the work, not after it
    with progress_bar("adapter") as update:
        reports = [adapter_report(path, progress=partial(update, title=path.name)) for path in paths]
    for path, report in zip(paths, reports, strict=True):
        _print_summary(path, report)
    if len(reports) == 1:
        _print_kinds(reports[0])
        _print_components(reports[0], top=None if every else top)
    else:
        _print_comparison(_labels(paths), reports, every=every)
    if out is not None:
        save(reports[0], out)
        say(f"saved to {out}")


def _print_summary(path: Path, report: xr.Dataset) -> None:
    attrs = report.attrs
    dtypes = ", ".join(np.unique(report["dtype"].values.astype(str)))
    say(
        f"{path}: {report.sizes['component']} components, rank {_range(report['rank'].values)}, "
        f"scaling {_range(report['scaling'].values)} ({attrs['scaling']}), {attrs['n_parameters']:,} parameters in "
        f"{dtypes}, total norm {format_number(float(report['total_norm']), digits=4)}"
    )
    for remark in json.loads(attrs["remarks"]):
        say(f"  {remark}")


def _print_kinds(report: xr.Dataset) -> None:
    rows = [
        (
            kind,
            str(part.sizes["component"]),
            format_number(_median(part, "frobenius_norm")),
            " to ".join(format_number(float(part["frobenius_norm"].quantile(level))) for level in (0, 1)),
            f"{format_number(_median(part, 'effective_rank'))} of {_range(part['rank'].values)}",
            format_number(_median(part, "stable_rank")),
            format_percent(float(part["share"].sum(skipna=False))),
        )
        for kind, part in _by_kind(report)
    ]
    columns = ["kind", "n", "norm", "range", "effective", "stable", "share"]
    print_table("Norm of s B A by kind, its effective and stable rank (medians)", columns, rows)


def _print_components(report: xr.Dataset, *, top: int | None) -> None:
    n = report.sizes["component"]
    # Stable, so that equal norms stay in the model's order.
    order = np.argsort(-report["frobenius_norm"].values, kind="stable")[:top] if top else np.arange(n)
    rows = [
        (
            str(one["component"].values),
            format_number(float(one["frobenius_norm"])),
            f"{format_number(float(one['effective_rank']))} of {int(one['rank'])}",
            format_number(float(one["stable_rank"])),
            format_percent(float(one["share"])),
        )
        for one in (report.isel(component=i) for i in order)
    ]
    title = f"By component, the {len(order)} largest of {n}" if top else f"By component, all {n}"
    print_table(title, ["component", "norm", "effective", "stable", "share"], rows)


def _print_comparison(labels: Sequence[str], reports: Sequence[xr.Dataset], *, every: bool) -> None:
    for title, name in (("Median norm of s B A", "frobenius_norm"), ("Median effective rank", "effective_rank")):
        medians = [{kind: _median(part, name) for kind, part in _by_kind(report)} for report in reports]
        print_table(f"{title} by kind", ["kind", *labels], _side_by_side(medians))
    if every:
        norms = [report["frobenius_norm"].to_series().to_dict() for report in reports]
        print_table("Norm of s B A by component", ["component", *labels], _side_by_side(norms))


def _side_by_side(columns: Sequence[dict[str, float]]) -> Iterator[tuple[str, ...]]:
    """A row for each name that any of the adapters has."""
    for name in dict.fromkeys(name for column in columns for name in column):
        yield name, *(format_number(column[name]) if name in column else "-" for column in columns)


def _labels(paths: Sequence[Path]) -> list[str]:
    """Folder names, or whole paths where those are the same."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _by_kind(report: xr.Dataset) -> Iterator[tuple[str, xr.Dataset]]:
    kinds = report["kind"].values
    for kind in dict.fromkeys(kinds):
        yield str(kind), report.isel(component=np.flatnonzero(kinds == kind))


def _median(report: xr.Dataset, name: str) -> float:
    """Median over components, of those where it is defined; NaN for none."""
    values = report[name].values
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else float("nan")


def _range(values: np.ndarray) -> str:
    """One number where all agree, else the least and the most."""
    least, most = f"{values.min():.4g}", f"{values.max():.4g}"
    return least if least == most else f"{least} to {most}"
