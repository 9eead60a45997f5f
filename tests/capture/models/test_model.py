"""Loading models, and saying which one it is."""

import copy
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    ByT5Tokenizer,
    PreTrainedConfig,
    PretrainedConfig,
    T5Config,
)

from lorascope.capture.models.adapter import attach_adapter
from lorascope.capture.models.components import find_components
from lorascope.capture.models.gguf import converted_folder, describe_loading
from lorascope.capture.models.model import (
    load_model,
    model_class,
    model_identity,
    read_config,
    tokenizer_identity,
)
from lorascope.capture.planning.meta import load_on_meta

from ...tiny import save_gguf, save_model


@pytest.fixture
def model_folder(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    return save_model(tmp_path / "model", tiny_model, tiny_tokenizer)


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def refuse(source: object, words: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        load_model(str(source), **options)
    assert "\n" not in str(caught.value)


def test_folder_gives_the_same_model(model_folder: Path, tiny_model: Any) -> None:
    model, tokenizer = load_model(str(model_folder))
    tokens = torch.arange(8)[None]
    assert not model.training
    assert tokenizer.is_fast
    torch.testing.assert_close(model(tokens).logits, tiny_model(tokens).logits, rtol=0, atol=0)
    assert model_identity(model, "tiny") == model_identity(tiny_model, "tiny")


def test_dtype_is_as_asked_or_the_checkpoints(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    save_model(tmp_path, tiny_model.bfloat16(), tiny_tokenizer)
    assert load_model(str(tmp_path))[0].dtype == torch.bfloat16
    model, _ = load_model(str(tmp_path), dtype="float16")
    assert {p.dtype for p in model.parameters()} == {torch.float16}


@pytest.mark.parametrize(("dtype", "kept"), [("auto", "float32"), ("bfloat16", "bfloat16")])
def test_gguf_is_a_plain_model(gguf_file: Path, dtype: str, kept: str) -> None:
    model, tokenizer = load_model(str(gguf_file), dtype=dtype)
    assert {str(p.dtype) for p in model.parameters()} == {f"torch.{kept}"}
    assert tokenizer("ab a")["input_ids"] == [4, 5, 2]
    assert not any(getattr(model, label, None) for label in ("is_quantized", "hf_quantizer", "quantization_method"))
    assert not hasattr(model.config, "quantization_config")


def facts(source: Path) -> tuple[Any, ...]:
    model, tokenizer = load_model(str(source), dtype="float32")
    names = model.name_or_path, model.config.name_or_path, tokenizer.name_or_path
    return model_identity(model, "tiny"), tokenizer_identity(tokenizer), names, model.config.to_dict()


def test_gguf_is_converted_once(gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is loaded from the conversion is the same model under the same name; another time is another file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = converted_folder(gguf_file, "float32")
    assert describe_loading(str(gguf_file)).endswith(f"converted to safetensors once, in {folder}")
    first = facts(gguf_file)
    assert describe_loading(str(gguf_file)).endswith(f"as converted to safetensors in {folder}")
    with monkeypatch.context() as patch:
        patch.setattr("gguf.GGUFReader", None)  # whoever reads a GGUF file fails
        assert facts(gguf_file) == first
        assert load_on_meta(str(gguf_file)).model.dtype == torch.float32
    assert first[2] == (str(gguf_file.parent),) * 3
    assert converted_folder(gguf_file, "auto") == folder != converted_folder(gguf_file, "bfloat16")
    os.utime(gguf_file)
    assert not converted_folder(gguf_file, "float32").exists()
    assert describe_loading("owner/name") == "loading owner/name"


def test_a_gguf_loads_without_a_conversion(gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").write_text("a file, in which no folder can be")
    expected = facts(gguf_file)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10_000))
        assert facts(gguf_file) == expected
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "1")
        assert facts(gguf_file) == expected
    assert not converted_folder(gguf_file, "float32").exists()
    assert facts(gguf_file) == expected
    assert [path.name for path in converted_folder(gguf_file, "float32").parent.iterdir()] == [
        converted_folder(gguf_file, "float32").name
    ]


def test_gguf_casts_saves_and_is_adapted(gguf_file: Path, tmp_path: Path) -> None:
    """`float` refuses a model that calls itself quantized, and it can't be saved."""
    model, _ = load_model(str(gguf_file), dtype="bfloat16")
    model.float().save_pretrained(tmp_path / "saved")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert len(find_components(adapted, "default")) == 7


@pytest.mark.parametrize("source", ["/no/such/folder", "no/such/folder", "~/nothing/here", "none.gguf"])
def test_missing_path(source: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"`model` is '.*', which doesn't exist; allowed are a hub id"):
        load_model(source)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError("We couldn't connect.\nCheck your internet connection."),
            r"^model 'owner/name' \(nothing on this disk.*\) can't be loaded: We couldn't connect\. .OSError.$",
        ),
        (KeyError(), r"can't be loaded: no message \(KeyError\)$"),
    ],
)
def test_hub_id_that_cannot_be_had(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def from_pretrained(where: str, **options: Any) -> Any:
        assert (where, options["trust_remote_code"]) == ("owner/name", False)
        raise error

    monkeypatch.setattr(AutoConfig, "from_pretrained", from_pretrained)
    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", lambda where, **_: ({}, {}))
    refuse("owner/name", words)


def test_absurd_sizes_on_the_hub_are_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *_, **__: pytest.fail("it was built"))
    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", lambda where, **_: ({"n_layer": 10**9}, {}))
    refuse("owner/name", "`n_layer` in its configuration is 1000000000; allowed are 4096 at most")


