"""`lorascope adapter`."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lorascope.analyze.adapters.factors import read_keys
from lorascope.analyze.adapters.settings import read_settings
from lorascope.analyze.format import format_number, format_percent
from lorascope.analyze.targets import refuse_target

from ..screen import print_table, progress_bar, say

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]


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
    for path in paths:
        read_settings(path)
        read_keys(path)

    from lorascope.analyze.adapters.adapter import adapter_report
    from lorascope.analyze.save import save

    with progress_bar("adapter") as update:
        reports = [adapter_report(path, progress=partial(update, title=path.name)) for path in paths]
    frames = [report.reset_coords().to_dataframe() for report in reports]
    for path, report, frame in zip(paths, reports, frames, strict=True):
        attrs = report.attrs
        say(
            f"{path}: {len(frame)} components, rank {_range(frame['rank'])}, scaling {_range(frame['scaling'])} "
            f"({attrs['scaling']}), {attrs['n_parameters']:,} parameters in "
            f"{', '.join(sorted(frame['dtype'].unique()))}, total norm "
            f"{format_number(float(report['total_norm']), digits=4)}"
        )
        for remark in json.loads(attrs["remarks"]):
            say(f"  {remark}")
    names = [path.resolve().name for path in paths]
    labels = names if len(set(names)) == len(names) else [str(path) for path in paths]
    for key in ("kind", "component") if full else ("kind",):
        if len(reports) == 1:
            title = f"Norm of s B A by {key}, its effective and stable rank{' (medians)' if key == 'kind' else ''}"
            columns = [key, "n", "norm", "range", "effective", "stable", "share"]
            print_table(title, columns, [_row(str(name), part) for name, part in frames[0].groupby(key, sort=False)])
        else:
            for name, title in [("frobenius_norm", "Norm of s B A"), ("effective_rank", "Effective rank")][: 1 + full]:
                print_table(f"{title} by {key}", [key, *labels], _beside(frames, key, name))
    if out is not None:
        save(reports[0], out)
        say(f"saved to {out}")


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
