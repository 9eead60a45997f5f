from typing import Any

import numpy as np
import pytest

from lorascope.analyze.measuring.cka import GROUP_TOKENS, cka, hsic_terms
from lorascope.analyze.measuring.run import measure_run


def slow_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Eq. 5 of Song et al. with explicit matrices."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    one = np.ones(n)
    total = (
        np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ m @ one)
    )
    return float(total / (n * (n - 3)))


@pytest.mark.parametrize("shift", [0, 50])
@pytest.mark.parametrize("n", [4, 100, GROUP_TOKENS, 300])
def test_terms_are_the_estimators_of_their_groups(n: int, shift: float) -> None:
    rng = np.random.default_rng(n)
    base = (shift + rng.normal(size=(n, 12))).astype(np.float32)
    delta = rng.normal(size=(n, 12), scale=0.5).astype(np.float32)
    terms = hsic_terms(base, delta)
    n_groups = max(1, round(n / GROUP_TOKENS))
    x, y = base.astype(np.float64), base.astype(np.float64) + delta
    for group in range(n_groups):
        part = slice(group, None, n_groups)
        expected = slow_hsic(x[part], x[part]), slow_hsic(x[part], y[part]), slow_hsic(y[part], y[part])
        for found, value in zip(terms, expected, strict=True):
            np.testing.assert_allclose(found[part], value, rtol=2e-4, atol=1e-4)


def test_unbiased_for_independent_tokens() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        base = rng.normal(size=(40, 6)).astype(np.float32)
        other = rng.normal(size=(40, 6)).astype(np.float32)
        found.append(hsic_terms(base, other - base)[1][0])  # lora is independent of base
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))


@pytest.mark.parametrize(("factor", "turn"), [(0.0, False), (1.0, False), (-3.0, False), (0.0, True)])
def test_alignment_is_one_for_scaled_and_turned_states(factor: float, turn: bool) -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(size=(256, 10)).astype(np.float32)
    turned = base @ np.linalg.qr(rng.normal(size=(10, 10)))[0].astype(np.float32)
    delta = turned - base if turn else np.float32(factor) * base
    terms = [term.mean() for term in hsic_terms(base, delta)]
    assert cka(*(np.array([term]) for term in terms))[0] == pytest.approx(1, abs=1e-4)


def test_what_cant_be_said_is_nan() -> None:
    base, delta = np.ones((3, 4), np.float32), np.zeros((3, 4), np.float32)
    assert np.isnan(hsic_terms(base, delta)).all()
    assert np.isnan(cka(np.zeros(1), np.zeros(1), np.zeros(1))).all()
    base = np.random.default_rng(2).normal(size=(20, 4)).astype(np.float32)
    base[3, 1] = np.inf
    terms = hsic_terms(base, np.zeros_like(base))
    kept = np.delete(np.arange(20), 3)
    assert np.isnan(terms[0][3])
    np.testing.assert_array_equal(terms[0][kept], hsic_terms(base[kept], np.zeros_like(base[kept]))[0])


def test_it_comes_in_the_same_trip(make_small: Any) -> None:
    small = make_small()
    measured = measure_run(small.run, ("js", "hsic_base", "hsic_base_lora", "hsic_lora"))
    path = small.run.component_paths[0]
    expected = hsic_terms(small.base[path].astype(np.float32), small.delta[path].astype(np.float32))
    for name, values in zip(("hsic_base", "hsic_base_lora", "hsic_lora"), expected, strict=True):
        np.testing.assert_allclose(measured[name].values[:, 0], values, rtol=1e-4)
