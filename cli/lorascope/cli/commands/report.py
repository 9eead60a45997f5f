"""`lorascope report`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorascope.analyze.results.targets import refuse_elsewhere
from lorascope.stores.reading.require_run import require_store

from ..screen import progress_bar, say


def report(
    run: str,
    /,
    *more: str,
    out: Path | None = None,
    adapter: str | None = None,
    component: Sequence[str] = (),
    workers: int | None = None,
) -> None:
    """One self-contained HTML page about a run, or one that compares several.

    The page about a run opens with the paragraph of `lorascope explain`.

    Parameters
    ----------
    run
        Folder or url of the run.
    more
        Further runs, to be compared with the first on one page.
    out
        File of the page; by default beside the first run (or here, for a remote one): its name with .html instead of
        .zarr, or with -compared.html.
    adapter
        Name of the adapter, where the runs hold several.
    component
        Paths of components or patterns, such as '*.q_proj', that the page is to be about; all by default.
    workers
        Threads; by default one a processor.
    """
    places = [require_store(path) for path in (run, *more)]

    from lorascope.analyze.report import page_beside, write_report
    from lorascope.stores import open_run

    opened = [open_run(place) for place in places]
    page = out if out is not None else page_beside(opened[0], "-compared.html" if more else ".html")
    refuse_elsewhere(page, "out")  # before the work, not after it
    with progress_bar("report") as update:
        options: dict[str, Any] = {"adapter": adapter, "components": component or None, "n_workers": workers}
        write_report(opened, page, progress=update, **options)
    say(f"report: {page}")
