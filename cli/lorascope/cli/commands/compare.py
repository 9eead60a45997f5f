"""`lorascope compare`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ..fits import chosen_groups, deliver, refuse_out, rows_where, study_table

if TYPE_CHECKING:
    from lorascope.analyze.fits.metrics import MetricComparison

MOST_DRAWS = 100_000
"""Most random draws and orders; with more a comparison takes minutes and gains no digit."""


def compare(
    *study: str,
    accuracy: str = "ACC",
    metric: Sequence[str] = ("ln MIUB", "CE", "ln CE"),
    groups: str | None = None,
    setting: str = "setting",
    higher_is_better: Sequence[str] = (),
    collapsed_below: float | None = None,
    where: Sequence[str] = (),
    level: float = 0.95,
    n_draws: int = 10_000,
    seed: int = 0,
    workers: int | None = None,
    full: bool = False,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    out: Path | None = None,
) -> None:
    """Compare how well MIUB, cross-entropy and other metrics predict accuracy, within groups of a study.

    It prints correlations with accuracy, what each metric adds if the setting is known, and tests of the differences
    between metrics, which come from the same cells.

    Parameters
    ----------
    study
        A table (.csv, .tsv), a folder that holds study.csv or runs, several runs, or one of the words
        paper, paper:repaired and paper:without-collapsed: table 1 of the paper. MIUB of runs is computed.
    accuracy
        Column of shares from 0 to 1.
    metric
        A column, or 'ln CE' for the logarithm of the column CE; repeat the option for more. The first one is compared
        with the others.
    groups
        Columns that together define a group, separated by commas; cells are compared within groups. By default those of
        dataset, split, prompt and model that vary.
    setting
        Column that names a cell in its group.
    higher_is_better
        A metric of which high values should go with high accuracy; repeat the option for more. For all other metrics
        low values should.
    collapsed_below
        Report everything a second time, without cells whose accuracy is below this.
    where
        Only rows with these values, as in 'model=Phi3' or 'R=8,32'; give it again for another column.
    level
        Share of draws inside an interval; p-values up to 1 - level count.
    n_draws
        Number of random draws, if there are too many groups or settings for all draws.
    seed
        Seed of random draws.
    workers
        Threads that read runs; by default one a processor.
    full
        Print all tables and remarks, not only the verdicts.
    as_json
        Print one JSON object and nothing else: `study` (`source`, `where`, `n_rows`, `notes`), `comparison`
        (`verdicts`, `tables`, `notes`, `provenance`), every number at full precision, and `remarks`.
    out
        Write report.json and figures.html to this folder, new or empty; or the first table alone, to a name
        ending in .csv, .parquet, .json, .nc or .zarr.
    """
    refuse_out(out)
    if n_draws > MOST_DRAWS:
        raise ValueError(f"`--n-draws` is {n_draws}; give at most {MOST_DRAWS}")
    conditions = rows_where(where)
    frame = study_table(study, conditions, workers)

    from lorascope.analyze.fits.metrics import compare_metrics

    columns = chosen_groups(frame, groups)
    comparison = compare_metrics(
        frame, accuracy, metric, groups=columns, setting=setting, higher_is_better=higher_is_better,
        collapsed_below=collapsed_below, n_draws=n_draws, seed=seed, level=level,
    )  # fmt: skip
    deliver(
        "comparison", frame, conditions, comparison.summary(), as_json=as_json, out=out, full=full,
        figures=[("Correlation with accuracy", lambda: _figure(comparison))],
    )  # fmt: skip


def _figure(comparison: "MetricComparison") -> Any:
    from lorascope.analyze.figures import metrics_figure  # plotly, for which no other output waits

    return metrics_figure(comparison)
