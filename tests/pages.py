"""What README and the pages of docs/ print as code, and what stands in for what a reader brings."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "ONLY_COMPILED", "PAGES", "ROOT", "Block", "blocks", "captured", "commands", "is_run", "lorascope_words", "named",
    "quick", "whole",
]  # fmt: skip

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
    "compare": {"--n-resamples": "100"},
    "finetune": {"--batch-size": "2"},
    "fit": {"--draws": "20"},
    "mi": {"--component": "model.layers.1.*", "--shuffles": "1", "--tokens": "200", "--workers": "1"},
    "miub": {"--workers": "1"},
}
"""Options that make a command quick, where the page doesn't set them."""


class Block(NamedTuple):
    """A fenced block."""

    language: str
    text: str
    line: int
    """Of its first line of code, from 1."""


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
    lacking = [f"--{name}" for name in REQUIRED.get(words[0], ()) if f"--{name}" not in words]
    given = words[2:] if words[1] == "..." else words[1:]
    return [words[0], *given, *(word for name in lacking for word in (name, "x"))]


def is_run(words: list[str]) -> bool:
    """Whether a command of lorascope is run and not only parsed."""
    return not any(mark in word for word in words for mark in ONLY_PARSED)


def captured(text: str) -> set[str]:
    """The runs that a page's commands capture when they are run."""
    console = [words for block in blocks(text) if block.language == "console" for words in commands(block)]
    made = [words for words in console if words[:2] == ["lorascope", "capture"] and is_run(words)]
    return {words[words.index("--out") + 1] for words in made}


def quick(words: list[str]) -> list[str]:
    """The same command, with options that make it quick."""
    options = QUICK.get(words[0], {})
    return [*words, *(word for name, value in options.items() if name not in words for word in (name, value))]
