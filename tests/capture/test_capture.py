import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lorascope.analyze import miub
from lorascope.capture import AdapterError, CaptureConfig, CaptureError, CaptureProgress, attach_adapter, capture, plan
from lorascope.capture.models.model import model_identity
from lorascope.capture.models.refusal import lora_layers
from lorascope.stores import Run, StoreError, open_run, verify

from ..tiny import save_model
from .recorded import adapt, outputs_of, padded_batches


def forward_again(
    model: Any, run: Run, tokenizer: Any, items: Any
) -> Iterator[tuple[slice, torch.Tensor, dict[str, torch.Tensor], torch.Tensor]]:
    """Each batch of the run once more: place on the token axis, mask, outputs of layers and head, and token ids."""
    batch_tokens = run.attributes["provenance"]["settings"]["batch_tokens"]
    starts = np.concatenate([[0], run.samples["token_stop"].values])
    paths = ["lm_head", *(path for layer in lora_layers(model) for path in (layer, f"{layer}.base_layer"))]
    for batch, inputs in padded_batches(items, tokenizer, batch_tokens):
        mask = inputs["attention_mask"]
        outputs = {path: out.unflatten(0, mask.shape) for path, out in outputs_of(model, inputs, paths).items()}
        yield slice(int(starts[batch.start]), int(starts[batch.stop])), mask.bool(), outputs, inputs["input_ids"]


def test_float32_base_plus_delta_is_the_layers_output_bit_for_bit(
    make: Any, adapted: Any, tiny_tokenizer: Any, tiny_items: Any
) -> None:
    run = make(batch_tokens=300)
    layers = lora_layers(adapted)
    n_batches = 0
    for tokens, mask, seen, _ in forward_again(adapted, run, tiny_tokenizer, tiny_items):
        n_batches += 1
        for path, layer in layers.items():
            base = torch.from_numpy(run.base(path)[tokens].values)
            assert torch.equal(base, seen[f"{path}.base_layer"][mask])
            # Rebuilt in the captured batch shape, padding included: a matrix product's bits depend on its shape.
            factor = torch.zeros(*mask.shape, 4)
            factor[mask] = torch.from_numpy(run.factor(path)[tokens].values)
            weight = torch.from_numpy(run.lora_B(path).values)
            delta = torch.nn.functional.linear(factor, weight) * layer.scaling["default"]
            assert torch.equal(base + delta[mask], seen[path][mask])
            # In NumPy, whatever its BLAS: 1e-6 of the larger part.
            stored = run.lora(path)[tokens].values
            scale = np.maximum(np.abs(base.numpy()), np.abs(delta[mask].numpy()))
            assert (np.abs(stored - seen[path][mask].numpy()) <= 1e-6 * scale + 1e-9).all()
    assert n_batches > 1


def test_half_precision_base_is_bit_identical(
    make: Any, tiny_model: Any, tiny_adapter: Path, tiny_tokenizer: Any, tiny_items: Any
) -> None:
    dtype = torch.bfloat16
    run = make(dtype=dtype)
    model = attach_adapter(copy.deepcopy(tiny_model).to(dtype), tiny_adapter)
    for tokens, mask, seen, _ in forward_again(model, run, tiny_tokenizer, tiny_items):
        for path in run.component_paths:
            expected = seen[f"{path}.base_layer"][mask]
            assert expected.dtype == dtype
            assert torch.equal(torch.from_numpy(run.base(path)[tokens].values), expected.float())
            # base + delta, rounded as the layer rounds, is the layer's output; a sum on a tie may fall either way.
            rounded = torch.from_numpy(run.lora(path)[tokens].values).to(dtype)
            assert (rounded != seen[path][mask]).float().mean() < 1e-3
    assert set(run.components["dtype"].values) == {str(dtype).removeprefix("torch.")}
    swallowed = run.reduction("swallowed").values
    assert np.isfinite(swallowed).all()  # every token is measured here
    assert ((swallowed >= 0) & (swallowed < 1)).all()


