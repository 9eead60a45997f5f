"""What the names of metrics mean: a column or its logarithm, and which way it points."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

__all__ = ["Metric", "in_table", "parse_metrics"]

LOG = "ln "
"""Beginning of the name of a metric that is the natural logarithm of a column."""


class Metric(NamedTuple):
    """A column, or its logarithm, and which way it points."""

    name: str
    column: str
    is_log: bool
    sign: int
    """-1 where lower is better, 1 where higher is: what turns it the way of accuracy."""


def parse_metrics(
    metrics: Sequence[str], reference: str | None, higher_is_better: Sequence[str], accuracy: str
) -> tuple[Metric, ...]:
    """Metrics from their names, the reference first; `ln CE` is the natural logarithm of the column `CE`.

    Parameters
    ----------
    metrics
        Names.
    reference
        Which comes first; None for the first named.
    higher_is_better
        Those of them that are better where higher.
    accuracy
        Column that none of them may be.

    Raises
    ------
    ValueError
        If there is no metric, one is named twice or is accuracy itself, or another option names none of them.

    Examples
    --------
    >>> parse_metrics(["ln CE"], None, [], "ACC")
    (Metric(name='ln CE', column='CE', is_log=True, sign=-1),)
    """
    if not metrics:
        raise ValueError("`metrics` is empty; name at least one column")
    twice = [name for k, name in enumerate(metrics) if name in metrics[:k]]
    if twice:
        raise ValueError(f"`metrics` names {twice[0]!r} twice; once is enough")
    first = metrics[0] if reference is None else reference
    for role, name in [("reference", first), *(("higher_is_better", name) for name in higher_is_better)]:
        if name not in metrics:
            raise ValueError(f"`{role}` names {name!r}, which isn't among the metrics {list(metrics)}")
    found = []
    for name in [first, *(name for name in metrics if name != first)]:
        column = name.removeprefix(LOG)
        if accuracy in (name, column):
            raise ValueError(f"metric {name!r} is accuracy itself; name what is to predict it")
        found.append(Metric(name, column, name.startswith(LOG), 1 if name in higher_is_better else -1))
    return tuple(found)


def in_table(metrics: Sequence[Metric], columns: Collection[str]) -> tuple[Metric, ...]:
    """The same metrics; one whose name is a column's as a whole, such as `ln CE`, is that column as it is.

    Raises
    ------
    ValueError
        If the table has both `ln CE` and `CE`, and `ln CE` is a metric.

    Examples
    --------
    >>> in_table(parse_metrics(["ln CE"], None, [], "ACC"), ["ACC", "ln CE"])
    (Metric(name='ln CE', column='ln CE', is_log=False, sign=-1),)
    """
    for one in metrics:
        if one.is_log and one.name in columns and one.column in columns:
            raise ValueError(
                f"metric {one.name!r} is a column of the table, and the logarithm of its column {one.column!r} as "
                "well; rename or drop one of the two"
            )
    return tuple(
        one._replace(column=one.name, is_log=False) if one.is_log and one.name in columns else one for one in metrics
    )
