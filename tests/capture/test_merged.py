"""Merged models that PEFT saved, sound ones and spoilt ones, and what the comparison of their weights says."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

from lorascope.capture import check_merge, compare_merged
from lorascope.capture.errors import AdapterError

from ..tiny import llama, save_gguf

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
FIRST = "model.layers.0.self_attn.q_proj"


def gpt2(**changes: Any) -> Any:
    """GPT-2, whose weights are (input, output), with a tied head."""
    settings = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(**settings | changes)).eval()


def coarse() -> Any:
    """A Llama whose weights lie on a grid, as those of a GGUF file, and not on bfloat16's."""
    model = llama(96, hidden_size=512, num_hidden_layers=1)
    for parameter in model.parameters():
        parameter.data = (parameter.data / 0.0731).round() * 0.0731
    return model


def experts() -> Any:
    """A Mixtral, whose experts are apart in files and together in the model."""
    settings = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = MixtralConfig(vocab_size=96, hidden_size=32, intermediate_size=48, **settings)
        return MixtralForCausalLM(config).eval()


MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: llama(96, head_dim=8),
    "tied": lambda: llama(96, tie_word_embeddings=True),
    "biased": lambda: llama(96, attention_bias=True),
    "gpt2": gpt2,
    "coarse": coarse,
    "experts": experts,
}


def train(model: Any, *, seed: int = 1, size: float = 0.05, **settings: Any) -> PeftModel:
    """The model with an adapter none of whose parts is zero."""
    options = {"r": 4, "lora_alpha": 6, "target_modules": LINEAR, "task_type": "CAUSAL_LM"}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, LoraConfig(**options | settings))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:
                torch.nn.init.normal_(parameter.data, std=size)
            elif "magnitude" in name or "modules_to_save" in name:
                parameter.data *= 1 + 0.1 * torch.randn_like(parameter)
    return adapted


class Case:
    """Folders of a base, an adapter and a merged model."""

    def __init__(
        self, folder: Path, kind: str = "llama", *, dtype: torch.dtype = torch.float32, **settings: Any
    ) -> None:
        self.base, self.adapter, self.merged = folder / "base", folder / "adapter", folder / "merged"
        self.kind, self.dtype = kind, dtype
        self.plain().save_pretrained(self.base)
        train(self.plain(), **settings).save_pretrained(self.adapter)

    def plain(self) -> Any:
        return MODELS[self.kind]().to(self.dtype)

    def attached(self, *, dtype: torch.dtype | None = None, base: Any = None) -> Any:
        return PeftModel.from_pretrained(base or self.plain().to(dtype or self.dtype), str(self.adapter))

    def save(self, model: Any, **options: Any) -> None:
        model.save_pretrained(self.merged, **options)

    def change(self, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
        """Edit the merged model's file."""
        file = self.merged / "model.safetensors"
        tensors = load_file(file)
        edit(tensors)
        save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, file, {"format": "pt"})

    def compared(self) -> Any:
        return compare_merged(self.adapter, str(self.base), self.merged)


def layers(model: Any) -> dict[str, Any]:
    return {path: module for path, module in model.named_modules() if isinstance(module, LoraLayer)}


GPT2 = {"kind": "gpt2", "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
SOUND: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": torch.bfloat16, "size": 0.3},
    "float16": {"dtype": torch.float16},
    "rank-stabilised": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 32}},
    "embedding": {"target_modules": ["embed_tokens", "v_proj", "lm_head"]},
    "gpt2": GPT2,
    "gpt2-dora": {**GPT2, "use_dora": True},
    "tied": {"kind": "tied"},
    "saved-modules": {"modules_to_save": ["lm_head", "norm"]},
    "biases": {"kind": "biased", "target_modules": ["q_proj", "v_proj"], "lora_bias": True},
    "trained-biases": {"kind": "biased", "target_modules": ["q_proj"], "bias": "lora_only"},
    "experts": {"kind": "experts", "target_modules": ["q_proj", "v_proj"]},
    "negative-alpha": {"alpha_pattern": {"q_proj": -3}},
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_merges_are_the_adapter(tmp_path: Path, name: str) -> None:
    case = Case(tmp_path, **SOUND[name])
    case.save(case.attached().merge_and_unload())
    result = case.compared()
    assert result.attrs["verdict"] == "adapter", result.attrs["sentence"]
    assert {*result["verdict"].values.tolist()} == {"adapter"}
    assert result.sizes["other"] == 0
    assert float(result["n_unequal"].sum()) == 0
    n = result.sizes["component"]
    assert result.attrs["sentence"].startswith(
        f"It is the adapter (layers: {n} adapter); {n} bit for bit as PEFT merges here; in "
    )


