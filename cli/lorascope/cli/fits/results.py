"""What a command of a study found, in the form asked for: on the terminal, as Markdown, as JSON, in a folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.save import refuse_inside_store, require_writable
from lorascope.analyze.stats.record import to_json
from lorascope.analyze.stats.summary import Summary, markdown_text
from lorascope.stores.places.atomic_write import atomic_write

from ..screen import COMMANDS, aside, console, one_line, say, visible, write

__all__ = ["Figure", "Format", "Results", "about_study", "deliver", "refuse_out"]

Format = Literal["table", "json", "markdown"]
Figure = tuple[str, Callable[[], Any]]
"""A name, and what makes a plotly figure or raises ValueError where the result has no such one."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a command found."""

    title: str
    study: Mapping[str, Any]
    """Where the table is from, which rows were taken, and what was said of it."""
    summaries: Sequence[Summary]
    """The first one is that of the short form."""
    record: Mapping[str, Any]
    """Name -> a result as JSON has it."""
    remarks: Sequence[str] = ()
    """What was assumed, or couldn't be computed, and why."""
    figures: Sequence[Figure] = ()

    @property
    def source(self) -> str:
        """The table and the rows taken."""
        asked = " and ".join(f"{name}={','.join(values)}" for name, values in self.study["where"].items())
        return f"{self.study['source']}: {self.study['n_rows']} rows{f' where {asked}' if asked else ''}"


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
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise FileExistsError(f"`out` is {str(out)!r}, which is there already; give a new or empty folder")
    refuse_inside_store(out, "out")
    require_writable(out)


def deliver(results: Results, form: Format, out: Path | None, *, full: bool = False) -> None:
    """Write results to a folder if one is named, and print them in one form; as a table all or the conclusion alone."""
    if out is not None:
        with atomic_write(out.absolute()) as folder:
            folder.mkdir()
            (folder / "report.md").write_text(_markdown(results), encoding="utf-8")
            (folder / "report.json").write_text(_json(results), encoding="utf-8")
            if results.figures:
                (folder / "figures.html").write_text(_page(results), encoding="utf-8")
    if form == "table":
        _print(results, full)
    else:
        write(_json(results) if form == "json" else _markdown(results))
    if out is not None:
        say(f"written to {out}", to=console if form == "table" else aside)


def _print(results: Results, full: bool) -> None:
    for summary in results.summaries if full else results.summaries[:1]:
        say(f"{summary.text(full=full, width=console.width)}\n")
    say(one_line(results.source))
    for note in (*results.study["notes"], *results.remarks):
        say(f"* {one_line(note)}")
    if not full:
        say("--full shows all tables and remarks")


def _markdown(results: Results) -> str:
    notes = [f"- {markdown_text(note)}\n" for note in (*results.study["notes"], *results.remarks)]
    head = f"# {markdown_text(results.title)}\n\n{markdown_text(results.source)}\n"
    parts = [head, *(["".join(notes)] if notes else []), *(one.as_markdown() for one in results.summaries)]
    return visible("\n".join(parts))


def _json(results: Results) -> str:
    text = to_json({"study": results.study, **results.record, "remarks": list(results.remarks)})
    # As JSON spells it, what a terminal would obey is the same text, and no terminal's business.
    return COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _page(results: Results) -> str:
    from lorascope.analyze.report.document import render_figures

    made: list[tuple[str, Any]] = []
    for name, make in results.figures:
        try:
            made.append((visible(name), make()))
        except ValueError as error:  # the result has no such figure, and says why
            made.append((visible(name), visible(str(error))))
    return render_figures(visible(results.title), visible(results.source), made)
