"""Captures that measure what random adapters of the same size do."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertForMaskedLM

from lorascope.analyze import explain, miub, null_adapters
from lorascope.analyze.report import paragraph
from lorascope.analyze.results.null_adapters import compare_variants, describe_nulls
from lorascope.capture import CaptureConfig, CaptureProgress, capture
from lorascope.capture.recording.nulls import STREAM, turn
from lorascope.cli.main import main
from lorascope.stores import StoreError, open_run, pull, run_state, verify

from .recorded import adapt
from .recording.test_importance import state_of
from .recording.test_models import OTHERS

COLUMNS = ("miub", "kl", "ce_change")


@pytest.mark.parametrize(("d_out", "rank"), [(40, 4), (4, 4), (3, 8), (1, 1)])
@pytest.mark.parametrize("singular", [False, True])
def test_a_turned_b_has_the_same_gram_matrix(d_out: int, rank: int, singular: bool) -> None:
    rng = np.random.default_rng(d_out)
    b, a = rng.normal(size=(d_out, rank)), rng.normal(size=(rank, 5))
    b[:, 0] *= 0 if singular else 1
    turned = turn(b, np.random.default_rng(1))
    assert turned.shape == b.shape
    np.testing.assert_allclose(turned.T @ turned, b.T @ b, atol=1e-13 * (1 + (b**2).sum()))
    values = [np.linalg.svd(each @ a, compute_uv=False) for each in (turned, b)]  # of B A: size, norm and rank
    np.testing.assert_allclose(*values, atol=1e-13 * (1 + values[1].max()))
    again, other = (turn(b, np.random.default_rng(seed)) for seed in (1, 2))
    assert (turned == again).all()
    assert singular or not np.allclose(np.abs(turned), np.abs(other)) or d_out == 1


def test_turns_are_uniform() -> None:
    """U is uniform on the orthonormal frames: entries have mean 0, and pairs of columns' entries E[u u] = 1 / d."""
    b, n = np.eye(3)[:, :2], 4000
    turned = np.array([turn(b, np.random.default_rng(seed)) for seed in range(n)])
    # Entries have variance 1/3, products of entries at most 1/5 - 1/9: five standard errors.
    assert np.abs(turned.mean(0)).max() < 5 * np.sqrt(1 / 3 / n)
    second = np.einsum("nic,njc->cij", turned, turned) / n
    assert np.abs(second - np.eye(3) / 3).max() < 5 * np.sqrt(4 / 45 / n)


def with_null(model: Any, number: int, seed: int = 0) -> Any:
    """A copy of a model whose adapter is a null, made from what the format's specification says alone."""
    copied = copy.deepcopy(model)
    layers = [own for name, own in copied.named_parameters() if "lora_B" in name]
    for place, weight in enumerate(layers):
        b = weight.detach().double().numpy()
        rng = np.random.default_rng([seed, STREAM, number, place])
        weight.data = torch.tensor(turn(b, rng)).float()
    return copied


@pytest.mark.parametrize("stream", ["adapted", "base", "pair"])
def test_each_null_does_what_a_capture_of_it_shows(make: Any, adapted: Any, stream: str) -> None:
    before, weights = state_of(adapted), copy.deepcopy(adapted.state_dict())
    pointers = [parameter.data_ptr() for parameter in adapted.parameters()]
    run = make(model=adapted, stream=stream, null_adapters=2, batch_tokens=80, states="none", changes="all")
    assert state_of(adapted) == before
    assert all(torch.equal(value, weights[name]) for name, value in adapted.state_dict().items())
    assert [parameter.data_ptr() for parameter in adapted.parameters()] == pointers
    assert verify(run.path).ok
    stored = run.null_adapters()
    assert dict(stored.sizes) == {"sample": 6, "variant": 3}
    for number in range(3):
        model = with_null(adapted, number) if number else adapted
        alone = make(f"{number}.zarr", model=model, stream=stream, states="none", changes="all", batch_tokens=80)
        expected = {"miub": miub(alone)["samples"]["miub"].values}
        kl, samples = alone.reduction("kl").values, alone.tokens["sample"].values
        expected["kl"] = np.bincount(samples, kl) / np.bincount(samples)
        expected["ce_change"] = (alone.samples["ce"] - alone.samples["base_ce"]).values
        for name in COLUMNS:  # js, KL and nll are float32 there: relative 6e-8, of nll up to 6 nat
            values = stored[name].values[:, number]
            np.testing.assert_allclose(values, expected[name], rtol=2e-6, atol=2e-6 if name == "ce_change" else 1e-9)


