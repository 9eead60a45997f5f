import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorascope.capture.recording.reduce import jensen_shannon


def reference(base: np.ndarray, delta: np.ndarray) -> float:
    """The definition, eq. 3 of the paper, at 50 digits."""
    with mpmath.workdps(50):
        o = [mpmath.mpf(float(x)) for x in base]
        h = [x + mpmath.mpf(float(y)) for x, y in zip(o, delta, strict=True)]
        top = max(o + h)
        p, q = ([mpmath.exp(x - top) for x in v] for v in (o, h))
        p, q = ([x / sum(v) for x in v] for v in (p, q))
        m = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
        kl = [sum(x * mpmath.log(x / z) for x, z in zip(v, m, strict=True) if x) for v in (p, q)]
        return float((kl[0] + kl[1]) / 2)


@pytest.mark.parametrize("width", [2, 96])
@pytest.mark.parametrize("spread", [0.0, 1.0, 1e5])
@pytest.mark.parametrize("size", [1e-7, 1e-2, 1.0, 1e4])
def test_equals_the_definition_at_50_digits(width: int, spread: float, size: float) -> None:
    rng = np.random.default_rng(width)
    base = (spread * rng.normal(size=width)).astype(np.float32)
    delta = (size * rng.normal(size=width)).astype(np.float32)
    js = float(jensen_shannon(torch.from_numpy(base), torch.from_numpy(delta)))
    # float64 throughout; what is left is the rounding of exponents up to |x| and of d against delta.
    assert js == pytest.approx(reference(base, delta), rel=1e-9, abs=1e-300)


def test_shift_of_all_features_changes_nothing() -> None:
    base = torch.linspace(-3, 3, 50)
    delta = torch.linspace(0, 1e-3, 50) ** 2
    js = jensen_shannon(base, delta)
    torch.testing.assert_close(jensen_shannon(base, delta.double() + 1024), js, rtol=1e-6, atol=0)
    torch.testing.assert_close(jensen_shannon(base.double() - 512, delta), js, rtol=1e-12, atol=0)
    assert float(jensen_shannon(base, torch.full((50,), 7.0))) == pytest.approx(0, abs=1e-30)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 1.0, 100.0]))
def test_symmetric_and_bounded(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    base, delta = torch.from_numpy(rng.normal(size=(3, 17)) * 4), torch.from_numpy(rng.normal(size=(3, 17)) * size)
    js = jensen_shannon(base, delta)
    assert ((js >= 0) & (js <= math.log(2) * (1 + 1e-12))).all()
    torch.testing.assert_close(jensen_shannon(base + delta, -delta), js, rtol=1e-9, atol=1e-15)


def test_no_delta_is_zero_and_disjoint_softmaxes_are_ln_2() -> None:
    base = torch.tensor([0.0, 1.0, 2.0])
    assert float(jensen_shannon(base, torch.zeros(3))) == 0
    apart = jensen_shannon(torch.tensor([1e4, 0.0]), torch.tensor([-1e4, 1e4]))
    assert float(apart) == pytest.approx(math.log(2), rel=1e-15)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("where", ["base", "delta"])
def test_what_is_not_finite_is_nan(bad: float, where: str) -> None:
    base, delta = torch.zeros(2, 4), torch.ones(2, 4)
    (base if where == "base" else delta)[1, 2] = bad
    js = jensen_shannon(base, delta)
    assert not torch.isnan(js[0])
    assert torch.isnan(js[1])


def test_any_floating_type_is_taken() -> None:
    js = jensen_shannon(torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(2, 3))
    assert (js.dtype, js.shape) == (torch.float64, (2,))
