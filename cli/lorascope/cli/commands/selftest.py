"""`lorascope selftest`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..screen import progress_bar, quiet_libraries, say
from .plan import rate_rows

if TYPE_CHECKING:
    from lorascope.capture.selftest.selftest import Selftest

MARKS = {True: "ok", False: "FAILED", None: ""}
"""Whether a check passed, None for a measurement -> the word for it."""


def selftest(
    *, model: str | None = None, adapter: str | None = None, device: str = "auto", out: Path = Path(".")
) -> int:
    """Check on this machine that captures are right, and measure how fast they are.

    It prints Markdown, to paste into a report. The exit code is 1 if a check fails.

    Parameters
    ----------
    model
        Model to test with instead of the small ones: a hub id, a local folder, or a .gguf file.
    adapter
        Folder of its PEFT LoRA adapter.
    device
        Where the model runs: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1` ...
    out
        Folder on the disk where runs will be stored.
    """
    if (model is None) != (adapter is None):
        raise ValueError("`--model` and `--adapter` belong together; give both or neither")

    from lorascope.capture.selftest.selftest import SELFTEST_STAGES
    from lorascope.capture.selftest.selftest import selftest as test

    quiet_libraries()
    with progress_bar("selftest") as update:
        result = test(
            model=(model, adapter) if model and adapter else None,
            device=device,
            out=out,
            progress=lambda stage: update(SELFTEST_STAGES.index(stage), len(SELFTEST_STAGES), stage),
        )
        update(len(SELFTEST_STAGES), len(SELFTEST_STAGES))
    for line in _markdown_lines(result):
        say(line)
    return 0 if result.ok else 1


def _markdown_lines(result: "Selftest") -> Iterator[str]:
    """Yield lines of Markdown with a selftest's verdict, and tables of its checks, speeds and machine."""
    n_checked = sum(check.ok is not None for check in result.checks)
    n_failed = sum(check.ok is False for check in result.checks)
    yield f"**{f'{n_failed} of {n_checked} checks FAILED' if n_failed else f'All {n_checked} checks passed'}**"
    yield from _markdown_table(
        ("check", "found", "allowed", ""), [(c.what, c.result, c.allowed, MARKS[c.ok]) for c in result.checks]
    )
    if result.trials:
        rows = rate_rows(result.trials, "default")
        yield from _markdown_table(list(rows[0]), [list(row.values()) for row in rows])
    yield ""
    yield from (f"- {what}: {description}" for what, description in result.machine.items())


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield an empty line and the lines of a Markdown table, aligned so that a terminal shows it well too."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    yield ""
    for row in (columns, ["-" * width for width in widths], *rows):
        yield f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
