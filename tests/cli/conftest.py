"""For the tests of commands."""

import pytest

from lorascope.cli import screen


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal on which no table is cut."""
    monkeypatch.setattr(screen.console, "width", 500)
