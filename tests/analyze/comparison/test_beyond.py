import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from lorascope.analyze.comparison.beyond import beyond_setting


def unbalanced(seed: int, n_dropped: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two columns that have effects of six blocks and five settings in common, with gaps."""
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.permutation(30)[n_dropped:])
    block, setting = np.divmod(kept, 5)
    block, setting = (np.unique(codes, return_inverse=True)[1] for codes in (block, setting))
    effects = 10 * rng.normal(size=6)[block] + 10 * rng.normal(size=5)[setting]
    x = effects + rng.normal(size=len(kept))
    return x, effects + rng.normal(size=len(kept)) + x, block, setting


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_dropped", [0, 7])
def test_is_the_coefficient_of_a_regression(seed: int, n_dropped: int) -> None:
    x, y, block, setting = unbalanced(seed, n_dropped)
    found = beyond_setting(x, y, block, setting)
    dummies = [
        pd.get_dummies(codes, drop_first=first).to_numpy(float) for codes, first in ((block, False), (setting, True))
    ]
    fit = sm.OLS(y, np.column_stack([x, *dummies])).fit()
    assert found.df == fit.df_resid
    assert found.partial_r == pytest.approx(fit.tvalues[0] / math.sqrt(fit.tvalues[0] ** 2 + fit.df_resid))
    assert found.p == pytest.approx(fit.pvalues[0])
    assert found.scores.sum() == pytest.approx(found.partial_r)
    assert found.why == ""


def test_effects_of_block_and_setting_change_nothing() -> None:
    x, y, block, setting = unbalanced(0)
    rng = np.random.default_rng(1)
    moved = x + rng.normal(size=6)[block] - 3 * rng.normal(size=5)[setting]
    assert beyond_setting(moved, y, block, setting).partial_r == pytest.approx(
        beyond_setting(x, y, block, setting).partial_r
    )


def test_scores_are_the_blocks_own() -> None:
    x, y, block, setting = unbalanced(2, 0)
    sides = []
    for column in (x, y):  # balanced: means of rows and columns
        table = (
            pd.DataFrame({"v": column, "b": block, "s": setting}).pivot(index="b", columns="s", values="v").to_numpy()
        )
        sides.append(table - table.mean(0) - table.mean(1)[:, None] + table.mean())
    wanted = (sides[0] * sides[1]).sum(axis=1) / math.sqrt((sides[0] ** 2).sum() * (sides[1] ** 2).sum())
    np.testing.assert_allclose(beyond_setting(x, y, block, setting).scores, wanted, atol=1e-12)


def test_settings_that_link_no_blocks_cost_no_rank() -> None:
    block, setting = np.repeat([0, 1], 3), np.arange(6)  # each setting in one block
    found = beyond_setting(np.arange(6.0) ** 2, np.arange(6.0), block, setting)
    assert found.why == "6 cells leave 0 degrees of freedom beside 6 effects of block and setting"
    assert np.isnan([found.partial_r, found.p]).all()
    assert not found.scores.any()
    block, setting = np.tile([0, 0, 0, 0, 1, 1, 1, 1], 1), np.array([0, 1, 2, 3, 4, 5, 6, 7])
    assert beyond_setting(np.arange(8.0) ** 2, np.arange(8.0), block, setting).df == -1
    block, setting = np.repeat([0, 1, 2, 3], 3), np.tile([0, 1, 2], 4)
    setting[6:] += 3  # two groups of two blocks
    assert beyond_setting(np.arange(12.0) ** 2, np.arange(12.0) ** 3, block, setting).df == 12 - (4 + 6 - 2) - 1


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("flat", [False, True], ids=["by setting", "constant"])
def test_what_the_setting_tells_exactly_adds_nothing(column: int, flat: bool) -> None:
    x, y, block, setting = unbalanced(3)
    told = 1000 * block + (0.0 if flat else 0.1) * setting**2
    sides = [told, y] if column == 0 else [x, told]
    found = beyond_setting(*sides, block, setting)
    assert found.why == "block and setting tell one of the two exactly"
    assert np.isnan([found.partial_r, found.p]).all()
