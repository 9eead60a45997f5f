"""Captures by processes that each have a part of every layer."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from lorascope.capture.models.shards import distribution
from lorascope.stores import open_run, verify

from ..mixtures import mixture
from ..tiny import SHAPE, llama, save_model

ROUNDING = 1e-5
"""Largest difference, relative to an array's largest value: an all-reduce adds a layer's 64 products in another order,
each time off by up to 64 float32 roundings (64 * 6e-8 = 4e-6); here there are two layers."""


def qwen3(vocab_size: int) -> Any:
    """A Qwen3 of 2 layers, with biases, which norms each head's queries and keys; float32, seeded."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Qwen3ForCausalLM(Qwen3Config(vocab_size=vocab_size, head_dim=16, attention_bias=True, **SHAPE)).eval()


MODELS: dict[str, tuple[Callable[[int], Any], dict[str, Any]]] = {
    "llama": (llama, {"rank_pattern": {"v_proj": 64}}),  # whose delta is smaller than its factor
    "qwen3": (qwen3, {"lora_bias": True}),
    "mixtral": (lambda vocab_size: mixture("mixtral", vocab_size=vocab_size), {}),
}


def save_adapted(folder: Path, name: str, tokenizer: Any) -> None:
    """A model and an adapter of all its linear layers, in two folders."""
    import torch
    from peft import LoraConfig, get_peft_model

    make, options = MODELS[name]
    save_model(folder / "model", make(len(tokenizer)), tokenizer)
    kinds = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=kinds, **options)
        model = get_peft_model(make(len(tokenizer)), config)
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter.data, std=0.1)
        model.save_pretrained(folder / "adapter", save_embedding_layers=False)


def capture(folder: Path, out: str, n_ranks: int, *words: str) -> subprocess.CompletedProcess[str]:
    """`lorascope capture` in this many processes."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_ranks)] if n_ranks > 1 else []
    options = ["--model", "model", "--adapter", "adapter", "--out", out, "--device", "cpu", "--batch-tokens", "400"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *launch, "-m", "lorascope", "capture", *options, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        env=environment,
    )


def require_close(path: Path, other: Path) -> None:
    """Two runs have the same arrays, equal to rounding, and the same fingerprint."""
    groups = [zarr.open_group(path, mode="r"), zarr.open_group(other, mode="r")]
    mine, theirs = (dict(group.members(max_depth=None)) for group in groups)
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        if not isinstance(array, zarr.Array) or name == "rows/digest":
            continue
        values, others = array[...], theirs[name][...]  # type: ignore[index]
        if "/changes/" in name:  # a token at the boundary of a draw, or of equal probability, may be another one
            is_close = np.isclose(
                values, others, rtol=ROUNDING, atol=ROUNDING * np.nanmax(np.abs(values)), equal_nan=True
            )
            assert is_close.mean() > 0.999, name
        elif name.startswith("states/") or values.dtype.kind == "f":
            assert np.array_equal(np.isnan(values), np.isnan(others)), name
            largest = np.nanmax(np.abs(values), initial=0)
            assert np.nanmax(np.abs(values - others), initial=0) <= ROUNDING * largest, name
        else:
            assert np.array_equal(values, others), name
    roots = [json.loads((folder / "zarr.json").read_text())["attributes"] for folder in (path, other)]
    assert roots[0]["fingerprint"] == roots[1]["fingerprint"]
    assert roots[0]["provenance"]["preflight"] == roots[1]["provenance"]["preflight"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed", "ignore:.*have invalid shape")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llama", ("--prompt", "main", "--answer-tokens", "3", "--generate", "4", "--ablate", "kinds", "--replies")),
        ("qwen3", ("--stream", "base", "--states", "none", "--tokens", "last:20")),
        ("llama", ("--stream", "pair", "--states-share", "0.5", "--changes", "none", "--measure-overhead")),
    ],
)
def test_split_layers_give_the_run_of_one_process(
    name: str, words: tuple[str, ...], tiny_tokenizer: Any, text: Path, data: Path, tmp_path: Path
) -> None:
    save_adapted(tmp_path, name, tiny_tokenizer)
    words = (*words, "--data", str(text), *(() if "none" in words else ("--data", str(data))), "--window-tokens", "200")
    for out, n_ranks, way in (
        ("one.zarr", 1, ()),
        ("two.zarr", 2, ("--tensor-parallel", "2")),
        ("four.zarr", 4, ("--tensor-parallel", "2")),
    ):
        done = capture(tmp_path, out, n_ranks, *words, *way)
        assert done.returncode == 0, done.stderr[-3000:]
    for out in ("two.zarr", "four.zarr"):
        require_close(tmp_path / "one.zarr", tmp_path / out)
        assert verify(tmp_path / out).ok
    run = open_run(tmp_path / "four.zarr")
    measured = run.attributes["measured"]
    assert (measured["ranks"], measured["rows"]) == (min(2, run.n_rows), run.n_rows)


@pytest.mark.slow
def test_a_mixture_whose_experts_are_whole_on_every_rank(tiny_tokenizer: Any, text: Path, tmp_path: Path) -> None:
    """As transformers 5.25 plans it; 5.24 splits each expert, which is refused."""
    from transformers import MixtralConfig

    save_adapted(tmp_path, "mixtral", tiny_tokenizer)
    words = ("--data", str(text), "--window-tokens", "200", "--tensor-parallel")
    one, two = (capture(tmp_path, f"{n}.zarr", n, *words, str(n)) for n in (1, 2))
    assert one.returncode == 0, one.stderr[-3000:]
    if "moe_tp_experts" in MixtralConfig.base_model_tp_plan.values():
        assert "splits `model.layers.*.mlp.experts` by 'moe_tp_experts'" in two.stderr
        return
    assert two.returncode == 0, two.stderr[-3000:]
    require_close(tmp_path / "1.zarr", tmp_path / "2.zarr")


def test_without_processes_nothing_is_split() -> None:
    assert distribution(1, fully_shard=False) is None
    with pytest.raises(ValueError, match="`tensor_parallel` is 2, but 1 processes run; start a multiple of 2"):
        distribution(2, fully_shard=False)
    with pytest.raises(ValueError, match="`fully_shard` shards weights over processes, but only one runs"):
        distribution(1, fully_shard=True)
