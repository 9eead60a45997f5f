"""`lorascope compare`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from ..fits import chosen_groups, deliver, refuse_out, rows_where, study_table
from ..options import AsJson, FullTables, Level, ResultsOut, Seed, StudyTables, Where, Workers

if TYPE_CHECKING:
    from lorascope.analyze.fits.metrics import MetricComparison

Draws = Annotated[int, Parameter(validator=Number(lte=100_000))]
"""With more draws and orders a comparison takes minutes and gains no digit."""


def compare(
    *study: StudyTables,
    accuracy: str = "ACC",
    metric: Sequence[str] = ("ln MIUB", "CE", "ln CE"),
    groups: str | None = None,
    setting: str = "setting",
    higher_is_better: Sequence[str] = (),
    collapsed_below: float | None = None,
    where: Where = (),
    level: Level = 0.95,
    n_draws: Draws = 10_000,
    seed: Seed = 0,
    workers: Workers = None,
    full: FullTables = False,
    as_json: AsJson = False,
    out: ResultsOut = None,
) -> None:
    """Compare how well MIUB, cross-entropy and other metrics predict accuracy, within groups of a study.

    Parameters
    ----------
    accuracy
        Column of shares from 0 to 1.
    metric
        A column, or 'ln CE' for the logarithm of the column CE; repeat it for more, with which the first is compared.
    groups
        Columns that together define a group, separated by commas; by default those of dataset, split, prompt and model
        that vary.
    setting
        Column that names a cell in its group.
    higher_is_better
        A metric of which high values should go with high accuracy; repeat it for more.
    collapsed_below
        Report everything a second time, without cells whose accuracy is below this.
    n_draws
        Number of random draws, if there are too many groups or settings for all draws.
    as_json
        Print one JSON object and nothing else: `study` (`source`, `where`, `n_rows`, `notes`), `comparison`
        (`verdicts`, `tables`, `notes`, `provenance`), every number at full precision, and `remarks`.
    """
    refuse_out(out)
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
