import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, MixtralConfig, MixtralForCausalLM, OPTConfig

from lorascope.capture import load_model
from lorascope.capture.models.adapter import attach_adapters
from lorascope.capture.models.components import find_components
from lorascope.capture.models.refusal import AdapterError
from lorascope.capture.planning.meta import attach_on_meta, load_on_meta, meta_inputs, output_dtypes
from lorascope.capture.recording.forward import probe
from lorascope.capture.recording.hooks import Recorder

from ...tiny import save_model

SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def saved(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    return save_model(tmp_path / "model", tiny_model, tiny_tokenizer)


def save_adapter(model: Any, folder: Path, *, zero: bool = False, **options: Any) -> str:
    adapted: Any = get_peft_model(model, LoraConfig(r=4, **{"target_modules": "all-linear", **options}))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name and not zero:
            torch.nn.init.normal_(parameter.data)
    adapted.save_pretrained(folder)
    adapted.unload()
    return str(folder)


def components_of(model: Any, *names: str) -> dict[str, list[Any]]:
    return {name: find_components(model, name) for name in names}


def test_every_name_shape_and_type_is_the_real_models(saved: Path) -> None:
    meta = load_on_meta(str(saved))
    real, _ = load_model(str(saved))
    assert meta.has_weights
    assert not meta.quantized
    assert all(tensor.is_meta for tensor in meta.model.state_dict().values())
    found, wanted = meta.model.state_dict(), real.state_dict()
    assert {k: (v.shape, v.dtype) for k, v in found.items()} == {k: (v.shape, v.dtype) for k, v in wanted.items()}
    assert not meta.model.training
    assert meta.tokenizer.is_fast


def test_a_folder_without_weights_will_do(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    assert not load_on_meta(str(saved)).has_weights
    (saved / "config.json").unlink()
    with pytest.raises(ValueError, match="without 'config.json'"):
        load_on_meta(str(saved))
    with pytest.raises(FileNotFoundError, match="which doesn't exist"):
        load_on_meta(str(saved / "nowhere"))


def test_a_broken_configuration_is_one_line(saved: Path) -> None:
    (saved / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="can't be loaded") as caught:
        load_on_meta(str(saved))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("named", "weights", "asked", "dtype"),
    [
        ("bfloat16", "float32", "auto", torch.bfloat16),
        ("bfloat16", "float32", "float16", torch.float16),
        (None, "bfloat16", "auto", torch.bfloat16),
        (None, None, "auto", torch.float32),
    ],
)
def test_the_type_is_the_one_that_a_load_would_give(
    saved: Path, named: str | None, weights: str | None, asked: str, dtype: torch.dtype
) -> None:
    config = json.loads((saved / "config.json").read_text())
    config.pop("dtype", None)
    (saved / "config.json").write_text(json.dumps(config | ({"dtype": named} if named else {})))
    file = saved / "model.safetensors"
    if weights is None:
        file.unlink()
    else:
        kept = {"0.steps": torch.zeros(3, dtype=torch.int64)} if named is None else {}
        floats = {key: tensor.to(getattr(torch, weights)) for key, tensor in load_file(file).items()}
        save_file(kept | floats, file, metadata={"format": "pt"})
    assert load_on_meta(str(saved), dtype=asked).model.dtype == dtype
    if weights is not None and named is not None:
        assert load_model(str(saved), dtype=asked)[0].dtype == dtype


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["embed_tokens", "up_proj"]},
    ],
    ids=["plain", "dora", "pissa", "modules_to_save", "embedding"],
)
@pytest.mark.filterwarnings("ignore:.*save_embedding_layers.*", "ignore:`lora_bias=True`", "ignore:Adapter .default.")
def test_components_and_types_are_those_of_the_real_model(
    saved: Path, tmp_path: Path, tiny_model: Any, tiny_items: Any, options: dict[str, Any]
) -> None:
    from lorascope.capture.samples.encode import encode_items

    folder = {"default": save_adapter(tiny_model, tmp_path / "adapter", **options)}
    meta = load_on_meta(str(saved), dtype="bfloat16")
    adapted, problems = attach_on_meta(meta.model, folder)
    assert problems == []
    assert all(parameter.is_meta for parameter in adapted.parameters())
    assert meta_inputs(adapted) is not None
    found = components_of(adapted, "default")
    real = attach_adapters(load_model(str(saved), dtype="bfloat16")[0], folder)
    components = components_of(real, "default")
    assert found == components
    sample = encode_items(tiny_items, meta.tokenizer, max_length=256, window_tokens=64)[0]
    wanted, _ = probe(real, Recorder(components), [sample], torch.device("cpu"))
    assert output_dtypes(found) == wanted
    assert {p.dtype for n, p in adapted.named_parameters() if "lora_" in n} == {
        p.dtype for n, p in real.named_parameters() if "lora_" in n
    }


