"""The page that compares runs: what each did, MIUB and scores with paired differences, maps on one scale."""

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.figures import component_figure
from lorascope.analyze.figures.theme import COLORS
from lorascope.analyze.miub.compare_runs import paired, require_same_tokens, sample_names
from lorascope.analyze.results.format import format_change, format_error, format_number, run_names
from lorascope.analyze.results.scores import Score, scores, shared_scores
from lorascope.stores import Run

from .about_run import notices, source
from .document import document
from .helped import choices_each, helped
from .main_places import where_it_acts
from .markup import contents, escape, figure, notice, section, table

TITLE = "Adapters compared, layer by layer"


def comparison(runs: Sequence[Run], results: Sequence[xr.DataTree]) -> str:
    """HTML of the page, complete in itself, of runs and what `qualify` made of each."""
    names = run_names([str(run.path) for run in runs])
    body = (
        section("miub", "MIUB", _miub_table(names, results)),
        section("scores", "Which answers better?", _paired_scores(names, runs, results)),
        section("maps", "Where they act", *_maps(names, results)),
    )
    head = "".join((*_opening(names, runs, results), contents("".join(body))))
    return document(TITLE, f"{len(runs)} runs · {' · '.join(names)}", head + "".join(body))


def _opening(names: Sequence[str], runs: Sequence[Run], results: Sequence[xr.DataTree]) -> Iterator[str]:
    """What each adapter did, and what must be known of each run first."""
    for name, run, result in zip(names, runs, results, strict=True):
        yield f'<h3>{escape(name)}</h3><p class="subtitle">{escape(source(run, result))}</p>'
        yield f'<p class="opening">{escape(helped(scores(run), choices_each(run)))} {escape(where_it_acts(result))}</p>'
        yield from map(notice, notices(run, result))


def _miub_table(names: Sequence[str], results: Sequence[xr.DataTree]) -> str:
    rows, unpaired = [], []
    for name, result in zip(names, results, strict=True):
        size = format_error(float(result["miub"]), float(result["miub_se"]))
        cells = [name, size, result.attrs["n_samples"], result.attrs["n_components"]]
        *difference, why = _difference(results[0], result) if result is not results[0] else [""] * 4
        rows.append((*cells, *difference))
        unpaired += [f"<p><b>{escape(name)}</b> isn't paired with the first run: {escape(why)}.</p>"] if why else []
    columns = ("run", "MIUB (nat)", "samples", "components", f"less {names[0]}", "pairs", "p (t-test)")
    caption = (
        "MIUB (“mutual information upper bound” in its paper, which it isn't) is the effect of the adapter on all "
        "components' outputs together; ± standard error over samples. Differences from the first run are those of "
        "samples that both runs hold, paired by data set, split, prompt and id; a component that only one holds counts "
        "as 0 in the other. "
        "Differences are in nats, and p isn't corrected for how many there are."
    )
    return table(columns, rows, caption=caption) + "".join(unpaired)


def _difference(first: xr.DataTree, second: xr.DataTree) -> tuple[str, str, str, str]:
    """The difference, its pairs and p, and why there are none."""
    try:
        test = paired(first, second)
    except ValueError as why:
        return "not paired", "", "", str(why)
    value, error, p = (float(test[key]) for key in ("difference", "difference_se", "p_t"))
    return format_change(value, error), str(int(test["n_samples"])), format_number(p), ""


def _paired_scores(names: Sequence[str], runs: Sequence[Run], results: Sequence[xr.DataTree]) -> str:
    """Scores of each run less those of the first, on the samples that both hold."""
    rows = [
        (name, score.dataset, f"{score.measure} ({score.unit})", score.n, format_error(*score.base),
         format_error(*score.adapted), format_change(*score.change))
        for name, run, result in zip(names[1:], runs[1:], results[1:], strict=True)
        for score in _shared_scores((runs[0], run), (results[0], result))
    ]  # fmt: skip
    columns = ("run", "data set", "measure", "samples", names[0], "this run", f"less {names[0]}")
    caption = "Both with their adapter, on the samples that they share; the difference's error is that of pairs."
    return table(columns, rows, n_names=3, caption=caption) if rows else "<p>No two runs share scored samples.</p>"


def _shared_scores(runs: tuple[Run, Run], results: tuple[xr.DataTree, xr.DataTree]) -> list[Score]:
    """Scores on the samples that both hold; none where a name stands for other texts, no CE of other tokens."""
    names = [sample_names(result) for result in results]
    try:
        require_same_tokens(*results, names[0].intersection(names[1], sort=False))
    except ValueError:  # the table of MIUB says so
        return []
    alike = results[0].attrs.get("tokenizer") == results[1].attrs.get("tokenizer")
    return [score for score in shared_scores(*runs) if alike or score.measure != "CE"]


def _maps(names: Sequence[str], results: Sequence[xr.DataTree]) -> Iterator[str]:
    yield "<p>Mean JS of each component in nats, on one logarithmic colour scale. Grey: 0, not finite, or none.</p>"
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