def test_store_bf16_narrows_by_choice_and_says_so(make: Any) -> None:
    exact, narrow = make("a"), make("b", store="bf16")
    path = exact.component_paths[3]
    expected = torch.from_numpy(exact.base(path).values).bfloat16().float()
    assert torch.equal(torch.from_numpy(narrow.base(path).values), expected)
    assert narrow.base(path).attrs["source_dtype"] == "float32"
    assert narrow.base(path).attrs["dtype_logical"] == "bfloat16"
    assert np.array_equal(narrow.delta(path).values, exact.delta(path).values)


def test_nll_and_token_table_follow_the_models_logits(
    make: Any, adapted: Any, tiny_tokenizer: Any, tiny_items: Any
) -> None:
    run = make(batch_tokens=200)
    for tokens, mask, seen, input_ids in forward_again(adapted, run, tiny_tokenizer, tiny_items):
        expected = -torch.log_softmax(seen["lm_head"].double()[:, :-1], -1).gather(-1, input_ids[:, 1:, None])[..., 0]
        whole = torch.full(mask.shape, torch.nan, dtype=torch.float64)
        whole[:, 1:] = expected
        np.testing.assert_allclose(run.tokens["nll"].values[tokens], whole[mask].numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(run.tokens["token_id"].values[tokens], input_ids[mask].numpy())
    assert run.tokens["text"].values[0] == "<s>"
    answers = run.tokens["nll"][run.tokens["role"].values == 2]
    owners = run.tokens["sample"].values[run.tokens["role"].values == 2]
    means = [answers.values[owners == sample].mean() for sample in range(run.samples.sizes["sample"])]
    np.testing.assert_allclose(means, run.samples["ce"].values, rtol=1e-5)


def test_selection_keeps_the_same_states(make: Any) -> None:
    whole, answer = make("a"), make("b", tokens="answer")
    path = whole.component_paths[0]
    kept = whole.tokens["role"].values == 2
    assert answer.n_tokens == kept.sum()
    np.testing.assert_array_equal(answer.base(path).values, whole.base(path).values[kept])
    np.testing.assert_array_equal(answer.js().values, whole.js().values[kept])
    assert verify(answer.path).ok


def test_batches_change_float32_only_by_rounding(make: Any) -> None:
    one, many = make("a", batch_tokens=1), make("b", batch_tokens=5000)
    for path in one.component_paths:
        np.testing.assert_allclose(one.base(path).values, many.base(path).values, rtol=1e-4, atol=2e-5)


def test_captures_of_the_same_are_equal_byte_for_byte(make: Any) -> None:
    first, second = make("a"), make("b")
    files = sorted(f.relative_to(first.path) for f in first.path.rglob("c.*"))
    assert files
    assert all((first.path / f).read_bytes() == (second.path / f).read_bytes() for f in files)
    assert first.attributes["fingerprint"] == second.attributes["fingerprint"]
    assert make("c", seed=1, js_share=0.5).attributes["fingerprint"] != first.attributes["fingerprint"]


def test_several_rows_and_a_share_of_js(make: Any, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the question is the answer 4 four times; " * 120)
    run = make(data=(str(text),), window_tokens=200, js_share=0.1, batch_tokens=900)
    assert run.n_rows > 2
    assert verify(run.path).ok
    js = run.js().values
    measured = np.isfinite(js).all(axis=1)
    assert measured.sum() == int(np.ceil(0.1 * run.n_tokens))
    # Each under its own token, also where a batch crosses a row.
    fidelity = miub(run).attrs
    assert fidelity["fidelity_n"] == measured.sum() * len(run.component_paths)
    assert fidelity["fidelity_max"] < 1e-5
    assert not np.isfinite(js[~measured]).any()
    assert (run.samples["answer"].values == -1).all()
    assert set(run.tokens["role"].values) == {0, 4}  # <s>, then text
    assert run.choices.sizes["choice"] == 0
    assert (run.samples["prompt"].values == "text").all()


def test_model_is_left_as_it_was(make: Any, adapted: Any) -> None:
    adapted.train()
    adapted.base_model.model.model.layers[0].eval()
    modes = [module.training for module in adapted.modules()]
    gradients = [p.requires_grad for p in adapted.parameters()]
    make(model=adapted)
    assert [module.training for module in adapted.modules()] == modes
    assert [p.requires_grad for p in adapted.parameters()] == gradients
    assert not any(module._forward_hooks for module in adapted.modules())
    assert adapted.active_adapters == ["default"]


def test_progress_tells_every_stage(make: Any) -> None:
    calls: list[CaptureProgress] = []
    make(progress=calls.append, batch_tokens=200)
    stages = ["check", "score", "score base", "hash weights", "set up", "capture"]  # the model is given
    assert list(dict.fromkeys(p.stage for p in calls)) == stages
    assert {p.stage for p in calls if p.units == "steps"} == {"check", "hash weights", "set up"}
    last = {p.stage: p for p in calls}
    assert all(p.done == p.total for p in last.values())
    assert {p.waits_for for p in calls} <= {"forward", "copy", "encode", "disk"}


def test_limit_is_recorded_as_an_omission(make: Any, data: Path) -> None:
    run = make(limit=2)
    assert run.samples["id"].values.tolist() == ["a", "b"]
    assert run.attributes["provenance"]["omitted_items"] == {str(data): 4}


def test_measurements_are_kept(make: Any) -> None:
    measured = make(measure_overhead=True).attributes["measured"]
    assert measured["raw_bytes"] > measured["stored_bytes"] > 0
    assert measured["seconds"] > 0
    assert measured["bare_seconds"] > 0
    assert measured["overhead"] > 0
    assert measured["worst_excess"] <= 1


# What is refused, and that nothing is written then.


def refuse(make: Any, tmp_path: Path, error: type[Exception], words: str, **options: Any) -> None:
    with pytest.raises(error, match=words):
        make("refused", **options)
    assert not (tmp_path / "refused").exists()


def test_folder_with_something_else_in_it_is_refused_first(make: Any, tmp_path: Path) -> None:
    (tmp_path / "run.zarr").mkdir()
    (tmp_path / "run.zarr/letter.txt").write_text("mine")
    with pytest.raises(StoreError, match="run.zarr"):
        make()
    assert [file.name for file in (tmp_path / "run.zarr").iterdir()] == ["letter.txt"]


def test_zero_adapter_is_refused_unless_asked_for(make: Any, adapted: Any, tmp_path: Path) -> None:
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    refuse(make, tmp_path, AdapterError, "zero", model=adapted)
    run = make(model=adapted, allow_zero=True)
    assert (run.js().values == 0).all()


def test_merged_model_is_left_untouched(make: Any, adapted: Any, tmp_path: Path) -> None:
    """PEFT would unmerge it on the way, with rounding."""
    adapted.base_model.disable_adapter_layers()
    refuse(make, tmp_path, AdapterError, "disabled", model=adapted)
    adapted.base_model.enable_adapter_layers()
    adapted.merge_adapter()
    before = {name: parameter.clone() for name, parameter in adapted.named_parameters()}
    refuse(make, tmp_path, AdapterError, "merged", model=adapted, stream="pair")
    assert all(torch.equal(parameter, before[name]) for name, parameter in adapted.named_parameters())
    assert all(layer.merged for layer in lora_layers(adapted).values())


def test_gradient_checkpointing_runs_no_layer_twice(make: Any, adapted: Any) -> None:
    plain = make("plain")
    adapted.train()
    enable = getattr(adapted, "activation_checkpointing_enable", None) or adapted.gradient_checkpointing_enable
    enable()  # renamed within transformers 5
    run = make("checkpointed", model=adapted)
    for path in plain.component_paths:
        np.testing.assert_array_equal(run.base(path).values, plain.base(path).values)
        np.testing.assert_array_equal(run.delta(path).values, plain.delta(path).values)


def test_residual_base_is_told_in_the_run(tiny_model: Any, tiny_tokenizer: Any, data: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    adapt(tiny_model, init_lora_weights="pissa", target_modules=["q_proj"]).save_pretrained(tmp_path / "pissa")
    config = CaptureConfig(
        model=str(tmp_path / "model"),
        adapter=(str(tmp_path / "pissa"),),
        data=(str(data),),
        out=str(tmp_path / "run.zarr"),
    )
    provenance = capture(config).attributes["provenance"]
    assert provenance["model"]["sha256"] == model_identity(tiny_model, "x")["sha256"]
    assert provenance["adapters"]["default"]["base"] == "residual base"
    assert [note["kind"] for note in provenance["preflight"]] == ["residual"]


@pytest.mark.parametrize("given", ["model", "folder"])
def test_base_weights_that_are_not_finite_are_noted(
    given: str, make: Any, tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, data: Path, tmp_path: Path
) -> None:
    with torch.no_grad():
        tiny_model.model.layers[1].mlp.up_proj.weight[3, 4:6] = torch.nan
        tiny_model.model.norm.weight[2] = torch.inf
    save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    settings = {"data": (str(data),), "out": str(tmp_path / "run.zarr"), "score": False, "limit": 2}
    config = CaptureConfig(model=str(tmp_path / "model"), adapter=(str(tiny_adapter),), **settings)
    model = attach_adapter(tiny_model, tiny_adapter) if given == "model" else None
    run = capture(config, model=model, tokenizer=tiny_tokenizer if given == "model" else None)
    (note,) = [note for note in run.attributes["provenance"]["preflight"] if "NaN" in note["message"]]
    assert note["kind"] == "base"
    assert note["message"].startswith("3 numbers in 2 of the base model's weights are NaN or infinite, and so are")
    assert note["places"] == ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
    if given == "folder":
        planned = plan(dataclasses.replace(config, out=str(tmp_path / "planned.zarr")))
        assert [[*n.places] for n in planned.notes if n.message == note["message"]] == [note["places"]]
        json.dumps(planned.as_dict())
        unread = plan(dataclasses.replace(config, out=str(tmp_path / "planned.zarr")), probe=False)
        assert not [n for n in unread.notes if "NaN" in n.message]


def test_another_model_and_equal_choices_are_told(make: Any, tiny_adapter: Path, data: Path, tmp_path: Path) -> None:
    path = tiny_adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "someone/large"}))
    item = {"id": "q", "question": "2 + 2?", "choices": ["4", "3", "4"], "answer": 2}
    tied = tmp_path / "tied.jsonl"
    tied.write_text(json.dumps(item))
    run = make(data=(str(data), str(tied)))
    notes = {note["kind"]: note["message"] for note in run.attributes["provenance"]["preflight"]}
    assert set(notes) == {"base", "data"}
    assert (
        "'default' was made for 'someone/large' by its `base_model_name_or_path`, and 'tiny' is captured"
        in (notes["base"])
    )
    assert f"1 of 1 items of '{tied}' have equal choices, 'q' the first of them; of equal likel" in notes["data"]
    assert int(run.samples["prediction"][-1]) in {0, 1}


