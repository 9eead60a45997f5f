"""Attaching adapters: what fits, what is refused, and what an adapter is."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import KasaConfig
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

from lorascope.analyze.adapters.factors import hash_adapter
from lorascope.capture.models.adapter import adapter_identity, attach_adapter, attach_adapters
from lorascope.capture.models.refusal import AdapterError, is_residual
from lorascope.stores import expressions

from ...mixtures import KINDS, lora_on_experts, mixture
from ...tiny import llama
from ..recorded import adapt

TOKENS = torch.arange(8)[None]
WEIGHTS = "adapter_model.safetensors"


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)


def reconfigure(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def save_untrained(model: Any, folder: Path, **options: Any) -> Any:
    with torch.random.fork_rng():
        adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=4, target_modules=["q_proj", "up_proj"], **options))
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return adapted.eval()


def refuse(model: Any, folder: Path, words: str) -> None:
    """The adapter is refused in one line, and the model left as it was."""
    with pytest.raises(AdapterError, match=words) as caught:
        attach_adapter(model, folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert not any("lora" in name for name, _ in model.named_modules())


def test_attached_adapter_acts(tiny_model: Any, tiny_adapter: Path) -> None:
    """Against PEFT's own loading."""
    before = tiny_model(TOKENS).logits
    expected = PeftModel.from_pretrained(copy.deepcopy(tiny_model), str(tiny_adapter)).eval()(TOKENS).logits
    state = torch.random.get_rng_state()
    adapted = attach_adapter(tiny_model.train(), tiny_adapter, name="lora")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(module.training for module in adapted.modules())
    assert adapted.active_adapters == ["lora"]
    assert not any(parameter.requires_grad for name, parameter in adapted.named_parameters() if "lora" in name)
    torch.testing.assert_close(adapted(TOKENS).logits, expected, rtol=0, atol=0)
    assert (expected - before).abs().max() > 1e-3


def test_adapter_of_a_half_precision_model_is_float32(tiny_model: Any, tiny_adapter: Path) -> None:
    adapted = attach_adapter(tiny_model.bfloat16(), tiny_adapter)
    dtypes = {("lora" in name, parameter.dtype) for name, parameter in adapted.named_parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}


@pytest.mark.parametrize("name", ["", "v2.1", "1st"])
def test_names_that_cannot_be_module_names(tiny_model: Any, tiny_adapter: Path, name: str) -> None:
    with pytest.raises(AdapterError, match=r"`name` is '.*'; allowed are letters, digits and `_`"):
        attach_adapter(tiny_model, tiny_adapter, name=name)


def test_folder_that_holds_no_adapter(tiny_model: Any, tmp_path: Path) -> None:
    refuse(tiny_model, tmp_path, r"is no adapter folder: there is no 'adapter_config\.json' in it")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{not json", "isn't JSON: Expecting property name"),
        ("[]", "is no PEFT configuration: it holds no object with `peft_type`"),
        ("{}", "is no PEFT configuration: it holds no object with `peft_type`"),
        ('{"peft_type": "LORA", "base_model_name_or_path": "\\ud83d"}', "holds half of a character .surrogates"),
        ("[" * 100_000, "is nested too deep"),
        ('{"r": 4, "r": 8}', "isn't JSON: 'r' is twice in one object"),
        ('{"peft_type": "LORA", "r": 4}', "lacks `r` or `lora_alpha`"),
        ('{"peft_type": "LORA", "r": 4, "lora_alpha": 4, "use_dora": true, "megatron_config": {"a": 1}}', "is no PEFT"),
    ],
    ids=["json", "list", "no-type", "half-a-character", "deep", "twice", "without-alpha", "values"],
)
def test_configuration_that_cannot_be_read(tiny_model: Any, tiny_adapter: Path, text: str, words: str) -> None:
    (tiny_adapter / "adapter_config.json").write_text(text)
    refuse(tiny_model, tiny_adapter, rf"adapter_config\.json['`] {words}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"r": "four"}, r"`r` of adapter .* is 'four'"),
        ({"r": True}, r"`r` of adapter .* is True"),
        ({"rank_pattern": {"q_proj": 0}}, r"`r` of adapter .* is 0"),
        ({"rank_pattern": [1]}, r"`rank_pattern` of adapter .* is \[1\]"),
        ({"lora_alpha": float("nan")}, r"`lora_alpha` of adapter .* is nan"),
        ({"lora_alpha": 10**400}, r"`lora_alpha` of adapter .* is 1000"),
        ({"alpha_pattern": {"q_proj": "x"}}, r"`lora_alpha` of adapter .* is 'x'"),
        ({"rank_pattern": {"q_proj": 2**31}}, r"`r` of adapter .* is 2147483648; .* at most 65536"),
        (
            {"target_modules": "(["},
            r"`target_modules` of the adapter is '\(\[', no regular .* \(adapter_config\.json\)",
        ),
        ({"target_modules": "(([a-z._0-9])+)+$x"}, r"`target_modules` of the adapter .*, which may take for ever to m"),
        (
            {"modules_to_save": ["(.+)+x"]},
            r"`modules_to_save` of the adapter has '\(\.\+\)\+x', which may take for ever",
        ),
        (
            {"rank_pattern": dict.fromkeys(map(str, range(2000)), 4)},
            r"`rank_pattern` of adapter .* has 2000 entries; al",
        ),
        (
            {"init_lora_weights": "loftq", "loftq_config": {"loftq_iter": 10**9}},
            r"its `loftq_iter` is 1000000000; allowed",
        ),
        ({"modules_to_save": 3}, r"PEFT can't apply it: .* \(adapter_config\.json\)"),
        ({"layer_replication": [[0, 9]]}, r"`layer_replication` of adapter .* is \[\[0, 9\]\]: it makes another base"),
        ({"peft_type": "IA3"}, r"`peft_type` of adapter '.*' is 'IA3'; only 'LORA' can be measured"),
    ],
)
def test_configuration_with_a_wrong_value(
    tiny_model: Any, tiny_adapter: Path, change: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expressions, "MAX_SECONDS", 0.2)
    reconfigure(tiny_adapter, **change)
    refuse(tiny_model, tiny_adapter, words)


