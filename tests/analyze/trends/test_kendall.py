import doctest
import itertools
import math
import re
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import kendalltau, norm

from lorascope.analyze.trends import kendall
from lorascope.analyze.trends.kendall import KendallTest, mann_kendall


def s_of(x: list[float], y: list[float]) -> int:
    sign = np.sign
    return sum(int(sign(x[j] - x[i]) * sign(y[j] - y[i])) for i in range(len(x)) for j in range(i + 1, len(x)))


def by_counting(x: np.ndarray, y: np.ndarray, blocks: np.ndarray) -> tuple[int, dict[int, Fraction]]:
    """S and its distribution over all orders of each block's y."""
    null, total = {0: Fraction(1)}, 0
    for block in set(blocks.tolist()):
        xs, ys = x[blocks == block].tolist(), y[blocks == block].tolist()
        total += s_of(xs, ys)
        orders = Counter(s_of(xs, list(order)) for order in itertools.permutations(ys))
        added: Counter[int] = Counter()
        for (a, p), (b, n) in itertools.product(null.items(), orders.items()):
            added[a + b] += p * Fraction(n, math.factorial(len(xs)))  # type: ignore[assignment]
        null = dict(added)  # type: ignore[arg-type]
    return total, null


Cells = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def studies(draw: st.DrawFn) -> Cells:
    """Cells of one to three blocks with ties on both sides; one block at least has two levels."""
    cells = [
        (*draw(st.tuples(st.integers(0, 3), st.integers(0, 3))), block)
        for block in range(draw(st.integers(1, 3)))
        for _ in range(draw(st.integers(1, 5)))
    ]
    x, y, blocks = (np.array(one) for one in zip(*cells, strict=True))
    assume(any(np.ptp(x[blocks == block]) for block in set(blocks.tolist())))
    return x, y, blocks


def one_block(x: list[float], y: list[float], *, increasing: bool = True) -> KendallTest:
    return mann_kendall(np.array(x), np.array(y), np.zeros(len(x)), increasing=increasing)


