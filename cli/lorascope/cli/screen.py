"""The terminal: lines, tables, progress bars, and the last line of a stopped command. It imports nothing heavy."""

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
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
"""A terminal that reports fewer columns than the first number is treated as if it had the second."""
MOST_ROWS, TOP = 32, 20
"""Rows of the longest table that is printed whole, and number of rows printed of a longer one."""
LOG_SECONDS = 30.0
"""Seconds between two lines of progress in a log, which has no bar; shorter work prints no line."""
RESTARTS, CONTINUES = "the same command begins again", "the same command goes on"


class _Console(Console):
    """Console of rich that goes silent once the program that reads its output has ended."""

    def on_broken_pipe(self) -> None:
        """Drop the rest of the output, so that the command ends as if all had been read."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def make_console(*, stderr: bool = False) -> Console:
    """Return a rich Console on stdout or stderr, with `USUAL` columns if the terminal's width is unknown."""
    made = _Console(stderr=stderr)
    if made.width < NARROWEST:
        made.width = USUAL
    return made


console = make_console()
aside = make_console(stderr=True)
"""Console on stderr: for everything except the answer, which a program may read from stdout."""


def json_text(value: Any) -> str:
    """Return a value as JSON text, with NaN as null and control characters of terminals as JSON escapes."""
    from lorascope.analyze.results.save import to_json

    return COMMANDS.sub(lambda match: f"\\u{ord(match[0]):04x}", to_json(value))


def write_json(value: Any) -> None:
    """Print a value as one JSON object on stdout; it is no error if its reader has ended."""
    try:
        console.file.write(json_text(value))
        console.file.flush()
    except BrokenPipeError:
        console.on_broken_pipe()


def say(text: str, *, to: Console | None = None) -> None:
    """Print a line without wrapping it; markup and control characters in names from a store are shown as text."""
    (to or console).print(visible(text), markup=False, highlight=False, soft_wrap=True)


def print_text(text: str) -> None:
    """Print sentences on stdout, wrapped between words at the terminal's width."""
    console.print(visible(text), markup=False, highlight=False)


def format_note(message: str, places: Sequence[object]) -> str:
    """Return a message with the first three of `places` in brackets, and how many more there are."""
    shown = ", ".join(map(str, places[:3])) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
    return f"{message} ({shown})" if places else message


