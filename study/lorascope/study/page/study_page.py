"""The page about a study: the numbers to take away, the paper's tables and figures, law, metrics and claims."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.figures import metrics_figure, profile_figure, scaling_figure, training_figure
from lorascope.analyze.format import format_number, format_percent
from lorascope.analyze.report.document import document
from lorascope.analyze.report.markup import escape, figure, section, tile
from lorascope.analyze.stats.verdict import WORDS

from ..results.claims import CLAIMS
from ..results.law import Fitted
from ..results.layout import AVG, lay_out
from ..results.study_results import StudyResults
from ..results.tables import with_sizes
from .record import notices, units_section
from .study_figures import lengths_figure, sweeps_figure, text_sizes_figure
from .table_html import paper_layout, verdict_list

__all__ = ["render_study"]

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
    "<p>A word speaks of these very adapters on another draw of items: <i>supported</i> where the 95 % interval "
    "leaves 0 out on the claim's side, <i>contradicted</i> on the other, <i>not identified</i> else. Whether another "
    "adapter of the same setting would do the same is what seeds say, in sentences of their own. Intervals aren't "
    "corrected for how many there are.</p>"
)
Make = Callable[[], Any]


def render_study(study: StudyResults, *, source: str = "") -> str:
    """HTML of the page about a study, complete in itself.

    Parameters
    ----------
    study
        What `study_results` returns.
    source
        Where the results lie, as the page says it.
    """
    models = ", ".join(dict.fromkeys(unit.model for unit in study.units))
    datasets = ", ".join(dict.fromkeys(study.tables["study"]["dataset"]))
    about = " · ".join(filter(None, (f"model {models}", f"data {datasets}", source)))
    parts = (
        f'<header><h1>{TITLE}</h1><p class="subtitle">{escape(about)}</p></header>',
        notices(study),
        "<noscript><p>Without JavaScript the figures stay empty; text and tables don't need it.</p></noscript>",
        f'<div class="tiles">{"".join(_tiles(study))}</div>{MIUB}',
        section("tables", "The paper's tables", *_tables(study)),
        section("figures", "The paper's figures", *_figures(study)),
        section("training", "During training", *_trainings(study)),
        section("law", "The scaling law", LAW, *(part for k, one in enumerate(study.laws) for part in _law(one, k))),
        section("metrics", "Metrics against accuracy", *_metrics(study)),
        section("claims", "The paper's claims on this study", WORDS_MEAN, *_claims(study)),
        units_section(study),
    )
    return document(TITLE, "".join(parts))


def _tiles(study: StudyResults) -> Iterator[str]:
    """The few numbers to take away."""
    cells = study.tables["study"]
    choices = cells[cells["first_prompt"] & ~cells["is_text"]]
    yield tile("units", f"{len(study.units)} of {len(study.planned)}", "done")
    n_items = choices.drop_duplicates(["model", "task", "dataset", "split"])["n_samples"].sum()
    yield tile("test items", str(int(n_items)), f"of {choices['dataset'].nunique()} data sets with choices")
    for one in study.findings:
        if one.number == 1 and one.unit == "%":
            ends = f"95 % over items {format_number(one.low)} to {format_number(one.high)} %, n = {one.n_items}"
            name = one.verdict.claim.replace(" falls as ", " along ").removesuffix(" grows")
            yield tile(name, f"{format_number(one.value)} %", ends)
    scored = choices[choices["ACC"].notna() & choices["base_ACC"].notna()]
    if len(scored):
        without, with_it = (format_percent(float(scored[name].mean())) for name in ("base_ACC", "ACC"))
        yield tile("accuracy", f"{without} → {with_it}", "without → with adapter, mean over units and data sets")
    yield tile("claims looked at", str(len(study.findings)), _counts(one.verdict.word for one in study.findings))


def _tables(study: StudyResults) -> Iterator[str]:
    """Tables 1 to 3."""
    one, two, three = (study.tables[f"table_{number}"] for number in (1, 2, 3))
    if len(one):
        rank, n_others = one.attrs["rank"], len(one.attrs["left_out"])
        left_out = f" {n_others} units of other settings aren't in it." if n_others else ""
        about = (
            f"Value ± standard error over items, first prompt; {AVG}: mean over data sets. r…: LoRA rank, layers share "
            f"no weights. share…: layers that share one set of base weights, rank {rank}. share1 is the rank sweep's "
            f"r{rank}, shown again. {_seeds(one)}{left_out} A number leads to its unit."
        )
        yield "<h3>Table 1: data sets</h3>" + paper_layout(one, "dataset", caption=about)
    else:
        yield "<p>Table 1: no data set with choices.</p>"
    if len(two):
        about = f"Mean over data sets, the same items under every prompt. {_seeds(two)}"
        yield "<h3>Table 2: prompts</h3>" + paper_layout(two, "prompt", caption=about)
    else:
        yield "<p>Table 2: no items were put to more than one prompt.</p>"
    if len(three):
        about = (
            "ACC and MIUB as in table 1. MI: median over components of the panel's estimate, its quartiles, and how "
            "many components' verdict is ok; others are lower bounds or less. js: median of the same components and "
            "tokens; js sum: their sum, MIUB over these. Mutual information of whole states is infinite: each "
            f"estimate is of a few axes of both. {_seeds(three)}"
        )
        yield "<h3>Table 3: mutual information</h3>" + paper_layout(three, "task", caption=about)
    else:
        yield "<p>Table 3: mutual information was estimated of no unit.</p>"


def _figures(study: StudyResults) -> Iterator[str]:
    """The sweeps, and figures 2 and 3."""
    rows = with_sizes(study.tables["table_1"], lay_out(study.tables["study"]).cells)
    yield _try_figure("sweeps", partial(sweeps_figure, rows))
    yield _try_figure("figure-2", partial(text_sizes_figure, study.tables["figure_2"]))
    yield _try_figure("figure-3", partial(lengths_figure, study.tables["figure_3"]))


def _trainings(study: StudyResults) -> Iterator[str]:
    """MIUB and loss of the first seed of each setting, by task and model, and apart where layers are shared."""
    groups: dict[tuple[bool, str, str], dict[str, Any]] = {}
    settings = {(unit.model, unit.task, unit.share, unit.rank, unit.train_items): unit for unit in study.units[::-1]}
    for unit in sorted(settings.values(), key=study.units.index):
        if unit.training.get("miub"):
            groups.setdefault((unit.share > 1, unit.model, unit.task), {})[unit.name] = unit.training
    if not groups:
        yield "<p>MIUB wasn't measured during training (`miub_every`).</p>"
    for place, ((is_shared, model, task), records) in enumerate(sorted(groups.items(), key=lambda group: group[0][0])):
        yield f"<h3>{escape(task)}, {escape(model)}{', layers shared' if is_shared else ''}</h3>"
        yield _try_figure(f"training-{place}", partial(training_figure, records))


def _law(one: Fitted, place: int) -> Iterator[str]:
    """Eq. 8 fitted, or why it can't be."""
    yield f"<h3>{escape(one.name)}</h3>"
    if one.report is None:
        yield f"<p><b>Not identified:</b> {escape(one.refused)}.</p>"
        return
    yield _summary(one.report)
    for size in one.report.fit.design.sizes:
        yield _try_figure(f"law-{place}-{size}", partial(scaling_figure, one.report.fit, along=size))
    yield _try_figure(f"law-{place}-profiles", partial(profile_figure, one.report.fit))