def test_dora_of_a_zero_row(make: Any, tiny_model: Any, tmp_path: Path) -> None:
    """Its norm is zero, so PEFT divides by it: not stored, nor blamed on half precision."""
    tiny_model.model.layers[0].self_attn.q_proj.weight.data[0] = 0
    model = adapt(tiny_model, use_dora=True, target_modules=["q_proj"])
    layer: Any = lora_layers(model)["model.layers.0.self_attn.q_proj"]
    layer.lora_B["default"].weight.data[0] = 0
    for score in (True, False):
        refuse(make, tmp_path, CaptureError, "DoRA divides by the norm of a zero row", model=model, score=score)


def test_queue_too_small_is_refused_before_anything_is_scored(make: Any, tmp_path: Path) -> None:
    def report(progress: Any) -> None:
        if progress.stage != "check":
            pytest.fail(f"{progress.stage} had begun")

    refuse(make, tmp_path, ValueError, "`queue` is 1000 bytes, but a batch fills", queue="1kB", progress=report)


def test_layer_that_sees_tokens_in_another_order_is_caught(make: Any, adapted: Any, tmp_path: Path) -> None:
    """Time before batch, as some models have it: every number is right, and would stand under the wrong token."""
    mlp = adapted.base_model.model.model.layers[0].mlp
    original = mlp.forward
    mlp.forward = lambda x: original(x.transpose(0, 1)).transpose(0, 1)
    refuse(make, tmp_path, AdapterError, "only layers that keep .sequence, position. can be captured", model=adapted)


