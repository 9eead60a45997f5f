"""Show the page about runs in a notebook or browser, with a server in the background."""

import threading
from collections.abc import Sequence
from html import escape
from typing import Self

from lorascope.stores import Run, open_place
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike, as_run
from lorascope.stores.reading.root import read_root

from .index import view_index
from .served_files import INDEX, MANIFEST, RUN, ServedStore, manifest, page
from .server import HTML, JSON, ViewServer

HEIGHT_PIXELS = 760
"""Height of the page in a notebook's cell."""
STOP_SECONDS = 0.1
"""Seconds between two checks whether a server should stop."""

_views: dict[tuple[object, ...], "View"] = {}
"""Views that run in this process, by port and runs, so that running a cell again starts no second server."""


class View:
    """Browser page about some runs, served until it is stopped; made by `view`."""

    def __init__(self, server: ViewServer) -> None:
        """Start answering requests in a background thread."""
        self.url = server.url
        self._server = server
        threading.Thread(target=server.serve_forever, args=(STOP_SECONDS,), daemon=True, name="lorascope-view").start()

    def __repr__(self) -> str:
        """Return `<View URL>` as text, with a mark if it is stopped."""
        return f"<View {self.url}{' (stopped)' if self._server.stopped else ''}>"

    def _repr_html_(self) -> str:
        """Return HTML of an iframe with the page, which a notebook shows in the cell."""
        style = f"width:100%;height:{HEIGHT_PIXELS}px;border:0"
        return f'<iframe src="{escape(self.url)}" title="lorascope" style="{style}"></iframe>'

    def __enter__(self) -> Self:
        """Return this view, whose page is served already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving the page, also after an error, which is passed on."""
        self.stop()

    def stop(self) -> None:
        """Stop serving the page; a second call does nothing."""
        if not self._server.stopped:
            self._server.stopped = True
            self._server.shutdown()
            self._server.server_close()


def view(runs: RunLike | Sequence[RunLike], *, port: int = 0, progress: Progress | None = None) -> View:
    """Serve the page about one run or several in the background; a notebook shows the returned `View` in the cell.

    A view index with all that the page needs and the run lacks is computed once, in the run's folder. A process serves
    the same runs only once. The server only answers this machine, so in a notebook that runs elsewhere, such as on a
    JupyterHub, the cell stays empty.

    Parameters
    ----------
    runs
        An open run or its path or url, finished or not; or several.
    port
        Number of the port; by default any that is free.
    progress
        Called with (tasks done, tasks in all) of computations; every run counts from 0 again.

    Returns
    -------
    View
        Its `url` is secret: everybody on this machine who has it can read the runs. `stop()`, or the end of a `with`
        block, ends it.

    Raises
    ------
    ValueError
        If `runs` is empty.
    StoreError
        If a run doesn't exist, or one of its chunks is broken.
    OSError
        If the port is taken.
    """
    named = [runs] if isinstance(runs, RunLike) else runs
    opened = [
        as_run(run.path if isinstance(run, Run) else run) for run in named
    ]  # opened again, since a run may have grown
    if not opened:
        raise ValueError("`runs` is empty; name one run or several")
    indexes = [view_index(run, progress=progress) for run in opened]
    pairs = list(zip(opened, indexes, strict=True))
    key = (
        port,
        *(
            (index.resolve(), run.attributes["static_digest"], run.attributes.get("fingerprint", ""), run.finished)
            for run, index in pairs
        ),
    )
    if key in _views and not _views[key]._server.stopped:
        return _views[key]
    addresses = [RUN.format(place) for place in range(len(opened))]
    documents = {"": (page(), HTML), MANIFEST: (manifest(opened, addresses), JSON)}
    stores = {}
    for place, (run, index) in enumerate(pairs):
        for address, path in (
            (RUN, run.path),
            (INDEX, index),
        ):  # opened again, since a run's own place keeps chunks in memory
            stores[address.format(place)] = ServedStore.of(read_root(open_place(path)))
    try:
        _views[key] = View(ViewServer(documents, stores, port))
    except OSError as error:
        raise OSError(
            f"`port` is {port}, which can't be opened ({error.strerror}); name another, or leave `port` out"
        ) from error
    return _views[key]
