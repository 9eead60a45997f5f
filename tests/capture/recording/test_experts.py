"""LoRA on experts: base and delta of a block are those of the block written out, expert by expert."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload  # type: ignore[import-untyped]  # it has no stubs
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import (
    AXK1Config,
    AXK1ForCausalLM,
    Cohere2MoeConfig,
    Cohere2MoeForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
)

from lorascope import analyze, stores
from lorascope.capture import CaptureConfig, capture
from lorascope.capture.errors import CaptureError
from lorascope.capture.merged import compare_merged
from lorascope.capture.models.adapter import attach_adapter
from lorascope.capture.models.components import exclusion_reason, find_components
from lorascope.capture.models.experts import ARGUMENTS
from lorascope.capture.models.passes import Pass
from lorascope.capture.models.preflight import Preflight, inspect
from lorascope.capture.models.refusal import AdapterError, split_problems
from lorascope.capture.recording import expert_sums
from lorascope.capture.recording.expert_sums import arrived_shares, count_judged
from lorascope.capture.recording.hooks import Recorder
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.training.callback import KIND, measure_miub
from lorascope.cli.main import main

from ...analyze.miub.test_experts import require_definition
from ...mixtures import KINDS, mixture
from ...stores.on_disk import unfinish
from ...tiny import SHAPE, save_model
from ..conftest import RANKS
from ..mixtures import (
    DOWN,
    GATE_UP,
    INNER,
    adapt_experts,
    block_paths,
    routing,
    wrappers_of,
    written_block,
    written_choices,
)
from ..recorded import Kept, adapt, inputs_of, record

INPUTS = {"input_ids": torch.arange(3, 43).reshape(2, 20), "attention_mask": torch.ones(2, 20, dtype=torch.long)}
IMPLEMENTATIONS = [(kind, name) for kind in KINDS[:3] for name in ("eager", "grouped_mm", "batched_mm")]
ADAPTED = Pass("adapted", "default")
ROUNDINGS = {torch.float32: 8.0, torch.bfloat16: 4.0}
"""Largest difference from the written-out block, in eps of the output's type times the size of what experts put out."""


def blocks_of(model: Any) -> dict[str, Any]:
    return {path: model.get_base_model().get_submodule(path) for path in block_paths(model)}


