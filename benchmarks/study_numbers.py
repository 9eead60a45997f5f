"""Every number of a study that is written up, as Markdown: `docs/study-smollm2.md` holds that of `studies/smollm2`.

python benchmarks/study_numbers.py > numbers.md
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lorascope.analyze import read_units
from lorascope.analyze.experiment.study import StudyResults, study_results

STUDY = Path(__file__).parents[1] / "studies" / "smollm2"


def number(value: Any, digits: int = 5) -> str:
    """Five significant digits, so that four can be compared; nothing for what isn't there."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.{digits}g}"
    return str(value)


def table(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "Nothing yet."
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(number(row[name]).replace("|", "/") for name in header) + " |" for row in rows]
    return "\n".join(lines)


def value(row: Any) -> str:
    """A number, plus or minus its standard error over items."""
    error = f" ± {number(float(row.se), 2)}" if not math.isnan(row.se) else ""
    return f"{number(float(row.value))}{error}" if not math.isnan(row.value) else ""


def wide(frame: pd.DataFrame, keys: Sequence[str], column: str) -> list[dict[str, Any]]:
    """One row for each combination of keys and metric, one column a setting."""
    names = list(dict.fromkeys(frame[column].astype(str)))
    rows = {}
    for one in frame.itertuples():
        row = rows.setdefault(
            tuple(str(getattr(one, key)) for key in (*keys, "metric")),
            {key: getattr(one, key) for key in keys}
            | {"metric": f"{one.metric} ({one.unit})", "n": one.n_items}
            | dict.fromkeys(names, ""),
        )
        row[str(getattr(one, column))] = value(one)
    return list(rows.values())


def tuning(study: StudyResults) -> Iterator[dict[str, Any]]:
    """How each unit does on its test sets, without its adapter and with it."""
    cells = study.tables["study"]
    for one in cells[cells["first_prompt"]].itertuples():
        yield {
            "unit": one.run,
            "data set": one.dataset,
            "n": one.n_scored,
            "CE without": one.base_CE,
            "CE with": one.CE,
            "ACC without": one.base_ACC,
            "ACC with": one.ACC,
            "PPL without": one.base_PPL,
            "PPL with": one.PPL,
        }


def training(study: StudyResults) -> Iterator[dict[str, Any]]:
    """MIUB and CE on held-out samples while adapters were trained, and what it took."""
    for unit in study.units:
        record = unit.training
        steps = record["miub"]["steps"]
        yield {
            "unit": unit.name,
            "N": unit.sizes["N"],
            "samples": record["n_samples"],
            "steps": len(record["steps"]),
            "MIUB by step (nat)": ", ".join(f"{step['step']}: {number(float(step['miub']), 4)}" for step in steps),
            "CE by step (nat/token)": ", ".join(f"{step['step']}: {number(float(step['ce']), 4)}" for step in steps),
        }


def laws(study: StudyResults) -> Iterator[str]:
    for fitted in study.laws:
        yield f"**{fitted.name}**"
        if fitted.report is None:
            yield f"No fit: {fitted.refused}"
            continue
        yield table([{"claim": v.claim, "word": v.word, "because": v.because} for v in fitted.report.verdicts])


def report(folder: Path = STUDY) -> str:
    """The page's section of numbers."""
    study = study_results(read_units(folder))
    tables = study.tables
    parts = [
        "### Fine-tuning against the untuned model",
        table(list(tuning(study))),
        "### MIUB while adapters were trained",
        table(list(training(study))),
        "### Table 1",
        table(wide(tables["table_1"], ["dataset"], "setting")),
        "### Table 2",
        table(wide(tables["table_2"], ["prompt"], "setting")),
        "### Table 3",
        table(wide(tables["table_3"], ["task"], "setting")),
        "### Figure 2",
        table(wide(tables["figure_2"], ["dataset"], "setting")),
        "### Figure 3",
        table(wide(tables["figure_3"], ["dataset", "bucket"], "setting")),
        "### Eq. 8",
        *laws(study),
        "### Metrics against accuracy",
        table([{"claim": v.claim, "word": v.word, "because": v.because} for v in study.comparison.verdicts])
        if study.comparison is not None
        else study.not_compared,
        "### Claims",
        table(
            [
                {
                    "paper's claim": f.number,
                    "claim": f.verdict.claim,
                    "word": f.verdict.word,
                    "because": f.verdict.because,
                }
                for f in study.findings
            ]
        ),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(report(), end="")