def shards(case: Case) -> None:
    case.save(case.attached().merge_and_unload(), max_shard_size="20KB")
    assert len([*case.merged.glob("*.safetensors")]) > 2


def safe(case: Case) -> None:
    case.save(case.attached().merge_and_unload(safe_merge=True))


def merged_wide(case: Case) -> None:
    """Merged in float32, then rounded."""
    case.save(case.attached(dtype=torch.float32).merge_and_unload().to(torch.bfloat16))


def merged_narrow(case: Case) -> None:
    """Merged in bfloat16, and saved in float32."""
    case.save(case.attached(dtype=torch.bfloat16).merge_and_unload().float())


def merged_narrow_half(case: Case) -> None:
    """Merged in bfloat16, and saved in float16, for a GPU that has no bfloat16."""
    case.save(case.attached(dtype=torch.bfloat16).merge_and_unload().half())


def half_factors(case: Case) -> None:
    """LoRA's matrices rounded to the base's type, as without PEFT's `autocast_adapter_dtype`."""
    model = PeftModel.from_pretrained(case.plain().bfloat16(), str(case.adapter), autocast_adapter_dtype=False)
    case.save(model.to(torch.bfloat16).merge_and_unload())


def other_order(case: Case) -> None:
    """B A summed in another order, as on another device."""
    model = case.attached()
    for layer in layers(model).values():
        A, B = layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data
        terms = [torch.outer(B[:, k], A[k]) for k in reversed(range(len(A)))]
        layer.base_layer.weight.data += sum(terms[1:], terms[0]) * layer.scaling["default"]
    case.save(model.unload())


@pytest.mark.parametrize(
    "write",
    [shards, safe, merged_wide, merged_narrow, merged_narrow_half, half_factors, other_order],
    ids=lambda f: f.__name__,
)
def test_other_ways_to_merge_are_sound(tmp_path: Path, write: Callable[[Case], None]) -> None:
    case = Case(tmp_path, size=0.3)
    write(case)
    result = case.compared()
    assert result.attrs["verdict"] == "adapter", result.attrs["sentence"]
    narrow = write in (merged_wide, merged_narrow, merged_narrow_half, half_factors)
    assert {*result["dtype"].values.tolist()} == {"bfloat16" if narrow else "float32"}


def merge_by_hand(case: Case, change: Callable[[str, Any, torch.Tensor], torch.Tensor | None]) -> None:
    """Add `change(path, layer, s B A)` to each layer's weight, and save."""
    model = case.attached()
    for path, layer in layers(model).items():
        added = change(path.removeprefix("base_model.model."), layer, layer.get_delta_weight("default"))
        if added is not None:
            layer.base_layer.weight.data += added.to(layer.base_layer.weight.dtype)
    case.save(model.unload())


def left_layer(case: Case) -> None:
    merge_by_hand(case, lambda path, layer, change: None if path == FIRST else change)


def left_kind(case: Case) -> None:
    merge_by_hand(case, lambda path, layer, change: None if path.endswith("v_proj") else change)


def not_merged(case: Case) -> None:
    case.save(case.attached().unload())


def transposed_change(case: Case) -> None:
    merge_by_hand(case, lambda path, layer, change: change.T if path == FIRST else change)


def transposed_factor(case: Case) -> None:
    def transpose(path: str, layer: Any, change: torch.Tensor) -> torch.Tensor:
        A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        return B.T.reshape(B.shape) @ A * layer.scaling["default"] if path == FIRST else change

    merge_by_hand(case, transpose)


