"""From a run, or several, to a page on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorascope.analyze.miub.qualify import qualify
from lorascope.stores import Run
from lorascope.stores.places.files import atomic_write
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike, as_run

from . import about_run
from .acts import acts
from .comparison import comparison
from .document import document
from .explain import Explanation, explain
from .helped import scores_section
from .learned import directions_and_words, ranks
from .markup import contents, escape, notice, with_code
from .matters import matters
from .paragraph import paragraph
from .samples import samples
from .trust import trust

TITLE = "What the adapter did and learned"


def write_report(
    runs: RunLike | Sequence[RunLike],
    path: str | Path,
    *,
    adapter: str | None = None,
    components: Sequence[str] | None = None,
    view_page: str | None = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write one HTML page about a run, or one that compares several; returns its path.

    The page about a run opens with what `paragraph` says. Nothing in it is fetched from elsewhere. A page that is there
    already is replaced, and only by a whole one.

    Parameters
    ----------
    runs
        An open run or its path or url, finished or not, with states or without; or several, to be compared.
    path
        File of the page; its folder is made where it is missing.
    adapter
        Name of the adapter; may be left out where there is one.
    components
        Paths of components or patterns, such as `*.q_proj`, that the page is to be about; by default all.
    view_page
        Address of the page of `lorascope view` as seen from this one, to which samples link, such as
        `index.html#panes=0:NAME` for one of several adapters; by default the page says by which command it is opened.
    n_workers
        Threads; by default one a processor.
    progress
        Called with (tasks done, tasks in all) of each step anew.

    Raises
    ------
    IsADirectoryError
        If `path` is a folder.
    ValueError
        If `runs` is empty or holds a run twice.
    StoreError
        If a run holds no such adapter, no sample is wholly committed, or a chunk is broken.
    """
    page = Path(path)
    if page.is_dir():
        raise IsADirectoryError(f"`path` is {str(path)!r}, a folder; name a file, e.g. {str(page / 'report.html')!r}")
    opened = [as_run(run) for run in ([runs] if isinstance(runs, RunLike) else runs)]
    places = [str(run.path) for run in opened]
    if not opened or len(set(places)) < len(places):
        raise ValueError(f"`runs` are {places}; give at least one run, and each once")
    options: dict[str, Any] = {"adapter": adapter, "components": components, "n_workers": n_workers}
    options["progress"] = progress
    if len(opened) == 1:
        text = _report(opened[0], explain(opened[0], **options), view_page)
    else:
        text = comparison(opened, [qualify(run, **options) for run in opened])
    with atomic_write(page) as partial:
        partial.write_text(text, encoding="utf-8")
    return page


def page_beside(run: Run, ending: str) -> Path:
    """File of a page about a run: beside it, or here if it is remote, its name with this ending instead of .zarr."""
    # Not with_suffix: of `llama-3.1` it would make `llama-3.html`.
    place = run.path if isinstance(run.path, Path) else Path(run.path.rstrip("/").rpartition("/")[2])
    return place.with_name(place.name.removesuffix(".zarr") + ending)


def _report(run: Run, explanation: Explanation, view_page: str | None) -> str:
    """HTML of the page about one run."""
    qualified = explanation.qualified
    body = "".join(
        (
            acts(run, qualified),
            matters(explanation),
            directions_and_words(run, explanation),
            ranks(explanation),
            scores_section(run),
            samples(run, qualified, view_page),
            trust(run, qualified),
        )
    )
    answers = paragraph(run, explanation)
    opening = "".join(
        f'<p class="opening"><b>{escape(question)}</b> {with_code(answer)}</p>' for question, answer in answers
    )
    notices = "".join(map(notice, about_run.notices(run, qualified)))
    return document(TITLE, about_run.source(run, qualified), f"{opening}{notices}{contents(body)}{body}")
