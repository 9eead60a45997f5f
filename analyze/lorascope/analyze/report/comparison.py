"""The page that compares runs: what each did, MIUB with paired differences, depth, maps on one scale, scores."""

from collections.abc import Iterator, Sequence

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr

from lorascope.analyze.figures import component_figure
from lorascope.analyze.figures.marks import EDGES, add_legend, looks, points
from lorascope.analyze.figures.scales import value_axis, whole_ticks
from lorascope.analyze.figures.theme import COLORS, apply_theme
from lorascope.analyze.miub.compare_runs import paired, require_same_tokens, sample_names
from lorascope.analyze.miub.groups import group_by
from lorascope.analyze.results.format import format_change, format_error, format_number, run_names
from lorascope.analyze.results.scores import Score, scores, scores_table, shared_scores
from lorascope.stores import Run

from .about_run import notices, source
from .document import document
from .markup import contents, escape, figure, notice, section, table
from .sections import scores_caption
from .sentence import compared, sentence

TITLE = "Adapters compared, layer by layer"


def comparison(runs: Sequence[Run], results: Sequence[xr.DataTree]) -> str:
    """HTML of the page, complete in itself, of runs and what `qualify` made of each."""
    names = run_names([str(run.path) for run in runs])
    shared = [_shared((runs[0], one), (results[0], other)) for one, other in zip(runs[1:], results[1:], strict=True)]
    body = (
        section("runs", "What each adapter did", *_each(names, runs, results)),
        section("miub", "MIUB", _miub_table(names, results)),
        section("scores", "Did they help?", _paired_scores(names, shared), _scores(names, runs)),
        section("depth", "By layer", _depth(names, results)),
        section("maps", "Where they act", *_maps(names, results)),
    )
    subtitle = f"{len(runs)} runs · {' · '.join(names)}"
    opening = " ".join(compared((names[0], name), own) for name, own in zip(names[1:], shared, strict=True))
    head = f'<p class="opening">{escape(opening)}</p>{contents("".join(body))}'
    return document(TITLE, subtitle, head + "".join(body))


def _shared(runs: tuple[Run, Run], results: tuple[xr.DataTree, xr.DataTree]) -> list[Score]:
    """Scores on the samples that both hold; none where a name stands for other texts, no CE of other tokens."""
    names = [sample_names(result) for result in results]
    try:
        require_same_tokens(*results, names[0].intersection(names[1], sort=False))
    except ValueError:  # the table of MIUB says so
        return []
    alike = results[0].attrs.get("tokenizer") == results[1].attrs.get("tokenizer")
    return [score for score in shared_scores(*runs) if alike or score.measure != "CE"]


def _each(names: Sequence[str], runs: Sequence[Run], results: Sequence[xr.DataTree]) -> Iterator[str]:
    for name, run, result in zip(names, runs, results, strict=True):
        yield f'<h3>{escape(name)}</h3><p class="subtitle">{escape(source(run, result))}</p>'
        yield f"<p>{escape(sentence(result, scores(run)))}</p>"
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
        "MIUB (“mutual information upper bound” in its paper, which it isn't): the adapter's push on the layers' "
        "outputs; ± standard error over samples. Differences from the first run are those of samples that both runs "
        "hold, paired by data set, split, prompt and id; a component that only one holds counts as 0 in the other. "
        "Differences are in nats, and p isn't corrected for how many there are."
    )
    return table(columns, rows, caption=caption) + "".join(unpaired)


def _difference(first: xr.DataTree, second: xr.DataTree) -> tuple[str, str, str, str]:
    """The difference, its pairs and p, and why there are none."""
    try:
        found = paired(first, second)
    except ValueError as why:
        return "not paired", "", "", str(why)
    value, error, p = (float(found[key]) for key in ("difference", "difference_se", "p_t"))
    return format_change(value, error), str(int(found["n_samples"])), format_number(p), ""


def _paired_scores(names: Sequence[str], shared: Sequence[Sequence[Score]]) -> str:
    rows = [
        (name, score.dataset, f"{score.measure} ({score.unit})", score.n, format_error(*score.base),
         format_error(*score.adapted), format_change(*score.change))
        for name, own in zip(names[1:], shared, strict=True) for score in own
    ]  # fmt: skip
    columns = ("run", "data set", "measure", "samples", names[0], "this run", f"less {names[0]}")
    caption = "Both with their adapter, on the samples that they share; the difference's error is that of pairs."
    return table(columns, rows, n_names=3, caption=caption) if rows else ""


def _scores(names: Sequence[str], runs: Sequence[Run]) -> str:
    found = [(name, *scores_table(run)) for name, run in zip(names, runs, strict=True)]
    rows = [(name, *row) for name, _, rows in found for row in rows]
    unscored = ", ".join(name for name, _, rows in found if not rows)
    without = f"<p>Not scored: {escape(unscored)}.</p>" if unscored else ""
    caption = f"All samples of each run. {scores_caption([row[1:] for row in rows])}"
    return without + (table(("run", *found[0][1]), rows, n_names=3, caption=caption) if rows else "")


def _depth(names: Sequence[str], results: Sequence[xr.DataTree]) -> str:
    inside = [result for result in results if (result.dataset["layer"].values >= 0).any()]
    if len(inside) < len(results):
        return "<p>Not every run has components in layers, so there is no depth to draw.</p>"
    caption = "JS of each layer: sum over its components, mean over samples, bars of a standard error; triangles are 0."
    return figure("depth-figure", _depth_figure(names, results), caption)


def _depth_figure(names: Sequence[str], results: Sequence[xr.DataTree]) -> go.Figure:
    plot, marks = go.Figure(), looks(len(names))
    every = [group_by(result, ["layer"]) for result in results]
    inside = [grouped.isel(layer=np.flatnonzero(grouped["layer"].values >= 0)) for grouped in every]
    values = np.concatenate([grouped["miub"].values for grouped in inside])
    axis, last = value_axis(values, is_log=bool((values > 0).any())), max(int(one["layer"].max()) for one in inside)
    for name, grouped, look in zip(names, inside, marks, strict=True):
        layers, js, error = (grouped[key].values for key in ("layer", "miub", "miub_se"))
        texts = [
            f"{escape(name)}, layer {layer}: {format_error(*pair)} nat"
            for layer, *pair in zip(layers, js, error, strict=True)
        ]
        y = axis.inside(js)
        bars = {"array": error, "arrayminus": np.minimum(error, y - axis.low), "width": 0, "thickness": 1.5}
        shown = {"mode": "lines+markers", "marker": {"symbol": np.where(js < axis.low, EDGES["down"], look.symbol)}}
        plot.add_trace(points(look, name, texts, size=5, x=layers, y=y, error_y=bars, **shown))
    apply_theme(plot, height=320)
    plot.update_xaxes(title_text="layer", range=[-0.5, last + 0.5], **whole_ticks(0, last))
    plot.update_yaxes(title_text="JS (nat)", **axis.layout())
    add_legend(plot, "run", names, marks, mode="lines+markers")
    return plot


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
