"""Shared by `fit` and `compare`: options of columns and rows, and results on the terminal, as text or in a folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorascope.analyze.results.options import TABLE_FORMATS, refuse_target, refuse_unwritable
from lorascope.stores.places.files import atomic_write
from lorascope.stores.visible import one_line
from lorascope.study.named import require_there

from .screen import aside, console, json_text, print_frame, progress_bar, say, write_json

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

    from lorascope.analyze.fits.verdicts import Summary

Figure = tuple[str, Callable[[], Any]]
"""A name, and a function that makes a plotly figure or raises ValueError if the result has none."""
GROUPS = ("dataset", "split", "prompt", "model")
"""Columns that define groups by default, if they vary."""
NONE = "none"
"""Word for no column."""


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
    """Column -> values of which a row must have one, from `column=value,value`."""
    conditions = {}
    for condition in where:
        name, _, values = (side.strip() for side in condition.partition("="))
        if not name or not values:
            raise ValueError(f"`--where` is {condition!r}; write it as name=value")
        conditions[name] = tuple(value.strip() for value in values.split(","))
    if len(conditions) < len(where):
        raise ValueError(f"`--where` is {list(where)}; name each column once, its values with commas between")
    return conditions


def study_table(study: Sequence[str], where: Mapping[str, Sequence[str]], workers: int | None) -> "pd.DataFrame":
    """The table of a study, with a progress bar while runs are read."""
    require_there(study)

    from lorascope.study.read_study import read_study

    with progress_bar("runs") as update:
        return read_study(
            study, where=where, n_workers=workers, progress=lambda done, total, part="": update(done, total, title=part)
        )


def chosen_groups(frame: "pd.DataFrame", named: str | None) -> tuple[str, ...]:
    """Columns that define groups: those named, or by default those of `GROUPS` that vary in the table."""
    if named is not None:
        return listed(named)
    return tuple(name for name in GROUPS if name in frame.columns and frame[name].nunique() > 1)


def refuse_out(out: Path | None) -> None:
    """Raise before the work begins unless a table or a folder of results may be written here."""
    if out is None:
        return
    if out.suffix in TABLE_FORMATS:
        refuse_target(out, TABLE_FORMATS)
        return
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise FileExistsError(f"`--out` is {str(out)!r}, which is there already; give a new or empty folder")
    refuse_unwritable(out, "out")


def deliver(
    name: str, frame: "pd.DataFrame", where: Mapping[str, Sequence[str]], summary: "Summary", *, as_json: bool,
    out: Path | None, full: bool = False, remarks: Sequence[str] = (), figures: Sequence[Figure] = (),
) -> None:  # fmt: skip
    """Write a result to a folder or as a table if one is named, and print it as JSON or as text.

    `name` is that of the result in JSON; `remarks` are sentences on assumptions. The text has verdicts and the first
    table, or with `full` all tables and notes.
    """
    notes: list[str] = list(frame.attrs.get("notes", ()))
    study = {
        "source": str(frame.attrs.get("source", "")),
        "where": {key: list(values) for key, values in where.items()},
        "n_rows": len(frame),
        "notes": notes,
    }
    conditions = " and ".join(f"{key}={','.join(values)}" for key, values in where.items())
    source = f"{study['source']}: {len(frame)} rows{f' where {conditions}' if conditions else ''}"
    answer = {"study": study, name: summary.to_dict(), "remarks": list(remarks)}
    if out is not None and out.suffix in TABLE_FORMATS:
        from lorascope.analyze.results.save import save_table, with_units

        first = next(iter(summary.tables.values()))
        save_table(with_units(first, {}, {"title": summary.title, **study}), out)
    elif out is not None:
        with atomic_write(out.absolute()) as folder:
            folder.mkdir()
            (folder / "report.json").write_text(json_text(answer), encoding="utf-8")
            if figures:
                (folder / "figures.html").write_text(_page(summary.title, source, figures), encoding="utf-8")
    if as_json:
        write_json(answer)
    else:
        say(one_line(summary.title))
        for verdict in summary.verdicts:
            say(one_line(f"{verdict.word:<14}  {verdict.claim} ({verdict.because})"))
        for title, rows in list(summary.tables.items())[: None if full else 1]:
            print_frame(rows, title, full=True)
        for line in (source, *(f"* {note}" for note in (*notes, *(summary.notes if full else ()), *remarks))):
            say(one_line(line))
        if not full:
            say("--full shows all tables and remarks")
    if out is not None:
        say(f"written to {out}", to=aside if as_json else console)


def _page(title: str, source: str, figures: Sequence[Figure]) -> str:
    from lorascope.analyze.report.document import document
    from lorascope.analyze.report.markup import escape, figure, section

    parts = []
    for place, (name, make) in enumerate(figures):
        try:
            part = figure(f"figure-{place}", make(), "")
        except ValueError as error:  # the result has no such figure, and says why
            part = f"<p>{escape(error)}</p>"
        parts.append(section(f"section-{place}", name, part))
    return document(title, source, "".join(parts))
