"""The recorder: what it hands on, when it refuses, and that nothing of it stays behind."""

import math
from types import MethodType
from typing import Any

import pytest
import torch
from peft import LoraConfig

from lorascope.capture.errors import CaptureError
from lorascope.capture.models.components import find_components
from lorascope.capture.models.passes import Pass, stream_passes
from lorascope.capture.models.refusal import lora_layers
from lorascope.capture.recording.hooks import Recorder, _largest_values
from lorascope.capture.recording.reduce import Reduced, jensen_shannon, reduce_tokens
from lorascope.capture.recording.sink import PROVED_TOKENS, excess, proved

from ..recorded import Kept, adapt, axis, outputs_of, record, starts, stir

INPUTS = {"input_ids": torch.arange(3, 17).reshape(2, 7), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
QUERY = "model.layers.0.self_attn.q_proj"


def hooks_on(model: Any) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def two_adapters(tiny_model: Any) -> Any:
    model = adapt(tiny_model)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model.add_adapter("other", LoraConfig(r=3, target_modules=["q_proj", "up_proj"], use_rslora=True))
        stir(model)
    return model.eval()


@pytest.mark.parametrize("stream", ["adapted", "base", "pair"])
def test_arrays_of_a_stream(tiny_model: Any, stream: str) -> None:
    found = record(adapt(tiny_model), INPUTS, stream=stream)
    paths = axis(found.components)
    states = {"base", "adapted"} if stream == "pair" else {"base"}
    assert set(found.kept.arrays) == {f"states/{path}/{name}" for path in paths for name in states}
    assert [start for _, start in sorted(found.kept.factors)] == list(range(0, 4 * len(paths), 4))
    names = {name.rsplit("/", 1)[1] for name, _ in found.kept.measured}
    assert names == {"js", "swallowed"}
    assert {column for _, column in found.kept.measured} == set(range(len(paths)))


@pytest.mark.parametrize("stream", ["adapted", "base"])
def test_js_is_that_of_base_and_delta(tiny_model: Any, stream: str) -> None:
    model = adapt(tiny_model)
    found = record(model, INPUTS, stream=stream, every=3)
    for column, path in enumerate(axis(found.components)):
        base, delta = found.kept.arrays[f"states/{path}/base"][::3], found.delta("default", path)[::3]
        js = found.kept.measured["adapters/default/js", column]
        torch.testing.assert_close(js, jensen_shannon(base, delta), rtol=1e-6, atol=0)


def test_proofs_of_the_base_stream_run_each_adapter(tiny_model: Any) -> None:
    model = two_adapters(tiny_model)
    components = {name: find_components(model, name) for name in ("default", "other")}
    recorder = Recorder(components, stream="base")
    assert [proof.passes for proof in recorder.proofs] == [(Pass("adapted", "default"),), (Pass("adapted", "other"),)]
    for proof in recorder.proofs:
        target: Any = Kept((2, 7))
        with proof.attached(), proof.passes[0].enabled(model), proof.recording(target, proof.passes[0]):
            model(**INPUTS)
        assert 0 < proof.worst_excess <= 1
    assert Recorder({"default": components["default"]}).proofs == ()


@pytest.mark.parametrize("stream", ["adapted", "base", "pair"])
@pytest.mark.parametrize(
    "options", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}], ids=["plain", "dora", "saved"]
)
def test_reducer_sees_the_measures_of_base_and_delta(tiny_model: Any, stream: str, options: dict[str, Any]) -> None:
    model = adapt(tiny_model, **options)
    seen: dict[tuple[int, str], Reduced] = {}

    def reduce(_: Any, index: int, adapter: str, reduced: Reduced) -> None:
        assert (index, adapter) not in seen
        seen[index, adapter] = reduced

    found = record(model, INPUTS, stream=stream, reducer=reduce)
    paths = axis(found.components)
    assert set(seen) == {(index, "default") for index in range(len(paths))}
    for index, path in enumerate(paths):
        base = found.kept.arrays[f"states/{path}/base"]
        delta = found.kept.arrays[f"states/{path}/adapted"] - base if stream == "pair" else found.delta("default", path)
        for measure, expected in zip(seen[index, "default"], reduce_tokens(base, delta), strict=True):
            assert torch.equal(measure, expected)
    assert {name.rsplit("/", 1)[1] for name, _ in found.kept.measured} <= {"swallowed"}


@pytest.mark.parametrize("reducer", [None, lambda *_: None])
def test_a_pair_holds_no_more_memory_than_its_values(tiny_model: Any, reducer: Any) -> None:
    """A slice of an output would keep all of it."""
    model = adapt(tiny_model, target_modules=["q_proj"])
    components = {"default": find_components(model, "default")}
    recorder = Recorder(components, stream="pair", factor_start=starts(components), reducer=reducer)
    first = recorder.passes[0]
    kept: Any = Kept(tuple(INPUTS["input_ids"].shape), every=7)
    with recorder.attached(), first.enabled(model), recorder.recording(kept, first), torch.inference_mode():
        model(**INPUTS)
    assert len(recorder._pair_bases) == 2
    assert all(held.untyped_storage().nbytes() == held.nbytes for held in recorder._pair_bases.values())


