"""The command `lorascope`: it parses, runs one command, and prints a user's mistake as one line with exit code 2."""

import inspect
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from types import FrameType
from typing import Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.exceptions import UnknownCommandError, UnknownOptionError

from lorascope.stores.names import suggestion
from lorascope.stores.places.files import FULL_DISK_ERRORS, DiskFullError
from lorascope.stores.process import handling_signals
from lorascope.stores.visible import visible

from .options import add_file_settings, refuse_fractions
from .screen import console

COMMANDS = (
    *("demo", "finetune", "plan", "capture", "info", "verify", "pull", "selftest", "miub", "mi", "fit", "compare"),
    *("study", "adapter", "report", "explain", "view"),
)
"""Names of all commands, each a module of `commands`, in the order in which the help lists them."""
STUDY_COMMANDS = ("plan", "run", "status", "report")
EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "peft", "accelerate", "gguf"), "capture"),
    "datasets": "datasets",
    "distributed": "cluster",
}
"""Module -> the extra of lorascope that brings it."""


def _show_default(default: Any) -> str | None:
    """Return an option's default as text for the help; None, which shows nothing, for empty, None or False."""
    text = ", ".join(default) if isinstance(default, tuple) else default
    return None if text in (None, "") or text is False else str(text)


if "OMP_WAIT_POLICY" not in os.environ:  # by default a thread of torch spins so long for work that other jobs starve
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

app = App(
    name="lorascope",
    help="See what a LoRA adapter does inside a language model.\n\n"
    "Capture once, on the machine with the model; analyse again and again, without it.",
    help_epilogue="Add --traceback to any command to see where an error came from.",
    version=version("lorascope"),
    default_parameter=Parameter(negative_iterable=(), negative_none=(), show_default=_show_default),
    result_action="return_value",
    config=(refuse_fractions, add_file_settings),
    console=console,
    suppress_keyboard_interrupt=False,  # a stopped capture prints how far it came
)


def _add_command(parent: App, module: str, name: str, place: int) -> None:
    """Add a command that imports its module only when it is called, so that `lorascope miub` imports no torch."""
    source = files("lorascope.cli.commands").joinpath(f"{module}.py").read_text(encoding="utf-8")
    docstring = re.search(
        rf'^def {name}\(.*?"""(.*?)"""', source, re.DOTALL | re.MULTILINE
    )  # importing it takes longer
    text = inspect.cleandoc(docstring[1]) if docstring else ""
    parent.command(f"lorascope.cli.commands.{module}:{name}", name=name, help=text, sort_key=place)


_study = App(
    name="study",
    help="Train, capture and measure a grid of adapters from one file: the paper's experiment on your model.",
    sort_key=COMMANDS.index("study"),
)
for _place, _name in enumerate(COMMANDS):
    if _name != "study":
        _add_command(app, _name, _name, _place)
for _place, _name in enumerate(STUDY_COMMANDS):
    _add_command(_study, "study", _name, _place)
app.command(_study)
app.register_install_completion_command(help="Write completion of commands and options for this shell, and load it.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 problems found or a full disk, 2 a mistake."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    try:
        with handling_signals(_terminate, signal.SIGTERM):
            return int(app(words, exit_on_error=False, print_error=False) or 0)
    except UnknownCommandError as error:
        # Its own text would import every command to list them, torch's too.
        name = (error.unused_tokens or ["?"])[0]
        if name == "compact":
            return _fail("`compact` is now `lorascope pull RUN COPY`, which takes `--codec`")
        return _fail(f"no command {name!r}; there are {', '.join(COMMANDS)}{suggestion(name, COMMANDS)}")
    except ImportError as error:
        missing = _missing_module(error)
        if traceback or missing not in EXTRAS:
            raise
        extra = f"lorascope[{EXTRAS[missing]}]"
        return _fail(f"this needs {missing}, which isn't installed; `pip install '{extra}'` brings it")
    except (MemoryError, RecursionError) as error:
        if traceback:
            raise
        what = "there isn't memory enough" if isinstance(error, MemoryError) else "something is nested too deep"
        message = " ".join(str(error).split())
        return _fail(f"{what} for `lorascope {shlex.join(words)}`{f': {message}' if message else ''}")
    except (CycloptsError, ValueError, ArithmeticError, OSError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError) and _is_stdout_closed():
            return 0
        if traceback:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and error.errno in FULL_DISK_ERRORS:
            mend = "" if isinstance(error, DiskFullError) else "; free some space, and give the same command again"
            return _fail(message + mend, code=1)
        return _fail(message + (_suggest_option(error) if isinstance(error, UnknownOptionError) else ""))
    except KeyboardInterrupt as error:
        message = str(error) or "interrupted; what was finished until then is whole"
        return _fail(message, code=getattr(error, "exit_code", 130))


class _Terminated(KeyboardInterrupt):
    """KeyboardInterrupt raised on SIGTERM, so that a killed command cleans up and exits with code 143."""

    exit_code = 128 + signal.SIGTERM
    """Exit code that a shell expects of a process ended by this signal."""


def _terminate(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM by raising `_Terminated`, so that half-written files are removed on the way out.

    Where another process of a capture failed, this one is on its way out, and torchrun sends it this signal.
    """
    if type(sys.exception()).__name__ != "RankError":  # whose import takes lorascope[capture]
        raise _Terminated


def _missing_module(error: BaseException | None) -> str:
    """Return the top-level name of the module that isn't installed, or "" if the error has another cause."""
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__  # Cyclopts wraps the import of a command's module
    return (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""


def _is_stdout_closed() -> bool:
    """Return whether the reader of stdout has ended; if so, also send all further output to the null device."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _suggest_option(error: UnknownOptionError) -> str:
    """Return ` Did you mean --group-by?` for an unknown option `--by`, by a word of a name; else an empty text."""
    word = (error.token.keyword or error.token.value).strip("-")
    names = [name for argument in error.argument_collection for name in argument.names]
    close = [name for name in names if word in name.strip("-").split("-")]
    return f" Did you mean {close[0]}?" if close and "Did you mean" not in str(error) else ""


def _fail(message: str, code: int = 2) -> int:
    """Print an error as one line on stderr, and return the exit code."""
    print(f"lorascope: error: {visible(message)}", file=sys.stderr)  # noqa: T201
    return code