def test_settings_that_cannot_be() -> None:
    refuse("any", r"`dtype` is 'int8'; allowed are 'auto', 'float32', 'float16', 'bfloat16'", dtype="int8")
    refuse("any", r"`device` is 'gpu'; allowed are 'auto', 'cpu', 'cuda'", device="gpu")


def test_files_and_folders_of_another_kind(tmp_path: Path, tiny_adapter: Path) -> None:
    refuse(tmp_path, r"a folder without 'config\.json'")
    refuse(tiny_adapter, r"a folder with an adapter; give the model it was made for")
    for name, words in (("w.bin", r"a file that isn't '\.gguf'"), ("w.gguf", r"can't be loaded: .*not a GGUF file")):
        (tmp_path / name).write_bytes(b"nothing of the kind" * 10)
        refuse(tmp_path / name, words)


def test_weights_that_cannot_be_read_whole(model_folder: Path, tiny_model: Any) -> None:
    path, name = model_folder / "model.safetensors", "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(path)
    save_file(tensors | {name: torch.zeros(3, 3)}, path, metadata={"format": "pt"})
    refuse(model_folder, r"^model '.*' can't be loaded: ")
    del tensors[name]  # transformers fills it with random numbers and only logs it
    save_file(tensors, path, metadata={"format": "pt"})
    refuse(model_folder, rf"lacks 1 of its weights, first '{name}'")
    with path.open("r+b") as file:
        file.truncate(500)
    refuse(model_folder, r"can't be loaded: .*header")
    path.unlink()
    torch.save(tiny_model.state_dict(), model_folder / "pytorch_model.bin")
    refuse(model_folder, r"without safetensors weights \(pickled '\.bin' files aren't read\)")


def test_model_with_a_decoder_beside_an_encoder(model_folder: Path) -> None:
    T5Config(architectures=["T5ForConditionalGeneration"]).save_pretrained(model_folder)
    refuse(model_folder, r"its architecture is 'T5ForConditionalGeneration'; allowed are those that end")
    assert model_class(T5Config(is_encoder_decoder=False)).__name__ == "AutoModelForCausalLM"  # names no architecture


