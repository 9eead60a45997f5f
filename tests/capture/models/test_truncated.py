"""Truncated adapters in PEFT: its outputs are those of the base and the truncated product, by torch's own SVD."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from lorascope.analyze.adapters.truncated import truncatable_branches, write_truncated
from lorascope.capture import attach_adapter
from lorascope.capture.models.refusal import lora_layers

WEIGHTS = "adapter_model.safetensors"
TOKENS = torch.arange(8)[None]


class Mixed(nn.Module):
    """An embedding, a convolution, and two linear layers whose paths end alike."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 12)
        self.conv = nn.Conv2d(1, 6, kernel_size=3)
        self.layers = nn.ModuleList([nn.Linear(60, 24)])
        self.inner = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(24, 16)])})

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.conv(self.embed(tokens)[:, None])  # (1, 6, 6, 10)
        return self.inner["layers"][0](self.layers[0](hidden.flatten(2)))


def mixed() -> nn.Module:
    return Mixed().eval()


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32)).eval()


LLAMA = ["q_proj", "v_proj", "up_proj", "down_proj"]
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (None, {}),
    "patterns": (None, {"rank_pattern": {"q_proj": 7, r"layers\.1\.mlp\..*": 3}, "alpha_pattern": {"up_proj": 3}}),
    "rslora": (None, {"use_rslora": True, "rank_pattern": {"v_proj": 2}}),
    "bias": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "lora_bias": True}),
    "orthogonal": (None, {"init_lora_weights": "orthogonal"}),
    "trained head": (None, {"modules_to_save": ["lm_head"]}),
    "Conv1D": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "embedding, convolution": (mixed, {"target_modules": ["embed", "conv", "layers.0"], "rank_pattern": {"conv": 3}}),
}


