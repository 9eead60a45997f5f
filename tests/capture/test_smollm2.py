"""A real model of 210 linear layers: the stored states are its layers' outputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from lorascope.analyze import miub
from lorascope.capture import CaptureConfig, capture, load_model
from lorascope.capture.models.components import find_components
from lorascope.capture.models.model import model_identity
from lorascope.capture.models.refusal import lora_layers
from lorascope.capture.training.trainer import lora_targets
from lorascope.stores import verify

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
]  # other people's, at load time


def test_states_of_smollm2(smollm2: Path, tmp_path: Path) -> None:
    dtype = "bfloat16"
    model, tokenizer = load_model(str(smollm2), dtype=dtype)
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=lora_targets(model))
    adapted: Any = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.02)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.eval()
    identity = model_identity(adapted, "smollm2")
    assert identity["n_parameters"] == 134_515_008
    assert identity["n_parameters_non_embedding"] == 134_515_008 - 49_152 * 576  # embeddings in and out are one
    assert tokenizer.is_fast
    assert {component.layer for component in find_components(adapted, "default")} == set(range(30))
    (tmp_path / "item.jsonl").write_text(
        '{"id": "a", "question": "What is the capital of France?", "choices": ["Rome", "Paris"], "answer": 1}\n'
    )
    run = capture(
        CaptureConfig(
            model=str(smollm2),
            adapter=str(tmp_path / "adapter"),
            data=(str(tmp_path / "item.jsonl"),),
            out=str(tmp_path / "run.zarr"),
            js_share=1.0,
            dtype=dtype,
        ),
        model=adapted,
        tokenizer=tokenizer,
    )
    assert len(run.component_paths) == 210
    assert verify(run.path).ok
    seen: dict[str, torch.Tensor] = {}
    handles = []
    for path, layer in lora_layers(adapted).items():

        def keep(module: Any, args: Any, output: torch.Tensor, path: str = path) -> None:
            seen[path] = output.clone()

        handles += [layer.register_forward_hook(keep)]
        handles += [
            layer.base_layer.register_forward_hook(lambda m, a, o, p=path: seen.__setitem__(f"{p}/base", o.clone()))
        ]
    with torch.inference_mode():
        adapted(torch.from_numpy(run.tokens["token_id"].values[None].astype(np.int64)))
    largest = 0.0
    for path, layer in lora_layers(adapted).items():
        base = torch.from_numpy(run.base(path).values)
        assert torch.equal(base, seen[f"{path}/base"][0].float())
        factor = torch.from_numpy(run.factor(path).values)[None]
        delta = torch.nn.functional.linear(factor, layer.lora_B["default"].weight) * layer.scaling["default"]
        output = (base + delta[0]).to(seen[path].dtype)
        assert torch.equal(output, seen[path][0]), path
        largest = max(largest, float(base.abs().max()))
    assert largest > 1000  # one channel of down_proj stands far out; the kernel must not mind
    result = miub(run)
    assert result.attrs["n_not_finite"] == 0
    assert result.attrs["fidelity_max"] < 1e-5
    assert np.nanmax(run.reduction("swallowed").values) > 0.01
