"""For the tests of commands."""

import pytest
from rich.console import Console

from lorascope.cli import screen


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal on which no table is cut."""
    monkeypatch.setattr(screen.console, "width", 500)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal for progress, while the answer goes elsewhere."""
    monkeypatch.setattr(screen, "aside", Console(stderr=True, force_terminal=True, width=200))
