"""`lorascope report`."""

from pathlib import Path
from typing import Any

from lorascope.analyze.results.options import refuse_unwritable
from lorascope.stores.reading.require_run import require_store

from ..options import AdapterName, Components, RunPath, Workers
from ..screen import aside, progress_bar, say


def report(
    run: RunPath,
    /,
    *more: str,
    out: Path | None = None,
    adapter: AdapterName = None,
    component: Components = (),
    workers: Workers = None,
) -> None:
    """Write one self-contained HTML page about a run, or one that compares several.

    Parameters
    ----------
    more
        Further runs to compare with the first on one page.
    out
        File of the page; by default next to the first run (or here, for a remote one): its name with .html instead of
        .zarr, or with -compared.html.
    """
    places = [require_store(path) for path in (run, *more)]

    from lorascope.analyze.report import page_path, write_report
    from lorascope.stores import open_run

    opened = [open_run(place) for place in places]
    page = out if out is not None else page_path(opened[0], "-compared.html" if more else ".html")
    refuse_unwritable(page, "out")  # before the work, not after it
    notes = list[str]()
    with progress_bar("report") as update:

        def report_progress(done: int, total: int, part: str = "") -> None:
            """Draw the bar, and keep the note on numbers of an earlier call."""
            update(done, total)
            notes.append(part)

        options: dict[str, Any] = {"adapter": adapter, "component": component or None, "n_workers": workers}
        write_report(opened, page, progress=report_progress, **options)
    say(f"report: {page}")
    for note in filter(None, notes):
        say(note, to=aside)
