"""What `lorascope adapter --truncate` does and says."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lorascope.analyze.results.format import format_change, format_error, format_percent
from lorascope.analyze.results.targets import TABLES

from .screen import aside, print_table, progress_bar, say

if TYPE_CHECKING:
    import xarray as xr


def write_truncated(
    path: Path, out: Path | None, text: str, model: str | None, data: Sequence[str], limit: int | None
) -> None:
    """Write the truncated adapter, and measure it where there are a model and data."""
    number = re.fullmatch(r"(\d*\.?\d+) ?(%?)", text.strip())
    share = float(number[1]) / (100 if number[2] else 1) if number else 0.0
    if not 0 < share <= 1:
        raise ValueError(f"`truncate` is {text!r}; give a share above 0 and at most 1, such as 99% or 0.99")
    if out is None or out.suffix in TABLES:
        raise ValueError(f"`out` is {out and str(out)!r}; with `truncate` it names the new adapter's folder")
    if (model is None) != (not data) or (limit is not None and (limit < 1 or not data)):
        raise ValueError("`model` and `data` go together, and a `limit` of at least 1 with them; give both or none")
    if model is not None:
        from lorascope.capture.settling.inputs import require_training_inputs

        require_training_inputs(model=model, data=data, out=out)
        from lorascope.capture import compare_adapters, load_model, read_items  # torch is missed before we write

        from .quiet import quiet_libraries
    from lorascope.analyze.adapters.truncate import truncate_adapter

    found = truncate_adapter(path, out, share=share)
    before, after = (found.attrs[name] for name in ("n_parameters_before", "n_parameters"))
    groups = found[["rank_before", "rank"]].to_dataframe().groupby("kind", sort=False)
    columns = ["kind", "n", "before", "rank", "range"]
    rows = [
        (kind, str(len(one)), *(f"{one[name].median():g}" for name in ("rank_before", "rank")),
         f"{one['rank'].min()} to {one['rank'].max()}")
        for kind, one in groups
    ]  # fmt: skip
    print_table(f"Ranks (medians) that keep {100 * share:g} % of each squared norm", columns, rows)
    say(f"{path}: {before:,} parameters -> {out}: {after:,}, {format_percent(after / before)}")
    if model is not None:
        quiet_libraries()
        say(f"loading {model}", to=aside)
        base, tokenizer = load_model(model, device="auto")
        items = [item for one in data for item in read_items(one)[:limit]]
        with progress_bar("measure") as update:
            _print(compare_adapters(base, tokenizer, items, {"whole": path, "truncated": out}, progress=update))


def _print(measured: "xr.Dataset") -> None:
    """CE, accuracy and KL of each adapter; what the truncated one lost."""
    title = f"On {measured.sizes['sample']} samples, {measured.attrs['n_tokens']:,} tokens (means ± standard errors)"
    columns = ["adapter", "CE (nat/token)", "accuracy (%)", "KL from the whole (nat)"]
    parts = {name: measured.sel(adapter=name) for name in measured["adapter"].values.tolist()}
    measures = {"ce": 1, "correct": 100, "kl": 1}
    rows = [(name, *(format_error(*_mean(m * one[k])) for k, m in measures.items())) for name, one in parts.items()]
    print_table(title, columns, rows)
    lost = parts["truncated"] - parts["whole"]
    ce, accuracy = format_change(*_mean(lost["ce"])), format_change(*_mean(100 * lost["correct"]))
    say(f"truncated - whole, by sample: CE {ce} nat/token, accuracy {accuracy} points")


def _mean(values: "xr.DataArray") -> tuple[float, float]:
    """Mean over samples and its standard error; NaN where there are too few."""
    known = values.dropna("sample")
    return float(known.mean()), float(known.std(ddof=1) / np.sqrt(known.size)) if known.size > 1 else float("nan")