def test_an_alpha_of_zero_changes_nothing(tiny_model: Any, tiny_adapter: Path) -> None:
    reconfigure(tiny_adapter, lora_alpha=0)
    with pytest.raises(AdapterError, match=r"it is 0 on every layer, so the adapter changes nothing.*\(lora_alpha\)"):
        attach_adapter(tiny_model, tiny_adapter)


def test_weights_that_cannot_be_read(tiny_model: Any, tiny_adapter: Path) -> None:
    with (tiny_adapter / WEIGHTS).open("r+b") as file:
        file.truncate(1000)
    refuse(tiny_model, tiny_adapter, r"safetensors' is damaged: .*; copy or save the adapter again")
    (tiny_adapter / WEIGHTS).unlink()
    refuse(tiny_model, tiny_adapter, r"has no 'adapter_model\.safetensors'; save it again")
    torch.save({}, tiny_adapter / "adapter_model.bin")
    refuse(tiny_model, tiny_adapter, r"safetensors'; 'adapter_model\.bin' is a pickle and isn't read; save it")


def test_model_that_has_an_adapter(tiny_model: Any, tiny_adapter: Path) -> None:
    adapted = attach_adapter(tiny_model, tiny_adapter)
    for model in (adapted, adapted.get_base_model()):
        with pytest.raises(AdapterError, match=r"already has an adapter; attach '.*' to a freshly loaded model"):
            attach_adapter(model, tiny_adapter)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 64}, r"other shapes .* \(.*lora_A.weight: \(4, 32\), not \(4, 64\), .* more\)$"),
        ({"num_hidden_layers": 1}, r"weights that this model has no place for, .*layers\.1\..* and 12 more\)"),
    ],
    ids=["wider", "shallower"],
)
def test_adapter_of_another_model(tiny_model: Any, tiny_adapter: Path, changes: Any, words: str) -> None:
    refuse(llama(tiny_model.config.vocab_size, **changes), tiny_adapter, words)


def test_adapter_of_a_shallower_model(tiny_model: Any, tiny_adapter: Path) -> None:
    """Module names without a path, as most adapters have them, reach into every layer."""
    reconfigure(tiny_adapter, target_modules=["q_proj"], exclude_modules=None)
    rewrite(tiny_adapter, lambda tensors: {key: value for key, value in tensors.items() if "q_proj" in key})
    words = r"it lacks weights that this model needs, .*layers\.2\.self_attn\.q_proj"
    refuse(llama(tiny_model.config.vocab_size, num_hidden_layers=3), tiny_adapter, words)


def test_adapter_of_another_architecture(tiny_adapter: Path) -> None:
    config = GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=64, bos_token_id=0, eos_token_id=1)
    with torch.random.fork_rng():
        model = GPT2LMHeadModel(config)
    refuse(model, tiny_adapter, r"it fits no layer of this model: Target modules .* \(target_modules\)$")


