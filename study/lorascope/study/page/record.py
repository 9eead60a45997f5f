"""The sections of a study's page about the record: what was run, what is missing, where each number comes from."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lorascope.analyze.format import format_number
from lorascope.analyze.report.markup import escape, notice, section, table

from .differing import differing
from .reading import UnitResult
from .study import StudyResults
from .study_tables import anchor, anchors

__all__ = ["notices", "provenance", "what_was_run"]

MOST_NAMED = 8
FEW_ITEMS = 400
"""Items of a data set below which an accuracy's standard error may pass 2.5 points."""
REDUCTION = "mean over a sample's captured tokens, sum over components, mean over samples; nats"
COLUMNS = ("unit", "model", "share", "rank", "seed", "task", "N", "D", "samples", "components", "train s")


def notices(study: StudyResults) -> str:
    """What must be known before any number."""
    return "".join(notice(text) for text in _notices(study))


def _notices(study: StudyResults) -> Iterator[str]:
    if missing := study.missing:
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        yield (
            f"<b>{len(missing)} of {len(study.planned)} units aren't done:</b> "
            f"{escape(', '.join(missing[:MOST_NAMED]))}{more}. What needs them is empty."
        )
    if others := study.strangers:
        more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
        yield (
            f"<b>{len(others)} results are of units that the study doesn't have,</b> and aren't in here: "
            f"{escape(', '.join(others[:MOST_NAMED]))}{more}."
        )
    for tokens in dict.fromkeys(map(_tokens, study.units)):
        if tokens != "all":
            yield f"<b>MIUB is of a part of the tokens:</b> {escape(tokens)}. It doesn't compare with that of all."
    cells = study.tables["study"]
    n_seeds = cells.groupby(["model", "task", "setting"])["seed"].nunique()
    n_lone = int((n_seeds == 1).sum())
    if n_lone:
        who = "Each setting has" if n_lone == len(n_seeds) else f"{n_lone} of {len(n_seeds)} settings have"
        yield (
            f"<b>{who} one seed.</b> Errors and intervals say how another draw of items would differ, not how another "
            "adapter would: that noise is unknown here."
        )
    choices = cells[cells["first_prompt"] & ~cells["is_text"] & (cells["n_scored"] > 0)]
    if len(choices) and choices["n_scored"].min() < FEW_ITEMS:
        worst = choices["ACC_se"].max()
        low, high = int(choices["n_scored"].min()), int(choices["n_scored"].max())
        yield (
            f"<b>Few items:</b> {low if low == high else f'{low} to {high}'} a data set. An "
            f"accuracy has a standard error of up to {format_number(100 * float(worst))} points."
        )
    for said in differing(study.units):
        yield f"<b>Units differ</b> in {escape(said)}."
    n_bad = int(cells["MIUB"].isna().sum())
    if n_bad:
        yield f"<b>{n_bad} cells have a MIUB that isn't finite</b> in some sample; they are empty."


def _tokens(unit: UnitResult) -> str:
    """Which tokens of its samples a unit was measured on."""
    run = unit.recipe.get("main")
    config = run.get("config") if isinstance(run, Mapping) else None
    return str(config.get("tokens", "all")) if isinstance(config, Mapping) else "all"


def what_was_run(study: StudyResults) -> str:
    """The units, and what there wasn't enough of."""
    notes = list(dict.fromkeys(note for unit in study.units for note in unit.notes))
    lines = "".join(f"<li>{escape(note)}</li>" for note in notes)
    lacking = f"<p>There wasn't enough of:</p><ul>{lines}</ul>" if lines else ""
    head = "".join(
        f'<th class="{"name" if place in (0, 1, 5) else "number"}">{escape(name)}</th>'
        for place, name in enumerate(COLUMNS)
    )
    body = "".join(f"<tr>{''.join(_run_cells(unit))}</tr>" for unit in study.units)
    whole = f'<table class="linked"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    caption = (
        "share: layers that share one set of base weights; N: parameters of the model, each counted once; D: training "
        "samples; samples: items, windows of text and prompts, all together. Names lead to where numbers come from."
    )
    return section(
        "units",
        "What was run",
        f'<figure><div class="scroll">{whole}</div><figcaption>{caption}</figcaption></figure>',
        lacking,
    )


def _run_cells(unit: UnitResult) -> Iterator[str]:
    sizes = unit.sizes
    seconds = unit.training.get("train_seconds")
    values: tuple[Any, ...] = (
        *(unit.share, unit.rank, unit.seed),
        unit.task,
        *("n/a" if sizes[name] is None else f"{sizes[name]:,}".replace(",", "\u202f") for name in ("N", "D")),
        unit.samples.sizes["sample"],
        unit.components.sizes["component"],
        format_number(float(seconds)) if isinstance(seconds, int | float) else "n/a",
    )
    yield f'<td class="name">{anchors([unit.name], unit.name)}</td>'
    yield f'<td class="name">{escape(_short(unit.model))}</td>'
    for place, value in enumerate(values):
        yield f'<td class="{"name" if place == 3 else "number"}">{escape(value)}</td>'


def provenance(study: StudyResults) -> str:
    """A part a unit, to which its numbers link."""
    parts = [_unit(unit) for unit in study.units]
    return section("provenance", "Where the numbers come from", f"<p>MIUB: {REDUCTION}.</p>", *parts)


def _unit(unit: UnitResult) -> str:
    rows: list[tuple[str, object]] = [("file", f"results/{unit.file}")]
    for name, run in unit.runs.items():
        about = f"{run.get('fingerprint')}; {run.get('n_tokens')} tokens, states kept: {run.get('states')}"
        rows.append((f"run {name}", about))
    rows += [
        ("MIUB", REDUCTION),
        ("accuracy", "share of items whose right choice has the highest log-likelihood"),
        ("CE, PPL", "nat a token of the right answer, mean over items; of texts mean over tokens; PPL = exp(CE)"),
    ]
    details = {
        "training": {key: value for key, value in unit.training.items() if not isinstance(value, list)},
        "model and data": {
            key: value for key, value in unit.provenance.items() if key in ("model", "data", "population", "prompt")
        },
        "libraries and device": {key: unit.provenance.get(key) for key in ("libraries", "device")},
        "recipe": unit.recipe,
    }
    more = "".join(f"<h3>{escape(name)}</h3><pre>{escape(_indented(value))}</pre>" for name, value in details.items())
    if unit.information is not None:
        chosen = {
            str(key): str(value) for key, value in unit.information.attrs.items() if key not in ("model", "adapter")
        }
        rows.append(("mutual information", ", ".join(f"{key} {value}" for key, value in chosen.items())))
    return (
        f'<article class="sample" id="{escape(anchor(unit.name))}"><h3>{escape(unit.name)}</h3>'
        f"{table(('', ''), rows, n_names=2)}<details><summary>training, model, libraries, recipe</summary>{more}"
        "</details></article>"
    )


def _indented(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)


def _short(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2] or model