def test_code_of_the_model_does_not_run_unasked(model_folder: Path) -> None:
    (model_folder / "configuration_own.py").write_text("raise SystemExit('ran')\n")
    config = {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
    (model_folder / "config.json").write_text(json.dumps(config))
    refuse(model_folder, r"can't be loaded: .*custom code")


def test_tokenizer_that_is_missing_or_slow(tiny_model: Any, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path)
    refuse(tmp_path, r"^tokenizer of '.*' can't be loaded: .*tokenizer.*: .*tokenizer")
    ByT5Tokenizer().save_pretrained(tmp_path)
    refuse(tmp_path, r"is ByT5Tokenizer, which can't say where in the text its tokens are")


def test_identity_says_what_the_model_is(tiny_model: Any) -> None:
    identity = model_identity(tiny_model, "tiny")
    said = {"name": "tiny", "class": "LlamaForCausalLM", "dtype": "float32", "attention": "sdpa"}
    assert identity.items() >= said.items()
    assert identity["n_parameters"] == sum(p.numel() for p in tiny_model.parameters())
    embeddings = tiny_model.model.embed_tokens.weight, tiny_model.lm_head.weight
    n_embedding = sum({id(weight): weight.numel() for weight in embeddings}.values())
    assert identity["n_parameters_non_embedding"] == identity["n_parameters"] - n_embedding
    json.dumps(identity, allow_nan=False)


def test_identity_of_a_plain_module_leaves_its_embeddings_out() -> None:
    class Plain(torch.nn.Module):
        config = PretrainedConfig()

        def __init__(self) -> None:
            super().__init__()
            self.tokens = torch.nn.Embedding(10, 4)
            self.layer = torch.nn.Linear(4, 4)

    identity = model_identity(Plain(), "plain")
    assert (identity["n_parameters"], identity["n_parameters_non_embedding"]) == (60, 20)


def test_identity_is_that_of_the_base(tiny_model: Any, tiny_adapter: Path) -> None:
    before = model_identity(tiny_model, "tiny")
    assert model_identity(attach_adapter(copy.deepcopy(tiny_model), tiny_adapter), "tiny") == before
    config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], modules_to_save=["norm"])
    assert model_identity(get_peft_model(tiny_model, config), "tiny") == before


def test_identity_sees_one_changed_weight(tiny_model: Any) -> None:
    before = model_identity(tiny_model, "tiny")
    changed = copy.deepcopy(tiny_model)
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight[3, 4] += 1e-6
    assert model_identity(changed, "tiny")["sha256"] != before["sha256"]
    assert model_identity(changed, "tiny")["config_sha256"] == before["config_sha256"]
    changed.lm_head.bfloat16()
    assert model_identity(changed, "tiny")["dtype"] == "bfloat16+float32"
    changed.config.rms_norm_eps = 1e-3
    assert model_identity(changed, "tiny")["config_sha256"] != before["config_sha256"]


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertForSequenceClassification, BertModel], ids=lambda k: k.__name__)
def test_models_that_are_not_causal(kind: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    config = BertConfig(vocab_size=300, pad_token_id=0, **shape)
    model, _ = load_model(str(save_model(tmp_path, kind(config), tiny_tokenizer)))
    assert type(model) is kind


@pytest.mark.parametrize(
    ("name", "value", "most"),
    [
        ("num_hidden_layers", 1_000_000, 4096),
        ("num_hidden_layers", 10**11, 4096),
        ("hidden_size", 2**30, 1_048_575),
        ("intermediate_size", 2**30, 1_048_575),
        ("num_attention_heads", 2**30, 1_048_575),
        ("head_dim", 2**30, 1_048_575),
        ("vocab_size", 2**30, 2**24),
        ("n_routed_experts", 10**7, 4096),
    ],
)
@pytest.mark.parametrize("where", ["top", "part"])
def test_absurd_sizes_are_refused_before_anything_is_built(
    where: str, name: str, value: int, most: int, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    config = config | {name: value} if where == "top" else config | {"text_config": {name: value}}
    (model_folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *_, **__: pytest.fail("it was built"))
    words = rf"^model '.*' can't be loaded: `{name}` in its configuration is {value}; allowed are {most} at most"
    for load in (load_model, load_on_meta):
        with pytest.raises(ValueError, match=words) as caught:
            load(str(model_folder))
        assert "\n" not in str(caught.value)


def test_the_sizes_of_the_largest_models_are_allowed(model_folder: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    config |= {"vocab_size": 262_144, "num_hidden_layers": 126, "hidden_size": 18_432, "intermediate_size": 53_248}
    config |= {"num_attention_heads": 128, "num_key_value_heads": 128, "head_dim": 512, "layer_types": None}
    config |= {"n_routed_experts": 384, "max_position_embeddings": 10**7, "vision_config": {"image_size": 4096}}
    (model_folder / "config.json").write_text(json.dumps(config))
    assert read_config(str(model_folder), trust_remote_code=False).hidden_size == 18_432
