"""The command `lorascope`: parses, calls one function, reports; a mistake by the user is one line and exit code 2."""

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from types import FrameType
from typing import Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.exceptions import UnknownCommandError, UnknownOptionError

from lorascope.stores.names import suggestion
from lorascope.stores.process import handling_signals
from lorascope.stores.visible import visible

from .config_file import refuse_fractions, settings_of_file
from .screen import console

COMMANDS = {
    "demo": "See it work: fine-tune, capture, analyse and report on a small real model, on this machine.",
    "finetune": "Train a LoRA adapter on every linear layer of attention and FFN.",
    "plan": "How much disk, memory and time a capture will need, and whether it fits, before you start it.",
    "capture": "Run a model with its adapter over data and store base and delta of every LoRA layer.",
    "info": "Show what a run contains, how large it is, and how much of it is done.",
    "verify": "Check a run: checksums, decoding, and whether its numbers look right.",
    "pull": "Copy a run or a part of it, local or remote: some components, samples or tokens, or another codec.",
    "selftest": "Check on this machine that captures are right, and measure how fast they are.",
    "miub": "MIUB: how much the adapter changes, by component and in total (arXiv 2501.03152).",
    "mi": "Estimate the mutual information of base and LoRA states by component, with errors and verdicts.",
    "fit": "Fit a scaling law of MIUB in model size, LoRA rank and data size, and test the fit.",
    "compare": "Compare how well MIUB, cross-entropy and other metrics predict accuracy.",
    "study": "Train, capture and measure a grid of adapters from one file: the paper's experiment on your model.",
    "adapter": "Compare LoRA adapters by their weights: size and rank of each layer's change, without model or data.",
    "report": "One self-contained HTML page about a run, or one that compares several.",
    "explain": "What the adapter did and learned, in a paragraph.",
    "view": "Look into a run in a browser: every sample, token, layer and rank direction.",
}
STUDY_COMMANDS = {
    "plan": "What a study will run, and how much time and disk it needs.",
    "run": "Do what is missing: fine-tune, capture and measure every unit of the grid.",
    "status": "Show which units of a study are done.",
    "report": "Write tables and figures as one HTML page and as CSV.",
}
EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "peft", "accelerate", "gguf"), "capture"),
    "datasets": "datasets",
    "distributed": "cluster",
}
"""Module -> the extra of lorascope that brings it."""


def _show_default(default: Any) -> str | None:
    """Text of a default in the help: none where it is empty or no."""
    text = ", ".join(default) if isinstance(default, tuple) else default
    return None if text in (None, "") or text is False else str(text)


app = App(
    name="lorascope",
    help="See what a LoRA adapter does inside a language model.\n\n"
    "Capture once, on the machine with the model; analyse again and again, without it.",
    help_epilogue="Add --traceback to any command to see where an error came from.",
    version=version("lorascope"),
    default_parameter=Parameter(negative_iterable=(), negative_none=(), show_default=_show_default),
    result_action="return_value",
    config=(refuse_fractions, settings_of_file),
    console=console,
    suppress_keyboard_interrupt=False,  # a capture that was stopped has something to say
)
for _place, (_name, _help) in enumerate(COMMANDS.items()):
    # A command's module is imported when it is called: `lorascope miub` never waits for torch.
    if _name != "study":
        app.command(f"lorascope.cli.commands.{_name}:{_name}", name=_name, help=_help, sort_key=_place)
_study = App(name="study", help=COMMANDS["study"], sort_key=[*COMMANDS].index("study"))
for _place, (_name, _help) in enumerate(STUDY_COMMANDS.items()):
    _study.command(f"lorascope.cli.commands.study:{_name}", name=_name, help=_help, sort_key=_place)
app.command(_study)
app.register_install_completion_command(help="Write completion of commands and options for this shell, and load it.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 problems found, 2 a mistake by the user."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    try:
        with handling_signals(_terminate, signal.SIGTERM):
            return int(app(words, exit_on_error=False, print_error=False) or 0)
    except UnknownCommandError as error:
        # Its own text would import every command to list them, torch's too.
        name = (error.unused_tokens or ["?"])[0]
        return _fail(f"no command {name!r}; there are {', '.join(COMMANDS)}{suggestion(name, list(COMMANDS))}")
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
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 0
        if traceback:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        return _fail(message + (_option_meant(error) if isinstance(error, UnknownOptionError) else ""))
    except KeyboardInterrupt as error:
        message = str(error) or "interrupted; what was finished until then is whole"
        return _fail(message, code=getattr(error, "exit_code", 130))


class _Terminated(KeyboardInterrupt):
    exit_code = 128 + signal.SIGTERM
    """What a shell expects of a process that this signal ended."""


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command as SIGINT does: half-written files are removed on the way out."""
    raise _Terminated


def _missing_module(error: BaseException | None) -> str:
    """Top-level name of the module whose absence began it; Cyclopts wraps the import of a command's module."""
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__
    return (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""


def _nobody_reads() -> bool:
    """Whether stdout goes to a program that has ended; what is left for it is dropped then."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _option_meant(error: UnknownOptionError) -> str:
    """The end of an error about an unknown option: one that has its word, as `--group-by` has `--by`'s."""
    word = (error.token.keyword or error.token.value).strip("-")
    names = [name for argument in error.argument_collection for name in argument.names]
    close = [name for name in names if word in name.strip("-").split("-")]
    return f" Did you mean {close[0]}?" if close and "Did you mean" not in str(error) else ""


def _fail(message: str, code: int = 2) -> int:
    print(f"lorascope: error: {visible(message)}", file=sys.stderr)  # noqa: T201
    return code
