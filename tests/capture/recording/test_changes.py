"""Next-token changes of logits: against float64 definitions, at edges, and the draws against their distribution."""

import math

import numpy as np
import pytest
import torch

from lorascope.capture.recording.changes import draw_uniforms, next_token_changes
from lorascope.capture.recording.forward import kl_divergence
from lorascope.stores.format.tables import CHANGE_COLUMNS, N_DRAWS, N_LARGEST

from ...stored import change_arrays

VOCABULARY = 5_000


def logits(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return 4 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def uniforms_of(n: int) -> torch.Tensor:
    return torch.from_numpy(draw_uniforms(0, 0, n))


@pytest.mark.parametrize("width", [VOCABULARY, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_what_their_names_say(width: int, dtype: torch.dtype) -> None:
    base, adapted = (logits((3, 50, width), seed).to(dtype) for seed in (0, 1))
    adapted = base + 0.1 * adapted
    flat = torch.arange(10, 140, 2)
    changes = next_token_changes(base, adapted, flat, uniforms_of(len(flat)))
    q, p = (x.flatten(0, 1)[flat].double().softmax(-1).numpy() for x in (base, adapted))
    expected = change_arrays(p, q)
    assert set(changes) == {column.name for column in CHANGE_COLUMNS} - {"adapted_nll", "base_nll"} | {"kl"}
    for name in ("kl_adapted_base", "gain", "loss", "adapted_choice_p", "base_choice_p"):
        np.testing.assert_allclose(changes[name].numpy(), expected[name], rtol=2e-7, atol=1e-12, err_msg=name)
    for name in ("gain_token", "loss_token", "adapted_choice", "base_choice"):
        stored, ids = changes[name].numpy(), expected[name]
        where = name.partition("_")[0]
        if dtype == torch.bfloat16:  # equal logits are likely: ids may be those of equal values
            terms = {"gain": p * np.log(p / q), "loss": q * np.log(q / p), "adapted": p, "base": q}[where]
            stored, ids = (np.take_along_axis(terms, np.maximum(i, 0).reshape(len(p), -1), 1) for i in (stored, ids))
            np.testing.assert_allclose(stored, ids, rtol=1e-9, err_msg=name)
        else:
            np.testing.assert_array_equal(stored, ids, err_msg=name)
    torch.testing.assert_close(changes["kl"], kl_divergence(base, adapted, flat), rtol=2e-7, atol=0)
    assert all(values.dtype in (torch.int32, torch.float32) for values in changes.values())
    assert changes["gain"].shape == (len(flat), N_LARGEST)


def test_a_draw_is_where_the_cumulated_probability_exceeds_its_number() -> None:
    base, adapted = logits((1, 40, VOCABULARY)), logits((1, 40, VOCABULARY), 1)
    uniforms = uniforms_of(40)
    changes = next_token_changes(base, adapted, torch.arange(40), uniforms)
    for name, x in (("base", base), ("adapted", adapted)):
        cumulated = np.cumsum(x[0].double().softmax(-1).numpy(), axis=1)
        for token in range(40):
            expected = [int(np.argmax(cumulated[token] > u)) for u in uniforms[token].tolist()]
            assert changes[f"{name}_draw"][token].tolist() == expected


def test_draws_have_their_distribution() -> None:
    """Hoeffding: a share of n draws is off by e with probability 2 exp(-2 n e^2) at most; here over all 2 * 64 ids."""
    n, width, chance = 4_000, 64, 1e-9
    base, adapted = logits((1, 1, width)).expand(1, n, width), logits((1, 1, width), 1).expand(1, n, width)
    changes = next_token_changes(base, adapted, torch.arange(n), uniforms_of(n))
    bound = math.sqrt(math.log(2 * 2 * width / chance) / (2 * n * N_DRAWS))
    assert bound < 0.021
    for name, x in (("base", base), ("adapted", adapted)):
        shares = np.bincount(changes[f"{name}_draw"].flatten().numpy(), minlength=width) / (n * N_DRAWS)
        assert np.abs(shares - x[0, 0].double().softmax(-1).numpy()).max() < bound
        assert shares.max() > 0.3  # so that a uniform distribution would fail
    same = next_token_changes(base, base, torch.arange(n), uniforms_of(n))
    assert torch.equal(same["base_draw"], same["adapted_draw"])


def test_uniform_numbers_depend_on_seed_and_index_alone() -> None:
    whole = draw_uniforms(5, 0, 100)
    for first, n in ((0, 1), (37, 20), (99, 1)):
        np.testing.assert_array_equal(draw_uniforms(5, first, n), whole[first : first + n])
    assert len(np.unique(whole)) == whole.size
    assert not np.isin(draw_uniforms(6, 0, 100), whole).any()
    assert ((whole >= 0) & (whole < 1)).all()
    assert abs(whole.mean() - 0.5) < 5 / math.sqrt(12 * whole.size)  # five standard errors


def test_an_adapter_that_changes_nothing_has_no_gain() -> None:
    base = logits((1, 5, VOCABULARY))
    changes = next_token_changes(base, base.clone(), torch.arange(5), uniforms_of(5))
    assert (changes["gain_token"] == -1).all()
    assert changes["loss"].isnan().all()
    assert (changes["kl"] == 0).all()
    assert (changes["kl_adapted_base"] == 0).all()


def test_masked_logits_add_nothing_and_broken_ones_are_not_hidden() -> None:
    base, adapted = logits((1, 3, 30)), logits((1, 3, 30), 1)
    for x in (base, adapted):
        x[..., 25:] = -torch.inf
    short = next_token_changes(base[..., :25], adapted[..., :25], torch.arange(3), uniforms_of(3))
    masked = next_token_changes(base, adapted, torch.arange(3), uniforms_of(3))
    for name, values in short.items():
        torch.testing.assert_close(masked[name], values, equal_nan=True, msg=name)
    adapted[0, 1, 3] = torch.nan
    broken = next_token_changes(base, adapted, torch.arange(3), uniforms_of(3))
    for values in broken.values():
        assert values[1].isnan().all() if values.is_floating_point() else (values[1] == -1).all()
    torch.testing.assert_close(broken["gain"][[0, 2]], masked["gain"][[0, 2]], equal_nan=True)
