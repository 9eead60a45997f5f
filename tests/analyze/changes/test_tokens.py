"""Tokens' shares and changed choices, compared with the whole distributions."""

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.changes import tokens
from lorascope.analyze.changes.tokens import changed_choices, difference, frequent_tokens, token_shares
from lorascope.analyze.results.weights import ratio

from .distributions import places_of, random_distributions

N_SAMPLES, N_PLACES, VOCABULARY = 8, 12, 15
SAMPLE = np.repeat(np.arange(N_SAMPLES), N_PLACES)
TEXTS = np.array([f" w{index}" for index in range(VOCABULARY)], object)


def pair(seed: int, vocabulary: int = VOCABULARY) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return tuple(random_distributions(rng, len(SAMPLE), vocabulary) for _ in range(2))  # type: ignore[return-value]


def test_shares_are_those_of_the_whole_distributions() -> None:
    p, q = pair(0)  # 15 ids, so all that gain are stored
    weight = np.random.default_rng(1).uniform(1, 3, len(SAMPLE))
    table = token_shares([places_of(p, q, SAMPLE, weight=weight)], TEXTS).set_index("token_id").sort_index()
    w, kl, reverse = weight[:, None], p * np.log(p / q), q * np.log(q / p)
    gain, loss = w * np.maximum(kl, 0) / (w * kl).sum(), w * np.maximum(reverse, 0) / (w * reverse).sum()
    np.testing.assert_allclose(table["gain"], gain.sum(axis=0), rtol=1e-9)
    np.testing.assert_allclose(table["loss"], loss.sum(axis=0), rtol=1e-9)
    np.testing.assert_allclose(table["net"], (gain - loss).sum(axis=0), rtol=1e-9, atol=1e-12)
    # The error, from its definition in another order of sums: that of each sample's part of the linearised share.
    parts = np.stack([(gain - loss)[s == SAMPLE].sum(axis=0) for s in range(N_SAMPLES)])
    sizes = [np.stack([(w * d)[s == SAMPLE].sum() for s in range(N_SAMPLES)]) / (w * d).sum() for d in (kl, reverse)]
    linear = parts - gain.sum(axis=0) * sizes[0][:, None] + loss.sum(axis=0) * sizes[1][:, None]
    np.testing.assert_allclose(table["net_se"], np.sqrt(N_SAMPLES) * linear.std(axis=0, ddof=1), rtol=1e-9)
    assert (table["text"] == TEXTS).all()


def test_blocks_of_tokens_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    places = places_of(*pair(2, 60), SAMPLE)
    texts = np.array(list(map(str, range(60))), object)
    expected = token_shares([places], texts)
    monkeypatch.setattr(tokens, "BLOCK", 7)
    pd.testing.assert_frame_equal(token_shares([places], texts), expected)


def test_a_planted_token_comes_first_and_is_significant() -> None:
    _, q = pair(3)
    p = q.copy()
    p[:, 4] += 0.3 * np.random.default_rng(4).uniform(0.5, 1, len(p))
    table = token_shares([places_of(p / p.sum(axis=1, keepdims=True), q, SAMPLE)], TEXTS)
    assert table["token_id"].iloc[0] == 4
    assert table["net"].iloc[0] > 0.5
    assert table["p"].iloc[0] < 1e-3


def test_tokens_of_two_samples_are_not_tested() -> None:
    q = np.full((len(SAMPLE), VOCABULARY), 1 / VOCABULARY)
    for n_changed, n_tested in ((2, 0), (3, VOCABULARY)):
        p = q.copy()
        p[n_changed > SAMPLE] *= np.append(1.5, np.full(VOCABULARY - 1, 1 - 0.5 / (VOCABULARY - 1)))
        ids, n_samples = frequent_tokens(places_of(p, q, SAMPLE))
        assert len(ids) == n_tested
        assert (n_samples == 3).all()


def test_pairs_of_ratios_are_compared_sample_by_sample() -> None:
    values = np.random.default_rng(2).normal(size=(9, 2))
    value, residual = difference([ratio(values, np.ones((9, 1))), ratio(values + 0.5, np.ones((9, 1)))])
    np.testing.assert_allclose(value, -0.5)
    np.testing.assert_allclose(residual, 0, atol=1e-15)


def test_an_equal_control_leaves_nothing() -> None:
    places, control = places_of(*pair(5), SAMPLE), places_of(*pair(6), SAMPLE)
    alone, other = (token_shares([each], TEXTS).set_index("token_id") for each in (places, control))
    table = token_shares([places, control], TEXTS).set_index("token_id")
    difference = (alone["net"] - other["net"]).loc[table.index]
    np.testing.assert_allclose(table["net"], difference, atol=1e-12)
    equal = token_shares([places, places], TEXTS)
    assert (equal[["net", "net_se", "gain", "loss"]] == 0).all(axis=None)
    assert equal["p"].isna().all()
    assert changed_choices([places, places], TEXTS, np.full(len(SAMPLE), "x", object)).empty


def test_choices_are_counted() -> None:
    p, q = pair(7)
    before = np.random.default_rng(7).choice(["x", "y", "z"], len(p)).astype(object)
    table = changed_choices([places_of(p, q, SAMPLE)], TEXTS, before)
    kl = (p * np.log(p / q)).sum(axis=1)
    base, adapted = TEXTS[q.argmax(axis=1)], TEXTS[p.argmax(axis=1)]
    for row in table.itertuples():
        both = (base == row.base) & (adapted == row.adapted)
        assert row.count == both.sum() > 0
        assert row.n_samples == len(set(SAMPLE[both]))
        assert row.of == (base == row.base).sum()
        texts, counts = np.unique(before[both].astype(str), return_counts=True)
        assert row.after in texts[counts == counts.max()]
        assert row.after_count == counts.max()
        here = (base == row.base) & (before == row.after)
        assert (row.after_of, row.after_changed) == (here.sum(), (here & (base != adapted)).sum())
        assert row.share == pytest.approx(kl[both].sum() / kl.sum())
    assert table["count"].sum() == (base != adapted).sum()
    assert table["n_samples"].is_monotonic_decreasing
