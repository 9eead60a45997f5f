import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lorascope.analyze.comparison.decisions import right_decisions, within_pairs


def test_by_hand() -> None:
    block = np.array([0, 1, 0, 1, 0])
    pairs = within_pairs(block)
    np.testing.assert_array_equal(pairs, [[0, 2], [0, 4], [2, 4], [1, 3]])
    accuracy = np.array([0.5, 0.1, 0.6, 0.1, 0.7])
    score = np.array([1.0, 0.0, 1.0, 9.0, 0.0])
    np.testing.assert_array_equal(right_decisions(accuracy, score, pairs), [0.5, 0, 0, np.nan])


def test_a_block_of_one_has_no_pair() -> None:
    assert within_pairs(np.array([0, 1])).shape == (0, 2)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(-3, 3)), min_size=1, max_size=12))
def test_like_loops(cells: list[tuple[int, int, int]]) -> None:
    block = np.unique([cell[0] for cell in cells], return_inverse=True)[1]
    accuracy, score = (np.array([cell[k] for cell in cells]) / 10 for k in (1, 2))
    found = right_decisions(accuracy, score, within_pairs(block))
    won, n = 0.0, 0
    for i, j in itertools.combinations(range(len(cells)), 2):
        if block[i] == block[j] and accuracy[i] != accuracy[j]:
            n += 1
            better, worse = (i, j) if accuracy[i] > accuracy[j] else (j, i)
            won += 1.0 if score[better] > score[worse] else 0.5 if score[better] == score[worse] else 0.0
    assert (~np.isnan(found)).sum() == n
    assert np.nansum(found) == won
    np.testing.assert_allclose(right_decisions(accuracy, -score, within_pairs(block)), 1 - found)
    np.testing.assert_array_equal(right_decisions(accuracy, np.exp(score), within_pairs(block)), found)
