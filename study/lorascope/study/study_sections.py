"""The sections of a study's page about what came out: claims, the paper's tables and figures, law, metrics."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.figures.fit_profiles import profile_figure
from lorascope.analyze.figures.fit_residuals import setting_residuals_figure
from lorascope.analyze.figures.fits import scaling_figure
from lorascope.analyze.figures.metric_figures import metrics_figure
from lorascope.analyze.figures.rival_laws import laws_figure
from lorascope.analyze.figures.training_figures import training_figure
from lorascope.analyze.format import format_number, format_percent
from lorascope.analyze.report.markup import escape, figure, section, tile
from lorascope.analyze.scaling.report import FitReport
from lorascope.analyze.stats.verdict import WORDS

from .claims import CLAIMS
from .experiment_figures import (
    lengths_figure,
    sweeps_figure,
    text_sizes_figure,
)
from .experiment_maps import settings_map
from .experiment_untuned import untuned_figure
from .law import Fitted
from .layout import AVG, laid_out
from .study import StudyResults
from .study_tables import paper_layout, summary_parts, verdict_list

__all__ = ["claims", "figures", "headline", "laws", "metrics", "paper_tables", "training", "where"]

Make = Callable[[], Any]


def headline(study: StudyResults) -> str:
    """The few numbers to take away."""
    cells = study.tables["study"]
    choices = cells[cells["first_prompt"] & ~cells["is_text"]]
    counts = pd.Series([one.verdict.word for one in study.findings]).value_counts()
    n_items = choices.drop_duplicates(["model", "task", "dataset", "split"])["n_samples"].sum()
    tiles = [
        tile("units", f"{len(study.units)} of {len(study.planned)}", _what(study)),
        tile(
            "test items",
            str(int(n_items)),
            _data_text(choices["dataset"].nunique(), cells[cells["is_text"]]["dataset"].nunique()),
        ),
        *_change_tiles(study),
        *_accuracy_tile(study),
        tile("claims looked at", str(len(study.findings)), "; ".join(f"{counts.get(w, 0)} {w}" for w in WORDS)),
    ]
    return (
        f'<div class="tiles">{"".join(tiles)}</div>'
        "<p><b>What MIUB is.</b> The size of the adapters' push on the layers' outputs: the Jensen-Shannon divergence "
        "of softmax(base) and softmax(base + delta), in nats, averaged over a sample's tokens, summed over components, "
        "and averaged over samples (arXiv 2501.03152, eq. 9). It is no upper bound of a mutual information: that "
        "theorem doesn't hold.</p>"
    )


def claims(study: StudyResults) -> str:
    """What this study says of the paper's claims."""
    parts = []
    for number, text in CLAIMS.items():
        own = [one.verdict for one in study.findings if one.number == number]
        if own:
            name = f"Claim {number}" if number else "First"
            counts = ", ".join(f"{n} {word}" for word in WORDS if (n := sum(one.word == word for one in own)))
            found = verdict_list([(one.word, one.claim, one.because) for one in own])
            parts.append(f"<h3>{name}. {escape(text)}</h3><details><summary>{counts}</summary>{found}</details>")
    about = (
        "<p>A word speaks of these very adapters on another draw of items: <i>supported</i> where the 95 % interval "
        "leaves 0 out on the claim's side, <i>contradicted</i> on the other, <i>not identified</i> else. Whether "
        "another adapter of the same setting would do the same is what seeds say, in sentences of their own. Intervals "
        "aren't corrected for how many there are.</p>"
    )
    return section("claims", "The paper's claims on this study", about, *parts)


