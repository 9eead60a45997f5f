"""Steps along an order of settings that go against the direction claimed, or nowhere."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from ..stats.verdict import Verdict, Word
from .grid import Grid, known
from .part import Part, joined, rows_table, spoken
from .rounding import as_printed

__all__ = ["Direction", "StepRow", "monotone_part", "step_outcomes"]

Direction = Literal["rises", "falls"]
MOST_LISTED = 4
"""Steps that a sentence lists."""


class StepRow(NamedTuple):
    """A step from one setting to the next."""

    order: str
    metric: str
    group: str
    member: str
    is_average: bool
    """Whether the member is the average, whose steps are counted apart."""
    step: str
    before: float
    after: float
    outcome: str
    """`as claimed`, `level` or `against`."""
    printed: str
    """Both numbers with the decimals of the table."""


def step_outcomes(values: np.ndarray, direction: Direction) -> np.ndarray:
    """What each step of a series does, as words; empty where an end is missing.

    Parameters
    ----------
    values
        Float64 (..., setting), in the order claimed.
    direction
        `rises` or `falls`.

    Returns
    -------
    np.ndarray
        Text (..., setting - 1): `as claimed`, `level` or `against`.

    Notes
    -----
    Rounding keeps order: where printed numbers differ, so do those behind them, in the same direction or, at most, not
    at all. Where printed numbers are equal the table can't tell.

    Examples
    --------
    >>> import numpy as np
    >>> step_outcomes(np.array([0.2, 0.3, 0.3, 0.1]), "rises").tolist()
    ['as claimed', 'level', 'against']
    """
    steps = np.diff(values) * (1 if direction == "rises" else -1)
    return np.select([steps > 0, steps == 0, steps < 0], ["as claimed", "level", "against"], default="")


def monotone_part(grid: Grid, order: Mapping[str, Sequence[str]], directions: Mapping[str, Direction]) -> Part:
    """Rows, verdicts and findings on the steps of each metric that has a direction.

    Parameters
    ----------
    grid
        The table.
    order
        Name of an order -> its settings from first to last.
    directions
        Metric -> what it is claimed to do along every order.

    Raises
    ------
    ValueError
        If a setting, metric or direction isn't known, an order has fewer than two settings or one twice, or there are
        orders without directions or the reverse.
    """
    order = {name: [str(one) for one in settings] for name, settings in order.items()}
    _refuse(grid, order, directions)
    parts = [
        _of_metric(grid, name, settings, metric, direction)
        for name, settings in order.items()
        for metric, direction in directions.items()
    ]
    return Part(
        rows_table(StepRow, (row for rows, _, _ in parts for row in rows)),
        tuple(sentence for _, findings, _ in parts for sentence in findings),
        tuple(verdict for _, _, verdicts in parts for verdict in verdicts),
    )


def _refuse(grid: Grid, order: Mapping[str, Sequence[str]], directions: Mapping[str, Direction]) -> None:
    if bool(order) != bool(directions):
        given, lacking = ("order", "directions") if order else ("directions", "order")
        raise ValueError(f"`{given}` is given without `{lacking}`; steps need both")
    for name, settings in order.items():
        known(f"order[{name!r}]", settings, grid.settings, "settings")
        if len(settings) < 2 or len(set(settings)) < len(settings):
            raise ValueError(f"`order[{name!r}]` is {settings}; give two settings or more, each once")
    known("directions", directions, grid.metrics, "metrics")
    for metric, direction in directions.items():
        if direction not in get_args(Direction):
            raise ValueError(f"`directions[{metric!r}]` is {direction!r}; it is one of {list(get_args(Direction))}")


def _of_metric(
    grid: Grid, name: str, settings: Sequence[str], metric: str, direction: Direction
) -> tuple[list[StepRow], list[str], list[Verdict]]:
    rows = _rows(grid, name, settings, metric, direction)
    if not rows:
        return [], [], []
    members, averages = ([row for row in rows if row.is_average is flag] for flag in (False, True))
    counted, apart = (members, averages) if members else (averages, [])
    word, said = _word(counted), _counts(counted, direction)
    said += f"; of averages {_counts(apart, direction)}" if apart else ""
    verdict = Verdict(f"{metric} {direction} at every step of {name}", word, said)
    return rows, [f"{metric} along {name}: {said}{_examples(counted)}"] if word != "supported" else [], [verdict]


def _rows(grid: Grid, name: str, settings: Sequence[str], metric: str, direction: Direction) -> list[StepRow]:
    m, at = grid.metrics.index(metric), [grid.settings.index(setting) for setting in settings]
    values, half = (one[:, m].swapaxes(1, 2)[..., at] for one in (grid.everything(), grid.everything_half()))
    outcomes = step_outcomes(values, direction)
    return [
        StepRow(
            name,
            metric,
            grid.groups[g],
            grid.everyone()[k],
            bool(k == len(grid.members)),
            f"{settings[s]} to {settings[s + 1]}",
            float(values[g, k, s]),
            float(values[g, k, s + 1]),
            str(outcomes[g, k, s]),
            " to ".join(as_printed(values[g, k, j], half[g, k, j]) for j in (s, s + 1)),
        )
        for g, k, s in np.argwhere(outcomes != "")
    ]


def _word(rows: Sequence[StepRow]) -> Word:
    outcomes = {row.outcome for row in rows}
    return "contradicted" if "against" in outcomes else "not identified" if "level" in outcomes else "supported"


def _counts(rows: Sequence[StepRow], direction: Direction) -> str:
    outcomes = [row.outcome for row in rows]
    n, level = outcomes.count("against"), outcomes.count("level")
    verb = ("fall" if direction == "rises" else "rise") + ("s" if n == 1 else "")
    steps = "step" if len(rows) == 1 else "steps"
    return f"{n} of {len(rows)} {steps} {verb}" + (f", {level} level" if level else "")


def _examples(rows: Sequence[StepRow]) -> str:
    against = [row for row in rows if row.outcome == "against"]
    listed = [f"{spoken(row.group, row.member, row.step)} ({row.printed})" for row in against]
    return f": {joined(listed, most=MOST_LISTED)}" if listed else ""
