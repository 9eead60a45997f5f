"""From a run, or several, to a page on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from lorascope.analyze.ablation.compare_measures import compare_measures
from lorascope.analyze.miub.qualify import qualify
from lorascope.analyze.results.scores import scores
from lorascope.analyze.results.sizes import sizes
from lorascope.stores import Run
from lorascope.stores.places.atomic_write import atomic_write
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike, as_run

from . import about_run, sections, tokens
from .ablation import ablation
from .comparison import comparison
from .document import document
from .explain import ablation_by_part
from .markup import contents, escape, notice, section
from .sentence import sentence

TITLE = "What the adapter changed, layer by layer"
MOST_BYTES = 8_000_000
"""Size of a page that samples' texts and values by component are cut to; figures and tables are there in any case."""
_TEXTS = "<!-- texts -->"


def write_report(
    runs: RunLike | Sequence[RunLike],
    path: str | Path,
    *,
    adapter: str | None = None,
    components: Sequence[str] | None = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write one HTML page about a run, or one that compares several; returns its path.

    Nothing in it is fetched from elsewhere. A page that is there already is replaced, and only by a whole one.

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
    n_workers
        Threads; by default one a processor.
    progress
        Called with (tasks done, tasks in all), for each run anew.

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
    given = [as_run(one) for one in ([runs] if isinstance(runs, RunLike) else runs)]
    places = [str(run.path) for run in given]
    if not given or len(set(places)) < len(places):
        raise ValueError(f"`runs` are {places}; give at least one run, and each once")
    options: dict[str, Any] = {"adapter": adapter, "components": components, "n_workers": n_workers}
    results = [qualify(run, progress=progress, **options) for run in given]
    if len(given) == 1:
        ablated = _ablation(given[0], adapter, n_workers) if components is None else ""
        text = _one(given[0], results[0], ablated)
    else:
        text = comparison(given, results)
    with atomic_write(page) as partial:
        partial.write_text(text, encoding="utf-8")
    return page


def page_beside(run: Run, ending: str) -> Path:
    """File of a page about a run: beside it, or here if it is remote, its name with this ending instead of .zarr."""
    # Not with_suffix: of `llama-3.1` it would make `llama-3.html`.
    place = run.path if isinstance(run.path, Path) else Path(run.path.rstrip("/").rpartition("/")[2])
    return place.with_name(place.name.removesuffix(".zarr") + ending)


def _ablation(run: Run, adapter: str | None, n_workers: int | None) -> str:
    """The section on ablation, of a run that has that of components; else nothing."""
    if f"adapters/{adapter or run.adapters[0]}/ablation" not in run.arrays:
        return ""
    if run.ablation(adapter).attrs["parts"] != "components":
        return ""
    if ablation_by_part(run, adapter) is None:
        return section("ablation", "Does JS see what matters?", "<p>No sample was ablated as a whole yet.</p>")
    return ablation(compare_measures(run, adapter=adapter, n_workers=n_workers))


def _one(run: Run, qualified: xr.DataTree, ablated: str) -> str:
    """HTML of the page about one run; samples' texts get the room that all else leaves."""
    body = (
        sections.headline(run, qualified),
        sections.components(qualified),
        ablated,
        sections.task_scores(run),
        section("texts", "Token by token", _TEXTS),
        sections.qualifiers(qualified),
        tokens.across_samples(qualified),
        tokens.across_tokens(run, qualified),
        about_run.record(run, qualified, sizes(run)),
    )
    head = (
        f'<p class="opening">{escape(sentence(qualified, scores(run)))}</p>',
        *(notice(text) for text in about_run.notices(run, qualified)),
        contents("".join(body)),
    )
    page = document(TITLE, about_run.source(run, qualified), "".join((*head, *body)))
    return page.replace(_TEXTS, tokens.token_texts(run, qualified, MOST_BYTES - len(page.encode())))