def paper_tables(study: StudyResults) -> str:
    """Tables 1 to 3."""
    one, two, three = (study.tables[f"table_{number}"] for number in (1, 2, 3))
    parts = []
    if len(one):
        about = (
            f"Value ± standard error over items, first prompt; {AVG}: mean over data sets. r…: LoRA rank, layers share "
            f"no weights. share…: layers that share one set of base weights, rank {one.attrs['rank']}. share1 is the "
            f"rank sweep's r{one.attrs['rank']}, shown again. {_seeds(one)}{_left_out(one)} A number leads to its unit."
        )
        parts += ["<h3>Table 1: data sets</h3>", paper_layout(one, "dataset", "data set", caption=about)]
    else:
        parts.append("<p>Table 1: no data set with choices.</p>")
    if len(two):
        items = two[two["value"].notna()]["n_items"]
        n = f"{int(items.min())} items" if len(items) and items.nunique() == 1 else "the same items"
        about = f"Mean over data sets, {n} under every prompt. {_seeds(two)}"
        parts += ["<h3>Table 2: prompts</h3>", paper_layout(two, "prompt", "prompt", caption=about)]
    else:
        parts.append("<p>Table 2: no items were put to more than one prompt.</p>")
    if len(three):
        about = (
            "ACC and MIUB as in table 1. MI: median over components of the panel's estimate, its quartiles, and how "
            "many components' verdict is ok; others are lower bounds or less. js: median of the same components and "
            "tokens; js sum: their sum, MIUB over these. Mutual information of whole states is infinite: each "
            f"estimate is of a few axes of both. {_seeds(three)}"
        )
        parts += ["<h3>Table 3: mutual information</h3>", paper_layout(three, "task", "task", caption=about)]
    else:
        parts.append("<p>Table 3: mutual information was estimated of no unit.</p>")
    return section("tables", "The paper's tables", *parts)


def figures(study: StudyResults) -> str:
    """Figures 2 and 3, the sweeps, and accuracy against the untuned model."""
    cells = study.tables["study"]
    laid = laid_out(cells).cells
    sizes = laid.drop_duplicates(["model", "column"]).rename(columns={"column": "setting_"})
    sizes = sizes[["model", "setting_", "N", "R"]].rename(columns={"setting_": "setting"})
    made: list[tuple[str, Make]] = [
        ("sweeps", partial(sweeps_figure, study.tables["table_1"], sizes)),
        ("figure-2", partial(text_sizes_figure, study.tables["figure_2"])),
        ("figure-3", partial(lengths_figure, study.tables["figure_3"])),
        ("untuned", partial(untuned_figure, cells)),
    ]
    return section("figures", "The paper's figures", *_drawn(made))


def where(study: StudyResults) -> str:
    """Which layers the adapters act on."""
    models = list(dict.fromkeys(unit.model for unit in study.units))
    made = [(f"map-{k}", partial(settings_map, study.units, model)) for k, model in enumerate(models)]
    return section("where", "Where the adapters act", *_drawn(made))


def training(study: StudyResults) -> str:
    """MIUB and loss while adapters were trained, of the first seed of each setting.

    A figure a model and task, and another one for models of shared layers, whose numbers may be far larger.
    """
    parts: list[str] = []
    groups: dict[tuple[str, str, bool], dict[str, Any]] = {}
    seen = set()
    for unit in sorted(study.units, key=lambda unit: unit.seed):
        setting = (unit.model, unit.task, unit.share, unit.rank, unit.train_items)
        if unit.training.get("miub") and setting not in seen:
            seen.add(setting)
            groups.setdefault((unit.model, unit.task, unit.share > 1), {})[unit.name] = unit.training
    for place, ((model, task, is_shared), records) in enumerate(sorted(groups.items(), key=lambda group: group[0][2])):
        parts.append(f"<h3>{escape(task)}, {escape(model)}{', layers shared' if is_shared else ''}</h3>")
        try:
            parts.append(figure(f"training-{place}", training_figure(records), ""))
        except (KeyError, TypeError, ValueError) as error:  # a record is data, and may lack anything
            parts.append(f"<p>No figure: a training's record can't be read ({escape(error)}).</p>")
    none = "" if parts else "<p>MIUB wasn't measured during training (`miub_every`).</p>"
    return section("training", "During training", none, *parts)


