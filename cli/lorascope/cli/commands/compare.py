"""`lorascope compare`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd  # type: ignore[import-untyped]
from cyclopts import Parameter

from lorascope.analyze.comparison.compare_metrics import compare_metrics
from lorascope.analyze.comparison.comparison import MetricComparison

from ..fits.options import GROUPS, Whole, chosen_groups, numbers_by_name, rows_where, study_table
from ..fits.results import Figure, Format, Results, about_study, deliver, refuse_out
from ..fits.words import command_words
from ..screen import aside, progress_bar

__all__ = ["compare"]

MOST_RESAMPLES = 100_000


def compare(
    *study: str,
    accuracy: str = "ACC",
    metric: Sequence[str] = ("ln MIUB", "CE", "ln CE"),
    blocks: str | None = None,
    setting: str = "setting",
    reference: str | None = None,
    higher_is_better: Sequence[str] = (),
    collapsed_below: float | None = None,
    n_items: str | None = None,
    where: Sequence[str] = (),
    significance: float = 0.05,
    n_resamples: Whole = 2000,
    seed: Whole = 0,
    workers: Whole | None = None,
    form: Annotated[Format, Parameter(name="--format")] = "table",
    out: Path | None = None,
) -> None:
    """Which metric follows accuracy: MIUB, cross-entropy and others, compared within blocks of a study.

    Correlations, decisions between settings, and what each metric adds to knowing the setting, with tests of the
    differences between metrics that take into account that they are of the same cells.

    Parameters
    ----------
    study
        A table (.csv, .tsv, .json, .jsonl), a folder that holds study.csv or runs, several runs, or one of the words
        paper, paper:repaired and paper:without-collapsed: table 1 of the paper. MIUB of runs is computed.
    accuracy
        Column of shares from 0 to 1.
    metric
        A column, or 'ln CE' for the logarithm of the column CE; give it again for another one.
    blocks
        Columns whose values together make a block, with commas between: cells are compared within blocks. By default
        those of dataset, split, prompt and model that vary.
    setting
        Column that names a cell in its block.
    reference
        Metric whose claim is tested; by default the first one.
    higher_is_better
        Metric that promises a high accuracy where it is high; may be given several times. All others do where they are
        low.
    collapsed_below
        Report everything a second time, without cells whose accuracy is below this.
    n_items
        Test items behind each accuracy: a number, a column (n_scored of runs), or numbers by block or data set, as in
        'ARCE=2376,ARCC=1172'.
    where
        Only rows with these values, as in 'model=Phi3' or 'R=8,32'; give it again for another column.
    significance
        What p-values are held against.
    n_resamples
        Random draws, where blocks are too many to look at all draws.
    seed
        Of random draws.
    workers
        Threads that read runs; by default one a processor.
    form
        table, json (all numbers at full precision) or markdown.
    out
        Write report.md, report.json and figures.html to this folder, new or empty.
    """
    refuse_out(out)
    if n_resamples > MOST_RESAMPLES:
        raise ValueError(f"`n_resamples` is {n_resamples}; give at most {MOST_RESAMPLES}")
    asked, items = rows_where(where), _items(n_items)
    with command_words():
        frame = study_table(study, asked, workers)
    groups = _blocks(frame, blocks)
    with progress_bar("compare", to=aside) as update, command_words():
        found = compare_metrics(
            frame,
            accuracy,
            metric,
            blocks=groups,
            setting=setting,
            reference=reference,
            higher_is_better=higher_is_better,
            collapsed_below=collapsed_below,
            n_items=items,
            n_resamples=n_resamples,
            seed=seed,
            significance=significance,
            progress=update,
        )
    deliver(
        Results(
            title=f"Metrics and {accuracy}",
            study=about_study(frame, asked),
            summaries=[found.summary()],
            record={"comparison": found.to_dict()},
            figures=_figures(found, frame) if out is not None else (),
        ),
        form,
        out,
    )


def _blocks(frame: pd.DataFrame, named: str | None) -> tuple[str, ...]:
    found = chosen_groups(frame, named)
    if not found:
        none = "`blocks` names no column" if named is not None else f"none of {', '.join(GROUPS)} varies"
        raise ValueError(f"{none}, so that there is one block, and two are needed; name columns with --blocks")
    return found


def _items(text: str | None) -> int | str | Mapping[str, int] | None:
    """A number, a column's name, or numbers by name."""
    if text is None or not text.strip().isdecimal():
        return numbers_by_name("n_items", text) if text is not None and "=" in text else text
    return int(text)


def _figures(found: MetricComparison, frame: pd.DataFrame) -> Sequence[Figure]:
    from ..fits.figures import comparison_figures  # plotly, for which no other output waits

    return comparison_figures(found, frame)
