"""A command as a user gives it, and what it printed."""

import pytest

from lorascope.cli.main import main


def call(command: str, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, and what went to the terminal and to its channel of errors."""
    code = main([command, *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def flat(text: str) -> str:
    """Words without the line breaks and columns that they are set in."""
    return " ".join(text.split())
