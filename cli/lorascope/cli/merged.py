"""`lorascope adapter` with `--merged` or `--check-merge`: whether a merged model is the adapter on its base."""

from pathlib import Path

from .screen import importing_libraries, print_frame, progress_bar, say, write_json

EXIT_CODES = {"adapter": 0, "rounded": 1, "not the adapter": 1, "unknown": 3}
"""Verdict -> exit code of the command."""
MOST_SHOWN = 20
"""Most layers and tensors that are listed without `--full`."""


def print_merged(
    adapter: Path, model: str, merged: Path | None, dtype: str | None, *, full: bool, as_json: bool
) -> int:
    """Compare a merged model with an adapter, or foretell a merge in a type; print it and return the exit code."""
    from lorascope.capture.models.source import locate_model, require_adapter_settings

    require_adapter_settings(adapter)
    locate_model(model)
    with progress_bar("compare") as update:
        with importing_libraries(update):
            from lorascope.capture.merged import check_merge, compare_merged
        if merged is not None:
            result = compare_merged(adapter, model, merged, progress=update)
        else:
            result = check_merge(adapter, model, str(dtype), progress=update)
    frame = result.drop_dims("other").to_dataframe().reset_index()
    others = result["difference"].to_dataframe().reset_index()
    if as_json:
        write_json({"attributes": result.attrs, "rows": frame, "others": others})
        return EXIT_CODES[result.attrs["verdict"]]
    columns = {name: (name, "median") for name in ("arrived", "residual")}
    columns |= {"unequal": ("n_unequal", "sum")} if merged is not None else {}
    sound = ("verdict", lambda verdicts: int((verdicts == "adapter").sum()))
    table = frame.groupby("kind", sort=False).agg(n=("verdict", "size"), sound=sound, **columns).reset_index()
    print_frame(table, "Share of the change that arrived, and all else in units of its size (medians)")
    wrong = frame if full else frame[frame["verdict"] != "adapter"]
    tables = {
        "Layers" if full else "Layers that aren't the adapter's": wrong[
            ["component", "verdict", "arrived", "residual", "explanation"]
        ],
        "Tensors outside of the adapter that aren't the base's": others,
    }
    for title, rows in tables.items():
        if len(rows):
            print_frame(rows if full else rows.head(MOST_SHOWN), title, full=full)
    say(str(result.attrs["sentence"]))
    return EXIT_CODES[result.attrs["verdict"]]
