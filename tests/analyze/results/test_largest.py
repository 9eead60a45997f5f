import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lorascope.analyze.results.largest import largest_places

TIED = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, np.inf, -np.inf, np.nan])


@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(0, 12)), elements=TIED), st.integers(0, 14))
def test_places_are_those_of_a_stable_sort(values: np.ndarray, n: int) -> None:
    expected = np.argsort(-values, axis=-1, kind="stable")[:, :n]
    np.testing.assert_array_equal(largest_places(values, n), expected)
    np.testing.assert_array_equal(largest_places(values[0], n), expected[0])


def test_a_whole_vocabulary_is_not_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 5000, 50_000).astype(np.float32)  # each value some ten times
    expected, sizes, argsort = np.argsort(-values, kind="stable")[:25], [], np.argsort
    monkeypatch.setattr(np, "argsort", lambda keys, **options: sizes.append(keys.size) or argsort(keys, **options))
    np.testing.assert_array_equal(largest_places(values, 25), expected)
    assert 25 <= sizes[0] < 100
