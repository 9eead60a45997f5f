"""A study's report: tables as CSV files, and an HTML page with tables, figures, law, metrics and claims."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.figures import metrics_figure, profile_figure, scaling_figure, training_figure
from lorascope.analyze.fits.fit import FitReport
from lorascope.analyze.fits.metrics import MetricComparison
from lorascope.analyze.fits.verdicts import WORDS
from lorascope.analyze.report.document import document
from lorascope.analyze.report.markup import escape, figure, notice, section
from lorascope.analyze.results.format import format_number, format_percent
from lorascope.stores.places.files import atomic_write
from lorascope.stores.visible import visible

from ..results.claims import CLAIMS
from ..results.study_results import StudyResults, study_results
from ..results.tables import AVG, lay_out, with_sizes
from ..results.units import read_units
from .page_parts import notices, paper_table_html, tile, units_section, verdict_table
from .study_figures import lengths_figure, settings_figure, text_sizes_figure

PAGE = "report.html"
TITLE = "Adapters by rank and model size"
MIUB = (
    "<p><b>What MIUB is.</b> The size of the adapters' push on the layers' outputs: the Jensen-Shannon divergence of "
    "softmax(base) and softmax(base + delta), in nats, averaged over a sample's tokens, summed over components, and "
    "averaged over samples (arXiv 2501.03152, eq. 9). It is no upper bound of a mutual information: that theorem "
    "doesn't hold.</p>"
)
LAW = (
    "<p>MIUB(N, R, D) = E + A (N0/N)^alpha + B (R0/R)^beta + C (D0/D)^gamma, eq. 8 as the paper's text means it, on "
    "the cells with the first prompt, each data set with a level E of its own. The paper never fits it.</p>"
)
WORDS_MEAN = (
    "<p>A word speaks of another draw of items and, where a setting has several seeds, of other trainings of the same "
    "settings: <i>supported</i> where the 95 % interval leaves 0 out on the claim's side, <i>contradicted</i> on the "
    "other, <i>not identified</i> else. With one seed a setting it speaks of these very adapters alone. Intervals "
    "aren't corrected for how many there are.</p>"
)
TABLES = {
    1: (
        "data sets",
        "dataset",
        f"Value ± standard error over items, first prompt; {AVG}: mean over data sets. A number leads to its unit. sd: "
        "standard deviation between seeds, where there are several. r…: "
        "LoRA rank, layers share no weights. share…: layers that share one set of base weights, rank {rank}. share1 is "
        "the rank sweep's r{rank}, shown again.",
        "no data set with choices",
    ),
    2: (
        "prompts",
        "prompt",
        "Mean over data sets, the same items under every prompt. MIUB is averaged over the tokens of template and "
        "examples too, so that prompts differ in which and how many tokens it is of.",
        "no items were put to more than one prompt",
    ),
    3: (
        "mutual information",
        "task",
        "ACC and MIUB of the units whose mutual information was estimated. MI: median over components of the panel's "
        "estimate, its quartiles, and how many components' verdict is ok; others are lower bounds or less. js: median "
        "of the same components and tokens; js sum: their sum, MIUB over these. Mutual information of whole states is "
        "infinite: each estimate is of a few axes of both.",
        "mutual information was estimated of no unit",
    ),
}
"""Number of a table -> title, column with names of rows, caption, and message if it is empty."""


def write_study_report(out: Path, page: Path | None = None, *, planned: Sequence[str] = ()) -> list[Path]:
    """Write a study's tables as CSV into its folder, and its HTML page; return all paths, the page last.

    Parameters
    ----------
    out
        The study's folder, with `results` in it.
    page
        File of the page; by default `report.html` in that folder.
    planned
        Names of all units of the grid; other results are ignored. By default all units with results.

    Raises
    ------
    FileNotFoundError
        If there are no results.
    ValueError
        If a file of results is damaged, no unit with results is planned, or the page's path is a folder.

    Notes
    -----
    Existing files are replaced atomically. `read_study`, `lorascope fit` and `lorascope compare` read `study.csv` if
    they are given the folder.
    """
    if page is not None and page.is_dir():
        raise ValueError(f"`out` is {str(page)!r}, a folder; name the page's file, such as {str(page / PAGE)!r}")
    study = study_results(read_units(out), planned=planned)
    texts = {
        out / f"{name}.csv": visible(table.to_csv(index=False, lineterminator="\n"))
        for name, table in study.tables.items()
    }
    texts[out / PAGE if page is None else page] = render_study(study, source=out.name)
    for path, text in texts.items():
        with atomic_write(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")
    return list(texts)


def render_study(study: StudyResults, *, source: str = "") -> str:
    """Return the page about a study as self-contained HTML; `source` is the name of the folder of results."""
    models = ", ".join(dict.fromkeys(unit.model for unit in study.units))
    datasets = ", ".join(dict.fromkeys(study.tables["study"]["dataset"]))
    about = " · ".join(filter(None, (f"model {models}", f"data {datasets}", source)))
    parts = (
        "".join(map(notice, notices(study))),
        f'<div class="tiles">{"".join(_headline_tiles(study))}</div>{MIUB}',
        section("tables", "The paper's tables", *_paper_tables(study)),
        section("figures", "The paper's figures", *_paper_figures(study)),
        section("training", "During training", *_training_figures(study)),
        section("law", "The scaling law", LAW, *_law_html(study)),
        section("metrics", "Metrics against accuracy", *_metrics_html(study)),
        section("claims", "The paper's claims on this study", WORDS_MEAN, *_claims_html(study)),
        units_section(study),
    )
    return document(TITLE, about, "".join(parts))


def _headline_tiles(study: StudyResults) -> Iterator[str]:
    """Yield HTML tiles with a study's main numbers: units, items, change of MIUB, accuracy, verdicts."""
    cells = study.tables["study"]
    choices = cells[cells["first_prompt"] & ~cells["is_text"]]
    yield tile("units", f"{len(study.units)} of {len(study.planned)}", "done")
    n_items = choices.drop_duplicates(["model", "task", "dataset", "split"])["n_samples"].sum()
    yield tile("test items", str(int(n_items)), f"of {choices['dataset'].nunique()} data sets with choices")
    claims = study.tables["claims"]
    for claim in claims[(claims["number"] == 1) & (claims["unit"] == "%")].itertuples():
        over = "items" if pd.isna(claim.seed_sd) else "items and trainings"
        ends = f"95 % over {over} {format_number(claim.low)} to {format_number(claim.high)} %, n = {claim.n_items}"
        name = claim.claim.replace(" falls as ", " along ").removesuffix(" grows")
        yield tile(name, f"{format_number(claim.value)} %", ends)
    scored = choices[choices["ACC"].notna() & choices["base_ACC"].notna()]
    if len(scored):
        settings = scored.groupby(["model", "task", "dataset", "split", "setting"])[["base_ACC", "ACC"]].mean().mean()
        without, with_it = (format_percent(float(share)) for share in settings)
        yield tile("accuracy", f"{without} → {with_it}", "without → with adapter, mean over settings and data sets")
    yield tile("claims looked at", str(len(claims)), _count_words(claims["verdict"]))


