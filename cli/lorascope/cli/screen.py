"""The terminal: lines, tables and progress bars; imports nothing heavy, since `lorascope --help` waits for it."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lorascope.analyze.results.format import common_power_of_ten, format_error, format_number
from lorascope.stores.visible import COMMANDS, visible

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

    from lorascope.stores import Run

NARROWEST, USUAL = 20, 80
"""A terminal that claims fewer columns than the first doesn't know; it is taken to have the second."""
MOST_ROWS, TOP = 32, 20
"""Rows of the longest table that is printed whole, and how many are printed of a longer one."""
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
    from lorascope.analyze.results.save import to_json

    return COMMANDS.sub(lambda match: f"\\u{ord(match[0]):04x}", to_json(value))


def write_json(value: Any) -> None:
    """The answer as one JSON object and nothing else."""
    write(json_text(value))


def say(text: str, *, to: Console | None = None) -> None:
    """A line on the terminal: paths and names from a store are no markup or commands, and long ones aren't broken."""
    (to or console).print(visible(text), markup=False, highlight=False, soft_wrap=True)


def print_text(text: str) -> None:
    """Sentences on the terminal, broken between words at its width."""
    console.print(visible(text), markup=False, highlight=False)


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


def print_frame(
    frame: "pd.DataFrame | Sequence[Mapping[str, Any]]",
    title: str,
    *,
    units: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    largest: str = "",
    full: bool = False,
) -> None:
    """Print a table that fits a screen: values with their standard errors, in a unit that lets them be compared.

    Parameters
    ----------
    frame
        The table, or its rows as column -> value, whose text may also be the name of a file that is no UTF-8. A column
        `x_se` is the standard error of `x`, and stands behind it. Text is printed as it is.
    title
        What stands above the table.
    units
        Column -> unit; by default those of `frame.attrs["units"]`. Columns of one unit get one power of ten. A unit of
        every column of floats stands in the title, else units stand in the heads of columns.
    names
        Column -> head of the column, where that isn't the column's name.
    largest
        Of a table of more than `MOST_ROWS` rows, the `TOP` rows where this column is largest are printed.
    full
        Print all rows.
    """
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        frame = pd.DataFrame(frame, dtype=object)
    units = frame.attrs.get("units", {}) if units is None else units
    shown = frame
    if largest and not full and len(frame) > MOST_ROWS:
        shown = frame.nlargest(TOP, largest)
        title = f"{title}, the {TOP} largest of {len(frame)} (--full or --out: all)"
    columns = [name for name in frame.columns if not (name.endswith("_se") and name[:-3] in frame.columns)]
    floats = [name for name in columns if frame[name].dtype.kind == "f"]
    powers = {
        unit: common_power_of_ten(shown[[name for name in floats if units.get(name) == unit]].to_numpy().ravel(), unit)
        for unit in {units[name] for name in floats if name in units}
    }
    shared = len(floats) > 1 and len({units.get(name) for name in floats}) == 1 and units.get(floats[0])
    heading = f"{title} ({powers[shared][1]})" if shared else title
    table = Table(header_style="bold")
    cells = []
    for name in columns:
        scale, unit = powers.get(units.get(name, ""), (1.0, units.get(name, "")))
        head = (names or {}).get(name, name) + (f" ({unit})" if unit and not shared else "")
        texts = _cells(shown, name, scale)
        numeric = frame[name].dtype.kind in "iuf" or bool(texts and texts[0][:1] in set("0123456789-+."))
        table.add_column(Text(visible(head)), justify="right" if numeric else "left", overflow="fold")
        cells.append(texts)
    for row in zip(*cells, strict=True):
        table.add_row(*(Text(visible(text)) for text in row))
    console.print(Text(visible(heading), style="italic"))
    console.print(table)


def _cells(frame: "pd.DataFrame", name: str, scale: float) -> list[str]:
    """The texts of a column."""
    values = frame[name]
    if f"{name}_se" in frame.columns:
        return list(map(format_error, scale * values, scale * frame[f"{name}_se"]))
    if values.dtype.kind == "f":
        return [format_number(scale * value) for value in values]
    known = ["" if value is None else value for value in values]
    return [format_number(value) if isinstance(value, float) else str(value) for value in known]


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
