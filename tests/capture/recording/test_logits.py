import numpy as np
import pytest
import torch

from lorascope.capture.recording.logits import kl_divergence, negative_log_likelihood
from lorascope.capture.samples import scoring

FLAT = torch.tensor([0, 1, 2, 5, 6, 9])
POSITIONS = torch.tensor([0, 1, 2, 0, 1, 4])


def make(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(2, 5, 11, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype)


@pytest.mark.parametrize(("chunk", "dtype"), [(22, torch.float32), (2**22, torch.bfloat16)])
def test_nll_is_that_of_the_token_given_those_before(
    monkeypatch: pytest.MonkeyPatch, chunk: int, dtype: torch.dtype
) -> None:
    monkeypatch.setitem(scoring._PART_LOGITS, "cpu", chunk)
    logits, ids = make(0, dtype), torch.tensor([3, 1, 10, 0, 7, 7])
    nll = negative_log_likelihood(logits, FLAT, ids, POSITIONS)
    log_p = logits.double().log_softmax(-1).flatten(0, 1)
    expected = [-log_p[flat - 1, token].item() for flat, token in zip(FLAT, ids, strict=True)]
    assert nll.dtype == torch.float32
    assert nll.isnan().tolist() == [True, False, False, True, False, False]
    np.testing.assert_allclose(nll[[1, 2, 4, 5]].numpy(), np.array(expected)[[1, 2, 4, 5]], rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 2**22])
def test_kl_against_scipys_formula(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setitem(scoring._PART_LOGITS, "cpu", chunk)
    base, adapted = make(0), make(1)
    p, q = (x.double().softmax(-1).flatten(0, 1)[FLAT].numpy() for x in (base, adapted))
    expected = np.sum(p * np.log(p / q), axis=-1)
    np.testing.assert_allclose(kl_divergence(base, adapted, FLAT).numpy(), expected, rtol=1e-6)


def test_kl_of_the_same_is_zero_and_of_a_shift_too() -> None:
    base = make(0)
    assert (kl_divergence(base, base, FLAT) == 0).all()
    assert (kl_divergence(base, base + 1, FLAT) < 1e-12).all()  # a constant changes no softmax


def test_small_kl_keeps_its_digits() -> None:
    """KL of a small move is half the variance of it under p, here about 1e-8."""
    base, move = make(0).double(), make(1).double() * 1e-4
    p = base.softmax(-1)
    expected = (p * (move - (p * move).sum(-1, keepdim=True)) ** 2).sum(-1) / 2
    found = kl_divergence(base, base + move, FLAT)
    np.testing.assert_allclose(found.numpy(), expected.flatten(0, 1)[FLAT].numpy(), rtol=1e-3)


def test_no_tokens() -> None:
    none = torch.empty(0, dtype=torch.int64)
    assert negative_log_likelihood(make(0), none, none, none).shape == (0,)
    assert kl_divergence(make(0), make(1), none).shape == (0,)
