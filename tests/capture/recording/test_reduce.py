import math
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorascope.analyze.measuring.measures import MEASURES
from lorascope.analyze.miub.qualify import qualify
from lorascope.capture.recording import reduce as module
from lorascope.capture.recording.reduce import (
    _reduce_in_torch,
    _reduce_tiles,
    has_kernel,
    jensen_shannon,
    reduce_tokens,
)


def states(n_tokens: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(n_tokens, width, generator=generator) * torch.logspace(-1, 2, n_tokens)[:, None]
    return base, torch.randn(n_tokens, width, generator=generator) * torch.logspace(-3, 1, n_tokens)[:, None]


@pytest.mark.parametrize("n_tokens", [1, 100])
@pytest.mark.parametrize("width", [1, 129])
def test_host_and_device_ways_agree(monkeypatch: pytest.MonkeyPatch, n_tokens: int, width: int) -> None:
    monkeypatch.setattr(module, "_TILE_VALUES", 500)
    base, delta = states(n_tokens, width)
    with ThreadPoolExecutor(3) as threads:
        alone, shared = reduce_tokens(base, delta), reduce_tokens(base, delta, threads=threads)
    reference = _reduce_in_torch(base, delta)
    for name in reference._fields:
        assert torch.equal(getattr(alone, name), getattr(shared, name)), name
        np.testing.assert_allclose(getattr(alone, name), getattr(reference, name), rtol=2e-6, atol=1e-12, err_msg=name)


class LastTaken(deque[slice]):
    """Looks full until somebody asks: another thread was faster."""

    def __len__(self) -> int:
        return 1


def test_tile_that_another_thread_took_is_left_to_it() -> None:
    base, delta = (x.numpy() for x in states(3, 8))
    found = np.zeros((4, 3), np.float32)
    _reduce_tiles(base, delta, found, LastTaken())
    assert (found == 0).all()


def test_measures_of_a_known_token() -> None:
    base, delta = torch.tensor([[0.0, 0.0, 0.0, 0.0]]), torch.tensor([[3.0, 0.0, 4.0, 0.0]])
    for found in (reduce_tokens(base + 2, delta), _reduce_in_torch(base + 2, delta)):
        assert found.base_norm.item() == 4
        assert found.delta_norm.item() == 5
        assert found.effective_width.item() == pytest.approx(4)
    assert reduce_tokens(base, delta * 0).js.item() == 0
    far = torch.tensor([[0.0, 500.0]]), torch.tensor([[1000.0, 0.0]])
    assert reduce_tokens(*far).js.item() == pytest.approx(math.log(2))


def test_what_is_not_finite_becomes_nan() -> None:
    base, delta = states(4, 8)
    base[1, 3], delta[2, 0] = math.nan, math.inf
    for found in (reduce_tokens(base, delta), _reduce_in_torch(base, delta)):
        assert found.js.isnan().tolist() == [False, True, True, False]
        assert found.base_norm.isnan().tolist() == found.effective_width.isnan().tolist() == [False, True, False, False]
        assert found.delta_norm.isnan().tolist() == [False, False, True, False]


def test_half_precision_and_strided_states_are_taken_as_float32() -> None:
    base, delta = states(6, 16)
    narrow = base.bfloat16()
    for one, other in zip(
        reduce_tokens(narrow, delta), reduce_tokens(narrow.float(), delta.t().contiguous().t()), strict=True
    ):
        assert torch.equal(one, other)


def test_same_numbers_as_analysis_computes_from_stored_states(make: Any) -> None:
    """`none` and `all` of one capture: the kernels are the same, and so are their inputs."""
    stored, reduced = make("all"), make("none", states="none", js_share=0.1)
    names = ("base_norm", "delta_norm", "effective_width")
    measured = {"js": reduced.js(), **{name: reduced.reduction(name) for name in names}}
    for index, path in enumerate(stored.component_paths):
        base, delta = (np.ascontiguousarray(x.values) for x in (stored.base(path), stored.delta(path)))
        for name in ("js", "effective_width"):
            out = MEASURES[name].function(base, delta)
            np.testing.assert_allclose(measured[name].values[:, index], out, rtol=2e-5, atol=1e-12, err_msg=name)
        for name, states in (("base_norm", base), ("delta_norm", delta)):
            expected = np.linalg.norm(states.astype(np.float64), axis=1)
            np.testing.assert_allclose(measured[name].values[:, index], expected, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(qualify(stored)["samples/js"], qualify(reduced)["samples/js"], rtol=1e-5)
    np.testing.assert_allclose(qualify(stored)["miub"], qualify(reduced)["miub"], rtol=1e-5)


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


def test_a_kernel_that_cannot_be_launched_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on an image without a C compiler, with which triton compiles its launcher."""
    gpu, ones, launches = torch.device("cuda", 7), torch.ones, []

    def launch(base: torch.Tensor, output: torch.Tensor) -> None:
        launches.append((base.shape, output.shape))
        if len(launches) == 1:
            raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setitem(sys.modules, "lorascope.capture.recording.fused", SimpleNamespace(measure_difference=launch))  # type: ignore[arg-type]  # a stand-in
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 7)
    monkeypatch.setattr(torch, "ones", lambda *shape, device: ones(*shape))
    monkeypatch.setattr(module, "find_spec", lambda name: True)
    has_kernel.cache_clear()
    assert [has_kernel(device) for device in (gpu, gpu, torch.device("cuda"))] == [False] * 3
    assert launches == [((1, 2), (1, 2))]
    assert [record.getMessage() for record in caplog.records] == [
        "triton can't measure on cuda:7 (RuntimeError: Failed to find C compiler. Please specify via CC), so that "
        "torch's float64 functions do, much more slowly; triton needs a C compiler and Python's headers"
    ]
    has_kernel.cache_clear()
    assert has_kernel(gpu)
    has_kernel.cache_clear()