def test_adapter_of_split_projections_on_a_fused_model(tiny_model: Any, tmp_path: Path) -> None:
    save_trained(tiny_model, tmp_path, target_modules=["q_proj", "o_proj"])
    shape = {name: getattr(tiny_model.config, name) for name in ("hidden_size", "intermediate_size", "vocab_size")}
    config = Phi3Config(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, pad_token_id=2, **shape)
    with torch.random.fork_rng():
        model = Phi3ForCausalLM(config)
    refuse(model, tmp_path, r"weights that this model has no place for, .*q_proj")


@pytest.mark.parametrize("rename", [("self_attn", "attn"), ("base_model.model.", "")], ids=["module", "prefix"])
def test_misnamed_keys(tiny_model: Any, tiny_adapter: Path, rename: tuple[str, str]) -> None:
    """PEFT loads both, at most with a warning, and the first gives attention the base's own outputs."""
    rewrite(tiny_adapter, lambda tensors: {key.replace(*rename): value for key, value in tensors.items()})
    refuse(tiny_model, tiny_adapter, r"^adapter .*: it lacks weights .* more\); it holds weights .* more\)$")


def test_untrained_adapter(tiny_model: Any, tmp_path: Path) -> None:
    save_untrained(tiny_model, tmp_path / "zero")
    with pytest.raises(AdapterError, match=r"all lora_B are zero, so the adapter changes nothing; .*`allow_zero`"):
        attach_adapter(copy.deepcopy(tiny_model), tmp_path / "zero")
    assert isinstance(attach_adapter(tiny_model, tmp_path / "zero", allow_zero=True), PeftModel)


def test_weights_that_are_no_numbers(tiny_model: Any, tiny_adapter: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        next(iter(tensors.values()))[0, 0] = float("-inf")
        return tensors

    rewrite(tiny_adapter, spoil)
    refuse(tiny_model, tiny_adapter, r"the adapter holds NaN or infinite weights \(base_model.*lora_A\.weight\)")


def test_init_that_peft_cannot_repeat(tiny_model: Any, tiny_adapter: Path) -> None:
    """CorDA and LoftQ need data or a library that a load doesn't have; PEFT says so itself."""
    reconfigure(tiny_adapter, init_lora_weights="corda", corda_config={})
    with pytest.raises(AdapterError, match=r"PEFT can't attach adapter '.*': `eigens` attribute not found"):
        attach_adapter(tiny_model, tiny_adapter)


@pytest.mark.parametrize("init", ["pissa_niter_4", "lora_ga"])
def test_init_that_peft_repeats_wrongly(tiny_model: Any, tmp_path: Path, init: str) -> None:
    save_untrained(tiny_model, tmp_path / init, init_lora_weights="pissa")
    reconfigure(tmp_path / init, init_lora_weights=init, lora_ga_config={} if init == "lora_ga" else None)
    with pytest.raises(AdapterError, match=rf"'{init}' changed the base weights in a way that loading doesn't repeat"):
        attach_adapter(tiny_model, tmp_path / init)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_init_that_changes_the_base_is_repeated(tiny_model: Any, tmp_path: Path, init: str) -> None:
    trained = save_untrained(tiny_model, tmp_path / init, init_lora_weights=init)
    loaded = attach_adapter(copy.deepcopy(tiny_model), tmp_path / init)
    torch.testing.assert_close(loaded(TOKENS).logits, trained(TOKENS).logits)
    weight = loaded.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight
    assert (weight - tiny_model.model.layers[0].self_attn.q_proj.weight).abs().max() > 1e-3
    assert adapter_identity(loaded)["base"] == "residual base"


@pytest.mark.parametrize("init", [True, "gaussian", "orthogonal", "mica", "pissa", "olora"])
def test_residual_inits_are_those_that_change_the_base(tiny_model: Any, init: bool | str) -> None:
    """The list of inits is held against PEFT itself."""
    before = tiny_model.model.layers[0].self_attn.q_proj.weight.clone()
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=init)
    with torch.random.fork_rng():
        adapted = get_peft_model(tiny_model, config)
    base = adapted.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight
    assert is_residual(config) is not torch.equal(base, before)


def test_inits_that_need_data_or_libraries() -> None:
    config = LoraConfig()
    for init, is_known in {"eva": False, "pissa_niter_16": True, "corda": True, "loftq": True, "lora_ga": True}.items():
        config.init_lora_weights = init
        assert is_residual(config) is is_known