def _paper_tables(study: StudyResults) -> Iterator[str]:
    """Yield the paper's tables 1 to 3 of a study as HTML, or a message in place of an empty one."""
    for number, (title, key, about, message) in TABLES.items():
        table = study.tables[f"table_{number}"]
        if not len(table):
            yield f"<p>Table {number}: {message}.</p>"
            continue
        known = table[table["value"].notna()]["n_seeds"]
        low, high = (1, 1) if not len(known) else (int(known.min()), int(known.max()))
        means = f"Means of {low if low == high else f'{low} to {high}'} seeds; small figures lead to the others."
        n_others = len(table.attrs["excluded_units"])
        others = f" {n_others} units of other settings aren't in it." if n_others and number == 1 else ""
        caption = f"{about.format(rank=table.attrs['rank'])} {means if high > 1 else 'One seed a cell.'}{others}"
        yield f"<h3>Table {number}: {title}</h3>{paper_table_html(table, key, caption=caption)}"


def _paper_figures(study: StudyResults) -> Iterator[str]:
    """Yield HTML of the figure by rank and model size, and of the paper's figures 2 and 3."""
    rows = with_sizes(study.tables["table_1"], lay_out(study.tables["study"]).cells)
    yield _figure_or_reason("sweeps", partial(settings_figure, rows))
    yield _figure_or_reason("figure-2", partial(text_sizes_figure, study.tables["figure_2"]))
    yield _figure_or_reason("figure-3", partial(lengths_figure, study.tables["figure_3"]))


