"""`lorascope adapter`."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr

from lorascope.analyze.adapters.adapter import adapter_report
from lorascope.analyze.format import format_number, format_percent
from lorascope.analyze.save import refuse_target, save

from ..screen import print_table, progress_bar, say

__all__ = ["adapter"]


def adapter(*paths: Path, full: bool = False, out: Path | None = None) -> None:
    """Size and rank of what LoRA adapters change, from their folders alone: no data, no model, no torch.

    Norms are Frobenius norms of s B A, the change of a layer's weight. The effective rank is exp of the entropy of its
    singular values, scaled to add up to one (Roy & Vetterli 2007); the stable rank is its squared Frobenius norm by its
    squared spectral norm. Several adapters are put side by side.

    Parameters
    ----------
    paths
        Folders with `adapter_config.json` and `adapter_model.safetensors`.
    full
        Also every component, in the model's order.
    out
        Save all numbers of one adapter here: a folder ending in .zarr, or a NetCDF file ending in .nc.
    """
    if not paths:
        raise ValueError("`paths` is empty; give one adapter folder or several")
    if out is not None:
        if len(paths) > 1:
            raise ValueError(f"`out` takes one adapter, and there are {len(paths)}; call it once for each")
        refuse_target(out)  # before the work, not after it
    with progress_bar("adapter") as update:
        reports = [adapter_report(path, progress=partial(update, title=path.name)) for path in paths]
    for path, report in zip(paths, reports, strict=True):
        attrs, dtypes = report.attrs, np.unique(report["dtype"].values.astype(str))
        say(
            f"{path}: {report.sizes['component']} components, rank {_range(report['rank'].values)}, "
            f"scaling {_range(report['scaling'].values)} ({attrs['scaling']}), {attrs['n_parameters']:,} parameters in "
            f"{', '.join(dtypes)}, total norm {format_number(float(report['total_norm']), digits=4)}"
        )
        for remark in json.loads(attrs["remarks"]):
            say(f"  {remark}")
    names = [path.resolve().name for path in paths]
    labels = names if len(set(names)) == len(names) else [str(path) for path in paths]
    for key in ("kind", "component") if full else ("kind",):
        if len(reports) == 1:
            title = f"Norm of s B A by {key}, its effective and stable rank{' (medians)' if key == 'kind' else ''}"
            columns = [key, "n", "norm", "range", "effective", "stable", "share"]
            print_table(title, columns, [_row(name, part) for name, part in _parts(reports[0], key)])
        else:
            print_table(f"Norm of s B A by {key}", [key, *labels], _beside(reports, key, "frobenius_norm"))
            if full:
                print_table(f"Effective rank by {key}", [key, *labels], _beside(reports, key, "effective_rank"))
    if out is not None:
        save(reports[0], out)
        say(f"saved to {out}")


def _row(name: str, part: xr.Dataset) -> tuple[str, ...]:
    norms = part["frobenius_norm"].values
    return (
        name,
        str(len(norms)),
        format_number(_median(part, "frobenius_norm")),
        f"{format_number(norms.min())} to {format_number(norms.max())}" if len(norms) > 1 else "",
        f"{format_number(_median(part, 'effective_rank'))} of {_range(part['rank'].values)}",
        format_number(_median(part, "stable_rank")),
        format_percent(float(part["share"].sum(skipna=False))),
    )


def _beside(reports: Sequence[xr.Dataset], key: str, name: str) -> Iterator[tuple[str, ...]]:
    """A row for each kind or component that any of the adapters has: the median of its values."""
    columns = [{group: _median(part, name) for group, part in _parts(report, key)} for report in reports]
    for group in dict.fromkeys(group for column in columns for group in column):
        yield group, *(format_number(column[group]) if group in column else "-" for column in columns)


def _parts(report: xr.Dataset, key: str) -> Iterator[tuple[str, xr.Dataset]]:
    """The report of each kind or component, in the model's order."""
    labels = report[key].values
    for label in dict.fromkeys(labels):
        yield str(label), report.isel(component=np.flatnonzero(labels == label))


def _median(report: xr.Dataset, name: str) -> float:
    """Median over components, of those where it is defined; NaN for none."""
    values = report[name].values
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else float("nan")


def _range(values: np.ndarray) -> str:
    """One number where all agree, else the least and the most."""
    least, most = f"{values.min():.4g}", f"{values.max():.4g}"
    return least if least == most else f"{least} to {most}"