def test_place_that_can_not_be_written_is_refused_first(make: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="`out` is .*, but `.*file` is a file; name another place"):
        make("file/run.zarr")
    make("run.zarr")
    with pytest.raises(ValueError, match="`out` is .*, inside the store `.*run.zarr`; name a place outside of it"):
        make("run.zarr/inner.zarr")


def test_layer_that_goes_past_its_modules_is_caught_by_the_probe(make: Any, adapted: Any, tmp_path: Path) -> None:
    layer: Any = lora_layers(adapted)["model.layers.0.mlp.up_proj"]
    layer.forward = lambda x: torch.nn.functional.linear(x, layer.base_layer.weight)
    refuse(
        make, tmp_path, CaptureError, "hook on the base of 'model.layers.0.mlp.up_proj' fired 0 times", model=adapted
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data": ()}, "`data` is empty; name at least one file"),
        ({"tokens": "first"}, "`tokens` is 'first'; allowed are"),
        ({"dtype": "float8"}, "`dtype` is 'float8'; allowed are 'auto', 'float32', .*; did you mean"),
        ({"adapter": "a/b=."}, r"`adapter` is 'a/b=.'; a name has letters, digits and `_`"),
        ({"prompt": ()}, "`prompt` is empty; name at least one, such as 'main'"),
        ({"answer_tokens": -1}, "`answer_tokens` is -1; give at least 0"),
        ({"answer_tokens": 3, "score": False}, "`answer_tokens` is 3, but `score` is off"),
        ({"seed": -1}, "`seed` is -1"),
        ({"window_tokens": 1}, "`window_tokens` is 1"),
        ({"js_share": 0.0}, "`js_share` is 0.0; it must be above 0 and at most 1"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CaptureConfig(**{"model": "m", "adapter": "a", "data": ("d",), "out": "o", **settings})


KILLED = textwrap.dedent(
    """
    import os, signal, sys, copy
    from lorascope.capture import CaptureConfig, capture, load_model, attach_adapter
    from lorascope.capture.buffers import rows
    original = rows.RowQueue.put
    def put(self):
        original(self)
        if self._taken > 2500:
            self.drain()
            os.kill(os.getpid(), signal.SIGKILL)
    rows.RowQueue.put = put
    folder, adapter, data, out = sys.argv[1:]
    capture(CaptureConfig(model=folder, adapter=adapter, data=(data,), out=out, window_tokens=200, batch_tokens=400))
    """
)


@pytest.mark.slow
def test_killed_capture_leaves_whole_rows(
    tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, tmp_path: Path
) -> None:
    save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    (tmp_path / "text.txt").write_text("the question is the answer 4 four times; " * 150)
    arguments = [tmp_path / "model", tiny_adapter, tmp_path / "text.txt", tmp_path / "run.zarr"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, arguments)],
        check=False,
        capture_output=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    run = open_run(tmp_path / "run.zarr")
    assert not run.finished
    assert run.committed_rows.tolist()[:3] == [True, True, False]
    verdict = verify(run.path)
    assert (verdict.ok, verdict.n_committed) == (True, 2)
    # Its rows are those of an undisturbed run.
    config = CaptureConfig(
        model=str(tmp_path / "model"),
        adapter=str(tiny_adapter),
        data=(str(tmp_path / "text.txt"),),
        out=str(tmp_path / "whole.zarr"),
        window_tokens=200,
        batch_tokens=400,
    )
    whole = capture(config)
    for row in (0, 1):
        assert bytes(run.digest(row)) == bytes(whole.digest(row))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_full_disk_stops_the_capture_and_keeps_its_rows(make: Any, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the question is the answer 4 four times; " * 200)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        with pytest.raises(OSError, match="No space left on device"):
            make("disk/run.zarr", data=(str(text),), window_tokens=200, batch_tokens=400, overfill=True)
        run = open_run(disk / "run.zarr")
        assert 0 < run.committed_rows.sum() < run.n_rows
        assert verify(run.path).ok
    finally:
        subprocess.run(["umount", str(disk)], check=True)
