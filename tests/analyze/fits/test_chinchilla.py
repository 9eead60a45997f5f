"""A fit of the size of Chinchilla's, against the method that Besiroglu et al. (2024) describe, written from the text.

They minimise the sum of Huber's losses of ln L over a = ln A, b = ln B, e = ln E, alpha and beta by L-BFGS-B from a
grid of starts, with the law as a sum of exponentials (arXiv 2404.10102, section 3).
"""

import math
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special

from lorascope.analyze.fits.fit import fit_scaling_law
from lorascope.analyze.fits.result import ScalingFit

TRUTH = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
DELTA = 1e-3


@cache
def runs() -> pd.DataFrame:
    """240 runs at nine amounts of compute, 6 N D: noise of 1 % of the loss, of 5 % in one of fifteen."""
    rng = np.random.default_rng(0)
    compute = 10 ** rng.choice(np.linspace(18.8, 21.5, 9), 240)
    n = np.exp(rng.uniform(np.log(5e7), np.log(1.6e10), 240))
    d = compute / (6 * n)
    n, d = np.where(d < 1e8, compute / 6e8, n), np.maximum(d, 1e8)
    loss = TRUTH["E"] + TRUTH["A"] * n ** -TRUTH["alpha"] + TRUTH["B"] * d ** -TRUTH["beta"]
    noise = 0.01 * rng.standard_normal(240) * np.where(rng.random(240) < 1 / 15, 5, 1)
    return pd.DataFrame({"N": n, "D": d, "loss": loss * np.exp(noise)})


def objective(p: np.ndarray) -> tuple[float, np.ndarray]:
    """Huber's losses at a, b, e, alpha, beta, summed, and the gradient."""
    cells = runs()
    log_n, log_d, y = (np.log(cells[name].to_numpy()) for name in ("N", "D", "loss"))
    a, b, e, alpha, beta = p
    terms = np.stack([a - alpha * log_n, b - beta * log_d, np.full(240, e)])
    f = special.logsumexp(terms, axis=0)
    shares = np.exp(terms - f)
    rest = f - y
    pulls = np.clip(rest, -DELTA, DELTA)
    slopes = np.stack([shares[0], shares[1], shares[2], -shares[0] * log_n, -shares[1] * log_d])
    return float(special.huber(DELTA, rest).sum()), slopes @ pulls


STARTS = list(product((0.0, 10.0), (0.0, 10.0), (-0.5, 1.0), (0.7,), (0.0, 0.7)))


@cache
def peer() -> tuple[float, np.ndarray]:
    """The least sum of tight searches from all starts; a simplex search refines the best one."""

    def summed(p: np.ndarray, scale: float = 1e3) -> tuple[float, np.ndarray]:
        value, gradient = objective(p)
        return scale * value, scale * gradient

    options: dict[str, Any] = {"ftol": 1e-15, "gtol": 1e-12, "maxiter": 3000, "maxcor": 30}
    ends = [optimize.minimize(summed, start, jac=True, method="L-BFGS-B", options=options) for start in STARTS]
    finest = []
    for end in sorted(ends, key=lambda start: float(start.fun))[:1]:
        at = end.x
        for size in (1e-2, 1e-3):
            simplex = at * (1 + size * np.vstack([np.zeros(5), np.eye(5)]))
            search: dict[str, Any] = {"initial_simplex": simplex, "xatol": 1e-12, "fatol": 1e-16, "maxiter": 1500}
            at = optimize.minimize(lambda p: summed(p)[0], at, method="Nelder-Mead", options=search).x
        finest.append((objective(at)[0], at))
    return min(finest, key=lambda start: start[0])


@cache
def fitted() -> ScalingFit:
    return fit_scaling_law(runs(), "loss", N="N", D="D", residuals="log", huber=DELTA)


def test_optimum_is_the_described_ones() -> None:
    value, (a, b, e, alpha, beta) = peer()
    fit = fitted()
    assert fit.estimate.loss <= value * (1 + 1e-9)
    assert fit.estimate.loss == pytest.approx(value, rel=1e-6, abs=0)
    params = fit.params
    assert params["alpha"] == pytest.approx(alpha, rel=1e-4)
    assert params["gamma"] == pytest.approx(beta, rel=1e-4)
    assert params["E"] == pytest.approx(math.exp(e), rel=1e-4)
    n0, d0 = runs()["N"].max(), runs()["D"].max()
    assert params["A"] * n0 ** params["alpha"] == pytest.approx(math.exp(a), rel=2e-3)
    assert params["C"] * d0 ** params["gamma"] == pytest.approx(math.exp(b), rel=2e-3)


def test_optimum_is_near_the_truth() -> None:
    params = fitted().params
    assert params["E"] == pytest.approx(TRUTH["E"], rel=0.03)
    assert params["alpha"] == pytest.approx(TRUTH["alpha"], rel=0.1)
    assert params["gamma"] == pytest.approx(TRUTH["beta"], rel=0.1)
