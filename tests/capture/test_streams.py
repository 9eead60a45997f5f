"""Streams, how much is kept, and generated tokens, through `capture` and against models run on their own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

from lorascope.analyze import miub
from lorascope.capture import jensen_shannon
from lorascope.capture.models.refusal import lora_layers
from lorascope.stores import Run, StoreError, verify

from .recorded import inputs_of, outputs_of, padded_batches

BATCH_TOKENS = 300


def outputs(model: Any, paths: Sequence[str], items: Any, tokenizer: Any) -> dict[str, torch.Tensor]:
    """Output of every layer by real token."""
    parts = []
    for _, inputs in padded_batches(items, tokenizer, BATCH_TOKENS):
        mask = inputs["attention_mask"].flatten().bool()
        parts.append({path: output[mask] for path, output in outputs_of(model, inputs, paths).items()})
    return {path: torch.cat([part[path] for part in parts]) for path in parts[0]}


@pytest.fixture
def base_outputs(tiny_model: Any, adapted: Any, tiny_items: Any, tiny_tokenizer: Any) -> dict[str, torch.Tensor]:
    return outputs(tiny_model, list(lora_layers(adapted)), tiny_items, tiny_tokenizer)


@pytest.fixture
def adapted_outputs(adapted: Any, tiny_items: Any, tiny_tokenizer: Any) -> dict[str, torch.Tensor]:
    return outputs(adapted, list(lora_layers(adapted)), tiny_items, tiny_tokenizer)


def test_pair_holds_the_true_base_and_the_true_adapted_run(make: Any, base_outputs: Any, adapted_outputs: Any) -> None:
    run: Run = make(stream="pair", batch_tokens=BATCH_TOKENS)
    for path in run.component_paths:
        base, adapted = base_outputs[path], adapted_outputs[path]
        assert torch.equal(torch.from_numpy(run.base(path).values), base)
        assert torch.equal(torch.from_numpy(run.adapted(path).values), adapted)
        assert torch.equal(torch.from_numpy(run.lora(path).values), adapted)
        index = run.component_paths.index(path)
        expected = jensen_shannon(base, adapted - base).numpy()
        np.testing.assert_allclose(run.js().values[:, index], expected, rtol=1e-6)
    result = miub(run)
    np.testing.assert_allclose(result["tokens/js"].values, run.js().values, rtol=2e-6)
    assert result.attrs["fidelity_max"] < 2e-6
    assert verify(run.path).ok


def test_only_the_first_layers_base_is_the_same_in_both_streams(make: Any) -> None:
    adapted, pair = make("a", batch_tokens=BATCH_TOKENS), make("p", stream="pair", batch_tokens=BATCH_TOKENS)
    first, last = adapted.component_paths[0], adapted.component_paths[-1]
    assert np.array_equal(adapted.base(first).values, pair.base(first).values)
    assert not np.allclose(adapted.base(last).values, pair.base(last).values, rtol=1e-2)


def test_base_stream_takes_the_delta_of_every_adapter_beside_the_base(
    make: Any, adapted: Any, base_outputs: Any, tiny_model: Any
) -> None:
    other = LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        adapted.add_adapter("other", other)
    run: Run = make(model=adapted, stream="base", batch_tokens=BATCH_TOKENS)
    assert run.adapters == ("default", "other")
    layers = lora_layers(adapted)
    inputs = layer_inputs(tiny_model, run)
    for path in run.component_paths:
        assert torch.equal(torch.from_numpy(run.base(path).values), base_outputs[path])
        for name in run.adapters:
            if name not in layers[path].lora_A:
                assert run.adapter(name)["rank"].values[run.component_paths.index(path)] == 0
                with pytest.raises(StoreError, match="leaves component .* alone"):
                    run.delta(path, name)
                continue
            layer = layers[path]
            x = inputs[path]
            expected = layer.lora_B[name](layer.lora_A[name](x)) * layer.scaling[name]
            np.testing.assert_allclose(run.delta(path, name).values, expected.detach().numpy(), rtol=1e-4, atol=1e-6)
    touched = miub(run, adapter="other")["component"].values.tolist()
    assert touched == [p for p in run.component_paths if p.endswith(("q_proj", "down_proj"))]
    assert float(miub(run, adapter="default")["miub"]) != float(miub(run, adapter="other")["miub"])
    assert verify(run.path).ok


def layer_inputs(model: Any, run: Run) -> dict[str, torch.Tensor]:
    """What goes into each layer of the plain model, by captured token; samples one by one."""
    bounds = zip(run.samples["token_start"].values, run.samples["token_stop"].values, strict=True)
    ids = [torch.from_numpy(run.tokens["token_id"].values[start:stop].astype(np.int64))[None] for start, stop in bounds]
    parts = [inputs_of(model, {"input_ids": one}, run.component_paths) for one in ids]
    return {path: torch.cat([part[path][0] for part in parts]) for path in run.component_paths}


@pytest.mark.parametrize("stream", ["adapted", "pair"])
def test_without_states_the_measures_are_those_of_the_states(make: Any, stream: str) -> None:
    whole: Run = make("whole", stream=stream, batch_tokens=BATCH_TOKENS)
    bare: Run = make("bare", stream=stream, states="none", batch_tokens=BATCH_TOKENS, kl_share=1.0)
    assert not bare.has_states
    with pytest.raises(StoreError, match="states 'none'"):
        bare.base(bare.component_paths[0])
    np.testing.assert_allclose(bare.js().values, miub(whole)["tokens/js"].values, rtol=3e-6)
    assert float(miub(bare)["miub"]) == pytest.approx(float(miub(whole)["miub"]), rel=1e-6)
    for index, path in enumerate(whole.component_paths):
        base, lora = whole.base(path).values, whole.lora(path).values
        norms = bare.reduction("base_norm").values[:, index]
        np.testing.assert_allclose(norms, np.linalg.norm(base, axis=1), rtol=1e-5)
        np.testing.assert_allclose(
            bare.reduction("delta_norm").values[:, index], np.linalg.norm(lora - base, axis=1), rtol=1e-3
        )
    size = sum(f.stat().st_size for f in Path(bare.path).rglob("c.*"))
    assert size < sum(f.stat().st_size for f in Path(whole.path).rglob("c.*"))
    assert verify(bare.path).ok


def test_a_sample_of_rows_keeps_its_states(make: Any, text: Path) -> None:
    settings = {"data": (str(text),), "window_tokens": 200, "batch_tokens": 400}
    whole: Run = make("whole", **settings)
    some: Run = make("some", states="sample", states_share=0.5, **settings)
    kept = np.flatnonzero(some.state_rows)
    assert 0 < len(kept) < some.n_rows
    mask = some.with_states.values
    for path in some.component_paths:
        base = some.base(path).values
        assert np.array_equal(base[mask], whole.base(path).values[mask])
        assert np.isnan(base[~mask]).all()
    np.testing.assert_allclose(some.js().values, miub(whole)["tokens/js"].values, rtol=3e-6)
    assert float(miub(some)["miub"]) == pytest.approx(float(miub(whole)["miub"]), rel=1e-6)
    assert verify(some.path).ok


def test_generated_tokens_are_captured_after_the_prompt(make: Any, adapted: Any, tiny_tokenizer: Any) -> None:
    run: Run = make(generate=5, batch_tokens=BATCH_TOKENS)
    roles = run.tokens["role"].values
    assert 4 not in roles
    assert 2 not in roles  # the answer made room
    for index in range(run.samples.sizes["sample"]):
        tokens = slice(int(run.samples["token_start"][index]), int(run.samples["token_stop"][index]))
        ids, role = run.tokens["token_id"].values[tokens], roles[tokens]
        prompt = ids[role != 3]
        written = adapted.generate(
            input_ids=torch.from_numpy(prompt.astype(np.int64))[None], max_new_tokens=5, do_sample=False
        )[0, len(prompt) :]
        assert ids[role == 3].tolist() == written.tolist()  # the last one too
    assert np.isfinite(run.samples["ce"].values).all()  # scores are of the real answers
    assert verify(run.path).ok


def test_states_of_generated_tokens_are_those_of_one_pass(make: Any, adapted: Any) -> None:
    run: Run = make(generate=5, batch_tokens=1)
    modules = {path: layer.base_layer for path, layer in lora_layers(adapted).items()}
    seen: dict[str, torch.Tensor] = {}
    for path, module in modules.items():
        module.register_forward_hook(lambda m, a, out, path=path: seen.__setitem__(path, out[0].clone()))
    for index in range(run.samples.sizes["sample"]):
        tokens = slice(int(run.samples["token_start"][index]), int(run.samples["token_stop"][index]))
        ids = torch.from_numpy(run.tokens["token_id"].values[tokens].astype(np.int64))[None]
        with torch.inference_mode():
            adapted(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        for path in modules:
            assert torch.equal(torch.from_numpy(run.base(path)[tokens].values), seen[path])


def test_what_can_not_fit_is_refused_before_anything_is_written(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorascope.stores.places.place import FolderPlace

    monkeypatch.setattr(FolderPlace, "free_bytes", lambda self: 1000)
    with pytest.raises(StoreError, match=r"would take about .* where 1 kB are free.*--overfill"):
        make()
    assert not (tmp_path / "run.zarr").exists()
    assert make(overfill=True).finished