def _metrics(study: StudyResults) -> Iterator[str]:
    """MIUB and CE as predictors of accuracy."""
    found, refused = study.compared
    if found is None:
        yield f"<p>Not compared: {escape(refused)}.</p>"
        return
    yield _summary(found)
    yield _try_figure("metrics-figure", partial(metrics_figure, found))


def _claims(study: StudyResults) -> Iterator[str]:
    """What this study says of the paper's claims."""
    for number, text in CLAIMS.items():
        if own := [one.verdict for one in study.findings if one.number == number]:
            yield f"<h3>{f'Claim {number}' if number else 'First'}. {escape(text)}</h3>"
            yield f"<details><summary>{_counts(one.word for one in own)}</summary>{verdict_list(own)}</details>"


def _summary(result: Any) -> str:
    """Verdicts of a fit or comparison, and behind a click all that it prints."""
    numbers = f"<details><summary>all numbers</summary><pre>{escape(result.summary())}</pre></details>"
    return verdict_list(result.verdicts) + numbers


def _try_figure(name: str, make: Make) -> str:
    """A figure, or in place of one that a study can't have the words why: a training's record may lack anything."""
    try:
        return figure(name, make(), "")
    except (KeyError, TypeError, ValueError) as error:
        return f"<p>No figure: {escape(error)}.</p>"


def _counts(words: Iterable[str]) -> str:
    counts = pd.Series(list(words)).value_counts()
    return ", ".join(f"{counts[word]} {word}" for word in WORDS if word in counts)


def _seeds(table: pd.DataFrame) -> str:
    known = table[table["value"].notna()]["n_seeds"]
    if not len(known) or known.max() == 1:
        return "One seed a cell."
    low, high = int(known.min()), int(known.max())
    return f"Means of {low if low == high else f'{low} to {high}'} seeds; small figures lead to the others."
