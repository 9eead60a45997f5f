"""A model whose weights FSDP2 shards over processes that take different samples."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, Phi3Config

from lorascope.capture import AdapterError, CaptureConfig, capture, plan
from lorascope.capture.models.model import model_on_meta
from lorascope.capture.models.refusal import plan_problems

from ..tiny import SHAPE, save_model

BY_HAND = """
import os, signal, sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from lorascope.capture import CaptureConfig, attach_adapter, capture, load_model
from lorascope.capture.errors import Interrupted

torch.set_num_threads(1)
dist.init_process_group("gloo")
adapter, *data = sys.argv[1:]
given = {"model": "model", "adapter": (adapter,), "data": tuple(data)}
given |= {"window_tokens": 200, "batch_tokens": 400, "generate": 3}
signals = [signal.SIGTERM] * (dist.get_rank() == 1)

def stop(progress):
    if progress.stage == "capture" and signals:
        os.kill(os.getpid(), signals.pop())

try:
    capture(CaptureConfig(**given, out="stopped.zarr", device="cpu", fully_shard=True), progress=stop)
except Interrupted as error:
    print(f"{error.signal.name}: {error}")
model, tokenizer = load_model("model")
model = attach_adapter(model, adapter)
for layer in model.get_base_model().model.layers:
    fully_shard(layer)
fully_shard(model)
hooks = [len(module._forward_pre_hooks) for module in model.modules()]
capture(CaptureConfig(**given, out="given.zarr"), model=model, tokenizer=tokenizer)
assert hooks == [len(module._forward_pre_hooks) for module in model.modules()]
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_sharded_runs_store_what_one_process_does(
    content: Any, command: Any, launch: Any, tiny_adapter: Path, text: Path, data: Path, tmp_path: Path
) -> None:
    """Five rows over three processes, which are done at different times with answers, replies, neutral texts ..."""
    (tmp_path / "prompts.txt").write_text("Name a metal.\nWhat is the answer?\nAsk a question, in four words.\n")
    options = ["--prompt", "main", "--prompt", "prompt3", "--answer-tokens", "3", "--replies", "prompts.txt"]
    options += ["--neutral", "20", "--ablate", "kinds", "--ablate-share", "0.5", "--measure-overhead"]
    (tmp_path / "by_hand.py").write_text(BY_HAND)
    for done in (
        command("alone.zarr", 1, *options),
        command("sharded.zarr", 3, *options, "--fully-shard"),
        command("generated.zarr", 1, "--generate", "3"),
        launch(2, "by_hand.py", str(tiny_adapter), str(text), str(data)),
    ):
        assert done.returncode == 0, done.stderr[-3000:]
    assert content(tmp_path / "sharded.zarr") == content(tmp_path / "alone.zarr")
    # The signal went to one process, and stopped both.
    assert done.stdout.count("SIGTERM: stopped after 2 of 5 rows of `stopped.zarr`; the same command goes on") == 2
    done = command("stopped.zarr", 3, "--generate", "3", "--fully-shard")
    assert done.returncode == 0, done.stderr[-3000:]
    for sharded in ("stopped.zarr", "given.zarr"):
        assert content(tmp_path / sharded) == content(tmp_path / "generated.zarr")


REFUSED_SETTINGS: dict[str, Any] = {"importance": 2, "null_adapters": 3, "codec": "auto", "share": 2}
REFUSED_ADAPTERS: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "DoRA reads the norms of the frozen weights, which are split over proc.*use_dora"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "its init changes the base weights, which are split over processes here"),
    "tokens": ({"trainable_token_indices": [3]}, "copies the base's embedding.*; capture it in one process"),
    "copies": ({"modules_to_save": ["lm_head"]}, "copies whole modules of the base.*; capture it in one process"),
}


@pytest.fixture
def config(tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, data: Path, tmp_path: Path) -> Any:
    """Settings of a capture that shards a saved model; the model is never loaded, since one process can't."""
    model = save_model(tmp_path / "model", tiny_model, tiny_tokenizer)

    def make(**settings: Any) -> CaptureConfig:
        names: dict[str, Any] = {"model": str(model), "adapter": (str(tiny_adapter),), "data": (str(data),)}
        return CaptureConfig(**names, out=str(tmp_path / "run.zarr"), fully_shard=True, **settings)

    return make


@pytest.mark.parametrize("name", REFUSED_SETTINGS)
def test_a_setting_that_needs_whole_weights_is_refused_before_loading(config: Any, name: str) -> None:
    value = REFUSED_SETTINGS[name]
    with pytest.raises(ValueError, match=rf"`{name}` is {value!r}, which needs whole weights in one process.*leave"):
        capture(config(**{name: value}))


@pytest.mark.parametrize("case", REFUSED_ADAPTERS)
def test_an_adapter_that_needs_whole_weights_is_refused_before_loading(
    config: Any, tiny_adapter: Path, case: str
) -> None:
    changes, words = REFUSED_ADAPTERS[case]
    file = tiny_adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(AdapterError, match=words):
        capture(config())


def test_plan_says_that_an_adapter_needs_whole_weights(config: Any, tiny_adapter: Path) -> None:
    file = tiny_adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"init_lora_weights": "olora"}))
    planned = plan(config(), processes=2, probe=False)
    assert "its init changes the base weights, which are split over processes here" in str(planned.problems)


@pytest.fixture
def process_group() -> Iterator[None]:
    """A process group of this process alone, in which FSDP2 can shard."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("part", ["lora_A.default", "base_layer"])
def test_a_lora_layer_whose_parts_are_sharded_on_their_own_is_refused(
    part: str, adapted: Any, tiny_tokenizer: Any, data: Path, tmp_path: Path, process_group: None
) -> None:
    """A process whose pass has the adapter would wait in `lora_A` for one whose pass has none."""
    fully_shard(adapted.get_submodule(f"base_model.model.model.layers.1.mlp.up_proj.{part}"))
    with pytest.raises(AdapterError, match=r"shards parts of it on their own, .*\(model\.layers\.1\.mlp\.up_proj\)"):
        capture(adapted, data, tmp_path / "run.zarr", tokenizer=tiny_tokenizer)


def test_layers_that_peft_cannot_split_as_the_plan_says() -> None:
    keys = [f"base_model.model.model.layers.1.{name}.lora_A.weight" for name in ("self_attn.o_proj", "mlp.up_proj")]
    llama = model_on_meta(LlamaConfig(vocab_size=300, **SHAPE), torch.float32)
    assert plan_problems(llama, keys) == []
    (problem,) = plan_problems(llama, ["base_model.model.model.embed_tokens.lora_embedding_A", *keys])
    assert problem.message.startswith("tensor parallel splits it by 'embedding_rowwise', which PEFT's LoRA doesn't")
    keys = [key.replace("up_proj", "gate_up_proj") for key in keys]
    phi3 = model_on_meta(Phi3Config(vocab_size=300, **SHAPE | {"pad_token_id": 0}), torch.float32)
    assert [(problem.place, problem.message.split("'")[1]) for problem in plan_problems(phi3, keys)] == [
        ("model.layers.1.mlp.gate_up_proj", "colwise_gather_output"),
        ("model.layers.1.self_attn.o_proj", "rowwise_split_input"),
    ]
