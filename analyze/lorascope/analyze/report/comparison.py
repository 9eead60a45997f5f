"""The page that compares runs: sentences on each, MIUB (the summed JS) and scores with paired differences, maps.

JS is the Jensen-Shannon divergence of softmax(base) and softmax(base + delta), of one component and token.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.figures import component_figure
from lorascope.analyze.figures.theme import COLORS
from lorascope.analyze.miub.compare_runs import paired, require_same_tokens, sample_names
from lorascope.analyze.results.format import format_change, format_error, format_number, run_names
from lorascope.analyze.results.scores import Score, scores, shared_scores
from lorascope.stores import Run

from .document import document
from .helped import answer_whether_it_helps, choices_per_item
from .markup import contents, escape, figure, notice, section, table, with_code
from .trust import describe_run, notices
from .where_it_acts import answer_where_it_acts

TITLE = "Adapters compared, layer by layer"


def comparison_html(runs: Sequence[Run], results: Sequence[xr.DataTree], notes: Sequence[str]) -> str:
    """Return the HTML of a page that compares runs, from results of `qualify` and notes on stored ones, one per run."""
    names = run_names([str(run.path) for run in runs])
    body = (
        section("miub", "MIUB", _miub_table(names, results)),
        section("scores", "Which answers better?", _paired_scores(names, runs, results)),
        section("maps", "Where they act", *_js_maps_html(names, results)),
    )
    head = "".join((*_opening_html(names, runs, results, notes), contents("".join(body))))
    return document(TITLE, f"{len(runs)} runs · {' · '.join(names)}", head + "".join(body))


def _opening_html(
    names: Sequence[str], runs: Sequence[Run], results: Sequence[xr.DataTree], notes: Sequence[str]
) -> Iterator[str]:
    """Yield HTML of each run's name, of sentences on what its adapter did, of warnings, and of the run's note."""
    for name, run, result, note in zip(names, runs, results, notes, strict=True):
        yield f'<h3>{escape(name)}</h3><p class="subtitle">{escape(describe_run(run, result))}</p>'
        answers = answer_whether_it_helps(scores(run), choices_per_item(run)), answer_where_it_acts(result)
        yield f'<p class="opening">{escape(" ".join(answers))}</p>'
        yield from map(notice, notices(run, result))
        yield f"<p>{with_code(note)}</p>" if note else ""


def _miub_table(names: Sequence[str], results: Sequence[xr.DataTree]) -> str:
    """Return an HTML table of the MIUB (summed JS) of each run, and its paired difference from the first one."""
    rows, unpaired = [], []
    for name, result in zip(names, results, strict=True):
        size = format_error(float(result["miub"]), float(result["miub_se"]))
        cells = [name, size, result.attrs["n_samples"], result.attrs["n_components"]]
        *difference, why = _paired_difference(results[0], result) if result is not results[0] else [""] * 4
        rows.append((*cells, *difference))
        unpaired += [f"<p><b>{escape(name)}</b> isn't paired with the first run: {escape(why)}.</p>"] if why else []
    columns = ("run", "MIUB (nat)", "samples", "components", f"minus {names[0]}", "pairs", "p (t-test)")
    caption = (
        "MIUB is the effect of the adapter on all components' outputs together, ± standard error over samples (its "
        "paper calls it a “mutual information upper bound”, which it isn't). Differences from the first run are over "
        "the samples of both runs, paired by data set, split, prompt and id; a component that only one run has counts "
        "as 0 in the other. Differences are in nats, and p isn't corrected for the number of tests."
    )
    return table(columns, rows, caption=caption) + "".join(unpaired)


def _paired_difference(first: xr.DataTree, second: xr.DataTree) -> tuple[str, str, str, str]:
    """Return four texts on two runs' MIUB (summed JS): paired difference, number of pairs, p, reason if unpaired."""
    try:
        test = paired(first, second)
    except ValueError as why:
        return "not paired", "", "", str(why)
    value, error, p = (float(test[key]) for key in ("difference", "difference_se", "p_t"))
    return format_change(value, error), str(int(test["n_samples"])), format_number(p), ""


def _paired_scores(names: Sequence[str], runs: Sequence[Run], results: Sequence[xr.DataTree]) -> str:
    """Return an HTML table of each run's scores and the first run's, with differences on the samples of both."""
    rows = [
        (name, score.dataset, f"{score.measure} ({score.unit})", score.n, format_error(*score.base),
         format_error(*score.adapted), format_change(*score.change))
        for name, run, result in zip(names[1:], runs[1:], results[1:], strict=True)
        for score in _shared_scores((runs[0], run), (results[0], result))
    ]  # fmt: skip
    columns = ("run", "data set", "measure", "samples", names[0], "this run", f"minus {names[0]}")
    caption = (
        "Scores with the adapter, on the samples of both runs; the error of a difference is that of paired samples."
    )
    return table(columns, rows, n_names=3, caption=caption) if rows else "<p>No two runs share scored samples.</p>"


def _shared_scores(runs: tuple[Run, Run], results: tuple[xr.DataTree, xr.DataTree]) -> list[Score]:
    """Return scores on the samples of both runs; none if a sample has other tokens in the other run.

    CE is only compared with the same tokenizer.
    """
    names = [sample_names(result) for result in results]
    try:
        require_same_tokens(*results, names[0].intersection(names[1], sort=False))
    except ValueError:  # the table of MIUB says so
        return []
    same_tokenizer = results[0].attrs.get("tokenizer") == results[1].attrs.get("tokenizer")
    return [score for score in shared_scores(*runs) if same_tokenizer or score.measure != "CE"]


def _js_maps_html(names: Sequence[str], results: Sequence[xr.DataTree]) -> Iterator[str]:
    """Yield HTML of one map of JS per run, all on one colour scale, after a paragraph on them."""
    yield (
        "<p>How far each adapter moves the output of each component: mean Jensen-Shannon divergence (JS) in nats, on "
        "one logarithmic colour scale.</p>"
    )
    values = np.concatenate([result.dataset["js"].values for result in results])
    known = values[np.isfinite(values) & (values > 0)]
    high = float(known.max(initial=0.0))
    low = max(float(np.quantile(known, 0.02)), high / 1e6) if len(known) else 0.0
    limits = (low, high) if low < high else (0.0, high or 1.0)
    plots = [
        figure(
            f"map-{place}",
            component_figure(result.dataset["js"], label=f"{name}: mean JS (nat)", colors=COLORS, limits=limits),
            "",
        )
        for place, (name, result) in enumerate(zip(names, results, strict=True))
    ]
    yield f'<div class="pair">{"".join(plots)}</div>'
