"""What the names of metrics mean: a column or its logarithm, and which way it points."""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Metric", "parse_metrics"]

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
        if column == accuracy:
            raise ValueError(f"metric {name!r} is accuracy itself; name what is to predict it")
        found.append(Metric(name, column, name.startswith(LOG), 1 if name in higher_is_better else -1))
    return tuple(found)
