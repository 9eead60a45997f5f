"""Plans of captures of LoRA on experts, against the captures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, MixtralConfig

from lorascope.capture import CaptureConfig, capture
from lorascope.capture.planning.plan import plan
from lorascope.stores.format.layout import array_specs
from lorascope.stores.format.spec import block_path

from ...mixtures import KINDS, mixture
from ...tiny import save_model
from ..mixtures import DOWN, GATE_UP, adapt_experts

TEXT = "The old fox sees the red tree. 12+7=19; " * 20


@pytest.mark.parametrize("stream", ["adapted", "pair"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_planned_is_captured(kind: str, stream: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    plain = mixture(kind).bfloat16()
    save_model(tmp_path / "model", plain, tiny_tokenizer)
    adapt_experts(plain).save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    (tmp_path / "text.txt").write_text(TEXT)
    config = CaptureConfig(
        model=str(tmp_path / "model"),
        adapter=str(tmp_path / "adapter"),
        data=(str(tmp_path / "text.txt"),),
        out=str(tmp_path / "run"),
        stream=stream,
        window_tokens=64,
    )
    made = plan(config, probe=False)
    assert made.problems == ()
    run = capture(config)
    assert [c.path for c in made.spec.components] == [*run.component_paths]
    assert {c.dtype for c in made.spec.components} == {"bfloat16"} == {*run.components["dtype"].values}
    assert {array.path for array in array_specs(made.spec) if array.path.startswith("experts/")} == {
        path for path in run.arrays if path.startswith("experts/")
    }
    (factor,) = (part for part in made.estimate.parts if part.name == "factor")
    assert factor.raw_bytes == sum(run.experts(component)["z"].nbytes for component in run.component_paths)
    for component in run.component_paths:
        experts = run.experts(component)
        (block,) = (block for block in made.spec.experts if block.path == block_path(component))
        known = {"n_experts": block.n_experts, "applied_to": block.applied_to}
        assert (experts.attrs, experts.sizes["choice"]) == (known, block.n_choices)
    n = 4 if stream == "adapted" else 2
    words = f"{n} components are weights of experts: for each its block runs again, and chosen experts once for all"
    assert words in made.remarks


def test_memory_of_mixtral_8x7b_without_its_weights(tiny_tokenizer: Any, tmp_path: Path) -> None:
    """One of its 32 layers, which is enough for what is counted of the largest block."""
    config = MixtralConfig(num_hidden_layers=1, dtype="bfloat16", architectures=["MixtralForCausalLM"])
    config.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    lora = LoraConfig(r=16, target_modules=[], target_parameters=[GATE_UP, DOWN], task_type="CAUSAL_LM")
    state = get_peft_model_state_dict(PeftModel(model, lora, low_cpu_mem_usage=True))
    lora.save_pretrained(tmp_path / "adapter")
    ones = {key: torch.ones(tensor.shape, dtype=torch.bfloat16) for key, tensor in state.items()}
    save_file(ones, tmp_path / "adapter/adapter_model.safetensors")
    (tmp_path / "text.txt").write_text(TEXT)
    files = {name: str(tmp_path / name) for name in ("model", "adapter")}
    made = plan(CaptureConfig(**files, data=(str(tmp_path / "text.txt"),), out=str(tmp_path / "run"), device="cuda"))
    assert made.problems == ()
    (block,) = made.spec.experts
    assert (block.n_experts, block.n_choices, block.applied_to) == (8, 2, "output")
    parts = made.fit[1].parts
    assert parts["merged experts"] == 2 * 8 * 3 * 4096 * 14336
    batch_tokens = parts["outputs of a layer"] // (2 * 2 * 4096)  # of two components in bfloat16
    assert parts["experts one by one"] == 8 * 4 * batch_tokens * 2 * 4096
