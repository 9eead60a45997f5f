"""`lorascope report`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorascope.analyze.targets import refuse_inside_store, require_writable
from lorascope.stores.reading.there import require_store

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
    for one in (run, *more):
        require_store(one)

    from lorascope.analyze.report import write_report
    from lorascope.stores import open_run

    opened = [open_run(one) for one in (run, *more)]
    first = opened[0].path
    # Not with_suffix: of `llama-3.1` it would make `llama-3.html`.
    place = Path(first if isinstance(first, Path) else first.rstrip("/").rpartition("/")[2])
    ending = "-compared.html" if more else ".html"
    page = out if out is not None else place.with_name(place.name.removesuffix(".zarr") + ending)
    refuse_inside_store(page, "out")
    require_writable(page)  # before the work, not after it
    with progress_bar("report") as update:
        options: dict[str, Any] = {"adapter": adapter, "components": component or None, "n_workers": workers}
        write_report(opened, page, progress=update, **options)
    say(f"report: {page}")
