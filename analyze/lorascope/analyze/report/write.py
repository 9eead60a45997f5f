"""From a run to a page on disk."""

import os
from collections.abc import Callable
from pathlib import Path

from lorascope.analyze.qualify import qualify
from lorascope.stores import Run

from .page import render_page

__all__ = ["write_report"]


def write_report(
    run: Run,
    path: str | Path,
    *,
    adapter: str | None = None,
    n_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write one HTML page about a run, with nothing in it that is fetched from elsewhere; returns its path.

    A page that is there already is replaced, and only by a whole one.

    Parameters
    ----------
    run
        An open run, finished or not, with states or without.
    path
        File of the page; its folder is made where it is missing.
    adapter
        Name of the adapter; may be left out where there is one.
    n_workers
        Threads; by default one a processor.
    progress
        Called with (tasks done, tasks in all).

    Raises
    ------
    IsADirectoryError
        If `path` is a folder.
    StoreError
        If the run holds no such adapter, no sample is wholly committed, or a chunk is broken.
    """
    page = Path(path)
    if page.is_dir():
        raise IsADirectoryError(f"`path` is {str(path)!r}, a folder; name a file, e.g. {str(page / 'report.html')!r}")
    text = render_page(run, qualify(run, adapter=adapter, n_workers=n_workers, progress=progress))
    page.parent.mkdir(parents=True, exist_ok=True)
    partial = page.with_name(f".{page.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, page)
    return page
