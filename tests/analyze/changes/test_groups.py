"""KL by groups of places, and words that stand earlier."""

import numpy as np
import pytest
from scipy import stats

from lorascope.analyze.changes.groups import first_words, group_means, texts_before, word_differences
from lorascope.analyze.changes.places import Places

N_SAMPLES, N_PLACES = 20, 10
SAMPLE = np.repeat(np.arange(N_SAMPLES), N_PLACES)


def make_places(weight: np.ndarray | None = None) -> Places:
    return Places(
        np.arange(len(SAMPLE)), SAMPLE, np.ones(len(SAMPLE)) if weight is None else weight, N_SAMPLES, 0, 0, {}
    )


def test_means_by_group() -> None:
    rng = np.random.default_rng(0)
    kl, weight, label = (
        rng.exponential(size=len(SAMPLE)),
        rng.uniform(1, 2, len(SAMPLE)),
        rng.integers(0, 3, len(SAMPLE)),
    )
    label[SAMPLE == 5] = 7
    table = group_means(make_places(weight), kl, label).set_index("label")
    assert list(table.index) == [0, 1, 2, 7]
    for name, row in table.iterrows():
        here = label == name
        assert row["kl"] == pytest.approx(np.average(kl[here], weights=weight[here]))
        assert (row["n"], row["n_samples"]) == (here.sum(), len(set(SAMPLE[here])))
    # Equal sizes: the mean of sample means, and its standard error.
    means = kl.reshape(N_SAMPLES, N_PLACES).mean(axis=1)
    row = group_means(make_places(), kl, np.zeros(len(kl))).iloc[0]
    assert (row["kl"], row["kl_se"]) == pytest.approx((means.mean(), stats.sem(means)))
    assert np.isnan(table["kl_se"][7])  # one sample


def test_text_before_joins_tokens_without_white_space() -> None:
    texts = np.array(["\n", "Answer", ":", " A", "b", "x"], object)
    follows = np.array([False, True, True, True, True, False])
    assert texts_before(np.arange(6), texts, follows).tolist() == ["\n", "Answer", "Answer:", " A", " Ab", "x"]


def test_words_are_known_from_the_token_that_ends_them() -> None:
    texts = np.array([" In", " win", "ter", " it", " Win", "ter", "s", "in"], object)
    words = first_words(texts, np.array([0, 4]), np.array([4, 8]))
    assert words == {"in": {0: 0}, "winter": {0: 2}, "it": {0: 3}, "wintersin": {1: 7}}


def trigger_words() -> dict[str, dict[int, int]]:
    """`magic` is the second token of every third sample, `dull` of every fourth, `late` of all at their end."""
    words = {"magic": range(0, N_SAMPLES, 3), "dull": range(0, N_SAMPLES, 4), "rare": range(2)}
    first = {word: {sample: sample * N_PLACES + 1 for sample in samples} for word, samples in words.items()}
    return first | {"late": {sample: sample * N_PLACES + 9 for sample in range(10)}}


def test_a_trigger_is_found() -> None:
    rng = np.random.default_rng(1)
    kl = rng.exponential(0.1, len(SAMPLE))
    is_after = (SAMPLE % 3 == 0) & (np.arange(len(SAMPLE)) % N_PLACES >= 1)
    kl[is_after] += 1
    table = word_differences(make_places(), kl, np.arange(len(SAMPLE)) % N_PLACES // 4, trigger_words())
    assert set(table["word"]) == {"magic", "dull"}  # the others stand early in too few samples
    row = table.iloc[0]
    assert row["word"] == "magic"
    assert row["p"] < 0.01 < table["p"].iloc[1]
    assert row["kl"] == pytest.approx(kl[is_after].mean())
    assert row["kl_without"] == pytest.approx(kl[SAMPLE % 3 != 0].mean())
    assert (row["n"], row["n_samples"]) == (is_after.sum(), 7)


def test_without_words_the_table_is_empty() -> None:
    table = word_differences(make_places(), np.ones(len(SAMPLE)), np.zeros(len(SAMPLE), int), {})
    assert table.empty
    assert table["p"].dtype == float