def doubled(case: Case) -> None:
    merge_by_hand(case, lambda path, layer, change: 2 * change)


def halved_kind(case: Case) -> None:
    merge_by_hand(case, lambda path, layer, change: change / 2 if path.endswith("o_proj") else change)


def forgotten_scaling(case: Case) -> None:
    merge_by_hand(case, lambda path, layer, change: change / layer.scaling["default"])


def forgotten_root(case: Case) -> None:
    merge_by_hand(case, lambda path, layer, change: change / 2)  # alpha / r, with r = 4


def subtracted(case: Case) -> None:
    merge_by_hand(case, lambda path, layer, change: -change)


def nearly_whole(case: Case) -> None:
    merge_by_hand(case, lambda path, layer, change: 0.99 * change if path == FIRST else change)


def two_adapters(case: Case) -> None:
    model = case.attached()
    train(case.plain(), seed=7).save_pretrained(case.merged.parent / "second")
    model.load_adapter(str(case.merged.parent / "second"), "second")
    model.base_model.set_adapter(["default", "second"])
    case.save(model.merge_and_unload())


def merged_twice(case: Case) -> None:
    once = case.attached().merge_and_unload()
    case.save(case.attached(base=once).merge_and_unload())


def other_adapter(case: Case) -> None:
    case.save(train(case.plain(), seed=7).merge_and_unload())


def other_base(case: Case) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        other = case.plain()
        for parameter in other.parameters():
            parameter.data += 0.01 * torch.randn_like(parameter)
    case.save(case.attached(base=other).merge_and_unload())


def swapped_layers(case: Case) -> None:
    model = case.attached()
    changes = {path: layer.get_delta_weight("default") for path, layer in layers(model).items()}
    for path, layer in layers(model).items():
        other = path.replace("layers.0", "layers.9").replace("layers.1", "layers.0").replace("layers.9", "layers.1")
        layer.base_layer.weight.data += changes[other]
    case.save(model.unload())


def dora_without_magnitude(case: Case) -> None:
    merge_by_hand(case, lambda path, layer, change: change)


def tied_head(case: Case) -> None:
    """PEFT adds a head's change to the embedding that it is tied to."""
    case.save(case.attached().merge_and_unload())


def head_replaced(case: Case) -> None:
    case.save(case.attached().merge_and_unload())
    case.change(lambda tensors: tensors.update({"lm_head.weight": tensors["lm_head.weight"] + 0.01}))


def norm_changed(case: Case) -> None:
    case.save(case.attached().merge_and_unload())
    case.change(lambda tensors: tensors["model.norm.weight"].mul_(1.01))


def tensor_missing(case: Case) -> None:
    case.save(case.attached().merge_and_unload())
    case.change(lambda tensors: tensors.pop(f"{FIRST}.weight"))


def saved_unmerged(case: Case) -> None:
    """The adapted model's own state, whose weights have PEFT's names."""
    case.save(case.attached().merge_and_unload())
    state = {key.removeprefix("base_model.model."): value for key, value in case.attached().state_dict().items()}
    save_file({key: value.clone() for key, value in state.items()}, case.merged / "model.safetensors", {"format": "pt"})


def resized(case: Case) -> None:
    model = case.attached().merge_and_unload()
    model.resize_token_embeddings(101)
    case.save(model)


def not_a_number(case: Case) -> None:
    case.save(case.attached().merge_and_unload())
    case.change(lambda tensors: tensors[f"{FIRST}.weight"][0].fill_(torch.nan))


def single_number(case: Case) -> None:
    case.save(case.attached().merge_and_unload())
    case.change(lambda tensors: tensors[f"{FIRST}.weight"][3, 5].add_(0.001))


def expert_changed(case: Case) -> None:
    case.save(case.attached().merge_and_unload())
    case.change(lambda tensors: tensors["model.layers.0.block_sparse_moe.experts.1.w1.weight"].mul_(1.5))


def expert_missing(case: Case) -> None:
    case.save(case.attached().merge_and_unload())
    case.change(lambda tensors: tensors.pop("model.layers.0.block_sparse_moe.experts.1.w1.weight"))