def test_nulls_differ_and_more_of_them_begin_with_the_same(make: Any) -> None:
    few, more, other = (
        make(f"{n}{seed}.zarr", null_adapters=n, seed=seed).null_adapters()["kl"].values
        for n, seed in ((2, 0), (3, 0), (2, 1))
    )
    np.testing.assert_array_equal(few, more[:, :3])
    assert len(np.unique(more[0].round(9))) == 4
    np.testing.assert_array_equal(few[:, 0], other[:, 0])
    assert (few[:, 1:] != other[:, 1:]).all()


def test_a_run_without_them_is_as_it_was(make: Any, content: Any) -> None:
    run, plain = make(null_adapters=1), make("plain.zarr")
    ours = content(run.path)
    for name, value in content(plain.path).items():
        assert name == "zarr.json" or ours[name] == value, name
    assert set(ours) - set(content(plain.path)) == {name for name in ours if name.startswith("adapters/default/nulls/")}
    assert run.attributes["fingerprint"] == plain.attributes["fingerprint"]
    assert "null_adapters" not in plain.attributes["provenance"]["settings"]
    with pytest.raises(StoreError, match="holds no null adapters; capture it again with `--null-adapters 8`"):
        null_adapters(plain)


def test_every_adapter_of_a_base_stream_has_its_own(make: Any, adapted: Any) -> None:
    alone = make("alone.zarr", null_adapters=1, stream="base").null_adapters()
    other = LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        adapted.add_adapter("other", other)
    run = make(model=adapted, stream="base", null_adapters=1)
    for name in COLUMNS:
        np.testing.assert_allclose(run.null_adapters("default")[name], alone[name], rtol=1e-5, atol=1e-7)
    assert (run.null_adapters("other")["kl"].values > 0).all()
    assert null_adapters(run, adapter="other").attrs["adapter"] == "other"


def test_weights_are_its_own_again_after_an_error(make: Any, adapted: Any) -> None:
    before = copy.deepcopy(adapted.state_dict())
    layer = adapted.get_base_model().model.layers[1].mlp.act_fn
    calls = []
    handle = layer.register_forward_hook(lambda *_: calls.append(1) or 1 / (12 - len(calls)))
    with pytest.raises(ZeroDivisionError):
        make(model=adapted, null_adapters=8, score=False)
    handle.remove()
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())


def test_an_interrupted_capture_goes_on_with_the_same_nulls(go: Any, content: Any, tmp_path: Path) -> None:
    def fail_at(stage: str, done: int) -> Any:
        def fail(now: CaptureProgress) -> None:
            if now.stage == stage and now.done >= done:
                raise OSError("the disk went away")

        return fail

    with pytest.raises(OSError, match="went away"):
        go(null_adapters=2, progress=fail_at("null adapters", 2))
    assert run_state(tmp_path / "run.zarr") == "absent"
    with pytest.raises(OSError, match="went away"):
        go(null_adapters=2, progress=fail_at("capture", 2300))
    assert 0 < open_run(tmp_path / "run.zarr").committed_rows.sum() < 4
    with pytest.raises(StoreError, match="was begun without these `null_adapters`; leave them out, or name a new"):
        go(null_adapters=3)
    go(null_adapters=2, progress=fail_at("null adapters", 0))
    go("whole.zarr", null_adapters=2)
    assert content(tmp_path / "run.zarr") == content(tmp_path / "whole.zarr")


def test_copies_have_the_nulls_of_their_samples(make: Any, tmp_path: Path) -> None:
    run = make(null_adapters=2)
    whole, some = pull(run.path, tmp_path / "whole.zarr"), pull(run.path, tmp_path / "some.zarr", samples=3)
    assert whole.attributes["fingerprint"] == run.attributes["fingerprint"]
    own = [run.samples["id"].values.tolist().index(name) for name in some.samples["id"].values]
    for name in COLUMNS:
        np.testing.assert_array_equal(whole.null_adapters()[name], run.null_adapters()[name])
        np.testing.assert_array_equal(some.null_adapters()[name], run.null_adapters()[name][own])
    part = pull(run.path, tmp_path / "part.zarr", component="*.q_proj")
    assert verify(part.path).ok
    with pytest.raises(StoreError, match="holds no null adapters"):
        part.null_adapters()