def save_trained(base: nn.Module, folder: Path, options: dict[str, Any]) -> PeftModel:
    """An adapter with random weights whose singular values fall, and biases where it has some."""
    config = LoraConfig(**{"r": 6, "lora_alpha": 9, "target_modules": LLAMA, **options})
    model = get_peft_model(copy.deepcopy(base), config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn_like(parameter)
            if "lora_A" in name or "lora_embedding_A" in name:
                parameter.data *= (0.6 ** torch.arange(len(parameter))).reshape(-1, *[1] * (parameter.ndim - 1))
    model.save_pretrained(folder, save_embedding_layers=False)
    return model.eval()


def with_products(base: nn.Module, trained: PeftModel, numbers: dict[str, list[int]]) -> nn.Module:
    """The base whose layers add the product of these directions, and the scaled bias, to what they give."""
    plain = copy.deepcopy(base)
    if "lm_head" in (trained.peft_config["default"].modules_to_save or ()):
        plain.lm_head = copy.deepcopy(trained.base_model.model.lm_head.modules_to_save["default"])
    for path, layer in lora_layers(trained).items():
        A, B = (getattr(layer, f"lora_{part}") for part in "AB")
        if "default" in A:
            down, up, bias = A["default"].weight, B["default"].weight, B["default"].bias
        else:
            down, up, bias = layer.lora_embedding_A["default"], layer.lora_embedding_B["default"], None
        scaling = layer.scaling["default"]
        U, S, V = torch.linalg.svd(scaling * up.flatten(1).double() @ down.flatten(1).double(), full_matrices=False)
        few = numbers[path]
        dense = ((U[:, few] * S[few]) @ V[few]).float().detach()
        shift = None if bias is None else scaling * bias.detach()

        def add(
            module: nn.Module, inputs: tuple[Tensor], output: Tensor, dense: Tensor = dense, shift: Any = shift
        ) -> Any:
            if isinstance(module, nn.Embedding):
                return output + dense.T[inputs[0]]
            if isinstance(module, nn.Conv2d):
                return output + nn.functional.conv2d(inputs[0], dense.reshape(module.weight.shape))
            return output + nn.functional.linear(inputs[0], dense, shift)

        plain.get_submodule(path).register_forward_hook(add)
    return plain


def truncate(folder: Path, out: Path, keep: str = "first") -> dict[str, list[int]]:
    """Write the adapter with some directions of its layers, which are returned by path; they differ in number."""
    report, branches = truncatable_branches(folder, out)
    numbers = []
    for place, rank in enumerate(report["rank"].values.tolist()):
        few = {"first": 1 + place % 2, "some": 1 + place % 3, "all": rank}[keep]
        numbers.append(np.arange(rank)[:few] if keep != "some" else np.arange(rank)[::-1][:few][::-1])
    write_truncated(folder, out, report, numbers)
    return {branch.path: few.tolist() for branch, few in zip(branches, numbers, strict=True)}


def logits(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        output = model(TOKENS)
    return getattr(output, "logits", output)


@pytest.fixture(autouse=True)
def seeded() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.filterwarnings("error:The following rank_pattern", "ignore:Adapter .* LoRA tensor.* have invalid shape")
@pytest.mark.parametrize("keep", ["first", "some", "all"])
@pytest.mark.parametrize("case", CASES)
def test_peft_gives_what_base_and_truncated_product_give(tiny_model: Any, tmp_path: Path, case: str, keep: str) -> None:
    make, options = CASES[case]
    base = tiny_model if make is None else make()
    trained = save_trained(base, tmp_path / "whole", options)
    numbers = truncate(tmp_path / "whole", tmp_path / "new", keep)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "new")).eval()
    layers = lora_layers(loaded)
    ranks = {path: layer.r["default"] for path, layer in layers.items()}
    assert ranks == {path: len(few) for path, few in numbers.items()}
    assert {layer.scaling["default"] for layer in layers.values()} == {1.0}
    whole, size = logits(trained), logits(trained).abs().max()
    expected = logits(with_products(base, trained, numbers))
    assert (logits(loaded) - expected).abs().max() < 1e-5 * size
    off = (logits(loaded) - whole).abs().max() / size
    assert off < 1e-5 if keep == "all" else off > 1e-4
    assert len({len(few) for few in numbers.values()}) > 1 or keep == "all"  # else no pattern would be tried


def test_half_precision_differs_by_its_rounding(tiny_model: Any, tmp_path: Path) -> None:
    trained = save_trained(tiny_model, tmp_path / "whole", {})
    file = tmp_path / "whole" / WEIGHTS
    save_file({key: one.bfloat16() for key, one in load_file(file).items()}, file)
    trained = PeftModel.from_pretrained(copy.deepcopy(tiny_model), str(tmp_path / "whole")).eval()
    numbers = truncate(tmp_path / "whole", tmp_path / "new")
    assert {one.dtype for one in load_file(tmp_path / "new" / WEIGHTS).values()} == {torch.bfloat16}
    loaded = PeftModel.from_pretrained(copy.deepcopy(tiny_model), str(tmp_path / "new")).eval()
    expected = logits(with_products(tiny_model, trained, numbers))
    off = (logits(loaded) - expected).abs().max() / expected.abs().max()
    assert 1e-5 < off < 2e-2


def test_the_record_of_the_training_comes_along(tiny_model: Any, tmp_path: Path) -> None:
    """It is of other weights, but which layers shared theirs is still looked at."""
    save_trained(tiny_model, tmp_path / "whole", {})
    model = {"sha256": "0" * 64, "dtype": "float32", "share": 2, "shared_layers": 2}
    record = {"data": [], "steps": [], "n_samples": 1, "n_target_tokens": 1, "model": model, "adapter_sha256": "1" * 64}
    (tmp_path / "whole" / "finetune.json").write_text(json.dumps(record))
    truncate(tmp_path / "whole", tmp_path / "new")
    with pytest.raises(ValueError, match="it was trained on a model in which the last 2 layers share weights"):
        attach_adapter(tiny_model, tmp_path / "new")
