import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from lorascope.analyze.measuring.measures import MEASURES
from lorascope.analyze.qualify import qualify
from lorascope.capture.recording import reduce as module
from lorascope.capture.recording.reduce import _reduce_in_torch, _reduce_tiles, reduce_tokens


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
    np.testing.assert_allclose(qualify(stored)["js_sample"], qualify(reduced)["js_sample"], rtol=1e-5)
    np.testing.assert_allclose(qualify(stored)["miub"], qualify(reduced)["miub"], rtol=1e-5)
