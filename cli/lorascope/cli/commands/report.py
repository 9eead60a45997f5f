"""`lorascope report`."""

from pathlib import Path

from lorascope.analyze.targets import require_writable
from lorascope.stores.reading.there import require_store

from ..screen import progress_bar, say


def report(run: str, /, *, out: Path | None = None, adapter: str | None = None, workers: int | None = None) -> None:
    """One self-contained HTML page about a run.

    Parameters
    ----------
    run
        Folder or url of the run.
    out
        File of the page; by default beside the run (or here, for a remote one), .html instead of .zarr.
    adapter
        Name of the adapter, where the run holds several.
    workers
        Threads; by default one a processor.
    """
    require_store(run)

    from lorascope.analyze.report import write_report
    from lorascope.stores import open_run

    opened = open_run(run)
    # Not with_suffix: of `llama-3.1` it would make `llama-3.html`.
    place = Path(opened.path if isinstance(opened.path, Path) else opened.path.rstrip("/").rpartition("/")[2])
    page = out if out is not None else place.with_name(place.name.removesuffix(".zarr") + ".html")
    require_writable(page)  # before the work, not after it
    with progress_bar("report") as update:
        write_report(opened, page, adapter=adapter, n_workers=workers, progress=update)
    say(f"report: {page}")