def test_identity_is_the_same_from_folder_and_model(tiny_model: Any, tiny_adapter: Path) -> None:
    from_folder = adapter_identity(tiny_adapter)
    adapted = attach_adapter(copy.deepcopy(tiny_model).bfloat16(), tiny_adapter, name="other")
    assert adapter_identity(adapted, "other") == from_folder
    assert hash_adapter(tiny_adapter) == from_folder["sha256"]
    json.dumps(from_folder, allow_nan=False)
    # Half-precision weights have the identity of their numbers.
    rewrite(tiny_adapter, lambda tensors: {key: value.bfloat16() for key, value in tensors.items()})
    narrow = adapter_identity(tiny_adapter)
    assert adapter_identity(attach_adapter(tiny_model, tiny_adapter)) == narrow != from_folder
    assert hash_adapter(tiny_adapter) == narrow["sha256"]


def test_analysis_hashes_an_adapter_as_capture_does(tiny_adapter: Path) -> None:
    """Also with biases, magnitudes and whole modules, and without copies of the base's weights."""
    more = {
        "base_model.model.lm_head.weight": torch.ones(3, 2),
        "base_model.model.model.embed_tokens.base_layer.weight": torch.ones(2, 2),
        "base_model.model.model.embed_tokens.weight": torch.ones(2, 2),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias": torch.ones(4, dtype=torch.float64),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": torch.ones(4, dtype=torch.float16),
    }
    before = adapter_identity(tiny_adapter)["sha256"]
    reconfigure(tiny_adapter, modules_to_save=["lm_head"])
    rewrite(tiny_adapter, lambda tensors: tensors | more)
    assert hash_adapter(tiny_adapter) == adapter_identity(tiny_adapter)["sha256"] != before
    rewrite(
        tiny_adapter, lambda tensors: tensors | {"base_model.model.lm_head.weight": torch.ones(3, dtype=torch.int64)}
    )
    with pytest.raises(ValueError, match=r"'lm_head.weight' is of type 'I64'; save it in float32"):
        hash_adapter(tiny_adapter)


@pytest.mark.parametrize("kind", KINDS)
def test_identity_has_both_parameters_of_experts(tmp_path: Path, kind: str) -> None:
    """PEFT wraps a module of experts twice, and the keys of the inner wrapper have a `base_layer`."""
    adapted = lora_on_experts(mixture(kind))
    adapted.save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    assert any(".base_layer.lora_A" in key for key in weights)
    identity = adapter_identity(tmp_path)
    assert identity["n_parameters"] == sum(value.numel() for value in weights.values())
    assert identity["sha256"] == adapter_identity(adapted)["sha256"]
    inner = next(key for key in weights if ".base_layer.lora_B" in key)
    rewrite(tmp_path, lambda tensors: tensors | {inner: -tensors[inner]})
    assert adapter_identity(tmp_path)["sha256"] != identity["sha256"]


def test_identity_says_what_the_adapter_is(tiny_adapter: Path) -> None:
    identity = adapter_identity(tiny_adapter)
    assert (identity["rank"], identity["alpha"], identity["scaling"]) == (4, 8, "alpha / rank")
    assert (identity["use_dora"], identity["use_rslora"], identity["bias"]) == (False, False, "none")
    assert (identity["init_lora_weights"], identity["base"]) == (True, "frozen base")
    assert identity["target_modules"] == sorted(identity["target_modules"])
    assert identity["n_parameters"] == sum(value.numel() for value in load_file(tiny_adapter / WEIGHTS).values())
    assert identity["peft_version"]
    reconfigure(tiny_adapter, use_rslora=True, target_modules=".*q_proj")
    assert adapter_identity(tiny_adapter)["scaling"] == "alpha / sqrt(rank)"
    assert adapter_identity(tiny_adapter)["target_modules"] == ".*q_proj"


def test_identity_of_what_is_no_adapter(tiny_model: Any, tiny_adapter: Path) -> None:
    with pytest.raises(AdapterError, match=r"the model, a LlamaForCausalLM, has no adapter 'default'"):
        adapter_identity(tiny_model)
    adapted = attach_adapter(tiny_model, tiny_adapter)
    with pytest.raises(AdapterError, match=r"the model, a PeftModelForCausalLM, has no adapter 'other'"):
        adapter_identity(adapted, "other")


