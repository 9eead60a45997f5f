"""What `lorascope adapter --truncate` does and says."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lorascope.analyze.format import format_change, format_error, format_percent
from lorascope.analyze.targets import TABLES

from .screen import aside, print_table, progress_bar, say, write_json

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    import xarray as xr

WHOLE, CUT = "whole", "truncated"
"""What the two adapters are called beside each other."""


def share_of(text: str) -> float:
    """A share of one, written as `99%` or `0.99`."""
    number = re.fullmatch(r"(\d*\.?\d+) ?(%?)", text.strip())
    share = float(number[1]) / (100 if number[2] else 1) if number else 0.0
    if not 0 < share <= 1:
        raise ValueError(f"`truncate` is {text!r}; give a share above 0 and at most 1, such as 99% or 0.99")
    return share


def write_truncated(
    path: Path,
    out: Path | None,
    share: float,
    *,
    model: str | None,
    data: Sequence[str],
    limit: int | None,
    full: bool,
    as_json: bool,
) -> None:
    """Write the truncated adapter, measure it where there are a model and data, and print what came of it."""
    if out is None:
        raise ValueError("`truncate` writes a new adapter; name its folder with `out`")
    if out.suffix in TABLES:
        raise ValueError(f"`out` is {str(out)!r}; with `truncate` it is a folder, whose name can't end in {out.suffix}")
    if (model is None) != (not data) or (limit is not None and not data):
        raise ValueError("`model` and `data` go together, and `limit` with them; give both or none")
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` is {limit}; give at least 1")
    if model is not None:
        from lorascope.capture.models.source import locate
        from lorascope.capture.samples.sources import require_data

        locate(model)
        for one in data:
            require_data(one)
        from lorascope.capture import compare_adapters  # a missing torch is told before anything is written
    from lorascope.analyze.adapters.truncate import truncate_adapter
    from lorascope.analyze.save_table import table_of

    with progress_bar("truncate") as update:
        found = truncate_adapter(path, out, share=share, progress=update)
    frame = table_of(found)
    if not as_json:
        _print_ranks(path, out, share, frame, full=full)
    measured = None
    if model is not None:
        from lorascope.capture import load_model

        from .quiet import quiet_libraries

        quiet_libraries()
        say(f"loading {model}", to=aside)
        base, tokenizer = load_model(model, device="auto")
        with progress_bar("measure") as update:
            folders = {WHOLE: path, CUT: out}
            measured = compare_adapters(base, tokenizer, list(data), folders, limit=limit, progress=update)
    if as_json:
        rows = None if measured is None else table_of(measured)
        write_json({"attributes": found.attrs, "rows": frame, "measured": rows})
    elif measured is not None:
        _print_measured(measured)


def _print_ranks(path: Path, out: Path, share: float, frame: "pd.DataFrame", *, full: bool) -> None:
    for key in ("kind", "component") if full else ("kind",):
        title = f"Ranks that keep {100 * share:g} % by {key}"
        columns = [key, "n", "before", "rank", "range", "parameters"]
        print_table(title, columns, [_row(str(name), part) for name, part in frame.groupby(key, sort=False)])
    before, after = (int(frame[name].sum()) for name in ("n_parameters_before", "n_parameters"))
    say(f"{path}: {before:,} parameters -> {out}: {after:,}, {format_percent(after / before)}")


def _row(name: str, part: "pd.DataFrame") -> tuple[str, ...]:
    ranks = part["rank"]
    return (
        name,
        str(len(part)),
        f"{part['rank_before'].median():g}",
        f"{ranks.median():g}",
        f"{ranks.min()} to {ranks.max()}" if len(part) > 1 else "",
        format_percent(part["n_parameters"].sum() / part["n_parameters_before"].sum()),
    )


def _print_measured(measured: "xr.Dataset") -> None:
    title = f"On {measured.sizes['sample']} samples, {measured.attrs['n_tokens']:,} tokens"
    columns = ["adapter", "CE (nat/token)", "accuracy (%)", "KL from the whole (nat)"]
    names = measured["adapter"].values.tolist()
    print_table(title, columns, [(name, *_cells(measured.sel(adapter=name))) for name in names])
    whole, cut = measured.sel(adapter=WHOLE), measured.sel(adapter=CUT)
    ce, hits = (format_change(*_mean(cut[name] - whole[name], unit)) for name, unit in (("ce", 1), ("correct", 100)))
    accuracy = "" if hits == "n/a" else f", accuracy {hits} points"
    say(f"truncated - whole: CE {ce} nat/token{accuracy}; means over samples with their standard errors")


def _cells(one: "xr.Dataset") -> Iterator[str]:
    for name, unit in (("ce", 1), ("correct", 100), ("kl", 1)):
        yield format_error(*_mean(one[name], unit))


def _mean(values: "xr.DataArray", unit: float) -> tuple[float, float]:
    """Mean over samples and its standard error, NaN where there are too few."""
    known: Any = unit * values.values[~np.isnan(values.values)]
    mean = float(known.mean()) if len(known) else float("nan")
    return mean, float(known.std(ddof=1) / np.sqrt(len(known))) if len(known) > 1 else float("nan")