def overflow(case: Case) -> None:
    """Merged in float16, whose largest number is 65504."""
    case.save(case.attached(dtype=torch.float16).merge_and_unload())


def bfloat16(case: Case) -> None:
    case.save(case.attached(dtype=torch.bfloat16).merge_and_unload())


def eight_bits(case: Case) -> None:
    """Weights on a grid of 255 steps by row, as 8-bit formats have them, but kept in floats."""
    case.save(case.attached().merge_and_unload())

    def quantise(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if "_proj" in key]:
            step = tensors[key].abs().amax(1, keepdim=True) / 127
            tensors[key] = (tensors[key] / step).round() * step

    case.change(quantise)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rms_norm_eps", 0.5), ("num_attention_heads", 2), ("num_hidden_layers", 1), ("use_cache", False)],
)
def test_other_settings_leave_it_open(tmp_path: Path, name: str, value: Any) -> None:
    """Right weights that compute something else are never called the adapter; what changes nothing isn't accused."""
    case = Case(tmp_path)
    case.save(case.attached().merge_and_unload())
    file = case.merged / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    result = case.compared()
    assert result.attrs["verdict"] == ("adapter" if name == "use_cache" else "unknown")
    assert (f"config.json isn't the base's: {name}={value}" in result.attrs["sentence"]) == (name != "use_cache")


TINY = {"size": 1e-4}
# How it is spoilt, settings of the case, the verdict, and those components that aren't the adapter's: their number,
# verdict, `arrived` and a word of the explanation; None for what isn't looked at.
SPOILT: list[tuple[Callable[[Case], None], dict[str, Any], tuple[int, str, float | None, str]]] = [
    (left_layer, {}, (1, "base", 0.0, "")),
    (left_kind, {}, (2, "base", 0.0, "")),
    (not_merged, {}, (12, "base", 0.0, "")),
    (not_merged, {"dtype": torch.bfloat16, "size": 0.3}, (12, "base", 0.0, "")),
    (transposed_change, {}, (1, "else", None, "")),
    (transposed_factor, {}, (1, "else", None, "")),
    (doubled, {}, (12, "scaled", 2.0, "")),
    (doubled, {"dtype": torch.bfloat16, "size": 0.3}, (12, "scaled", 2.0, "")),
    (halved_kind, {}, (2, "scaled", 0.5, "")),
    (forgotten_scaling, {}, (12, "scaled", 4 / 6, "")),
    (forgotten_root, {"use_rslora": True}, (12, "scaled", 0.5, "")),
    (subtracted, {}, (12, "scaled", -1.0, "")),
    (nearly_whole, {}, (1, "scaled", 0.99, "")),
    (two_adapters, {}, (12, "else", None, "")),
    (merged_twice, {}, (12, "scaled", 2.0, "")),
    (other_adapter, {}, (12, "else", None, "")),
    (other_base, {}, (12, "else", None, "")),
    (swapped_layers, {}, (12, "else", None, "")),
    (dora_without_magnitude, {"use_dora": True}, (12, "else", None, "")),
    (tied_head, {"kind": "tied", "target_modules": ["lm_head", "q_proj"]}, (0, "", None, "")),
    (head_replaced, {}, (0, "", None, "")),
    (norm_changed, {}, (0, "", None, "")),
    (tensor_missing, {}, (1, "missing", None, "no such weight")),
    (saved_unmerged, {}, (12, "missing", None, "no such weight")),
    (resized, {}, (0, "", None, "")),
    (not_a_number, {}, (1, "else", None, "NaN")),
    (single_number, {}, (1, "else", None, "")),
    (bfloat16, TINY, (12, "rounded", None, "")),
    (eight_bits, {"size": 0.005}, (12, "else", None, "")),
    (expert_changed, SOUND["experts"], (0, "", None, "")),
    (expert_missing, SOUND["experts"], (0, "", None, "")),
    (overflow, {"size": 3e5, "target_modules": ["q_proj"], "layers_to_transform": [0]}, (1, "else", None, "infinite")),
    (not_merged, {**GPT2, "use_dora": True}, (8, "base", 0.0, "")),
]
OTHERS = {
    other_base: 9, tied_head: 1, head_replaced: 1, norm_changed: 1, saved_unmerged: 36, resized: 2, eight_bits: 2,
    expert_changed: 1, expert_missing: 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "settings", "expected"), SPOILT, ids=[f"{row[0].__name__}{i}" for i, row in enumerate(SPOILT)]
)
def test_spoilt_merges_are_found_and_located(
    tmp_path: Path,
    spoil: Callable[[Case], None],
    settings: dict[str, Any],
    expected: tuple[int, str, float | None, str],
) -> None:
    case = Case(tmp_path, **settings)
    spoil(case)
    result = case.compared()
    n, verdict, arrived, word = expected
    assert result.attrs["verdict"] == ("rounded" if verdict == "rounded" else "not the adapter")
    wrong = result.isel(component=result["verdict"].values != "adapter")
    assert wrong.sizes["component"] == n, wrong.to_dataframe().to_string()
    assert {*wrong["verdict"].values.tolist()} <= {verdict}
    assert all(word in text for text in wrong["explanation"].values)
    if arrived is not None:
        np.testing.assert_allclose(wrong["arrived"], arrived, atol=0.02 if settings.get("dtype") else 1e-4)
    assert result.sizes["other"] == OTHERS.get(spoil, 0), result["other"].values
    if n == 1:
        assert wrong["component"].values.tolist() == [FIRST]
    if spoil is left_kind:
        assert {*wrong["kind"].values.tolist()} == {"v_proj"}


