"""From a run to a page on disk."""

from pathlib import Path

from lorascope.analyze.qualify import qualify
from lorascope.analyze.sizes import sizes
from lorascope.stores.places.atomic_write import atomic_write
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike, as_run

from . import about_run, sections, tokens
from .document import document
from .markup import notice

TITLE = "What the adapter changed, layer by layer"


def write_report(
    run: RunLike,
    path: str | Path,
    *,
    adapter: str | None = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write one HTML page about a run, with nothing in it that is fetched from elsewhere; returns its path.

    A page that is there already is replaced, and only by a whole one.

    Parameters
    ----------
    run
        An open run or its path or url, finished or not, with states or without.
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
    run = as_run(run)
    page = Path(path)
    if page.is_dir():
        raise IsADirectoryError(f"`path` is {str(path)!r}, a folder; name a file, e.g. {str(page / 'report.html')!r}")
    qualified, parts = qualify(run, adapter=adapter, n_workers=n_workers, progress=progress), sizes(run)
    body = (
        f"<header><h1>{TITLE}</h1>{about_run.subtitle(run, qualified)}</header>",
        *(notice(text) for text in about_run.notices(run, qualified)),
        sections.headline(run, qualified, parts[-1].stored_bytes),
        sections.components(qualified),
        sections.qualifiers(qualified),
        tokens.across_samples(qualified),
        tokens.across_tokens(run, qualified),
        tokens.token_texts(run, qualified),
        sections.task_scores(run),
        about_run.store(run, parts),
        about_run.fidelity(run, qualified),
        about_run.provenance(run),
    )
    text = document(TITLE, "".join(body))
    with atomic_write(page) as partial:
        partial.write_text(text, encoding="utf-8")
    return page
