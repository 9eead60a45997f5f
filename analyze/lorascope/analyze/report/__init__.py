"""One self-contained HTML page about a run."""

from .write import write_report

__all__ = ["write_report"]