def save_trained(model: Any, folder: Path, **options: Any) -> Any:
    """An adapter none of whose parts is zero, in a folder; returns the model with it."""
    adapted = adapt(model, **options)
    adapted.save_pretrained(folder)
    return adapted


VARIANTS: dict[str, dict[str, Any]] = {
    "DoRA": {"use_dora": True},
    "bias": {"lora_bias": True},
    "embeddings": {"target_modules": ["embed_tokens", "lm_head"]},
    "saved modules": {"modules_to_save": ["lm_head", "norm"]},
    "trained tokens": {"trainable_token_indices": [3, 5]},
    "rank-stabilised": {"use_rslora": True},
    "KaSA": {"kasa_config": KasaConfig()},
}


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed", "ignore:Adapter 'default'. . LoRA tensor")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_attached(tiny_model: Any, tmp_path: Path, name: str) -> None:
    """PEFT saves the base's own embeddings with an adapter on them; they are recognised as the base's."""
    trained = save_trained(tiny_model, tmp_path, **VARIANTS[name])
    attached = attach_adapter(copy.deepcopy(tiny_model), tmp_path)
    torch.testing.assert_close(attached(TOKENS).logits, trained(TOKENS).logits)
    assert adapter_identity(attached) == adapter_identity(tmp_path)
    assert adapter_identity(attached)["base"] == ("residual base" if name == "KaSA" else "frozen base")


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize("change", [0.01, None], ids=["trained", "resized"])
def test_embeddings_of_another_model(tiny_model: Any, tmp_path: Path, change: float | None) -> None:
    """PEFT would load them over the base's own."""
    save_trained(tiny_model, tmp_path, target_modules=["embed_tokens"])

    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        key = next(key for key in tensors if "base_layer" in key)
        tensors[key] = tensors[key] + change if change else tensors[key][:-2].clone()
        return tensors

    rewrite(tmp_path, spoil)
    refuse(tiny_model, tmp_path, r"it brings base weights that aren't this model's \(resized or trained\)")


def test_several_adapters(tiny_model: Any, tiny_adapter: Path, tmp_path: Path) -> None:
    """Each acts as it does alone, and the first is active."""
    save_trained(tiny_model, tmp_path / "other", r=2, use_dora=True)
    folders = {"first": tiny_adapter, "second": tmp_path / "other"}
    alone = {name: attach_adapter(copy.deepcopy(tiny_model), folder)(TOKENS).logits for name, folder in folders.items()}
    model = attach_adapters(tiny_model, folders)
    assert model.active_adapters == ["first"]
    for name, logits in alone.items():
        model.set_adapter(name)
        torch.testing.assert_close(model(TOKENS).logits, logits, rtol=0, atol=0)
        assert adapter_identity(model, name)["sha256"] == adapter_identity(folders[name])["sha256"]


@pytest.mark.parametrize(
    ("hidden_size", "init", "words"),
    [
        (48, False, r"other' can't be captured: .*its weights have other shapes"),
        (32, "olora", r"its init changes the base weights, under every other adapter too; .* alone"),
    ],
    ids=["doesn't fit", "would change the base"],
)
def test_one_of_several_is_refused(
    tiny_model: Any, tiny_adapter: Path, tmp_path: Path, hidden_size: int, init: Any, words: str
) -> None:
    save_trained(
        llama(tiny_model.config.vocab_size, hidden_size=hidden_size), tmp_path / "other", init_lora_weights=init
    )
    with pytest.raises(AdapterError, match=words):
        attach_adapters(tiny_model, {"first": tiny_adapter, "second": tmp_path / "other"})
    assert not any("lora" in name for name, _ in tiny_model.named_modules())


def test_adapter_on_experts_from_a_file(tmp_path: Path) -> None:
    """Experts' weights are packed into one tensor, whose names changed from version to version."""
    shape = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MixtralForCausalLM(MixtralConfig(**shape, **heads, max_position_embeddings=64)).eval()
    experts = ["experts.gate_up_proj", "experts.down_proj"]
    trained = adapt(model, target_modules=["q_proj"], target_parameters=experts, lora_dropout=0.0)
    folder = tmp_path / "experts"
    trained.save_pretrained(folder, save_embedding_layers=False)
    attached = attach_adapter(copy.deepcopy(model), folder)
    torch.testing.assert_close(attached(TOKENS).logits, trained(TOKENS).logits)
    rewrite(folder, lambda tensors: {key.replace("layers.1.mlp", "layers.1.moe"): v for key, v in tensors.items()})
    refuse(model, folder, "experts")
