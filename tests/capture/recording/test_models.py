"""Other architectures: what is stored is their layers' output, and the base is the plain model's, bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertLMHeadModel,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForSequenceClassification,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    Qwen2MoeConfig,
    Qwen3Config,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from lorascope.capture import CaptureConfig, capture
from lorascope.capture.models.model import is_causal
from lorascope.capture.models.preflight import Preflight, inspect
from lorascope.capture.models.refusal import lora_layers
from lorascope.capture.training.trainer import lora_targets
from lorascope.stores import verify

from ..recorded import adapt, axis, outputs_of, record, stir

WIDE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
HEADS: dict[str, Any] = {key: value for key, value in WIDE.items() if key != "num_key_value_heads"}
ROUTED = {"num_experts_per_tok": 2}
DECODERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (LlamaConfig(vocab_size=300, **WIDE), {}),
    "qwen3": (Qwen3Config(vocab_size=300, head_dim=8, **WIDE), {}),
    "phi3": (Phi3Config(vocab_size=300, **WIDE), {}),
    "gemma3": (Gemma3TextConfig(vocab_size=300, head_dim=8, **WIDE), {"target_modules": ["embed_tokens", "q_proj"]}),
    "gpt2": (
        GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=1),
        {"target_modules": ["wte", "c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    ),
    "gpt_neox": (GPTNeoXConfig(vocab_size=300, **HEADS), {}),
    "opt": (
        OPTConfig(
            vocab_size=300, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=128, word_embed_proj_dim=32,
        ),
        {},
    ),
    "mixtral": (
        MixtralConfig(vocab_size=300, num_local_experts=4, **ROUTED, **WIDE),
        {"target_modules": ["q_proj", "v_proj"]},
    ),
    "qwen2_moe": (
        Qwen2MoeConfig(
            vocab_size=300, num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16,
            **ROUTED, **WIDE,
        ),
        {"target_modules": "all-linear"},
    ),
}  # fmt: skip
BERT: dict[str, Any] = {"vocab_size": 300, **HEADS}
OTHERS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "masked": (BertForMaskedLM, BertConfig(**BERT), {"target_modules": ["query", "value", "dense", "decoder"]}),
    "tokens": (BertForTokenClassification, BertConfig(**BERT), {"task_type": "TOKEN_CLS", "target_modules": ["query"]}),
    "sequences": (
        RobertaForSequenceClassification,
        RobertaConfig(**BERT),
        {"task_type": "SEQ_CLS", "target_modules": ["query", "value"]},
    ),
    "pooled": (
        BertForSequenceClassification,
        BertConfig(**BERT),
        {"task_type": "SEQ_CLS", "target_modules": ["query", "dense"]},
    ),
    "scored": (
        LlamaForSequenceClassification,
        LlamaConfig(vocab_size=300, **WIDE),
        {"task_type": "SEQ_CLS", "target_modules": ["q_proj"]},
    ),
}
INPUTS = {"input_ids": torch.arange(3, 17).reshape(2, 7), "attention_mask": torch.ones(2, 7, dtype=torch.long)}

pytestmark = pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")


def decoder(name: str) -> tuple[Any, dict[str, Any]]:
    config, options = DECODERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    return model, {"target_modules": lora_targets(model), **options}


def other(name: str) -> tuple[Any, dict[str, Any]]:
    model_class, config, options = OTHERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_class(config).eval(), options


def check(plain: Any, options: dict[str, Any]) -> Preflight:
    """All three streams against passes without a recorder, of the adapted model and of the plain one."""
    model = adapt(plain, **options)
    verdicts = [inspect(model, ["default"], stream=stream, probe=INPUTS) for stream in ("adapted", "base", "pair")]
    assert verdicts[0].problems == ()
    assert verdicts[1:] == [verdicts[0]] * 2
    skip = verdicts[0].skipped
    adapted, base, pair = (record(model, INPUTS, stream=s, skip=skip) for s in ("adapted", "base", "pair"))
    paths = axis(adapted.components)
    outputs, true_base = outputs_of(model, INPUTS, paths), outputs_of(plain, INPUTS, paths)
    for path in paths:
        total = adapted.kept.arrays[f"states/{path}/base"] + adapted.delta("default", path)
        # A difference of outputs is the one delta that is itself rounded.
        apart = f"adapters/default/delta/{path}" in adapted.kept.arrays
        torch.testing.assert_close(total, outputs[path], rtol=1e-6 if apart else 0, atol=1e-7 if apart else 0)
        assert torch.equal(base.kept.arrays[f"states/{path}/base"], true_base[path]), path
        assert torch.equal(pair.kept.arrays[f"states/{path}/base"], true_base[path]), path
        assert torch.equal(pair.kept.arrays[f"states/{path}/adapted"], outputs[path]), path
    assert 0 < adapted.recorder.worst_excess <= 1
    return verdicts[0]


@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name: str) -> None:
    model, options = decoder(name)
    assert is_causal(model)
    verdict = check(model, options)
    assert verdict.notes == ()


@pytest.mark.parametrize("name", OTHERS)
def test_encoders_and_classifiers(name: str) -> None:
    model, options = other(name)
    assert not is_causal(model)
    verdict = check(model, options)
    places = {note.kind: note.places for note in verdict.notes}
    assert (
        places
        == {
            "masked": {},
            "tokens": {},
            "sequences": {"skipped": ("classifier",)},
            "pooled": {"skipped": ("bert.pooler.dense", "classifier")},
            "scored": {},
        }[name]
    )
    assert verdict.skipped == (("bert.pooler.dense", "classifier") if name == "pooled" else ())


def test_layers_shared_by_all_depths_are_refused() -> None:
    model = adapt(AlbertForMaskedLM(AlbertConfig(embedding_size=16, **BERT)).eval(), target_modules=["query"])
    (problem,) = inspect(model, ["default"], probe=INPUTS).problems
    assert (problem.kind, problem.place.split(".")[-1]) == ("calls", "query")
    assert "it ran 2 times in one pass, not once" in problem.message


def test_decoder_of_an_encoders_kind_is_causal() -> None:
    assert is_causal(BertLMHeadModel(BertConfig(is_decoder=True, **BERT)))
    assert not is_causal(BertLMHeadModel(BertConfig(**BERT)))


@pytest.mark.parametrize(
    "lora",
    [
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}},
        {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
    ],
    ids=["patterns", "some layers"],
)
def test_what_a_run_holds(lora: dict[str, Any], tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """From the model through the writer to the reader, bit for bit."""
    config = LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, **{"target_modules": lora_targets(tiny_model), **lora}
    )
    adapted: Any = get_peft_model(tiny_model, config)
    stir(adapted)
    adapted.eval()
    (tmp_path / "item.jsonl").write_text('{"id": "a", "question": "2 + 2?", "choices": ["4", "the"], "answer": 1}\n')
    run = capture(
        CaptureConfig(
            model="tiny", adapter="none", data=(str(tmp_path / "item.jsonl"),), out=str(tmp_path / "run"), js_share=1.0
        ),
        model=adapted,
        tokenizer=tiny_tokenizer,
    )
    assert verify(run.path, level="decode").ok
    layers = lora_layers(adapted)
    assert set(run.component_paths) == set(layers)
    ids = torch.from_numpy(run.tokens["token_id"].values[None]).long()
    for path, output in outputs_of(adapted, {"input_ids": ids}, list(layers)).items():
        factor = torch.from_numpy(run.factor(path).values)
        delta = torch.nn.functional.linear(factor, torch.from_numpy(run.lora_B(path).values))
        base = torch.from_numpy(run.base(path).values)
        assert torch.equal(base + delta * layers[path].scaling["default"], output), path
