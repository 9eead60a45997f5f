"""`lorascope explain`."""

from pathlib import Path

from lorascope.analyze.results.targets import refuse_elsewhere
from lorascope.stores.reading.there import require_store

from ..screen import progress_bar, say


def explain(
    run: str,
    /,
    *,
    out: Path | None = None,
    adapter: str | None = None,
    workers: int | None = None,
) -> None:
    """What the adapter learned: a paragraph, and one self-contained HTML page with the numbers behind it.

    Where it acts, what matters when it is taken out, which directions, which words, how many ranks: each with its error
    or null, and "can't tell" where that is so. Most is known of a run of `lorascope capture --ablate components
    --unembedding`.

    Parameters
    ----------
    run
        Folder or url of the run.
    out
        File of the page; by default beside the run (or here, for a remote one): its name with -explained.html instead
        of .zarr.
    adapter
        Name of the adapter, where the run holds several.
    workers
        Threads; by default one a processor.
    """
    place = require_store(run)

    from lorascope.analyze.report import page_beside, write_explanation
    from lorascope.stores import open_run

    opened = open_run(place)
    page = out if out is not None else page_beside(opened, "-explained.html")
    refuse_elsewhere(page, "out")  # before the work, not after it
    with progress_bar("explain") as update:
        text = write_explanation(opened, page, adapter=adapter, n_workers=workers, progress=update)
    say(text)
    say(f"page: {page}")
