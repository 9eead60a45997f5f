"""A recorder that measures by the GPU's kernels, here in triton's interpreter, compared with one that uses float64."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lorascope.capture.recording.forward import kl_divergence, negative_log_likelihood
from lorascope.capture.recording.sink import _proof_step

from ...marks import slow_but
from ...printed import benchmark
from .test_fused import Run

PLAIN = {"target_modules": ["embed_tokens", "q_proj", "down_proj"]}
OTHER = {"r": 3, "target_modules": ["q_proj", "up_proj"], "init_lora_weights": False}
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {"default": PLAIN},
    "DoRA": {"default": {**PLAIN, "use_dora": True}},
    "saved": {"default": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}},
    "two": {"default": PLAIN, "other": OTHER},
}
STREAMS = [("plain", "adapted"), ("plain", "pair"), ("DoRA", "adapted"), ("DoRA", "base"), ("saved", "adapted")]
QUERY = "model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize(
    ("dtype", "is_reduced", "every"),
    [
        (torch.float32, False, 1),
        (torch.bfloat16, False, 3),
        (torch.float32, True, 1),
        (torch.bfloat16, True, 3),
    ],
    ids=["all measured", "some measured", "none", "none, some measured"],
)
@pytest.mark.parametrize(("name", "stream"), slow_but([*STREAMS, ("saved", "pair"), ("two", "base")], *STREAMS[:2]))
def test_both_ways_agree(kernel: Run, name: str, stream: str, dtype: torch.dtype, is_reduced: bool, every: int) -> None:
    options = {"stream": stream, "is_reduced": is_reduced, "every": every}
    (expected, worst), (found, off) = kernel("record_by_both", dtype, ADAPTERS[name], **options)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        if "swallowed" in key[0]:
            np.testing.assert_array_equal(found[key], values, err_msg=key)
        else:
            np.testing.assert_allclose(found[key], values, rtol=1e-6, atol=0, err_msg=key)
    assert (worst > 0) == (off > 0) == (stream != "base")
    assert max(worst, off) <= 1
    if dtype == torch.bfloat16 and not is_reduced:  # the same tokens are proved
        # Two float32 sums of delta are apart by less than what is allowed to the layer's.
        assert abs(worst - off) <= torch.finfo(torch.float32).eps / torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("stream", "spoil", "is_reduced", "words"),
    [
        ("adapted", "other", False, "off by .* times"),
        ("adapted", "other", True, "off by .* times"),
        ("adapted", "in place", False, "off by .* times"),
        ("adapted", "nan", False, "isn't finite although"),
        ("adapted", "nan", True, "isn't finite although"),
        ("pair", "other", False, "off by inf times"),
        ("base", "in place", True, "off by inf times"),
    ],
)
def test_both_ways_find_what_is_wrong(kernel: Run, stream: str, spoil: str, is_reduced: bool, words: str) -> None:
    given = {"stream": stream, "spoil": spoil, "is_reduced": is_reduced, "every": 3}
    for measured, error in kernel("record_by_both", torch.bfloat16, ADAPTERS["plain"], **given):
        assert measured == {}
        assert re.search(f"output of {QUERY!r} isn't its base plus delta.*{words}", error)


def test_every_position_of_a_window_is_proved_somewhere(kernel: Run) -> None:
    base, window = torch.ones(1024, 64), 64
    output = base.clone()
    output[torch.arange(1024) % window >= 32] += 1  # the second of each window's two programs
    delta = torch.zeros_like(base)
    assert kernel("measure_delta", base, delta, output=base, prove_every=_proof_step(1024))["excess"].max() == 0
    assert kernel("measure_delta", base, delta, output=output, prove_every=_proof_step(1024))["excess"].max() > 1e6


def test_a_layer_may_multiply_in_tf32_where_that_is_on(kernel: Run) -> None:
    generator = torch.Generator().manual_seed(0)
    base, factor, weight = (torch.randn(*shape, generator=generator) for shape in ((50, 96), (50, 8), (96, 8)))
    cut = [(values.view(torch.int32) & ~0x1FFF).view(torch.float32) for values in (factor, weight)]
    given = (base, factor, weight.T.contiguous())
    options = {"scaling": 1.0, "output": base + torch.nn.functional.linear(*cut)}
    assert kernel("measure_factor", *given, **options)["excess"].max() > 10
    assert kernel("with_tf32", "measure_factor", *given, **options)["excess"].max() <= 1
    wrong = {**options, "output": base + 1.01 * torch.nn.functional.linear(factor, weight)}
    assert kernel("with_tf32", "measure_factor", *given, **wrong)["excess"].max() > 1


def test_logits_of_a_batch(kernel: Run) -> None:
    logits = [torch.randn(2, 5, 11, generator=torch.Generator().manual_seed(seed)) * 3 for seed in (0, 1)]
    samples: Any = [SimpleNamespace(token_ids=np.array(ids)) for ids in ([3, 1, 10], [0, 7, 5, 5, 8])]
    positions = [np.array([0, 1, 2]), np.array([0, 1, 4])]
    expected = negative_log_likelihood(logits[0], samples, positions)
    found = kernel("by_kernel", "negative_log_likelihood", logits[0], samples, positions)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    flat = torch.tensor([0, 4, 9])
    np.testing.assert_allclose(
        kernel("by_kernel", "kl_divergence", *logits, flat), kl_divergence(*logits, flat), rtol=1e-6
    )


@pytest.mark.parametrize(("states", "n_gathers"), [("default", 2), ("none", 0)])
def test_a_component_takes_one_launch_beside_what_is_stored(states: str, n_gathers: int) -> None:
    found, components = benchmark("gpu_launches").count(states, 900)
    n_values = 900 * sum(component.d_out for component in components)
    counts = {name: n / len(components) for name, n in found.launches.items()}
    assert (counts.pop("kernel"), counts.pop("index_select", 0)) == (1, n_gathers)
    del counts["to the host"]
    assert sum(counts.values()) < 1  # a few per batch
    assert 4 < found.bytes["kernel"] / n_values < 4.3  # base and output, bfloat16; z and B
