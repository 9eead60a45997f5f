"""The parts of a study's page about the record: what is missing, what was run, where each number comes from."""

import json
from collections.abc import Iterator, Mapping, Sequence

from lorascope.analyze.figures.captions import shortened
from lorascope.analyze.report.markup import escape, section, table
from lorascope.analyze.results.format import format_number

from ..results.study_results import StudyResults
from ..results.units import UnitResult
from .table_html import anchor

MOST_NAMED = 8
FEW_ITEMS = 400
"""Items of a data set below which an accuracy's standard error may pass 2.5 points."""
COLUMNS = ("unit", "N", "D", "samples", "train s")
MAY_DIFFER = {"rank", "seed", "states", "states_share", "prompt", "share", "shared_layers", "share_from"}
"""Settings of training and capture that the grid decides, or that shape no number; prompts have names."""
MEANING = (
    "<p>MIUB, in nats: mean over a sample's tokens, sum over components, mean over samples. Accuracy: share of items "
    "whose right choice has the highest log-likelihood. CE: nat a token of the right answer, mean over items; of texts "
    "mean over tokens; PPL = exp(CE).</p>"
)


def notices(study: StudyResults) -> Iterator[str]:
    """Notices that belong before any number; HTML."""
    cells, missing, unplanned = study.tables["study"], study.missing, study.unplanned_units
    if missing:
        n = f"{len(missing)} of {len(study.planned)}"
        yield f"<b>{n} units aren't done:</b> {_join(missing)}. What needs them is empty."
    if unplanned:
        yield (
            f"<b>{len(unplanned)} results are of units that the study doesn't have,</b> and aren't in here: "
            f"{_join(unplanned)}."
        )
    for tokens in dict.fromkeys(str(unit.provenance.get("population", "all")) for unit in study.units):
        if not tokens.startswith("all"):
            yield f"<b>MIUB is of a part of the tokens:</b> {escape(tokens)}. It doesn't compare with that of all."
    n_seeds = cells.groupby(["model", "task", "setting"])["seed"].nunique()
    if n_lone := int((n_seeds == 1).sum()):
        who = "Each setting has" if n_lone == len(n_seeds) else f"{n_lone} of {len(n_seeds)} settings have"
        yield (
            f"<b>{who} one seed.</b> Errors say how another draw of items would differ, not another adapter. Claims "
            "take that from settings of the same task with several seeds; without any, they are about these very "
            "adapters."
        )
    choices = cells[cells["first_prompt"] & ~cells["is_text"] & (cells["n_scored"] > 0)]
    if len(choices) and choices["n_scored"].min() < FEW_ITEMS:
        low, high = int(choices["n_scored"].min()), int(choices["n_scored"].max())
        yield (
            f"<b>Few items:</b> {low if low == high else f'{low} to {high}'} a data set. An accuracy has a standard "
            f"error of up to {format_number(100 * float(choices['ACC_se'].max()))} points."
        )
    yield from (f"<b>Units differ</b> in {what}." for what in differing(study.units))
    if n_bad := int(cells["MIUB"].isna().sum()):
        yield f"<b>{n_bad} cells have a MIUB that isn't finite</b> in some sample; they are empty."


def differing(units: Sequence[UnitResult]) -> Iterator[str]:
    """Settings, libraries and weights that shape numbers and differ between units unplanned; HTML."""
    values_of: dict[str, dict[str, list[str]]] = {}  # what -> its value, as JSON -> units
    for unit in units:
        libraries, device, model = (unit.provenance.get(key) or {} for key in ("libraries", "device", "model"))
        about = {**libraries, **{f"device {key}": device.get(key) for key in ("type", "name")}}
        about[f"weights of {unit.model}, share{unit.share}"] = model.get("sha256")
        for step, recipe in unit.recipe.items():
            parts = recipe if isinstance(recipe, Mapping) else {}
            settings = parts["config"] if isinstance(parts.get("config"), Mapping) else {}
            own = {key: value for key, value in settings.items() if key not in MAY_DIFFER}
            alike = f"{unit.task}, {unit.model}, share{unit.share}, d{unit.train_items or 'all'}"
            about |= {f"settings of {step}, {unit.task}": own}
            about |= {f"{key} of {step}, {alike}": parts[key] for key in parts.keys() - {"config", "information"}}
        for what, value in about.items():
            values_of.setdefault(what, {}).setdefault(json.dumps(value, sort_keys=True), []).append(unit.name)
    for what, values in values_of.items():
        if len(values) > 1:
            parted = (f"{shortened(value, 60)} in {_join(names)}" for value, names in values.items())
            yield f"{escape(what)}: {'; '.join(parted)}"


def units_section(study: StudyResults) -> str:
    """A section with all units: sizes, items that were lacking, and a part for each unit, to which its numbers link."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(n for unit in study.units for n in unit.notes))
    rows = []
    for unit in study.units:
        n, d, seconds = unit.sizes["N"], unit.sizes["D"], unit.training.get("train_seconds")
        sizes = ["n/a" if size is None else f"{size:,}".replace(",", "\u202f") for size in (n, d)]
        time = format_number(float(seconds)) if isinstance(seconds, int | float) else "n/a"
        rows.append((unit.name, *sizes, unit.samples.sizes["sample"], time))
    caption = (
        "N: parameters of the model, each counted once; D: training samples; samples: items, windows of text and "
        "prompts, all together."
    )
    lacking = f"<p>There wasn't enough of:</p><ul>{notes}</ul>" if notes else ""
    overview = table(COLUMNS, rows, caption=caption)
    return section("units", "What was run", overview, lacking, MEANING, *map(_unit, study.units))


def _unit(unit: UnitResult) -> str:
    rows = [("file", f"results/{unit.name}.nc"), ("model", unit.model)]
    for name, run in unit.runs.items():
        about = f"{run.get('fingerprint')}; {run.get('n_tokens')} tokens, states kept: {run.get('states')}"
        rows.append((f"run {name}", about))
    if unit.information is not None:
        chosen = {key: value for key, value in unit.information.attrs.items() if key not in ("model", "adapter")}
        rows.append(("mutual information", ", ".join(f"{key} {value}" for key, value in chosen.items())))
    shown = ("model", "data", "population", "prompt", "libraries", "device")
    details = {
        "training": {key: value for key, value in unit.training.items() if not isinstance(value, list)},
        "provenance": {key: unit.provenance[key] for key in shown if key in unit.provenance},
        "recipe": unit.recipe,
    }
    text = json.dumps(details, indent=1, ensure_ascii=False, default=str)
    return (
        f'<article class="sample" id="{escape(anchor(unit.name))}"><h3>{escape(unit.name)}</h3>'
        f"{table(('', ''), rows, n_names=2)}<details><summary>training, model, libraries, recipe</summary>"
        f"<pre>{escape(text)}</pre></details></article>"
    )


def _join(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return escape(", ".join(names[:MOST_NAMED])) + more