@pytest.mark.parametrize("increasing", [True, False])
@given(cells=studies())
def test_p_is_that_of_all_orders_with_ties(cells: Cells, increasing: bool) -> None:
    x, y, blocks = cells
    found = mann_kendall(x, y, blocks, increasing=increasing)
    s, null = by_counting(x, y, blocks)
    rising = float(sum(p for value, p in null.items() if value >= s))
    falling = float(sum(p for value, p in null.items() if value <= s))
    extreme = null[max(null)] if increasing else null[min(null)]
    assert found.method == "exact"
    assert s == found.S
    assert found.p_value == pytest.approx(rising if increasing else falling, rel=1e-13)
    assert found.p_opposite == pytest.approx(falling if increasing else rising, rel=1e-13)
    assert found.p_floor == pytest.approx(float(extreme), rel=1e-13)
    variance = float(sum(value**2 * p for value, p in null.items()))  # the mean is 0
    assert found.variance == pytest.approx(variance, abs=1e-12)
    assert float(sum(value * p for value, p in null.items())) == 0


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30])
def test_p_is_scipys_for_one_block_without_ties(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(5):
        x, y = rng.permutation(n), rng.normal(size=n)
        for increasing, alternative in ((True, "greater"), (False, "less")):
            reference = kendalltau(x, y, method="exact", alternative=alternative)
            found = mann_kendall(x, y, np.zeros(n), increasing=increasing)
            assert found.tau == pytest.approx(reference.statistic)
            assert found.p_value == pytest.approx(reference.pvalue, rel=1e-10)


def test_variance_is_scipys_with_ties() -> None:
    x, y = np.random.default_rng(0).integers(0, 6, (2, 40))
    found = mann_kendall(x, y, np.zeros(40), increasing=True)
    reference = kendalltau(x, y, method="asymptotic", alternative="greater").pvalue
    assert norm.sf(found.S / math.sqrt(found.variance)) == pytest.approx(reference, rel=1e-10)


def test_s_of_one_block_is_of_a_distribution_with_known_moments() -> None:
    assert one_block(list(range(10)), list(range(10))).variance == pytest.approx(10 * 9 * 25 / 18)


@pytest.mark.parametrize("n", [3, 4, 7])
def test_perfect_order_is_the_floor(n: int) -> None:
    found = one_block(list(range(n)), list(range(n)))
    assert n * (n - 1) // 2 == found.S
    assert found.tau == 1
    assert found.p_value == pytest.approx(1 / math.factorial(n), rel=1e-13)
    assert found.p_floor == 1 / math.factorial(n)
    assert found.p_opposite == pytest.approx(1, rel=1e-13)


def test_tails_of_many_blocks_keep_their_digits() -> None:
    x, blocks = np.tile(np.arange(5), 50), np.repeat(np.arange(50), 5)
    y = np.where(blocks == 0, np.array([1, 0, 2, 3, 4] * 50), x)  # one exchange
    found = mann_kendall(x, y, blocks, increasing=True)
    # S is 2 less than the largest: in one of 50 blocks one of 4 neighbours exchanged
    assert found.p_value == pytest.approx(float(Fraction(1 + 50 * 4, 120**50)), rel=1e-12)


def test_the_counted_ways_agree() -> None:
    """Inversions of a multiset against random tables, where both apply."""
    for counts in ((1, 1, 1, 1, 1), (2, 1, 3), (4, 2), (1, 5), (3, 3, 2)):
        n = sum(counts)
        inversions = kendall._from_inversions(counts)
        tables = kendall.of_random_tables(counts, (1,) * n, kendall._rises_less_falls)
        assert inversions is not None
        assert tables is not None
        assert inversions.lowest == tables.lowest
        np.testing.assert_allclose(inversions.probabilities, tables.probabilities, rtol=1e-13, atol=1e-16)


def test_rank_sums_of_two_samples_are_wilcoxons() -> None:
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(3)
    first, second = rng.normal(size=7), rng.normal(size=9) + 0.5
    found = one_block([0] * 7 + [1] * 9, [*first, *second])
    reference = mannwhitneyu(second, first, alternative="greater", method="exact")
    assert found.p_value == pytest.approx(reference.pvalue, rel=1e-12)
    assert 2 * reference.statistic - 63 == found.S


def test_where_counting_ends() -> None:
    assert one_block(list(range(200)), list(range(200))).method == "exact"
    rng = np.random.default_rng(4)
    found = mann_kendall(np.arange(201), rng.normal(size=201), np.zeros(201), increasing=False)
    assert found.method == "normal approximation"
    assert found.z == (found.S + 1) / math.sqrt(found.variance)
    assert found.p_value == found.p_normal == pytest.approx(norm.cdf(found.z), rel=1e-12)
    opposite = norm.sf((found.S - 1) / math.sqrt(found.variance))
    assert found.p_opposite == pytest.approx(opposite, rel=1e-12)
    assert found.p_floor == 0  # 1/201!


def test_a_block_that_cannot_be_counted_makes_the_whole_approximate() -> None:
    x = np.repeat(np.arange(9), 2)  # ties on both sides: 3^8 2^2 and 3^9 states
    y = np.array([*range(16), 16, 16])[::-1]
    found = mann_kendall(np.r_[x, 0, 1], np.r_[y, 0, 1], np.r_[np.zeros(18), 1, 1], increasing=False)
    assert found.method == "normal approximation"
    assert found.n_blocks == 2
    twelve = mann_kendall(np.repeat(np.arange(6), 2), np.array([*range(11), 10]), np.zeros(12), increasing=False)
    assert twelve.method == "exact"


def test_a_sum_over_too_many_points_is_approximate() -> None:
    x, blocks = np.tile(np.arange(100), 5), np.repeat(np.arange(5), 100)
    y = np.random.default_rng(5).normal(size=500)
    assert mann_kendall(x, y, blocks, increasing=True).method == "normal approximation"
    four = mann_kendall(x[:400], y[:400], blocks[:400], increasing=True)
    assert four.method == "exact"
    assert four.p_value == pytest.approx(four.p_normal, rel=1e-3)


@given(cells=studies())
def test_opposite_claims_mirror_each_other(cells: Cells) -> None:
    x, y, blocks = cells
    rise = mann_kendall(x, y, blocks, increasing=True)
    assert mann_kendall(x, y, blocks, increasing=False).p_value == rise.p_opposite
    for fall in (mann_kendall(x, -y, blocks, increasing=False), mann_kendall(-x, y, blocks, increasing=False)):
        assert -rise.S == fall.S
        assert fall.z == pytest.approx(-rise.z)
        assert (fall.p_value, fall.p_opposite, fall.p_normal, fall.p_floor) == pytest.approx(
            (rise.p_value, rise.p_opposite, rise.p_normal, rise.p_floor), rel=1e-12
        )


@given(cells=studies())
def test_sides_may_be_exchanged(cells: Cells) -> None:
    x, y, blocks = cells
    assume(any(np.ptp(y[blocks == block]) for block in set(blocks.tolist())))
    found, exchanged = (mann_kendall(*sides, blocks, increasing=True) for sides in ((x, y), (y, x)))
    assert found.S == exchanged.S
    assert found.p_value == pytest.approx(exchanged.p_value, rel=1e-12)


@given(cells=studies(), seed=st.integers(0, 99))
def test_maps_that_keep_order_and_the_order_of_rows_and_blocks_do_not_matter(cells: Cells, seed: int) -> None:
    x, y, blocks = cells
    found = mann_kendall(x, y, blocks, increasing=False)
    assert mann_kendall(np.exp(x), np.exp(y) + 10.0 * blocks, blocks, increasing=False) == found
    order = np.random.default_rng(seed).permutation(len(x))
    names = np.array(["b", "a", "c"], object)[blocks]
    moved = mann_kendall(x[order], y[order], names[order], increasing=False)
    assert moved[:4] == found[:4]
    assert moved[4:10] == pytest.approx(found[4:10], rel=1e-12)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]),
        ([1, 2, 3, 4, 5], [1, 2, 2, 2, 5]),
        ([1, 1, 2, 2, 3], [1, 2, 3, 4, 5]),
        ([1, 1, 2, 2, 2], [1, 1, 1, 3, 3]),
    ],
)
def test_p_is_valid_over_all_orders(x: list[int], y: list[int]) -> None:
    found = np.array([one_block(x, list(order)).p_value for order in itertools.permutations(y)])
    for p in found:  # P(p <= a) is a wherever p can be a, and less between
        assert (found <= p * (1 + 1e-9)).mean() == pytest.approx(p, rel=1e-12)


