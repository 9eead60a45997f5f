"""The page itself: the paragraph that it opens with, its sections in their order, and its file."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze.changes.forgetting import describe_forgetting
from lorascope.analyze.results.null_adapters import describe_nulls, null_adapters
from lorascope.analyze.results.scores import scores
from lorascope.analyze.results.stored import outside_stores, stored_or_computed
from lorascope.stores import Run
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.names import Patterns
from lorascope.stores.places.files import atomic_write
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike
from lorascope.stores.visible import one_line

from .changed import answer_what_changed, answer_where_it_changes
from .changed_tables import what_changed_section
from .document import WIDTH, document, draw, figures_of
from .explain import Explanation, complete_explanation, qualified_numbers, stored_note
from .helped import answer_whether_it_helps, choices_per_item, scores_section
from .learned import answer_which_directions, directions_section
from .markup import contents, escape, notice, with_code
from .matters import answer_what_matters, what_matters_section
from .samples import samples_section
from .says import answer_what_it_says, what_it_says_section
from .trust import describe_run, notices, trust_section
from .where_it_acts import answer_where_it_acts, where_it_acts_section

TITLE = "What the adapter did and learned"


def write_report(
    runs: RunLike | Sequence[RunLike],
    path: str | Path,
    *,
    adapter: str | None = None,
    component: Patterns = None,
    view_page: str | None = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write one HTML page about a run, or one that compares several; returns its path.

    The page about a run opens with the answers of `paragraph`. Nothing in it is fetched from elsewhere. An existing
    page is only replaced once the new one is complete.

    Parameters
    ----------
    runs
        An open run or its path or url, finished or not, with states or without; or several to compare.
    path
        File of the page; a missing folder is made.
    adapter, component, n_workers, progress
        As for `explain`. If numbers were computed by an earlier call, the last call of `progress` has a note on that,
        as the page has.
    view_page
        Address of the page of `lorascope view` relative to this one, to which samples link, such as
        `index.html#panes=0:NAME` for one of several adapters; by default the page shows the command that opens it.

    Raises
    ------
    IsADirectoryError
        If `path` is a folder.
    ValueError
        If `runs` is empty or contains a run twice.
    StoreError
        If a run has no such adapter, no sample is wholly committed, or a chunk is broken.
    """
    page = Path(path)
    if page.is_dir():
        raise IsADirectoryError(f"`path` is {str(path)!r}, a folder; name a file, e.g. {str(page / 'report.html')!r}")
    opened = [open_as_written(run) for run in ([runs] if isinstance(runs, RunLike) else runs)]
    places = [str(run.path) for run in opened]
    if not opened or len(set(places)) < len(places):
        raise ValueError(f"`runs` are {places}; give at least one run, and each once")
    options: dict[str, Any] = {"adapter": adapter, "component": component, "n_workers": n_workers}
    options["progress"] = progress
    if len(opened) == 1:
        (run,), result = opened, qualified_numbers(opened[0], **options)
        section = where_it_acts_section(run, result)
        with ThreadPoolExecutor(1) as pool:  # Chrome takes seconds to start
            pictures = pool.submit(_stored_pictures, run, figures_of(section), adapter=adapter, options=component)
            explanation = complete_explanation(run, result, **options)
            notes = [stored_note(run, explanation[:-1])]
            body = _report_body(run, explanation, section, notes[0], view_page)
            text = document(TITLE, describe_run(run, result), body, pictures.result())
    else:
        from .comparison import comparison_html  # it imports plotly

        results = [qualified_numbers(run, **options) for run in opened]
        notes = [stored_note(run, [result]) for run, result in zip(opened, results, strict=True)]
        text = comparison_html(opened, results, notes)
    if progress is not None and any(notes):
        progress(1, 1, " ".join(filter(None, notes)))
    with atomic_write(page) as partial:
        partial.write_text(text, encoding="utf-8")
    return page


def page_path(run: Run, ending: str) -> Path:
    """Return the path of a page about a run: its name with another `ending`, next to it or, if remote, here."""
    # Not with_suffix, which turns `llama-3.1` into `llama-3.html`.
    place = outside_stores(run.path) if isinstance(run.path, Path) else Path(run.path.rstrip("/").rpartition("/")[2])
    return place.with_name(place.name.removesuffix(".zarr") + ending)


def paragraph(run: Run, explanation: Explanation) -> list[tuple[str, str]]:
    """Return questions about a run's adapter, each with an answer in plain text on one line.

    Parameters
    ----------
    run
        The run that was explained.
    explanation
        Result of `explain`.
    """
    changes, result = explanation.changes, explanation.qualified
    adapter = result.attrs["adapter"]
    matters, helped = answer_what_matters(run, explanation), answer_whether_it_helps(scores(run), choices_per_item(run))
    if f"adapters/{adapter}/nulls/kl" in run.arrays:
        helped += f" {describe_nulls(null_adapters(run, adapter=adapter))}"
    answers = {
        "What does it say?": answer_what_it_says(run, explanation),
        "Which next tokens?": answer_what_changed(explanation),
        **({} if changes is None else {"After which tokens?": answer_where_it_changes(changes)}),
        "Which parts?": f"{matters} {answer_which_directions(run, explanation, matters)}",
        "How far do outputs move?": answer_where_it_acts(result, with_places=explanation.importance is None),
        "Does it help?": helped,
    }
    if forgotten := describe_forgetting(run, adapter):
        answers["What did it forget?"] = forgotten
    return [(question, one_line(answer)) for question, answer in answers.items()]


def _report_body(run: Run, explanation: Explanation, js_section: str, note: str, view_page: str | None) -> str:
    """Return the HTML of a report's body, given its section on where the adapter acts, and the `stored_note`."""
    result = explanation.qualified
    opening = "".join(
        f'<p class="opening"><b>{escape(question)}</b> {with_code(answer)}</p>'
        for question, answer in paragraph(run, explanation)
    )
    sections = (
        what_it_says_section(run, explanation),
        what_changed_section(explanation),
        what_matters_section(explanation),
        directions_section(run, explanation),
        scores_section(run),
        js_section,
        samples_section(run, result, view_page),
        trust_section(run, result, note),
    )
    body, warnings = "".join(sections), "".join(map(notice, notices(run, result)))
    return f"{opening}{warnings}{contents(body)}{body}"


def _stored_pictures(run: Run, figures: Mapping[str, Mapping[str, Any]], **options: Any) -> dict[str, bytes]:
    """Return SVG pictures of figures by name, read from their file if the same figures were drawn before."""
    drawn = dict[str, bytes]()

    def compute() -> xr.Dataset | None:
        """Return pictures as texts, None if some weren't drawn: a later call may draw them."""
        drawn.update(draw(figures, kind="svg", width=WIDTH))
        if not drawn or len(drawn) < len(figures):
            return None
        texts = np.array([picture.decode() for picture in drawn.values()], object)
        return xr.Dataset({"svg": ("figure", texts)}, {"figure": [*drawn]})

    stored = stored_or_computed(run, "pictures", compute, inputs=json.dumps(figures), **options)
    return drawn if stored is None else {str(name): svg.encode() for name, svg in stored["svg"].to_series().items()}