def _training_figures(study: StudyResults) -> Iterator[str]:
    """Yield HTML figures of MIUB and loss during training, one per model, task, and whether layers are shared.

    Each setting is shown by its first seed.
    """
    groups: dict[tuple[bool, str, str], dict[str, Any]] = {}
    settings = {(unit.model, unit.task, unit.share, unit.rank, unit.train_items): unit for unit in study.units[::-1]}
    for unit in sorted(settings.values(), key=study.units.index):
        if unit.training.get("miub"):
            groups.setdefault((unit.share > 1, unit.model, unit.task), {})[unit.name] = unit.training
    if not groups:
        yield "<p>MIUB wasn't measured during training (`miub_every`).</p>"
    for place, ((is_shared, model, task), records) in enumerate(sorted(groups.items(), key=lambda group: group[0][0])):
        yield f"<h3>{escape(task)}, {escape(model)}{', layers shared' if is_shared else ''}</h3>"
        yield _figure_or_reason(f"training-{place}", partial(training_figure, records))


def _law_html(study: StudyResults) -> Iterator[str]:
    """Yield HTML of the paper's scaling law (eq. 8) fitted to a study, with figures, or of why there is no fit."""
    if isinstance(study.law, str):
        yield f"<p><b>Not identified:</b> {escape(study.law)}.</p>"
        return
    yield _remark_on_seeds(study, "Each training is a row of its own")
    yield _verdicts_html(study.law)
    for size in study.law.fit.design.sizes:
        yield _figure_or_reason(f"law-{size}", partial(scaling_figure, study.law.fit, along=size))
    yield _figure_or_reason("law-profiles", partial(profile_figure, study.law.fit))


def _metrics_html(study: StudyResults) -> Iterator[str]:
    """Yield HTML that compares MIUB and CE as predictors of accuracy, or that says why there is no comparison."""
    if isinstance(study.compared, str):
        yield f"<p>Not compared: {escape(study.compared)}.</p>"
        return
    yield _remark_on_seeds(study, "A cell is a mean over seeds, and counts once however many it has")
    yield _verdicts_html(study.compared)
    yield _figure_or_reason("metrics-figure", partial(metrics_figure, study.compared))


def _remark_on_seeds(study: StudyResults, how: str) -> str:
    """Return a sentence (HTML) on `how` seeds count if settings have different numbers of them, else no text."""
    cells = study.tables["study"].query("not is_text")
    low, high = cells.groupby(["model", "task", "setting"])["seed"].nunique().agg(["min", "max"])
    return f"<p>{how}: settings have {low} to {high} seeds.</p>" if high > low else ""


def _claims_html(study: StudyResults) -> Iterator[str]:
    """Yield HTML on each of the paper's claims: a heading, and this study's verdicts, folded."""
    for number, findings in study.tables["claims"].groupby("number"):
        verdicts = findings[["claim", "verdict", "because"]].itertuples(index=False, name=None)
        yield f"<h3>{f'Claim {number}' if number else 'First'}. {escape(CLAIMS[number])}</h3>"
        yield f"<details><summary>{_count_words(findings['verdict'])}</summary>{verdict_table(verdicts)}</details>"


def _verdicts_html(result: FitReport | MetricComparison) -> str:
    """Return the verdicts of a fit or comparison as HTML, with its tables and notes folded."""
    summary = result.summary()
    tables = "".join(
        f"<h4>{escape(title)}</h4><pre>{escape(rows.to_string(index=False, float_format=format_number))}</pre>"
        for title, rows in summary.tables.items()
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in summary.notes)
    return f"{verdict_table(summary.verdicts)}<details><summary>all numbers</summary>{tables}<ul>{notes}</ul></details>"


def _figure_or_reason(name: str, make: Callable[[], Any]) -> str:
    """Return the figure that `make` draws as HTML, or a sentence on why these results lack it."""
    try:
        return figure(name, make(), "")
    except (KeyError, TypeError, ValueError) as error:
        return f"<p>No figure: {escape(error)}.</p>"


def _count_words(words: Iterable[str]) -> str:
    """Return how often each verdict occurs as text, such as `3 supported, 1 contradicted`."""
    counts = Counter(words)
    return ", ".join(f"{counts[word]} {word}" for word in WORDS if word in counts)
