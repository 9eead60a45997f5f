"""The terminal: lines, tables and progress bars; imports nothing heavy, since `lorascope --help` waits for it."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lorascope.stores.visible import COMMANDS, visible

if TYPE_CHECKING:
    from lorascope.stores import Run

NARROWEST, USUAL = 20, 80
"""A terminal that claims fewer columns than the first doesn't know; it is taken to have the second."""
LOG_SECONDS = 30.0
"""Time between two lines of progress where no terminal is: so much of a log is read, and short work leaves none."""


class _Console(Console):
    """A console whose reader may leave."""

    def on_broken_pipe(self) -> None:
        """Drop what is left to say; the command ends as if all had been read."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def _console(*, stderr: bool = False) -> Console:
    made = _Console(stderr=stderr)
    if made.width < NARROWEST:
        made.width = USUAL
    return made


console = _console()
aside = _console(stderr=True)
"""Takes all that isn't the answer, where a program may read the answer."""


def write(text: str) -> None:
    """Print text as it is, such as JSON; where nobody reads on, that is no error."""
    try:
        console.file.write(text)
        console.file.flush()
    except BrokenPipeError:
        console.on_broken_pipe()


def json_text(value: Any) -> str:
    """A value as JSON, NaN as null; what a terminal would obey is spelt out, which JSON reads alike."""
    from lorascope.analyze.results.record import to_json

    return COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", to_json(value))


def write_json(value: Any) -> None:
    """The answer as one JSON object and nothing else."""
    write(json_text(value))


def say(text: str, *, to: Console | None = None) -> None:
    """A line on the terminal: paths and names from a store are no markup or commands, and long ones aren't broken."""
    (to or console).print(visible(text), markup=False, highlight=False, soft_wrap=True)


def note(message: str, places: Sequence[object]) -> str:
    """A finding with the first three of its places in brackets, and how many more there are."""
    shown = ", ".join(map(str, places[:3])) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
    return f"{message} ({shown})" if places else message


def left_out(n_samples: int, run: "Run") -> str:
    """The reason why so many samples of a run aren't whole."""
    if len(run.lost_rows):
        return (
            f"{n_samples} samples have lost tokens ({len(run.lost_rows)} rows of the finished run `{run.place.name}` "
            "are gone; `lorascope verify` says which)"
        )
    return f"{n_samples} samples aren't wholly captured yet"


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on the terminal; numbers, that is columns whose first cell begins with a digit or sign, to the right."""
    cells = [[visible(str(cell)) for cell in row] for row in rows]
    table = Table(title=Text(visible(title)), title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(cells) and cells[0][index][:1] in set("0123456789-+.n")
        table.add_column(Text(visible(column)), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[..., None]]:
    """A bar fed by `update(done, total, note="", title=None)`; a new title begins a new bar.

    It is drawn beside the answer where that goes to a file or a program. Where no terminal is, as in a batch job's log,
    a line says every `LOG_SECONDS` how far it is.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(compact=True),
    )
    shown = console if console.file.isatty() else aside
    bars = Progress(*columns, console=shown, disable=not shown.is_terminal)
    tasks: dict[str, int] = {}
    logged = time.monotonic()

    def update(done: int, total: int, note: str = "", title: str = title) -> None:
        nonlocal logged
        if bars.disable:
            if time.monotonic() - logged >= LOG_SECONDS:
                logged = time.monotonic()
                say(f"{title}: {done} of {total} {note}".rstrip(), to=aside)
            return
        if not tasks:
            bars.start()
        if title not in tasks:
            tasks[title] = bars.add_task(visible(title), total=total, note=visible(note))
        bars.update(tasks[title], completed=done, total=total, note=visible(note))  # type: ignore[arg-type]

    try:
        yield update
    finally:
        if tasks:  # else there is no bar, and stopping would leave an empty line
            bars.stop()
