"""`lorascope report`."""

from pathlib import Path

from lorascope.analyze.report import write_report
from lorascope.stores import open_run

from ..screen import console, progress_bar

__all__ = ["report"]


def report(run: Path, /, *, out: Path | None = None, adapter: str | None = None, workers: int | None = None) -> None:
    """One self-contained HTML page about a run.

    Parameters
    ----------
    run
        Folder of the run.
    out
        File of the page; by default `<run>.html` beside the run.
    adapter
        Name of the adapter, where the run holds several.
    workers
        Threads; by default one a processor.
    """
    opened = open_run(run)
    page = out if out is not None else run.with_suffix(".html")
    with progress_bar("report") as update:
        write_report(opened, page, adapter=adapter, n_workers=workers, progress=update)
    console.print(f"report: [bold]{page}[/bold]")
