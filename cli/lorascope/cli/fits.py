"""What `fit` and `compare` share: options of columns and rows, and results on the terminal, as text or in a folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.analyze.results.targets import TABLES, refuse_elsewhere, refuse_target
from lorascope.stores.places.atomic_write import atomic_write
from lorascope.stores.visible import one_line, visible
from lorascope.study.named import require_there

from .screen import aside, console, json_text, progress_bar, say, write_json

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

    from lorascope.analyze.fits.summary import Summary

Figure = tuple[str, Callable[[], Any]]
"""A name, and what makes a plotly figure or raises ValueError where the result has no such one."""
PAGE_WIDTH = 120
"""Characters of a line of a report that is written to a file."""
GROUPS = ("dataset", "split", "prompt", "model")
"""Columns of which those that vary tell groups apart, where nothing else is said."""
NONE = "none"
"""The word for no column."""


def listed(text: str) -> tuple[str, ...]:
    """Names with commas between; `none` for no name.

    Examples
    --------
    >>> listed("dataset, model"), listed("none")
    (('dataset', 'model'), ())
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return () if names == (NONE,) else names


def rows_where(where: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Column -> values of which a row must hold one, from `column=value,value`."""
    found = {}
    for one in where:
        name, _, values = (side.strip() for side in one.partition("="))
        if not name or not values:
            raise ValueError(f"`--where` is {one!r}; write it as name=value")
        found[name] = tuple(value.strip() for value in values.split(","))
    if len(found) < len(where):
        raise ValueError(f"`--where` is {list(where)}; name each column once, its values with commas between")
    return found


def study_table(study: Sequence[str], where: Mapping[str, Sequence[str]], workers: int | None) -> "pd.DataFrame":
    """What `read_study` returns, a bar for each run drawn beside the answer."""
    if workers is not None and workers < 1:
        raise ValueError(f"`--workers` is {workers}; give at least 1")
    require_there(study)

    from lorascope.study.read_study import read_study

    with progress_bar("runs") as update:
        return read_study(
            study, where=where, n_workers=workers, progress=lambda done, total, part="": update(done, total, title=part)
        )


def chosen_groups(frame: "pd.DataFrame", named: str | None) -> tuple[str, ...]:
    """Columns that tell groups apart: those named, or by default those of `GROUPS` that vary in the table."""
    if named is not None:
        return listed(named)
    return tuple(name for name in GROUPS if name in frame.columns and frame[name].nunique() > 1)


def refuse_out(out: Path | None) -> None:
    """Raise unless a table or a folder of results may be written here: before the work, not after it."""
    if out is None:
        return
    if out.suffix in TABLES:
        refuse_target(out, TABLES)
        return
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise FileExistsError(f"`--out` is {str(out)!r}, which is there already; give a new or empty folder")
    refuse_elsewhere(out, "out")


def deliver(
    title: str, frame: "pd.DataFrame", where: Mapping[str, Sequence[str]], summaries: Sequence["Summary"],
    record: Mapping[str, Any], *, as_json: bool, out: Path | None, full: bool = False, remarks: Sequence[str] = (),
    figures: Sequence[Figure] = (),
) -> None:  # fmt: skip
    """Write what was found in a table to a folder or as a table if one is named, and print it, as JSON or as text.

    The text is the first summary's short form, or with `full` everything; `record` is name -> result as JSON has it,
    `remarks` what was assumed or couldn't be computed.
    """
    said: list[str] = list(frame.attrs.get("notes", ()))
    study = {"source": str(frame.attrs.get("source", "")), "where": {name: list(one) for name, one in where.items()},
             "n_rows": len(frame), "notes": said}  # fmt: skip
    asked = " and ".join(f"{name}={','.join(values)}" for name, values in where.items())
    source = f"{study['source']}: {len(frame)} rows{f' where {asked}' if asked else ''}"
    remarked = [one_line(line) for line in (source, *(f"* {note}" for note in (*said, *remarks)))]
    answer = {"study": study, **record, "remarks": list(remarks)}
    if out is not None and out.suffix in TABLES:
        from lorascope.analyze.results.save_table import save_table, with_units

        save_table(with_units(summaries[0].tables[0].rows, {}, {"title": title, **study}), out)
    elif out is not None:
        with atomic_write(out.absolute()) as folder:
            folder.mkdir()
            parts = [one_line(title), *(visible(one.text(full=True, width=PAGE_WIDTH)) for one in summaries)]
            whole = "\n\n".join([*parts, "\n".join(remarked)])
            (folder / "report.txt").write_text(f"{whole}\n", encoding="utf-8")
            (folder / "report.json").write_text(json_text(answer), encoding="utf-8")
            if figures:
                (folder / "figures.html").write_text(_page(title, source, figures), encoding="utf-8")
    if as_json:
        write_json(answer)
    else:
        for summary in summaries if full else summaries[:1]:
            say(f"{summary.text(full=full, width=console.width)}\n")
        for line in remarked:
            say(line)
        if not full:
            say("--full shows all tables and remarks")
    if out is not None:
        say(f"written to {out}", to=aside if as_json else console)


def _page(title: str, source: str, figures: Sequence[Figure]) -> str:
    from lorascope.analyze.report.document import render_figures

    made: list[tuple[str, Any]] = []
    for name, make in figures:
        try:
            made.append((visible(name), make()))
        except ValueError as error:  # the result has no such figure, and says why
            made.append((visible(name), visible(str(error))))
    return render_figures(visible(title), visible(source), made)