def describe_incomplete(n_samples: int, run: "Run") -> str:
    """Return a sentence on why `n_samples` samples of a run are incomplete: lost rows, or an unfinished capture."""
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
    """Print a table that fits a screen: each value with its standard error, and one power of ten per unit.

    Parameters
    ----------
    frame
        The table, or its rows as column -> value. A column `x_se` is the standard error of `x` and is printed behind
        it. Text is printed unchanged; it may be a file's name that isn't UTF-8.
    title
        Line above the table.
    units
        Column -> unit; by default `frame.attrs["units"]`. Columns of one unit get one power of ten. A unit shared by
        all columns of floats is printed in the title, other units in the columns' heads.
    names
        Column -> head of the column, if it isn't the column's name.
    largest
        Column whose `TOP` largest values are kept in a table of more than `MOST_ROWS` rows.
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
        texts = _format_column(shown, name, scale)
        numeric = frame[name].dtype.kind in "iuf" or bool(texts and texts[0][:1] in set("0123456789-+."))
        table.add_column(Text(visible(head)), justify="right" if numeric else "left", overflow="fold")
        cells.append(texts)
    for row in zip(*cells, strict=True):
        table.add_row(*(Text(visible(text)) for text in row))
    console.print(Text(visible(heading), style="italic"))
    console.print(table)


def _format_column(frame: "pd.DataFrame", name: str, scale: float) -> list[str]:
    """Return a column's cells as text, numbers times `scale`, with errors from the column NAME_se if it exists."""
    values = frame[name]
    if f"{name}_se" in frame.columns:
        return list(map(format_error, scale * values, scale * frame[f"{name}_se"]))
    if values.dtype.kind == "f":
        return [format_number(scale * value) for value in values]
    known = ["" if value is None else value for value in values]
    return [format_number(value) if isinstance(value, float) else str(value) for value in known]


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[..., None]]:
    """Show a progress bar during the block; yield a function update(done, total, note="", title=title).

    A new title starts a new bar.

    It is drawn on stderr if the answer goes to a file or a program. Without any terminal, as in a batch job's log, a
    line is printed every `LOG_SECONDS`, and one at the end of each title that has such a line.
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
    logged, unended = time.monotonic(), set[str]()  # when the last line was printed, titles whose last isn't their end

    def update(done: int, total: int, note: str = "", title: str = title) -> None:
        """Set the bar of `title` to `done` of `total`; without a terminal, print a line every `LOG_SECONDS`."""
        nonlocal logged
        if bars.disable:
            if time.monotonic() - logged >= LOG_SECONDS or (done >= total and title in unended):
                logged = time.monotonic()
                (unended.discard if done >= total else unended.add)(title)
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
        if tasks:  # without a bar, stopping would leave an empty line
            bars.stop()


@contextmanager
def importing_libraries(update: Callable[..., None]) -> Iterator[None]:
    """Show that torch, transformers and PEFT are imported in the block, which takes seconds, and silence them."""
    update(0, 1, "torch, transformers, PEFT", "import")
    yield
    quiet_libraries()
    update(1, 1, "torch, transformers, PEFT", "import")


def quiet_libraries() -> None:
    """Silence progress bars of transformers, and two warnings of PEFT and transformers that no user can act on."""
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # transformers 5.24's reader of .gguf draws tqdm's own bar, which that doesn't reach.
    modeling_gguf_pytorch_utils.tqdm = logging.tqdm  # type: ignore[attr-defined]
    # PEFT 0.21 asks transformers 5.24 for an attribute under its old name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    # PEFT looks for a config file next to a .gguf, to see whether the vocabulary grew; lorascope never adds to it.
    warnings.filterwarnings("ignore", message="Could not find a config file in", category=UserWarning)


@contextmanager
def report_when_stopped(describe: Callable[[], str]) -> Iterator[None]:
    """Give a KeyboardInterrupt of the block the message that `describe` returns, unless it has one already."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not str(error):
            with suppress(ValueError, OSError):  # if the state can't be read, the usual sentence is printed
                error.args = (describe(),)
        raise


def describe_rows(out: str) -> str:
    """Return a sentence on how many rows of the run `out` are stored after its capture or copy was stopped."""
    from lorascope.stores import open_run, run_state

    state = run_state(out)
    if state == "absent":
        return f"stopped before anything was written to `{out}`; {RESTARTS}"
    if state == "torn":
        return f"stopped while `{out}` was being set up; it holds no row, and {RESTARTS}"
    run = open_run(out)
    rows = f"{int(run.committed_rows.sum())} of {run.n_rows} rows of `{out}`"
    return f"stopped when it was finished, with {rows}" if run.finished else f"stopped after {rows}; {CONTINUES}"


def describe_training(out: Path) -> str:
    """Return a sentence on which checkpoint of the adapter `out` is stored after its training was stopped."""
    from lorascope.capture.training.folder import last_checkpoint, training_folder

    if out.exists():
        return f"stopped, but the adapter in `{out}` is finished"
    last = last_checkpoint(training_folder(out))
    if last is None:
        return f"stopped before the first checkpoint; nothing of the training stays, and {RESTARTS}"
    return f"stopped; the checkpoint after step {last.name.rpartition('-')[2]} stays, and {CONTINUES} from it"


def describe_components(target: Path) -> str:
    """Return a sentence on how many components of the unfinished result `target` are stored after a stop."""
    from lorascope.analyze.measuring.unfinished import Unfinished, unfinished_path

    if target.exists():
        return f"stopped, but `{target}` is finished"
    if not unfinished_path(target).exists():
        return f"stopped before anything was written for `{target}`; {RESTARTS}"
    done = Unfinished(unfinished_path(target)).done
    return f"stopped after {int(done.sum())} of {len(done)} components of `{target}`; {CONTINUES}"