def test_a_changed_value_is_seen(make: Any) -> None:
    run = make(null_adapters=1)
    (chunk,) = Path(run.path).glob("adapters/default/nulls/kl/c.*")
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)
    assert "adapters/default/nulls/kl/c.0.0" in [problem.place for problem in verify(run.path).problems]


def test_of_many_samples_32_are_read(go: Any) -> None:
    run = go(null_adapters=1, window_tokens=50, tokens="last:1")
    read = np.isfinite(run.null_adapters()["kl"].values).all(1)
    assert read.sum() == 32 < run.samples.sizes["sample"]
    assert null_adapters(run).attrs["n_samples"] == 32


REFUSED = {
    "dora": {"use_dora": True},
    "bias": {"lora_bias": True},
    "saved": {"modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("options", REFUSED.values(), ids=REFUSED)
def test_what_is_more_than_b_a_is_refused(make: Any, tiny_model: Any, options: Any) -> None:
    target = "model.layers.0.self_attn.q_proj"
    tiny_model.get_submodule(target).bias = torch.nn.Parameter(torch.ones(32))  # without it PEFT warns of `lora_bias`
    config = LoraConfig(r=2, target_modules=[target], init_lora_weights=False, task_type="CAUSAL_LM", **options)
    with pytest.raises(ValueError, match="adapter 'default' changes '.*' by more than a plain B A, so that no null"):
        make(model=get_peft_model(tiny_model, config), null_adapters=2)


def test_a_model_without_next_tokens_is_refused(tiny_items: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    for n, limit in ((-1, "least 0"), (10**9, "most 1000")):
        with pytest.raises(ValueError, match=f"`null_adapters` is {n}; give at {limit}"):
            CaptureConfig(model="m", adapter="a", data="d", out="o", null_adapters=n)
    _, config, options = OTHERS["masked"]
    model = adapt(BertForMaskedLM(config), **options)
    with pytest.raises(ValueError, match="BertForMaskedLM doesn't predict the next token, so that no null adapters"):
        capture(model, tiny_items, tmp_path / "run", tokenizer=tiny_tokenizer, null_adapters=4, score=False)


def test_info_and_report_say_whether_it_is_more_than_chance(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(null_adapters=8)
    said = describe_nulls(null_adapters(run))
    assert "random adapters of the same size" in said
    assert "nat per token, with 8 of them" in said
    assert dict(paragraph(run, explain(run)))["Does it help?"].endswith(f" {said}")
    assert main(["info", str(run.path)]) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert main(["info", str(run.path), "--json"]) == 0
    numbers, compared = json.loads(capsys.readouterr().out)["null_adapters"]["default"], null_adapters(run)
    for measure in ("ce_change", "kl", "miub"):
        for name in ("value", "se", "null_mean", "null_sd", "spreads", "p", "rank"):
            assert numbers[measure][name] == float(compared[name].sel(measure=measure)), (measure, name)
        assert (numbers[measure]["n_nulls"], numbers[measure]["n_samples"]) == (8, 6)
    plain = make("plain.zarr")
    assert "random adapters" not in dict(paragraph(plain, explain(plain)))["Does it help?"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapters_of_half_precision_and_embeddings_work(make: Any, tiny_model: Any, dtype: torch.dtype) -> None:
    targets = ["q_proj", "embed_tokens"]
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(tiny_model.to(dtype), config, autocast_adapter_dtype=False)
    run = make(model=model, null_adapters=2, states="none")
    assert (run.null_adapters()["miub"].values > 0).all()


def test_nulls_themselves_are_rarely_called_more_than_chance(go: Any) -> None:
    """Nulls in the adapter's place: of 324 comparisons with eight others, 5 % have p up to 0.05, less than 10 %."""
    run = go(null_adapters=324, window_tokens=120, limit=4, score=False, changes="none")
    stored, p, learned = run.null_adapters(), [], 0
    for start in range(1, 325, 9):
        for own in range(9):
            order = start + np.roll(np.arange(9), own)
            compared = compare_variants(stored.isel(variant=order))
            p.append(compared["p"].values)
            learned += describe_nulls(compared).startswith("More than chance: ")
    share = (np.array(p) <= 0.05).mean(0)
    assert len(p) == 324
    assert (share < 0.1).all(), share
    assert learned / len(p) < 0.01