def test_equal_responses_take_from_tau() -> None:
    found = one_block([1, 2, 3], [1, 1, 2])
    assert (found.S, found.n_pairs, found.n_tied_pairs, found.tau) == (2, 3, 1, 2 / 3)
    repeated = one_block([1, 1, 2], [1, 2, 3])
    assert (repeated.S, repeated.n_pairs, repeated.n_tied_pairs, repeated.tau) == (2, 2, 0, 1)


def test_nothing_varies_nothing_is_said() -> None:
    for increasing in (True, False):
        found = one_block([1, 2, 3], [7, 7, 7], increasing=increasing)
        assert found == KendallTest(0, 0.0, 3, 3, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1, 3, "exact")


def test_nothing_varies_in_too_many_cells() -> None:
    y = np.zeros(250)  # 251 states: counted
    assert one_block([*range(250)], y.tolist()).method == "exact"


def test_nothing_varies_and_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kendall, "_block_null", lambda *_: None)
    found = one_block([1, 2, 3], [7, 7, 7])
    assert (found.p_value, found.p_opposite, found.method) == (1.0, 1.0, "normal approximation")


def test_blocks_of_one_level_add_nothing() -> None:
    x, y, blocks = np.array([1, 2, 3, 5, 5]), np.array([3, 2, 1, 9, 4]), np.array(["a", "a", "a", "b", "b"])
    found = mann_kendall(x, y, blocks, increasing=False)
    assert found == mann_kendall(x[:3], y[:3], blocks[:3], increasing=False)
    assert (found.n_blocks, found.n_cells) == (1, 3)


@pytest.mark.parametrize(
    ("x", "y", "blocks", "words"),
    [
        ([1, 2], [1], [0, 0], "`x`, `y` and `blocks` have shapes (2,), (1,), (2,); give one axis, alike"),
        (
            [[1, 2]],
            [[1, 2]],
            [[0, 0]],
            "`x`, `y` and `blocks` have shapes (1, 2), (1, 2), (1, 2); give one axis, alike",
        ),
        ([1, np.nan], [1, 2], [0, 0], "`x` holds nan; allowed are finite numbers: leave the cell out"),
        ([1, 2], [1, np.inf], [0, 0], "`y` holds inf; allowed are finite numbers: leave the cell out"),
        ([1, 2], [1, 2], [0, 1], "no block has two different values of `x`; a trend needs two in one block"),
        ([], [], [], "no block has two different values of `x`; a trend needs two in one block"),
    ],
)
def test_cells_that_are_none(x: list[float], y: list[float], blocks: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        mann_kendall(np.array(x), np.array(y), np.array(blocks), increasing=True)


def test_examples_run() -> None:
    assert doctest.testmod(kendall) == (0, 3)
