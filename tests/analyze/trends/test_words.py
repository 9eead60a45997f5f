import numpy as np
import pytest

from lorascope.analyze.stats.verdict import Verdict
from lorascope.analyze.trends.kendall import mann_kendall
from lorascope.analyze.trends.page import page_l
from lorascope.analyze.trends.words import Steps, overall_verdict, p_word, steps_verdict


@pytest.mark.parametrize(
    ("p_value", "p_opposite", "p_floor", "word", "because"),
    [
        (0.01, 0.995, 1e-4, "supported", "p = 0.0100"),
        (0.05, 0.96, 1e-4, "supported", "p = 0.0500"),
        (0.0501, 0.96, 1e-4, "not identified", "p = 0.0501, of the opposite direction 0.960"),
        (0.99, 0.02, 1e-4, "contradicted", "p of the opposite direction 0.0200"),
        (
            1 / 6,
            1.0,
            1 / 6,
            "not identified",
            "p can't go below 0.167: no data of this shape, ties included, could tell at 0.05",
        ),
        (0.99, 0.02, 0.1, "contradicted", "p of the opposite direction 0.0200"),
    ],
)
def test_word_of_p(p_value: float, p_opposite: float, p_floor: float, word: str, because: str) -> None:
    assert p_word(p_value, p_opposite, p_floor, 0.05) == (word, because)


def test_a_p_of_the_level_counts_whatever_its_last_bit() -> None:
    found = mann_kendall(np.repeat([1, 2], 3), np.arange(6), np.zeros(6), increasing=True)
    assert found.p_value == pytest.approx(1 / 20, rel=1e-14)
    for p in (found.p_value, np.nextafter(0.05, 1), np.nextafter(0.05, 0)):
        assert p_word(p, 1.0, p, 0.05)[0] == "supported"


@pytest.mark.parametrize(
    ("steps", "word", "because"),
    [
        (
            Steps(20, 4, 1, 10, 3),
            "contradicted",
            "4 of 20 steps between neighbouring levels rise, in 3 of 10 blocks",
        ),
        (Steps(20, 1, 0, 10, 1), "contradicted", "1 of 20 steps between neighbouring levels rises, in 1 of 10 blocks"),
        (
            Steps(20, 0, 2, 10, 0),
            "not identified",
            "none of 20 steps between neighbouring levels rises, but between equal values: 2",
        ),
        (
            Steps(20, 0, 0, 10, 0),
            "supported",
            "none of 20 steps between neighbouring levels rises or is between equal values",
        ),
    ],
)
def test_verdict_of_steps(steps: Steps, word: str, because: str) -> None:
    assert steps_verdict("a claim", steps, "rises") == Verdict("a claim", word, because)


def overall(values: list[list[float]], level: float = 0.05) -> Verdict:
    table = np.array(values)
    n_blocks, k = table.shape
    kendall = mann_kendall(
        np.tile(np.arange(k), n_blocks), table.ravel(), np.repeat(np.arange(n_blocks), k), increasing=False
    )
    return overall_verdict("a claim", page_l(table, increasing=False), kendall, level)


def test_overall_verdicts() -> None:
    assert overall([[3, 2, 1], [3, 2, 1]]) == Verdict(
        "a claim",
        "supported",
        "larger of both tests: p = 0.0278; Page's L = 28 over 2 blocks of 3 levels, exact p = 0.0278; Mann-Kendall "
        "S = -6 over 6 cells of 2 blocks, exact p = 0.0278",
    )
    assert overall([[1, 2, 3], [1, 2, 3]]).word == "contradicted"
    assert overall([[1, 2, 3], [3, 2, 1]]).word == "not identified"
    short = overall([[3, 2, 1]])
    assert short.word == "not identified"
    assert "p can't go below 0.167: no data of this shape, ties included, could tell at 0.05" in short.because


def test_both_tests_must_agree() -> None:
    values = [[4, 3, 1, 2], [4, 1, 2, 3], [2, 3, 4, 1], [4, 2, 3, 1]]
    page = page_l(np.array(values, float), increasing=False)
    kendall = mann_kendall(np.tile(np.arange(4), 4), np.ravel(values), np.repeat(np.arange(4), 4), increasing=False)
    assert page.p_value != pytest.approx(kendall.p_value)
    low, high = sorted((page.p_value, kendall.p_value))
    assert overall(values, level=(low + high) / 2).word == "not identified"
    assert overall(values, level=high).word == "supported"
