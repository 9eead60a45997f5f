import itertools
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lorascope.analyze.directions.decomposition import empty_tops, mark_missing, merge_tops, top_tokens


@given(
    st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, -3e38, 1e-45, np.nan, np.inf, -np.inf]), min_size=1),
    st.integers(1, 12),
    st.data(),
)
def test_the_largest_scores_are_exact_whatever_the_cuts(values: list[float], n: int, data: Any) -> None:
    scores = np.float32([values, values[::-1]])
    cuts = data.draw(
        st.lists(st.integers(1, len(values)), max_size=3).map(lambda cuts: sorted({0, *cuts, len(values)}))
    )
    tops = empty_tops(2, n)
    for a, b in itertools.pairwise(cuts):
        tops = merge_tops(tops, top_tokens(np.arange(a, b), scores[:, a:b], n))
    for row, token, score in zip(scores, *mark_missing(tops), strict=True):
        some = [i for i in range(len(row)) if abs(row[i]) > 0]
        expected = sorted(some, key=lambda i: (-abs(row[i]), i))[:n]
        assert token.tolist() == expected + [-1] * (n - len(expected))
        np.testing.assert_array_equal(score, np.append(row[expected], np.full(n - len(expected), np.nan)))
