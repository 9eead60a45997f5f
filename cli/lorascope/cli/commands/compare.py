"""`lorascope compare`."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from ..options import StudyTables
from .fit import Figure, StudyOptions, choose_groups, read_tables, write_results

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
    n_draws: Draws = 10_000,
    options: StudyOptions = StudyOptions(),  # noqa: B008 (frozen)
) -> None:
    """Compare how well MIUB, cross-entropy and other metrics predict accuracy, within groups of a study.

    Parameters
    ----------
    accuracy
        Column of shares from 0 to 1.
    metric
        A column, or 'ln CE' for the logarithm of the column CE; repeat it for more. The first is compared with the
        others.
    groups
        Columns that together define a group, separated by commas; by default those of dataset, split, prompt and model
        that vary.
    setting
        Column that distinguishes the rows of a group.
    higher_is_better
        A metric whose high values should go with high accuracy; repeat it for more.
    collapsed_below
        Report everything a second time, without rows whose accuracy is below this, such as those of guesses.
    n_draws
        Number of random draws of groups or settings, where there are too many for every combination.
    """
    frame = read_tables(study, options)

    from lorascope.analyze.fits.metrics import compare_metrics

    comparison = compare_metrics(
        frame, accuracy, metric, groups=choose_groups(frame, groups), setting=setting,
        higher_is_better=higher_is_better, collapsed_below=collapsed_below, n_draws=n_draws, seed=options.seed,
        level=options.level,
    )  # fmt: skip
    write_results("comparison", frame, comparison.summary(), options, figures=partial(_figures, comparison))


def _figures(comparison: "MetricComparison") -> list[Figure]:
    """Return (title, function that draws it) of the only figure of a comparison; this imports plotly."""
    from lorascope.analyze.figures import metrics_figure

    return [("Correlation with accuracy", partial(metrics_figure, comparison))]