def test_swallowed_share(tiny_model: Any) -> None:
    """Of a delta of 1e-4 of the base, bfloat16 keeps little; float32 keeps all."""
    for dtype, low, high in ((torch.bfloat16, 0.8, 1.0), (torch.float32, 0.0, 0.05)):
        model = adapt(tiny_model.to(dtype))
        for layer in lora_layers(model).values():
            layer.set_scale("default", 1e-4)
        shares = [
            torch.stack(
                [v for (name, _), v in record(model, INPUTS, stream=s).kept.measured.items() if "swallowed" in name]
            )
            for s in ("adapted", "base")
        ]
        assert all(low <= float(share.mean()) <= high for share in shares)


def test_hooks_are_gone_afterwards(tiny_model: Any) -> None:
    model = adapt(tiny_model)
    recorder = Recorder({"default": find_components(model, "default")})
    with recorder.attached():
        assert hooks_on(model) > 0
    with pytest.raises(KeyError), recorder.attached():
        raise KeyError
    assert hooks_on(model) == 0


@pytest.mark.parametrize("stream", ["adapted", "base"])
def test_pass_that_does_not_run(tiny_model: Any, stream: str) -> None:
    model = adapt(tiny_model)
    recorder = Recorder({"default": find_components(model, "default")}, stream=stream)
    target: Any = Kept((2, 7))
    words = r"hook on the base of '.*' fired 0 times in one pass, not once; .*compiled"
    with (
        pytest.raises(CaptureError, match=words),
        recorder.attached(),
        recorder.recording(target, recorder.passes[0]),
    ):
        pass


@pytest.mark.parametrize("stream", ["adapted", "base", "pair"])
def test_layer_that_runs_twice(tiny_model: Any, stream: str) -> None:
    model = adapt(tiny_model)
    layer = lora_layers(model)[QUERY]
    plain = layer.forward
    layer.forward = lambda x: (plain(x), plain(x))[1]
    with pytest.raises(CaptureError, match=rf"hook on the base of '{QUERY}' fired 2 times in one pass"):
        record(model, INPUTS, stream=stream)


@pytest.mark.parametrize("what", ["base", "factor"])
def test_fused_kernel_that_passes_a_module_by(tiny_model: Any, what: str) -> None:
    """Unsloth's and Liger's forwards compute with the weights themselves."""
    model = adapt(tiny_model)
    layer = lora_layers(model)[QUERY]

    def fused(self: Any, x: torch.Tensor) -> torch.Tensor:
        base = self.base_layer(x) if what == "factor" else x @ self.base_layer.weight.T
        z = x @ self.lora_A["default"].weight.T if what == "factor" else self.lora_A["default"](x)
        return base + z @ self.lora_B["default"].weight.T * self.scaling["default"]

    layer.forward = MethodType(fused, layer)
    with pytest.raises(CaptureError, match=rf"hook on the {what} of '{QUERY}' fired 0 times"):
        record(model, INPUTS)


def test_something_else_adds_to_a_layer(tiny_model: Any) -> None:
    model = adapt(tiny_model)
    layer = lora_layers(model)[QUERY]
    plain = layer.forward
    layer.forward = lambda x: plain(x) + 1e-3
    with pytest.raises(CaptureError, match=rf"output of '{QUERY}' isn't its base plus delta: off by .* times what"):
        record(model, INPUTS)
    with pytest.raises(CaptureError, match=rf"output of '{QUERY}' isn't its base plus delta: off by inf times what"):
        record(model, INPUTS, stream="base")


@pytest.mark.parametrize("output", [("a tuple",), None], ids=["tuple", "shape"])
def test_outputs_that_cannot_be_placed(tiny_model: Any, output: Any) -> None:
    model = adapt(tiny_model)
    layer = lora_layers(model)[QUERY]
    plain = layer.base_layer.forward
    layer.base_layer.forward = lambda x: output or plain(x).transpose(0, 1)
    words = rf"base of '{QUERY}' is a tuple, not a tensor" if output else rf"'{QUERY}' outputs \(7, 2\) tokens for a"
    with pytest.raises(CaptureError, match=words):
        record(model, INPUTS)


def test_in_place_edits_after_the_hook_change_nothing(tiny_model: Any) -> None:
    """What later code does to an output must not reach what was taken; here the model zeroes the base and the sum."""
    model = adapt(tiny_model, target_modules=["q_proj"], layers_to_transform=[1])
    path = "model.layers.1.self_attn.q_proj"
    layer = lora_layers(model)[path]
    expected = record(model, INPUTS, stream="pair")
    layer.register_forward_hook(lambda m, a, output: output.zero_())
    kept = record_with_later_hook(model, layer)
    for name in ("base", "adapted"):
        assert torch.equal(kept.arrays[f"states/{path}/{name}"], expected.kept.arrays[f"states/{path}/{name}"])
    js = "adapters/default/js", 0
    assert torch.equal(kept.measured[js], expected.kept.measured[js])


