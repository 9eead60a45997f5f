"""`lorascope view`."""

import os
import threading
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from lorascope.stores.reading.require_run import require_store
from lorascope.stores.size import format_size

from ..options import RunPath
from ..screen import progress_bar, say

IN_TERMINAL = ("www-browser", "links", "elinks", "lynx", "w3m")
"""Browsers that would occupy this terminal, and that run no script."""


def view(
    run: RunPath,
    /,
    *more: str,
    bundle: Path | None = None,
    with_run: bool = False,
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = 0,
    browser: bool = True,
) -> None:
    """Show a run in a browser: every sample, token, layer and direction of the adapter.

    Several runs are shown side by side.

    Parameters
    ----------
    more
        Further runs to show next to the first.
    bundle
        Write page and report to this new folder, for any web server or bucket, and serve nothing; put it next to the
        run.
    with_run
        Copy the runs into the bundle, so that it needs no other files.
    port
        Number of the port; by default any free one.
    browser
        Open a browser. With --no-browser, only the address is printed.
    """
    runs = [require_store(path) for path in (run, *more)]
    if with_run and bundle is None:
        raise ValueError("`--with-run` is for a bundle; name its folder by `--bundle`")
    if bundle is not None and port:
        raise ValueError(f"`--port` is {port}, and with `--bundle` nothing is served; leave one of them out")

    from lorascope.analyze import viewing
    from lorascope.stores import open_place

    with progress_bar("view") as update:
        if bundle is not None:
            viewing.write_bundle(runs, bundle, with_runs=with_run, progress=update)
        else:
            shown = viewing.view(runs, port=port, progress=update)
    if bundle is not None:
        sizes = dict(open_place(bundle).sizes())
        copied = sum(n_bytes for key, n_bytes in sizes.items() if key.startswith("runs/"))
        say(f"bundle: {bundle}, {format_size(sum(sizes.values()))}, including {format_size(copied)} of runs")
        if not with_run:
            say("the bundle reads the runs next to it: serve both together")
        return
    with suppress(KeyboardInterrupt), shown:
        say(f"view: {shown.url} (until Ctrl-C; whoever has this address on this machine can read the runs)")
        if browser:
            threading.Thread(target=_open_browser, args=(shown.url,), daemon=True).start()
        threading.Event().wait()


def _open_browser(url: str) -> None:
    """Open a page in a browser if this machine has a graphical one; raise nothing if it fails."""
    with suppress(webbrowser.Error, OSError):
        browser = webbrowser.get()
        if "BROWSER" in os.environ or getattr(browser, "name", "") not in IN_TERMINAL:
            browser.open(url)
