"""Every number of the studies that are written up in `docs/study-smollm2.md`, as Markdown.

python benchmarks/study_numbers.py > numbers.md
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lorascope.study import read_units, study_results
from lorascope.study.results.paper_claims import LOWER_BOUNDS
from lorascope.study.results.study_results import StudyResults

STUDIES = Path(__file__).parents[1] / "study"


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


def value(value: float, se: float) -> str:
    """A number, plus or minus its standard error over items."""
    error = f" ± {number(float(se), 2)}" if not math.isnan(se) else ""
    return f"{number(float(value))}{error}" if not math.isnan(value) else ""


def with_seeds(row: Any) -> str:
    """A number of a table, and how far its seeds lie from each other where there are several."""
    seeds = f"; sd {number(float(row.seed_sd), 2)} of {row.n_seeds} seeds" if row.n_seeds > 1 else ""
    return f"{value(row.value, row.se)}{seeds}" if row.n_seeds else ""


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
        row[str(getattr(one, column))] = with_seeds(one)
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


def accuracies(study: StudyResults) -> Iterator[dict[str, Any]]:
    """Accuracy by prompt, data set and setting, and of the untuned model."""
    cells = study.tables["study"]
    for (prompt, dataset), rows in cells.groupby(["prompt", "dataset"], sort=False):
        base = rows.iloc[0]
        yield {
            "prompt": prompt,
            "data set": dataset,
            "n": base.n_scored,
            "without": value(base.base_ACC, base.base_ACC_se),
            **{f"r{row.R:.0f}": value(row.ACC, row.ACC_se) for row in rows.itertuples()},
        }
    for prompt, rows in cells.groupby("prompt", sort=False):
        runs = {f"r{own['R'].iloc[0]:.0f}": own for _, own in rows.groupby("run", sort=False)}
        yield {
            "prompt": prompt,
            "data set": "AVG",
            "n": int(next(iter(runs.values()))["n_scored"].sum()),
            "without": mean(next(iter(runs.values())), "base_ACC"),
            **{name: mean(own, "ACC") for name, own in runs.items()},
        }


def mean(rows: pd.DataFrame, name: str) -> str:
    """Mean over data sets, each counting the same."""
    return value(rows[name].mean(), math.sqrt((rows[f"{name}_se"] ** 2).sum()) / len(rows))


READINGS = {"by likelihood": "", "per token": "_per_token", "per character": "_per_character"}


def readings(study: StudyResults) -> Iterator[dict[str, Any]]:
    """Accuracy read in several ways: means over data sets and the settings that share no layers, and what changes.

    A setting is a mean over its seeds, and counts once.
    """
    units = [unit for unit in study.units if unit.share == 1 and (unit.samples["answer"].values >= 0).any()]
    columns = [f"{base}correct{suffix}" for suffix in READINGS.values() for base in ("", "base_")]
    frames = [
        unit.samples[["id", "dataset", "prompt", "in_test", *columns]].to_dataframe().assign(rank=unit.rank)
        for unit in units
    ]
    keys = ["prompt", "dataset", "id"]
    items = pd.concat(frames).query("in_test == 1").groupby([*keys, "rank"], sort=False)[columns].mean()
    items = items.groupby(keys, sort=False).mean()
    for prompt in dict.fromkeys(items.index.get_level_values("prompt")):
        own = items.loc[prompt]
        if own.groupby("dataset").size().min() < 100:
            continue  # the prompts that a few items were put to
        for name, suffix in READINGS.items():
            with_, without = own[f"correct{suffix}"], own[f"base_correct{suffix}"]
            yield {
                "prompt": prompt,
                "reading": name,
                "n": len(own),
                "settings": len({unit.rank for unit in units}),
                **{
                    what: over_sets(values)
                    for what, values in (("without", without), ("with", with_), ("change", with_ - without))
                },
            }


def over_sets(values: pd.Series) -> str:
    """Mean over data sets and its standard error over items."""
    sets = values.groupby(level="dataset")
    return value(sets.mean().mean(), math.sqrt((sets.var() / sets.size()).sum()) / len(sets))


def trainings(study: StudyResults) -> Iterator[dict[str, Any]]:
    """How far trainings of a setting lie from each other, means over data sets."""
    rows = study.tables["table_1"].query("dataset == 'AVG' and n_seeds > 1 and not setting.str.startswith('share')")
    for one in rows.itertuples():
        yield {
            "metric": f"{one.metric} ({one.unit})",
            "setting": one.setting,
            "seeds": one.n_seeds,
            "mean": one.value,
            "se over items": number(float(one.se), 2),
            "sd between seeds": number(float(one.seed_sd), 2),
            "in % of the mean": number(100 * float(one.seed_sd / one.value), 2),
        }


def tokens(study: StudyResults) -> Iterator[dict[str, Any]]:
    """How many tokens the same items have under each prompt, over which their MIUB is averaged."""
    for task, unit in {unit.task: unit for unit in study.units}.items():
        items = unit.samples[["prompt", "dataset", "length", "answer", "in_prompts"]].to_dataframe()
        items = items.query("answer >= 0 and in_prompts == 1")
        for prompt, own in items.groupby("prompt", sort=False):
            by_set = own.groupby("dataset", sort=False)["length"].mean()
            sets = {name: number(float(n), 4) for name, n in by_set.items()}
            yield {"task": task, "prompt": prompt, "n": len(own), "tokens an item": by_set.mean(), **sets}


def verdicts(study: StudyResults) -> Iterator[dict[str, Any]]:
    """What the panel says of its estimates, and how large those are that bound mutual information from below.

    A saturated value is no bound.
    """
    for unit in study.units:
        if unit.information is None:
            continue
        panel = unit.information.sel(estimator="panel")
        words = pd.Series(panel["verdict"].values.astype(str))
        bounds = words.isin(LOWER_BOUNDS).to_numpy()
        mi, js = panel["value"].values[bounds], panel["js"].values[bounds]
        yield {
            "unit": unit.name,
            "components": len(words),
            "verdicts": ", ".join(f"{word}: {n}" for word, n in words.value_counts().sort_index().items()),
            "from below": int(bounds.sum()),
            "of these MI (nat)": ends(mi),
            "MI over js": ends(mi / js),
        }


def ends(values: Any) -> str:
    """The smallest and the largest, of none nothing."""
    return f"{number(float(values.min()))} to {number(float(values.max()))}" if len(values) else ""


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


def law(study: StudyResults) -> str:
    if isinstance(study.law, str):
        return f"No fit: {study.law}"
    return table([v._asdict() for v in study.law.fit.verdicts])


def claims(study: StudyResults) -> str:
    names = {"number": "paper's claim", "claim": "claim", "verdict": "word", "because": "because"}
    return table(study.tables["claims"][list(names)].rename(columns=names).to_dict("records"))


def compared(study: StudyResults) -> str:
    return study.compared if isinstance(study.compared, str) else table([v._asdict() for v in study.compared.verdicts])


def main_study() -> list[str]:
    """The paper's experiment."""
    study = study_results(read_units(STUDIES / "smollm2"))
    tables = study.tables
    return [
        "### Fine-tuning against the untuned model",
        table(list(tuning(study))),
        "### Accuracy, read in three ways, of the model as it is",
        table(list(readings(study))),
        "### MIUB while adapters were trained",
        table(list(training(study))),
        "### How far trainings differ",
        table(list(trainings(study))),
        "### Table 1",
        table(wide(tables["table_1"], ["dataset"], "setting")),
        "### Tokens by prompt",
        table(list(tokens(study))),
        "### Table 2",
        table(wide(tables["table_2"], ["prompt"], "setting")),
        "### Table 3",
        table(wide(tables["table_3"], ["task"], "setting")),
        "### Mutual information: verdicts",
        table(list(verdicts(study))),
        "### Figure 2",
        table(wide(tables["figure_2"], ["dataset"], "setting")),
        "### Figure 3",
        table(wide(tables["figure_3"], ["dataset", "bucket"], "setting")),
        "### Eq. 8",
        "**all settings**",
        law(study),
        "### Metrics against accuracy",
        compared(study),
        "### Claims",
        claims(study),
    ]


def alpha_study() -> list[str]:
    """What it leaves open: alpha the same at every rank, and items asked without their choices."""
    study = study_results(read_units(STUDIES / "smollm2-alpha"))
    tables = study.tables
    return [
        "### Alpha 16 at every rank: accuracy",
        table(list(accuracies(study))),
        "### Alpha 16 at every rank: accuracy, read in three ways",
        table(list(readings(study))),
        "### Alpha 16 at every rank: Table 1, asked without the choices",
        table(wide(tables["table_1"], ["dataset"], "setting")),
        "### Alpha 16 at every rank: tokens by prompt",
        table(list(tokens(study))),
        "### Alpha 16 at every rank: Table 2",
        table(wide(tables["table_2"], ["prompt"], "setting")),
        "### Alpha 16 at every rank: metrics against accuracy, asked without the choices",
        compared(study),
        "### Alpha 16 at every rank: claims, asked without the choices",
        claims(study),
    ]


def report() -> str:
    """The page's section of numbers."""
    return "\n\n".join([*main_study(), *alpha_study()]) + "\n"


if __name__ == "__main__":
    print(report(), end="")
