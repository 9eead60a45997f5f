"""Tables with planted averages, for the tests of the audit."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.audit.decimals import decimals_of
from lorascope.analyze.audit.grid import Grid, grid_of
from lorascope.analyze.audit.rounding import half_unit

Make = Callable[..., pd.DataFrame]


def planted(
    values: np.ndarray, weights: Sequence[float] | np.ndarray | None = None, *, decimals: int = 2
) -> pd.DataFrame:
    """Values (group, metric, setting, member) and averages of them, each rounded on its own, one number a row."""
    truth = np.asarray(values, np.float64)
    average = truth.mean(-1) if weights is None else truth @ np.asarray(weights)
    numbers = np.round(np.concatenate([truth, average[..., None]], axis=-1), decimals)
    n_groups, n_metrics, n_settings, n_members = truth.shape
    members = [f"d{k}" for k in range(n_members)] + ["AVG"]
    axes = (
        [f"g{k}" for k in range(n_groups)],
        [f"m{k}" for k in range(n_metrics)],
        [f"s{k}" for k in range(n_settings)],
    )
    table = pd.DataFrame(list(product(*axes, members)), columns=["model", "metric", "setting", "dataset"])
    return table.assign(value=numbers.ravel())


def laid_out(table: pd.DataFrame, *, average: str | None = "AVG", members: Sequence[str] | None = None) -> Grid:
    """The grid of a table with the columns of the paper's table 1."""
    cells = table.rename(columns={"model": "group", "dataset": "member"})
    return grid_of(cells.assign(half=half_unit(decimals_of(cells, average, None))), average, members)


@pytest.fixture(scope="session")
def make() -> Make:
    return planted


@pytest.fixture(scope="session")
def lay() -> Callable[..., Grid]:
    return laid_out


@pytest.fixture(scope="session")
def paper(lay: Callable[..., Grid]) -> Grid:
    """Table 1."""
    from lorascope.study.paper_tables import paper_table

    return lay(paper_table(1))