def test_an_init_is_still_known(saved: Path, tmp_path: Path, tiny_model: Any) -> None:
    pissa = save_adapter(tiny_model, tmp_path / "a", init_lora_weights="pissa")
    adapted, _ = attach_on_meta(load_on_meta(str(saved)).model, {"default": pissa})
    config: Any = adapted.peft_config["default"]
    assert config.init_lora_weights == "pissa"
    plain = save_adapter(tiny_model, tmp_path / "b")
    _, problems = attach_on_meta(load_on_meta(str(saved)).model, {"default": pissa, "other": plain})
    assert [problem.kind for problem in problems] == ["init"]


def test_what_is_wrong_with_the_file_is_found(saved: Path, tmp_path: Path, tiny_model: Any) -> None:
    folder = Path(save_adapter(tiny_model, tmp_path / "adapter"))

    def kinds(**options: Any) -> set[str]:
        return {p.kind for p in attach_on_meta(load_on_meta(str(saved)).model, {"default": str(folder)}, **options)[1]}

    assert kinds() == set()
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    key = next(key for key in tensors if "q_proj.lora_A" in key)
    save_file({k: v for k, v in tensors.items() if k != key}, file)
    assert kinds() == {"missing"}
    save_file(tensors | {key: tensors[key][:, :-1].contiguous()}, file)
    assert kinds() == {"shape"}
    save_file(tensors | {key: tensors[key] * torch.nan}, file)
    assert kinds() == {"nan"}
    save_file({k: v * 0 if "lora_B" in k else v for k, v in tensors.items()}, file)
    assert kinds() == {"zero"}
    assert kinds(allow_zero=True) == set()
    shutil.copy(saved / "config.json", folder / "config.json")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["nothing"]}))
    with pytest.raises(AdapterError, match="fits no layer of this model"):
        kinds()


def test_a_model_that_cant_run_there(tmp_path: Path, tiny_tokenizer: Any) -> None:
    model = MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=2, eos_token_id=1))
    save_model(tmp_path / "model", model, tiny_tokenizer)
    folder = save_adapter(model, tmp_path / "adapter", target_modules=["q_proj", "v_proj"])
    adapted, _ = attach_on_meta(load_on_meta(str(tmp_path / "model")).model, {"default": folder})
    assert meta_inputs(adapted) is None  # its experts' matrix product has no float32 kernel on the meta device
    dtypes = output_dtypes(components_of(adapted, "default"))
    assert len(dtypes) == 4
    assert set(dtypes.values()) == {torch.float32}


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SMALL),
        OPTConfig(
            vocab_size=300,
            hidden_size=32,
            num_hidden_layers=2,
            ffn_dim=64,
            num_attention_heads=4,
            word_embed_proj_dim=32,
            eos_token_id=1,
        ),
        GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1),
    ],
    ids=["llama", "opt", "gpt2"],
)
def test_models_of_several_kinds_run_there(tmp_path: Path, tiny_tokenizer: Any, config: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config)
    folder = save_adapter(model, tmp_path / "adapter", fan_in_fan_out=isinstance(model, GPT2LMHeadModel))
    config.architectures = [type(model).__name__]
    config.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    adapted, problems = attach_on_meta(load_on_meta(str(tmp_path / "model")).model, {"default": folder})
    assert problems == []
    assert meta_inputs(adapted) is not None