def outputs_of_blocks(model: Any, pass_: Pass = ADAPTED) -> dict[str, torch.Tensor]:
    """Outputs (flat token, feature) of the blocks of a bare pass."""
    seen: dict[str, torch.Tensor] = {}

    def keep(path: str, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        seen[path] = states.flatten(0, -2).clone()

    handles = [
        block.register_forward_hook(lambda module, args, output, path=path: keep(path, output))
        for path, block in blocks_of(model).items()
    ]
    with pass_.enabled(model), torch.inference_mode():
        model(**INPUTS)
    for handle in handles:
        handle.remove()
    return seen


def distance(a: torch.Tensor, b: torch.Tensor, size: torch.Tensor, dtype: torch.dtype) -> float:
    off: torch.Tensor = (a.double() - b.double()).norm(dim=-1) / (torch.finfo(dtype).eps * size)
    return float(off.max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("kind", "implementation"), [*IMPLEMENTATIONS, ("llama4", None)])
def test_base_and_delta_of_a_block(kind: str, implementation: str | None, dtype: torch.dtype) -> None:
    model = adapt_experts(mixture(kind).to(dtype))
    if implementation:
        model.get_base_model().set_experts_implementation(implementation)
    adapted, pair = (record(model, INPUTS, stream=stream) for stream in ("adapted", "pair"))
    outputs, plain = outputs_of_blocks(model), outputs_of_blocks(model, Pass("base", None))
    inputs = inputs_of(model, INPUTS, block_paths(model))
    components = {component.path: component for component in adapted.components["default"]}
    assert [*components] == [f"{path}.{name}" for path in block_paths(model) for name in (DOWN, GATE_UP)]
    for path, component in components.items():
        block_path, name = path.removesuffix(f".{component.kind}"), component.kind.removeprefix("experts.")
        block = blocks_of(model)[block_path]
        assert (component.d_in, component.d_out) == (INNER if name == "down_proj" else 32, 32)
        assert (component.rank, component.scaling, component.delta_source) == (3, 2.0, "difference")
        x = inputs[block_path].flatten(0, -2)
        with torch.no_grad():
            total, size = written_block(kind, block, x)
            own_base, _ = written_block(kind, block, x, off={name})
        base = adapted.kept.arrays[f"states/{path}/base"]
        delta = adapted.delta("default", path)
        assert distance(outputs[block_path], total, size, dtype) < ROUNDINGS[dtype]
        assert distance(base, own_base, size, dtype) < ROUNDINGS[dtype]
        assert distance(delta, total - own_base, size, dtype) < ROUNDINGS[dtype]
        assert delta.norm() > 20 * torch.finfo(dtype).eps * size.norm()
        torch.testing.assert_close(base.float() + delta, outputs[block_path].float(), rtol=1e-6, atol=1e-7)
        assert adapted.kept.measured["adapters/default/js", [*components].index(path)].min() > 0
        assert torch.equal(pair.kept.arrays[f"states/{path}/base"], plain[block_path])
        assert torch.equal(pair.kept.arrays[f"states/{path}/adapted"], outputs[block_path])
        assert torch.equal(pair.delta("default", path), delta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("kind", "implementation"), [*IMPLEMENTATIONS, ("llama4", None)])
def test_a_block_again_is_the_block_bit_for_bit(kind: str, implementation: str | None, dtype: torch.dtype) -> None:
    model = adapt_experts(mixture(kind).to(dtype))
    if implementation:
        model.get_base_model().set_experts_implementation(implementation)
    for name, parameter in model.named_parameters():
        if "experts.lora_B" in name:  # of the outer wrapper, around down_proj
            torch.nn.init.zeros_(parameter)
    kept, outputs = record(model, INPUTS).kept, outputs_of_blocks(model)
    for path, output in outputs.items():
        assert torch.equal(kept.arrays[f"states/{path}.{DOWN}/base"], output)
        assert not kept.arrays[f"adapters/default/delta/{path}.{DOWN}"].any()
        assert kept.arrays[f"adapters/default/delta/{path}.{GATE_UP}"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_only_tokens_of_an_expert_have_its_delta(kind: str) -> None:
    model = adapt_experts(mixture(kind), [DOWN])
    with torch.no_grad():
        for block in blocks_of(model).values():
            (block.experts.lora_B if kind != "llama4" else block.experts.lora_A)["default"].weight.zero_()
            if kind == "llama4":
                block.experts.lora_A["default"].weight[3 * 1 :][:3] = 0.3
            else:
                block.experts.lora_B["default"].weight[:, 1::5] = 0.3
    kept, inputs = record(model, INPUTS).kept, inputs_of(model, INPUTS, block_paths(model))
    for path, block in blocks_of(model).items():
        chosen, _ = routing(kind, block, inputs[path].flatten(0, -2))
        delta = kept.arrays[f"adapters/default/delta/{path}.{DOWN}"]
        assert torch.equal(delta.ne(0).any(-1), chosen.eq(1).any(-1))
        assert delta.any()


@pytest.mark.parametrize("target", [GATE_UP, DOWN])
@pytest.mark.parametrize("stream", ["adapted", "pair"])
def test_one_parameter_alone(target: str, stream: str) -> None:
    model = adapt_experts(mixture("mixtral"), [target])
    verdict = inspect(model, ["default"], stream=stream, probe=INPUTS)
    assert verdict == Preflight((), (), ())
    kept = record(model, INPUTS, stream=stream).kept
    for path, output in outputs_of_blocks(model, Pass("base", None)).items():
        first = path == block_paths(model)[0]  # later ones have other input in a pass with the adapter
        assert torch.equal(kept.arrays[f"states/{path}.{target}/base"], output) == (first or stream == "pair")


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")
def test_router_and_attention_are_adapted_too() -> None:
    """`all-linear` is what users bring; the router's adapter stays on while a block runs again."""
    model = adapt(mixture("mixtral"), target_modules="all-linear", r=2)
    verdict = inspect(model, ["default"], probe=INPUTS)
    assert verdict.problems == ()
    (note,) = verdict.notes
    assert note.places == ("model.layers.0.mlp.gate", "model.layers.1.mlp.gate")
    assert "which isn't captured: `target_parameters` are put into the weight; only experts'" in note.message
    kinds = {component.kind for component in find_components(model, "default")}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", DOWN, GATE_UP}
    kept = record(model, INPUTS).kept
    for path, output in outputs_of_blocks(model).items():
        for name in (DOWN, GATE_UP):
            base, delta = (
                kept.arrays[f"{start}{path}.{name}{end}"]
                for start, end in (("states/", "/base"), ("adapters/default/delta/", ""))
            )
            torch.testing.assert_close(base + delta, output, rtol=1e-6, atol=1e-7)


def test_pair_has_one_component_for_each_block() -> None:
    model = adapt_experts(mixture("llama4"))
    verdict = inspect(model, ["default"], stream="pair", probe=INPUTS)
    left_out = tuple(f"{path}.{GATE_UP}" for path in block_paths(model))
    assert (verdict.problems, verdict.skipped) == ((), left_out)
    (note,) = verdict.notes
    assert (note.kind, note.places) == ("skipped", left_out)
    assert "in stream 'pair' it has the numbers of its block's other parameter" in note.message


SIZES = {"intermediate_size": 40, "num_experts_per_tok": 2, "num_key_value_heads": 4, "vocab_size": 300}
GROUPS = {"moe_intermediate_size": 24, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
AVERAGED = {"num_experts": 8, "num_shared_experts": 1, "first_k_dense_replace": 1, "head_dim": 8}


@pytest.mark.parametrize(
    ("config", "model_type"),
    [
        (DeepseekV3Config(**SHAPE | SIZES | GROUPS | LATENT), DeepseekV3ForCausalLM),  # groups, and shared experts
        (AXK1Config(**SHAPE | SIZES | GROUPS | LATENT), AXK1ForCausalLM),  # a norm after the experts
        (Cohere2MoeConfig(**SHAPE | SIZES | AVERAGED), Cohere2MoeForCausalLM),  # an average with shared experts
    ],
)
def test_another_mixture(config: Any, model_type: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = model_type(config).eval()
    model = adapt_experts(plain)
    assert inspect(model, ["default"], probe=INPUTS) == Preflight((), (), ())
    recorded = record(model, INPUTS)
    assert 0 < recorded.recorder.worst_excess < 0.5
    for shares in map(arrived_shares, recorded.recorder.experts.sums.values()):
        assert shares.isfinite().sum() >= 6  # of 8; to others too few tokens are routed
        assert shares.sub(1).abs().nan_to_num(0).max() < 1e-3
    assert [c.layer for c in recorded.components["default"]] == [1, 1]
    ((path, output),) = outputs_of_blocks(model).items()
    (plain_output,) = outputs_of_blocks(model, Pass("base", None)).values()
    for name in (DOWN, GATE_UP):
        delta = recorded.kept.arrays[f"adapters/default/delta/{path}.{name}"]
        torch.testing.assert_close(recorded.kept.arrays[f"states/{path}.{name}/base"] + delta, output)
        assert delta.norm() > 0.01 * plain_output.norm()


def plant(wrapper: Any, how: str) -> None:
    """Make PEFT pair experts with other rows of A or columns of B than their own."""

    def factors(name: str) -> Any:
        a, b, n = wrapper.lora_A[name].weight, wrapper.lora_B[name].weight, wrapper.num_experts
        rows, columns = a.reshape(n, -1, a.shape[1]), b.reshape(len(b), -1, n).permute(2, 0, 1)
        if how == "B expert after expert":
            columns = b.reshape(len(b), n, -1).permute(1, 0, 2)
        elif how == "A rank after rank":
            rows = a.reshape(-1, n, a.shape[1]).transpose(0, 1)
        elif how == "exchanged":
            columns = columns[[0, 2, 1, *range(3, n)]]
        elif how == "one is another's":
            columns = columns[[0, 1, 2, 0, *range(4, n)]]
        if not wrapper._did_swap_in_out_features:
            rows, columns = columns.transpose(1, 2), rows.transpose(1, 2)
        dtype = wrapper.get_param().dtype
        return columns.to(dtype), rows.to(dtype), wrapper.scaling[name]

    wrapper.get_delta_factors = factors


def named_experts(error: str) -> dict[str, set[int]]:
    """Component -> the experts that a message names."""
    found = re.findall(r"experts of '([^']+)' \(share of their delta that arrives, not 1: ([^)]*)\)", error)
    return {path: {int(expert) for expert in re.findall(r"expert (\d+)", experts)} for path, experts in found}


MANY = {"input_ids": torch.randint(3, 300, (4, 60), generator=torch.Generator().manual_seed(1))}
FAULTS = {
    "none": set(),
    "B expert after expert": {0, 1, 2, 3, 4},
    "A rank after rank": {0, 1, 2, 3, 4},
    "exchanged": {1, 2},
    "one is another's": {3},
}


@pytest.mark.parametrize("how", FAULTS)
@pytest.mark.parametrize("parameter", [DOWN, GATE_UP])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_delta_is_the_experts_own(kind: str, dtype: torch.dtype, parameter: str, how: str) -> None:
    """`B expert after expert` is what unsloth-zoo's issue 1269 was about."""
    model = adapt_experts(mixture(kind).to(dtype), lora_alpha=2)
    plant(wrapper_of(model, 1, parameter), how)
    if how == "none":
        recorder = record(model, MANY).recorder
        assert 0 < recorder.worst_excess < 0.5
        shares = torch.stack([*map(arrived_shares, recorder.experts.sums.values())])
        assert shares.sub(1).abs().nan_to_num(0).max() < (0.01 if dtype == torch.float32 else 0.3)
        assert shares.isfinite().sum() >= (20 if dtype == torch.float32 else 18)
        return
    with pytest.raises(CaptureError, match="don't add their own rows of A and columns of B") as error:
        record(model, MANY)
    named = named_experts(str(error.value))
    path = f"model.layers.1.{'feed_forward' if kind == 'llama4' else 'mlp'}.{parameter}"
    assert named[path] <= FAULTS[how]
    assert {*named} == {path}


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_deltas_of_a_hundredth_of_base_are_found_in_bfloat16(kind: str) -> None:
    model = adapt_experts(mixture(kind).to(torch.bfloat16), lora_alpha=0.25 if kind == "llama4" else 0.15)
    right = record(model, MANY)
    for component in right.components["default"]:
        base = right.kept.arrays[f"states/{component.path}/base"].float()
        assert 0.0095 < right.delta("default", component.path).norm() / base.norm() < 0.02
    plant(wrapper_of(model, 1, GATE_UP), "B expert after expert")
    with pytest.raises(CaptureError, match=r"experts of 'model.layers.1.*gate_up_proj' .share of their delta"):
        record(model, MANY)


def test_many_experts_and_what_the_error_says() -> None:
    model = adapt_experts(mixture("qwen3", n_experts=32), lora_alpha=2)
    assert 0 < record(model, MANY).recorder.worst_excess < 0.5
    plant(wrapper_of(model, 0, DOWN), "B expert after expert")
    with pytest.raises(CaptureError) as error:
        record(model, MANY)
    number = r"-?\d\.\d\d"
    words = (
        rf"experts of '{PATH}' .share of their delta that arrives, not 1: expert \d+ {number}, expert \d+ {number}, "
        rf"expert \d+ {number}, \d+ others. don't add their own rows of A and columns of B: they are paired with other "
        "experts'; look at the code that loads or runs the adapter"
    )
    assert re.fullmatch(words, str(error.value))


def test_experts_with_few_tokens_in_a_pass_are_judged_later() -> None:
    model = adapt_experts(mixture("mixtral").to(torch.bfloat16), [DOWN], lora_alpha=0.15)
    plant(wrapper_of(model, 1, DOWN), "exchanged")
    components = {"default": find_components(model, "default")}
    recorder, counts = Recorder(components), []

    def record_pairs() -> None:
        for start in range(4, 300, 2):
            with ADAPTED.enabled(model), recorder.recording(Kept((1, 2)), ADAPTED):  # type: ignore[arg-type]
                model(input_ids=torch.tensor([[start, start + 1]]))
            counts.append(count_judged(recorder.experts.sums[PATH.replace("0", "1")])["judged"])

    with recorder.attached(), torch.inference_mode(), pytest.raises(CaptureError, match="expert [12] "):
        record_pairs()
    assert counts[0] == 0 < counts[-1]


def test_experts_whose_output_is_changed() -> None:
    """By a factor on all experts alike, the shares stay near 1, and the norms don't."""
    model = adapt_experts(mixture("mixtral"), [DOWN])
    block = [*blocks_of(model).values()][1]
    block.experts.register_forward_hook(lambda module, args, output: output * 1.01)
    with pytest.raises(CaptureError, match=f"output of '{PATH.replace('0', '1')}' isn't its base plus delta: off by"):
        record(model, MANY)


@pytest.mark.parametrize("in_place", [False, True])
def test_what_comes_after_the_experts_is_in_the_delta_of_the_block(in_place: bool) -> None:
    model = adapt_experts(mixture("mixtral"), [DOWN])
    before = record(model, MANY).kept
    block = [*blocks_of(model).values()][1]
    block.register_forward_hook(lambda module, args, output: output.mul_(2) if in_place else output * 2)
    after = record(model, MANY).kept
    for path in (f"states/{LAST}/base", f"adapters/default/delta/{LAST}"):
        assert torch.equal(after.arrays[path], 2 * before.arrays[path])


def test_experts_that_are_called_by_keyword() -> None:
    model = adapt_experts(mixture("mixtral"), [DOWN])
    before = record(model, MANY).kept
    for block in blocks_of(model).values():
        block.experts.register_forward_pre_hook(
            lambda module, args, kwargs: (args[:1], dict(zip(ARGUMENTS[1:], args[1:], strict=True))), with_kwargs=True
        )
    after = record(model, MANY).kept
    assert after.arrays.keys() == before.arrays.keys()
    assert all(torch.equal(after.arrays[path], values) for path, values in before.arrays.items())
    assert all(torch.equal(after.measured[key], values) for key, values in before.measured.items())


def test_infinite_bases_are_no_fault_of_the_adapter() -> None:
    model = adapt_experts(mixture("mixtral"), [DOWN])
    with torch.no_grad():
        wrapper_of(model, 1, DOWN).get_base_layer().down_proj[2].fill_(torch.inf)
    assert 0 < record(model, MANY).recorder.worst_excess < 0.5


def wrapper_of(model: Any, layer: int, parameter: str) -> Any:
    block = [*blocks_of(model).values()][layer]
    return wrappers_of(block)[parameter.removeprefix("experts.")]


PATH, LAST = (f"model.layers.{layer}.mlp.{DOWN}" for layer in (0, 1))


def test_stream_base_is_refused() -> None:
    problems = inspect(adapt_experts(mixture("qwen3"), [DOWN]), ["default"], stream="base", probe=INPUTS).problems
    assert [problem.place for problem in problems] == [PATH, PATH.replace("0", "1")]
    assert problems[0].message == (
        "the delta of experts can't be computed in a base pass; capture stream 'adapted' or 'pair'"
    )


def spoil_class(experts: Any) -> None:
    del experts.has_gate


def spoil_gate(experts: Any) -> None:
    experts.has_gate = False


def spoil_norm(experts: Any) -> None:
    experts.has_post_expert_norm = True


def spoil_processes(experts: Any) -> None:
    experts._is_expert_parallel = True


def spoil_dtype(experts: Any) -> None:
    experts.down_proj = torch.nn.Parameter(experts.down_proj.to(torch.float8_e4m3fn), requires_grad=False)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_class, "how a MixtralExperts and the block around it compute isn't known"),
        (spoil_gate, "how a MixtralExperts and the block around it compute isn't known"),
        (spoil_norm, "how a MixtralExperts and the block around it compute isn't known"),
        (spoil_processes, "expert parallel gives each process other experts"),
        (spoil_dtype, "its experts are quantised"),
    ],
)
def test_experts_that_are_left_out(spoil: Any, reason: str) -> None:
    model = adapt_experts(mixture("mixtral"), [DOWN])
    wrapper = wrapper_of(model, 0, DOWN)
    assert exclusion_reason(PATH, wrapper) is None
    spoil(wrapper.get_base_layer())
    assert exclusion_reason(PATH, wrapper) == reason
    assert [c.path for c in find_components(model, "default")] == [PATH.replace("0", "1")]
    (note,) = inspect(model, ["default"]).notes
    assert note.places == (PATH,)
    assert reason in note.message


def test_experts_without_a_block_of_their_own() -> None:
    """As in Gemma 4, whose decoder layers call the experts themselves."""
    wrapper = wrapper_of(adapt_experts(mixture("mixtral"), [DOWN]), 0, DOWN)
    words = "how a MixtralExperts and the block around it compute isn't known"
    assert exclusion_reason(f"model.layers.0.{DOWN}", wrapper) == words


def test_biases_of_experts_are_refused() -> None:
    """What is computed expert by expert doesn't know them."""
    model = adapt_experts(mixture("gptoss"), ["experts.down_proj_bias", GATE_UP])
    problems = inspect(model, ["default"], probe=INPUTS).problems
    assert [problem.place for problem in problems] == [f"{path}.experts.down_proj_bias" for path in block_paths(model)]
    assert (
        problems[0].message
        == "it is LoRA on a bias of experts, which can't be captured; take an adapter on their weights alone"
    )


def test_offloaded_experts_are_refused() -> None:
    model = adapt_experts(mixture("mixtral"), [DOWN])
    experts = wrapper_of(model, 0, DOWN).get_base_layer()
    cpu_offload(experts, execution_device=torch.device("cpu"))
    (problem,) = inspect(model, ["default"], probe=INPUTS).problems
    assert problem.place == PATH
    assert problem.message.startswith("PEFT merges it into the experts' weights, which are offloaded here; load")


def test_weights_that_are_split_over_processes() -> None:
    (problem,) = split_problems(LoraConfig(target_parameters=[DOWN]))
    assert problem.place == "target_parameters"
    assert problem.message == (
        "PEFT adds it to the frozen weights, which are split over processes here; capture it in one process"
    )


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")
def test_a_file_with_a_pair_for_each_expert(tmp_path: Path) -> None:
    """As of transformers 4, where each expert was a module."""
    layers = [f"model.layers.{i}.block_sparse_moe.experts.{e}" for i in (0, 1) for e in range(5)]
    sizes = {"w1": (32, INNER), "w2": (INNER, 32), "w3": (32, INNER)}
    pairs = [(f"base_model.model.{path}.{name}", *size) for path in layers for name, size in sizes.items()]
    weights = {f"{path}.lora_A.weight": torch.ones(3, d_in) for path, d_in, _ in pairs}
    weights |= {f"{path}.lora_B.weight": torch.ones(d_out, 3) for path, _, d_out in pairs}
    LoraConfig(r=3, target_modules=[*sizes], task_type="CAUSAL_LM").save_pretrained(tmp_path)
    save_file(weights, tmp_path / "adapter_model.safetensors")
    words = "it has one A and B for each expert, whose weights are one here; load it with PEFT and save it again"
    with pytest.raises(AdapterError, match=words) as error:
        attach_adapter(mixture("mixtral"), tmp_path)
    assert "it lacks weights" not in str(error.value)


def test_importance_is_refused(tiny_tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The old fox")
    config = CaptureConfig(
        model="m",
        adapter="a",
        data=(str(tmp_path / "text.txt"),),
        out=str(tmp_path / "run"),
        importance=1,
        window_tokens=64,
    )
    with pytest.raises(ValueError, match=f"`importance` is 1, but '{PATH}' is a weight of experts, whose gradients"):
        capture(config, model=adapt_experts(mixture("mixtral")), tokenizer=tiny_tokenizer)
    assert not (tmp_path / "run").exists()


def test_zero_b_is_named_by_its_parameter() -> None:
    model = adapt_experts(mixture("mixtral"))
    inner = wrapper_of(model, 0, GATE_UP)
    torch.nn.init.zeros_(inner.lora_B["default"].weight)
    (note,) = inspect(model, ["default"]).notes
    assert (note.kind, note.places) == ("zero", (f"model.layers.0.mlp.{GATE_UP}",))


@pytest.mark.parametrize("kind", KINDS)
def test_miub_in_training(kind: str, tiny_items: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = adapt_experts(mixture(kind))
    samples = encode_items(tiny_items, tiny_tokenizer, max_length=256, window_tokens=64)
    found = measure_miub(model, samples)
    options: dict[str, Any] = {"tokenizer": tiny_tokenizer, "js_share": 1.0, "window_tokens": 64, "changes": "none"}
    run = capture(model, tiny_items, tmp_path / "run", **options)
    assert found["miub"] == pytest.approx(float(analyze.miub(run)["miub"]), rel=1e-5)
    assert found[f"{KIND}{DOWN}"] + found[f"{KIND}{GATE_UP}"] == pytest.approx(found["miub"], rel=1e-12)
    # Weights in float32 whose products are in bfloat16: as a training in mixed precision has them.
    with torch.autocast("cpu", torch.bfloat16):
        assert measure_miub(model, samples)["miub"] == pytest.approx(found["miub"], rel=0.1)
        plant(wrapper_of(model, 0, DOWN), "B expert after expert")
        with pytest.raises(CaptureError, match="don't add their own rows of A"):
            measure_miub(model, samples)


def test_rows_that_are_missing_are_filled_with_the_same_bytes(
    tiny_tokenizer: Any, tmp_path: Path, content: Any
) -> None:
    model = adapt_experts(mixture("mixtral"))
    (tmp_path / "text.txt").write_text("The old fox sees the red tree. 12+7=19; " * 60)
    options: dict[str, Any] = {"tokenizer": tiny_tokenizer, "window_tokens": 128, "batch_tokens": 512}
    whole = capture(model, str(tmp_path / "text.txt"), tmp_path / "whole", **options)
    assert whole.n_rows == 3
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    unfinish(tmp_path / "run", 0, 2)
    for path in ("mlp/expert", "mlp.experts.down_proj/js", "mlp.experts.down_proj/z"):
        for chunk in (tmp_path / f"run/experts/model.layers.0.{path}").glob("c.0*"):
            chunk.unlink()
    assert capture(model, str(tmp_path / "text.txt"), tmp_path / "run", **options).finished
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_deltas_below_rounding_are_not_judged_and_named(
    tiny_tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = mixture("qwen3")
    save_model(tmp_path / "model", plain, tiny_tokenizer)
    adapt_experts(plain, [DOWN], lora_alpha=0.0005).save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    (tmp_path / "text.txt").write_text("The old fox sees the red tree. 12+7=19; ")
    names = [word for name in ("model", "adapter") for word in (f"--{name}", str(tmp_path / name))]
    files = ["--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "run"), "--window-tokens", "64"]
    assert main(["capture", *names, *files, "--dtype", "bfloat16"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "note: whether all experts add their own delta can't be judged, by few tokens or deltas below" in words
    counts = stores.open_run(tmp_path / "run").attributes["measured"]["experts"]
    assert {n["judged"] for n in counts.values()} == {0}
    assert all(n["with_tokens"] > 0 for n in counts.values())


@pytest.mark.parametrize("kind", ["mixtral", "gptoss"])
def test_merged_experts_are_not_compared(kind: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Under the names in the files, which for Mixtral are those of single experts."""
    plain = mixture(kind)
    save_model(tmp_path / "model", plain, tiny_tokenizer)
    model = adapt_experts(plain, target_modules=["q_proj"])
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    result = compare_merged(tmp_path / "adapter", str(tmp_path / "model"), tmp_path / "merged")
    verdicts = dict(zip(result["component"].values, result["verdict"].values, strict=True))
    attention = {f"model.layers.{i}.self_attn.q_proj": "adapter" for i in (0, 1)}
    experts = {f"model.layers.{i}.mlp.{name}": "not compared" for i in (0, 1) for name in (DOWN, GATE_UP)}
    assert verdicts == attention | experts
    assert result.attrs["verdict"] == "unknown"
    assert result.sizes["other"] == 0


@pytest.mark.slow
def test_two_processes_write_what_one_writes(launch: Any, tiny_tokenizer: Any, tmp_path: Path, content: Any) -> None:
    plain = mixture("gptoss")
    save_model(tmp_path / "model", plain, tiny_tokenizer)
    adapt_experts(plain).save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    (tmp_path / "text.txt").write_text("The old fox sees the red tree. 12+7=19; " * 60)
    (tmp_path / "ranks.py").write_text(RANKS)
    options = ["--model", "model", "--adapter", "adapter", "--data", "text.txt", "--window-tokens", "128"]
    for out, n_ranks in (("one", 1), ("two", 2)):
        done = launch(n_ranks, "ranks.py", *options, "--batch-tokens", "512", "--out", out)
        assert done.returncode == 0, done.stderr[-3000:]
    assert content(tmp_path / "one") == content(tmp_path / "two")
    one, two = (stores.open_run(tmp_path / name).attributes["measured"] for name in ("one", "two"))
    assert one["experts"] == two["experts"]
    assert set(one["experts"]) == {f"model.layers.{i}.mlp.{name}" for i in (0, 1) for name in (DOWN, GATE_UP)}
    assert all(0 < n["judged"] <= n["with_tokens"] <= 5 for n in one["experts"].values())


MEASURES = ("js", "base_norm", "delta_norm", "z")


@pytest.mark.parametrize("n_values", [expert_sums.MEASURED_VALUES, 1], ids=["at once", "by token"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_measures_of_each_chosen_expert(
    kind: str, dtype: torch.dtype, n_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expert_sums, "MEASURED_VALUES", n_values)
    model = adapt_experts(mixture(kind).to(dtype))
    measured, rtol = record(model, INPUTS).kept.measured, 1e-6 if dtype == torch.float32 else 0.01
    inputs = inputs_of(model, INPUTS, block_paths(model))
    for path, block in blocks_of(model).items():
        x = inputs[path].flatten(0, -2)
        chosen, weights = routing(kind, block, x)
        assert torch.equal(measured[f"experts/{path}/expert", 0], chosen)
        torch.testing.assert_close(measured[f"experts/{path}/weight", 0], weights.float(), rtol=rtol, atol=0)
        for name in ("down_proj", "gate_up_proj"):
            for measure, expected in written_choices(kind, block, x, name).items():
                own = measured[f"experts/{path}.experts.{name}/{measure}", 0].double()
                expected = expected.flatten(1)
                error = (own - expected).norm() / expected.norm()
                assert error < (2e-6 if dtype == torch.float32 else 0.02), measure


def test_pair_stores_the_routing_of_both_passes() -> None:
    model = adapt(mixture("qwen3"), r=3, target_modules=["q_proj"], target_parameters=[DOWN])
    measured = record(model, INPUTS, stream="pair", skip=()).kept.measured
    for prefix, pass_ in (("base_", Pass("base", None)), ("", ADAPTED)):
        with pass_.enabled(model):
            inputs = inputs_of(model, INPUTS, block_paths(model))
        for path, block in blocks_of(model).items():
            chosen, weights = routing("qwen3", block, inputs[path].flatten(0, -2))
            assert torch.equal(measured[f"experts/{path}/{prefix}expert", 0], chosen)
            torch.testing.assert_close(measured[f"experts/{path}/{prefix}weight", 0], weights, rtol=1e-6, atol=0)
    both = [measured[f"experts/{path}/{prefix}weight", 0] for prefix in ("base_", "")]
    assert not torch.equal(*both)


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")
def test_routing_is_that_of_an_adapted_router() -> None:
    model = adapt(mixture("mixtral"), target_modules="all-linear", r=2)
    measured = record(model, INPUTS).kept.measured
    seen: dict[str, Any] = {}
    handles = [
        block.experts.register_forward_hook(lambda module, args, output, path=path: seen.__setitem__(path, args))
        for path, block in blocks_of(model).items()
    ]
    with torch.inference_mode():
        model(**INPUTS)
    for handle in handles:
        handle.remove()
    for path, block in blocks_of(model).items():
        x, chosen, weights = seen[path]
        assert torch.equal(measured[f"experts/{path}/expert", 0], chosen)
        assert torch.equal(measured[f"experts/{path}/weight", 0], weights)
        assert not torch.equal(chosen, routing("mixtral", block, x)[0])  # without the router's adapter


@pytest.mark.parametrize("stream", ["adapted", "pair"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_capture(kind: str, stream: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """From folders through the writer to MIUB."""
    plain = mixture(kind)
    save_model(tmp_path / "model", plain, tiny_tokenizer)
    model = adapt_experts(plain)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    (tmp_path / "text.txt").write_text("The old fox sees the red tree. 12+7=19; 3+4=7; " * 4)
    settings: dict[str, Any] = {
        "model": str(tmp_path / "model"),
        "adapter": str(tmp_path / "adapter"),
        "stream": stream,
    }
    run = capture(
        CaptureConfig(**settings, data=(str(tmp_path / "text.txt"),), out=str(tmp_path / "run"), window_tokens=64)
    )
    assert stores.verify(run.path, level="decode").problems == ()
    names = (DOWN, GATE_UP) if stream == "adapted" else (DOWN,)
    assert [*run.component_paths] == [f"{path}.{name}" for path in block_paths(model) for name in names]
    assert {*run.components["kind"].values} == {*names}
    result = analyze.miub(run)
    assert float(result["miub"]) > 0
    require_definition(run, result, analyze.experts(run, result))
    for path in run.component_paths:
        experts = run.experts(path)
        applied_to = "input" if kind == "llama4" else "output"
        assert experts.attrs == {"n_experts": 5, "applied_to": applied_to}
        n_choices = 1 if kind == "llama4" else 2
        assert experts["expert"].shape == (len(run.tokens["token_id"]), n_choices)
        assert experts["z"].shape == (*experts["expert"].shape, 3)
        assert all(np.isfinite(experts[name]).all() for name in ("weight", *MEASURES))
        assert ("base_expert" in experts) == (stream == "pair")
    # A model that was loaded whole is the same one.
    memory = capture(
        CaptureConfig(**settings, data=(str(tmp_path / "text.txt"),), out=str(tmp_path / "again"), window_tokens=64),
        model=model,
        tokenizer=tiny_tokenizer,
    )
    path = run.component_paths[0]
    assert run.experts(path).identical(memory.experts(path))
    assert (run.base(path).values == memory.base(path).values).all()
    assert (run.delta(path).values == memory.delta(path).values).all()