def test_rounding_may_depend_on_when_it_is_done(tmp_path: Path) -> None:
    """Small changes vanish in a rounded base, and not in the sum."""
    case = Case(tmp_path, "coarse", size=0.008, target_modules=["q_proj", "o_proj"])
    merged_wide(case)
    result = case.compared()
    assert result.attrs["verdict"] == "adapter", result.attrs["sentence"]
    replayed = check_merge(case.adapter, str(case.base), "bfloat16")
    assert float(abs(result["arrived"] - replayed["arrived"]).min()) > 0.02
    assert f"in bfloat16, {100 * result.attrs['arrived']:.3g} % of the change arrives" in result.attrs["sentence"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("settings", [{"size": 0.01}, {"use_dora": True}, GPT2], ids=["plain", "dora", "gpt2"])
def test_foretold_merges_have_the_numbers_of_real_ones(tmp_path: Path, dtype: str, settings: dict[str, Any]) -> None:
    case = Case(tmp_path, **settings)
    foretold = check_merge(case.adapter, str(case.base), dtype)
    case.save(case.attached(dtype=getattr(torch, dtype)).merge_and_unload())
    real = case.compared()
    assert {*foretold["dtype"].values.tolist()} == {*real["dtype"].values.tolist()} == {dtype}
    for name in ("arrived", "residual", "size", "n_unequal"):
        np.testing.assert_array_equal(foretold[name], real[name])
    assert foretold["verdict"].values.tolist() == real["verdict"].values.tolist()
    assert f" adapter); in {dtype}, " in foretold.attrs["sentence"]
    # By their definitions, from all of the weights in float64.
    base, exact, merged = (
        model.state_dict()[f"{path}.weight"].double().flatten()
        for path in [foretold["component"].values[0]]
        for model in (case.plain(), case.attached(dtype=torch.float64).merge_and_unload(), real_model(case))
    )
    change, moved = exact - base, merged - base
    arrived = float(moved @ change / (change @ change))
    np.testing.assert_allclose(float(real["arrived"][0]), arrived, rtol=1e-6)
    residual = float((moved - arrived * change).norm() / change.norm())
    np.testing.assert_allclose(float(real["residual"][0]), residual, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(float(real["size"][0]), float(change.norm() / base.norm()), rtol=1e-6)


def real_model(case: Case) -> Any:
    return type(case.plain()).from_pretrained(case.merged)


def test_a_change_below_the_types_steps_is_lost(tmp_path: Path) -> None:
    case = Case(tmp_path, dtype=torch.bfloat16, size=1e-5)
    result = check_merge(case.adapter, str(case.base), "bfloat16")
    assert result.attrs["verdict"] == "rounded"
    assert result.attrs["sentence"].startswith(
        "It would be the adapter, but rounding takes most of it (layers: 12 rounded); in bf"
    )
    assert float(result["arrived"].max()) < 0.5


def test_the_base_may_be_a_gguf_file(tmp_path: Path) -> None:
    from lorascope.capture import load_model

    gguf = save_gguf(tmp_path / "model.gguf")
    model, _ = load_model(str(gguf))
    train(copy.deepcopy(model), target_modules=["q_proj"]).save_pretrained(tmp_path / "adapter")
    PeftModel.from_pretrained(model, str(tmp_path / "adapter")).merge_and_unload().save_pretrained(tmp_path / "merged")
    result = compare_merged(tmp_path / "adapter", str(gguf), tmp_path / "merged")
    assert result.attrs["verdict"] == "adapter"
    assert result["component"].values.tolist() == [FIRST]


def test_what_cannot_be_compared_is_never_fine(tmp_path: Path) -> None:
    case = Case(tmp_path, trainable_token_indices={"embed_tokens": [3, 5]})
    case.save(case.attached().merge_and_unload())
    result = case.compared()
    assert result.attrs["verdict"] == "unknown"
    (row,) = (result.isel(component=i) for i in np.flatnonzero(result["verdict"] == "not compared"))
    assert (str(row["component"].values), str(row["explanation"].values)) == (
        "model.embed_tokens",
        "trained tokens aren't replayed",
    )
    assert result.attrs["sentence"] == "Can't tell whether it is the adapter (layers: 12 adapter, 1 not compared)"


def empty_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[1].write_bytes(b"")


def lost_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[1].unlink()


def broken_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}")


def pickled(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (empty_shard, r"00002-of-\d+.safetensors' can't be loaded: .* is damaged"),
        (lost_shard, r"00002-of-\d+.safetensors' can't be loaded: .*No such file"),
        (broken_index, r"merged' can't be loaded: 'weight_map' \(KeyError\)"),
        (pickled, "give a folder with 'config.json' and safetensors"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_folders(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    case = Case(tmp_path)
    shards(case)
    damage(case.merged)
    with pytest.raises(ValueError, match=message) as raised:
        case.compared()
    assert "\n" not in str(raised.value)


def test_weights_behind_links_and_out_of_an_index(tmp_path: Path) -> None:
    """Transformers reads links, as the hub's cache has, and only files that an index names."""
    case = Case(tmp_path)
    shards(case)
    linked, index = tmp_path / "linked", case.merged / "model.safetensors.index.json"
    linked.mkdir()
    for file in case.merged.iterdir():
        (linked / file.name).symlink_to(file)
    assert compare_merged(case.adapter, str(case.base), linked).attrs["verdict"] == "adapter"
    places = json.loads(index.read_text())["weight_map"]
    first = places[f"{FIRST}.weight"]
    kept = {key: file for key, file in places.items() if file != first}
    index.write_text(json.dumps({"weight_map": kept}))
    result = case.compared()
    assert result.attrs["verdict"] == "not the adapter"
    assert FIRST in result["component"].values[result["verdict"].values == "missing"].tolist()


def test_mistakes(tmp_path: Path) -> None:
    case = Case(tmp_path)
    with pytest.raises(ValueError, match="`merged` is .*; give a folder with 'config.json' and safetensors"):
        case.compared()
    with pytest.raises(ValueError, match="`dtype` is 'int4'"):
        check_merge(case.adapter, str(case.base), "int4")
    llama(96, num_hidden_layers=1).save_pretrained(tmp_path / "small")
    with pytest.raises(AdapterError, match="made for another one"):
        check_merge(case.adapter, str(tmp_path / "small"), "float32")
    path = case.adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": "pissa"}))
    with pytest.raises(AdapterError, match="the init 'pissa' of adapter .* changed its base, and isn't replayed"):
        check_merge(case.adapter, str(case.base), "float32")