def record_with_later_hook(model: Any, layer: Any) -> Kept:
    """Recorded with the layer's own hooks coming after the recorder's."""
    own = dict(layer._forward_hooks)
    layer._forward_hooks.clear()
    components = {"default": find_components(model, "default")}
    recorder = Recorder(components, stream="pair", factor_start={"default": [0]})
    kept = Kept((2, 7))
    with recorder.attached(), torch.inference_mode():
        layer._forward_hooks.update(own)
        for pass_ in recorder.passes:
            with pass_.enabled(model), recorder.recording(kept, pass_):  # type: ignore[arg-type]
                model(**INPUTS)
    return kept


def test_a_failed_pair_holds_nothing(tiny_model: Any) -> None:
    model = adapt(tiny_model)
    recorder = Recorder({"default": find_components(model, "default")}, stream="pair")
    target: Any = Kept((2, 7))
    first, second = recorder.passes
    with recorder.attached():
        with first.enabled(model), recorder.recording(target, first):
            model(**INPUTS)
        assert recorder._pair_bases != {}
        with pytest.raises(KeyError), second.enabled(model), recorder.recording(target, second):
            raise KeyError
    assert recorder._pair_bases == {}


def test_passes_leave_the_model_as_it_was(tiny_model: Any) -> None:
    model = two_adapters(tiny_model)
    model.set_adapter("other")
    flags = [(name, p.requires_grad) for name, p in model.named_parameters()]
    before = outputs_of(model, INPUTS, [QUERY])[QUERY]
    for pass_ in (Pass("base", None), Pass("adapted", "default")):
        with pass_.enabled(model):
            assert not torch.equal(outputs_of(model, INPUTS, [QUERY])[QUERY], before)
            layer = lora_layers(model)[QUERY]
            assert (layer.disable_adapters, layer.active_adapters) == (
                (True, ["other"]) if pass_.adapter is None else (False, ["default"])
            )
    assert torch.equal(outputs_of(model, INPUTS, [QUERY])[QUERY], before)
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == flags


@pytest.mark.parametrize(
    ("stream", "adapters", "words"),
    [
        ("both", ["a"], r"`stream` is 'both'; allowed are 'adapted', 'base' and 'pair'"),
        ("adapted", ["a", "b"], r"stream 'adapted' has adapters \['a', 'b'\]; it takes exactly one adapter"),
        ("pair", [], r"stream 'pair' has adapters \[\]; it takes exactly one adapter"),
        ("base", [], r"stream 'base' has adapters \[\]; it takes at least one adapter"),
    ],
)
def test_streams_and_their_adapters(stream: str, adapters: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        stream_passes(stream, adapters)


ONCE: Any = {"n_roundings": 1, "dtype": torch.float32}


def test_proof_has_room_for_rounding_alone() -> None:
    base, delta = torch.full((1, 4), 256.0), torch.full((1, 4), 0.75)
    total = base.bfloat16(), delta, delta.double()
    assert float(excess(*total, (base + delta).bfloat16(), **ONCE)) <= 1
    assert float(excess(*total, base.bfloat16() + 4, **ONCE)) > 1


@pytest.mark.parametrize(("base", "out", "fine"), [(float("inf"), float("nan"), True), (1.0, float("nan"), False)])
def test_what_is_not_finite(base: float, out: float, fine: bool) -> None:
    """A layer that overflows by itself is the model's own affair; a sum that is lost isn't."""
    one = torch.ones(1, 2)
    assert (float(excess(one * base, one, one.double(), one * out, **ONCE)) <= 1) == fine


def test_few_tokens_are_proved() -> None:
    none = torch.empty(0, 3)
    assert float(excess(none, none, none.double(), none, **ONCE)) == 0
    for n in (0, 1, PROVED_TOKENS, PROVED_TOKENS + 1, 100_000):
        chosen = proved(torch.zeros(n, 1))
        assert min(n, PROVED_TOKENS // 3) <= len(chosen) <= PROVED_TOKENS
        assert chosen.untyped_storage().nbytes() == 4 * len(chosen)


def test_largest_values_of_scalars_and_tokens() -> None:
    """A layer that processes split has one value, others have one for each token."""
    one, tokens = torch.tensor(0.5), torch.tensor([0.1, 2.0])
    assert _largest_values([one, tokens, tokens - 1, one * torch.nan])[:3] == [0.5, 2.0, 1.0]
    assert math.isnan(_largest_values([tokens, one * torch.nan])[1])
    assert _largest_values([]) == []
