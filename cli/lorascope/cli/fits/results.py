"""What a command of a study found, in the form asked for: on the terminal, as Markdown, as JSON, in a folder."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.save import refuse_inside_store, require_writable
from lorascope.analyze.stats.record import to_json
from lorascope.analyze.stats.summary import Summary, markdown_text

from ..screen import COMMANDS, aside, console, one_line, say, visible, write
from .words import translated

__all__ = ["Figure", "Format", "Results", "about_study", "deliver", "refuse_out"]

Format = Literal["table", "json", "markdown"]
Figure = tuple[str, Callable[[], Any]]
"""A name, and what makes a plotly figure or raises ValueError where the result has no such one."""
LONGEST_NAME = 255
"""Bytes of a file's name, on all common file systems."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a command found."""

    title: str
    study: Mapping[str, Any]
    """Where the table is from, which rows were taken, and what was said of it."""
    summaries: Sequence[Summary]
    record: Mapping[str, Any]
    """Name -> a result as JSON has it."""
    remarks: Sequence[str] = ()
    """What couldn't be computed, and why."""
    figures: Sequence[Figure] = ()


def about_study(frame: pd.DataFrame, where: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What is said of a table, whatever is computed from it."""
    return {
        "source": str(frame.attrs.get("source", "")),
        "where": {name: list(values) for name, values in where.items()},
        "n_rows": len(frame),
        "notes": list(frame.attrs.get("notes", ())),
    }


def refuse_out(out: Path | None) -> None:
    """Raise unless a folder of results may be written here: before the work, not after it."""
    if out is None:
        return
    if "://" in str(out) or ":/" in out.as_posix()[1:]:
        raise ValueError(f"`out` is {str(out)!r}; results go to a folder of this machine")
    *above, name = out.absolute().parts
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in (*above, f".{name}.partial")):
        raise ValueError(f"`out` has a name of more than {LONGEST_NAME - len('..partial')} bytes; give a shorter one")
    if out.is_symlink() and not out.exists():
        raise FileExistsError(f"`out` is {str(out)!r}, a link to what isn't there; give a new or empty folder")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"`out` is {str(out)!r}, which is there already; give a new or empty folder")
    refuse_inside_store(out, "out")
    require_writable(out)
    _refuse_unmakeable(out)


def _refuse_unmakeable(out: Path) -> None:
    """Raise unless a folder can be made where this one would be: some places only say that they may be written to."""
    target = out.absolute()
    there = next(folder for folder in target.parents if folder.exists())
    trial = _partial(there / target.relative_to(there).parts[0])
    try:
        shutil.rmtree(trial, ignore_errors=True)  # of a run that was killed
        trial.mkdir()
        trial.rmdir()
    except OSError as error:
        raise PermissionError(f"`out` is {str(out)!r}, which can't be made in `{there}`: {error.strerror}") from error


def _partial(out: Path) -> Path:
    """The folder beside `out` that becomes it: always of the same name, so that the next run clears what one left."""
    return out.absolute().with_name(f".{out.absolute().name}.partial")


def deliver(results: Results, form: Format, out: Path | None, *, full: bool = False) -> None:
    """Write results to a folder if one is named, and print them in one form."""
    if out is not None:
        with _new_folder(out) as folder:
            (folder / "report.md").write_text(_markdown(results), encoding="utf-8")
            (folder / "report.json").write_text(_json(results), encoding="utf-8")
            if results.figures:
                (folder / "figures.html").write_text(_page(results), encoding="utf-8")
    if form == "table":
        _print(results, full=full)
    else:
        write(_json(results) if form == "json" else _markdown(results))
    if out is not None:
        say(f"written to {out}", to=console if form == "table" else aside)


def _print(results: Results, *, full: bool) -> None:
    say(one_line(f"{results.study['source']}: {results.study['n_rows']} rows{_asked(results)}"))
    for note in (*results.study["notes"], *results.remarks):
        say(one_line(f"* {note}"))
    for summary in results.summaries:
        say(summary.text(full=full, width=console.width))


def _asked(results: Results) -> str:
    where = [f"{name}={','.join(values)}" for name, values in results.study["where"].items()]
    return f" where {' and '.join(where)}" if where else ""


def _markdown(results: Results) -> str:
    notes = [f"- {markdown_text(note)}\n" for note in (*results.study["notes"], *results.remarks)]
    source = f"{results.study['source']}: {results.study['n_rows']} rows{_asked(results)}"
    head = f"# {markdown_text(results.title)}\n\n{markdown_text(source)}\n"
    parts = [head, *(["".join(notes)] if notes else []), *(one.as_markdown() for one in results.summaries)]
    return visible("\n".join(parts))


def _json(results: Results) -> str:
    text = to_json({"study": results.study, **results.record, "remarks": list(results.remarks)})
    # As JSON spells it, what a terminal would obey is the same text, and no terminal's business.
    return COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _page(results: Results) -> str:
    from lorascope.analyze.report.figures_page import render_figures

    subtitle = f"{results.study['source']}{_asked(results)}"
    return render_figures(visible(results.title), visible(subtitle), _made(results.figures))


def _made(figures: Sequence[Figure]) -> Iterator[tuple[str, Any]]:
    """Figures that the result has, and in place of another one the words why it hasn't."""
    for name, make in figures:
        try:
            yield visible(name), make()
        except ValueError as error:
            yield visible(name), visible(translated(str(error)))


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name when all went well and is removed if not."""
    target = out.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = _partial(target)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        os.replace(folder, target)  # an empty folder of this name gives way
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
