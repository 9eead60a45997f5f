"""The code blocks of README and docs/, and how far each is run."""

import doctest
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lorascope.capture.config import CaptureConfig
from lorascope.cli.main import app, main
from lorascope.study.settings import StudySettings

__all__ = ["PAGES", "ROOT", "Block", "blocks", "captured", "check", "job_commands", "named"]

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))

REQUIRED = {
    "capture": ("model", "adapter", "data", "out"),
    "plan": ("model", "adapter", "data", "out"),
    "finetune": ("model", "data", "out"),
}
"""Command -> options that `...` stands for on a page."""
ONLY_PARSED = {
    "...": "what the reader has to put there isn't known",
    "torchrun": "wants several processes",
    "tcp://": "wants a Dask scheduler",
}
"""What marks a command that isn't run, and why."""
ONLY_COMPILED = {"SLURMCluster": "wants SLURM"}
"""What marks a block of Python that isn't run, and why."""
QUICK = {
    "compare": ("--n-draws=100",),
    "finetune": ("--batch-size=2", "--max-steps=2"),
    "fit": ("--quick",),
    "mi": ("--component=model.layers.1.*", "--shuffles=1", "--n-tokens=200", "--workers=1"),
    "miub": ("--workers=1",),
    "plan": ("--no-probe",),
}
"""Options that make a command quick, where the page doesn't set them."""


class Block(NamedTuple):
    """A fenced block."""

    language: str
    text: str
    line: int
    """Number of its first line of code, from 1."""


def named(page: Path) -> str:
    """A page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(text: str) -> list[Block]:
    """Every fenced block of a page."""
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(one[1], one[2], text.count("\n", 0, one.start(2)) + 1) for one in found]


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of a block: what follows `$ ` in a console, every line of a script."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language == "bash" or line.startswith("$ "):
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                yield words


def lorascope_words(words: list[str]) -> list[str] | None:
    """What lorascope itself gets of a command, also of one under torchrun; None if that is nothing."""
    return words[words.index("lorascope") + 1 :] if "lorascope" in words else None


def whole(words: list[str]) -> list[str]:
    """The same, where `...` stands for several options with something in their place."""
    if "..." not in words:
        return words
    undecided = [f"--{name}" for name in REQUIRED.get(words[0], ()) if f"--{name}" not in words]
    given = words[2:] if words[1] == "..." else words[1:]
    return [words[0], *given, *(word for name in undecided for word in (name, "x"))]


def is_run(words: list[str]) -> bool:
    """Whether a command of lorascope is run and not only parsed."""
    is_server = words[:2] == ["lorascope", "view"] and "--bundle" not in words
    return not is_server and not any(mark in word for word in words for mark in ONLY_PARSED)


def captured(text: str) -> set[str]:
    """The runs that a page's commands capture when they are run."""
    console = [words for block in blocks(text) if block.language == "console" for words in commands(block)]
    made = [words for words in console if words[:2] == ["lorascope", "capture"] and is_run(words)]
    return {words[words.index("--out") + 1] for words in made}


def quick(words: list[str]) -> list[str]:
    """The same command, with options that make it quick."""
    taken = [*words, *(["--shuffles"] if words[0] == "mi" and "--quick" in words else [])]  # which that goes without
    return [*words, *(option for option in QUICK.get(words[0], ()) if option.partition("=")[0] not in taken)]


def run_python(code: str, scope: dict[str, Any]) -> None:
    """Run a block, or the examples of one that shows a session."""
    reason = next((why for mark, why in ONLY_COMPILED.items() if mark in code), None)
    if reason is None and not code.startswith(">>>"):
        exec(compile(code, "<page>", "exec"), scope)
    elif reason is None:
        session = doctest.DocTestParser().get_doctest(code, scope, "page", None, 0)
        assert doctest.DocTestRunner().run(session, clear_globs=False).failed == 0
        scope.update(session.globs)
    else:
        compile(code, "<page>", "exec")


def run_command(words: list[str], *, only_parse: bool = False) -> None:
    """Run a command of lorascope, or parse it; for other programs check that their targets exist."""
    ours = lorascope_words(words)
    if ours is not None:
        app.parse_args(whole(ours), exit_on_error=False, print_error=False)
        if not only_parse and is_run(words):
            assert main(quick(ours)) == 0, words
    elif words[0] == "make":
        assert all(re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for name in words[1:]), words
    elif words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        asked = re.fullmatch(r"\.(?:\[([\w,]+)\])?", words[2])
        assert asked is not None, words
        assert set((asked[1] or next(iter(extras))).split(",")) <= set(extras), words
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), words
    else:
        assert words == ["source", ".venv/bin/activate"]


def job_commands(block: Block) -> list[list[str]]:
    """The words of each command of a job of GitHub Actions."""
    return [shlex.split(step["run"]) for job in yaml.safe_load(block.text)["jobs"].values() for step in job["steps"]]


def check(block: Block, scope: dict[str, Any]) -> None:
    """Run a block as far as it can be."""
    if block.language == "python":
        run_python(block.text, scope)
    elif block.language == "console":
        for words in commands(block):
            run_command(words)
    elif block.language == "bash":  # for SLURM, or to set variables
        subprocess.run(["bash", "-n", "-c", block.text], check=True)
        for words in commands(block):
            if "lorascope" in words:
                run_command(words, only_parse=True)
    elif block.language == "yaml" and "jobs:" in block.text:
        for command in job_commands(block):
            run_command(command, only_parse=True)
    elif block.language == "yaml":
        StudySettings.model_validate(yaml.safe_load(block.text))
    elif block.language == "toml":
        CaptureConfig(**{"out": "x", **tomllib.loads(block.text)})
    elif block.language == "json":
        json.loads(block.text)
    else:
        assert block.language == ""  # a drawing