def laws(study: StudyResults) -> str:
    """Eq. 8 fitted, or why it can't be."""
    parts = []
    for place, one in enumerate(study.laws):
        parts.append(f"<h3>{escape(one.name)}</h3>")
        if one.report is None:
            parts.append(f"<p><b>Not identified:</b> {escape(one.refused)}.</p>")
            continue
        parts.append(summary_parts(one.report.summary()))
        parts += _drawn(_law_figures(one, one.report, place))
    about = (
        "<p>MIUB(N, R, D) = E + A (N0/N)^alpha + B (R0/R)^beta + C (D0/D)^gamma, eq. 8 as the paper's text means it, "
        "on the cells with the first prompt, each data set with a level E of its own. The paper never fits it.</p>"
    )
    return section("law", "The scaling law", about, *parts)


def metrics(study: StudyResults) -> str:
    """MIUB and CE as predictors of accuracy."""
    found = study.comparison
    if found is None:
        return section("metrics", "Metrics against accuracy", f"<p>Not compared: {escape(study.not_compared)}.</p>")
    made: list[tuple[str, Make]] = [
        ("metrics-figure", partial(metrics_figure, found)),
    ]
    return section("metrics", "Metrics against accuracy", summary_parts(found.summary()), *_drawn(made))


def _law_figures(one: Fitted, report: FitReport, place: int) -> Iterator[tuple[str, Make]]:
    for size in report.fit.design.axes:
        yield f"law-{place}-{size}", partial(scaling_figure, report.fit, along=size)
    yield f"law-{place}-profiles", partial(profile_figure, report.fit)
    yield f"law-{place}-residuals", partial(setting_residuals_figure, report.fit)
    yield f"law-{place}-rivals", partial(laws_figure, report)


def _drawn(made: Sequence[tuple[str, Make]] | Iterator[tuple[str, Make]]) -> list[str]:
    """Figures, and in place of one that a study can't have the words why."""
    parts = []
    for name, make in made:
        try:
            parts.append(figure(name, make(), ""))
        except ValueError as error:
            parts.append(f"<p>No figure: {escape(error)}.</p>")
    return parts


def _what(study: StudyResults) -> str:
    names = {"model": "models", "rank": "ranks", "share": "sizes", "seed": "seeds", "task": "tasks"}
    counts = {name: len({getattr(unit, name) for unit in study.units}) for name in names}
    return ", ".join(f"{n} {names[name] if n > 1 else names[name][:-1]}" for name, n in counts.items())


def _data_text(n_choices: int, n_texts: int) -> str:
    sets = f"{n_choices} data set{'' if n_choices == 1 else 's'} with choices"
    return sets + (f", {n_texts} text{'' if n_texts == 1 else 's'}" if n_texts else "")


def _change_tiles(study: StudyResults) -> Iterator[str]:
    """MIUB's change along rank and size, of the first model."""
    for what in ("rank", "model size"):
        for one in study.findings:
            if one.number == 1 and one.unit == "%" and one.verdict.claim.endswith(f"as {what} grows"):
                ends = f"95 % over items {format_number(one.low)} to {format_number(one.high)} %, n = {one.n_items}"
                of = one.verdict.claim.removeprefix("MIUB").partition(" falls")[0]
                yield tile(f"MIUB{of} along {what}", f"{format_number(one.value)} %", ends)
                break


def _accuracy_tile(study: StudyResults) -> Iterator[str]:
    cells = study.tables["study"]
    rows = cells[cells["first_prompt"] & ~cells["is_text"] & cells["ACC"].notna() & cells["base_ACC"].notna()]
    if len(rows):
        with_it, without = (format_percent(float(rows[name].mean())) for name in ("ACC", "base_ACC"))
        yield tile("accuracy", f"{without} → {with_it}", "without → with adapter, mean over units and data sets")


def _seeds(table: pd.DataFrame) -> str:
    known = table[table["value"].notna()]["n_seeds"]
    if not len(known):
        return ""
    low, high = int(known.min()), int(known.max())
    if high == 1:
        return "One seed a cell."
    return f"Means of {low if low == high else f'{low} to {high}'} seeds; small figures lead to the others."


def _left_out(table: pd.DataFrame) -> str:
    names = table.attrs["left_out"]
    return f" {len(names)} units of other settings aren't in it." if names else ""
