"""Next-token changes in a capture: against plain passes of real models, in every stream, resumed and in a share."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM

from lorascope import analyze
from lorascope.capture import CaptureConfig, CaptureProgress, capture, plan
from lorascope.capture.settling.make_layout import choose_change_share
from lorascope.stores import Run, StoreError, open_run, verify
from lorascope.stores.format.tables import CHANGE_COLUMNS

from ..marks import slow_but
from ..stored import change_arrays
from ..tiny import llama
from .recorded import adapt, padded_batches
from .recording.test_models import BERT, DECODERS

BATCH_TOKENS = 300
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama, DoRA": ("llama", {"target_modules": "all-linear", "use_dora": True}),
    "GPT-2, Conv1D and embedding": ("gpt2", DECODERS["gpt2"][1]),
    "Gemma 3": ("gemma3", DECODERS["gemma3"][1]),
    "OPT": ("opt", {"target_modules": ["q_proj"]}),
}
pytestmark = pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")


def distributions(model: Any, items: Any, tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """P of a model and the negative log-likelihood of each real token, float64, in the batches of a capture."""
    p, nll = [], []
    for _, inputs in padded_batches(items, tokenizer, BATCH_TOKENS):
        with torch.inference_mode():
            logits = model(**inputs).logits.double().log_softmax(-1)
        own = logits[:, :-1].gather(-1, inputs["input_ids"][:, 1:, None])[..., 0].neg()
        real = inputs["attention_mask"].bool()
        p.append(logits[real].exp().numpy())
        nll.append(torch.nn.functional.pad(own, (1, 0), value=torch.nan)[real].numpy())
    return np.concatenate(p), np.concatenate(nll)


@pytest.mark.parametrize("stream", ["adapted", "base", "pair"])
@pytest.mark.parametrize("case", slow_but(CASES, "Llama, DoRA"))
def test_they_are_those_of_plain_passes(
    case: str, stream: str, tiny_items: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    architecture, options = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = AutoModelForCausalLM.from_config(DECODERS[architecture][0]).eval()
    for parameter in plain.parameters():  # without training weights are so small that predictions hardly differ
        parameter.data.mul_(5 if parameter.ndim == 2 else 1)
    model = adapt(plain, **options)
    run = capture(
        model, tiny_items, tmp_path / "run.zarr", tokenizer=tiny_tokenizer, progress=False, score=False,
        stream=stream, states="none", batch_tokens=BATCH_TOKENS,
    )  # fmt: skip
    p, adapted_nll = distributions(model, tiny_items, tiny_tokenizer)
    with model.disable_adapter():
        q, base_nll = distributions(model, tiny_items, tiny_tokenizer)
    expected = change_arrays(p, q) | {"adapted_nll": adapted_nll, "base_nll": base_nll}
    changes = run.changes().load()
    assert expected["kl_adapted_base"].max() > 1e-3
    for column in CHANGE_COLUMNS:
        name, values = column.name, changes[column.name].values
        if column.dtype == "float32":
            # A pass's logits are float32, whose rounding at a logit of 30 is 2e-6 and differs between ways to add up.
            tolerance = {"rtol": 1e-5, "atol": 1e-6} if stream == "base" else {"rtol": 2e-6, "atol": 1e-9}
            np.testing.assert_allclose(values, expected[name], **tolerance, err_msg=name)
        elif not name.endswith("_draw"):
            np.testing.assert_array_equal(values, expected[name], err_msg=name)
    np.testing.assert_allclose(run.reduction("kl").values, (q * np.log(q / p)).sum(1), rtol=1e-5, atol=1e-9)
    drawn = changes["adapted_draw"].values
    assert (np.take_along_axis(p, drawn, 1) > 0).all()
    assert verify(run.path).ok
    assert run.attributes["measured"]["change_passes"] == {"adapted": 1, "base": 1, "pair": 0}[stream] * len(
        list(padded_batches(tiny_items, tiny_tokenizer, BATCH_TOKENS))
    )


@pytest.fixture
def two(adapted: Any, tiny_adapter: Path) -> Any:
    """A model with two adapters, `default` and `other`, of which one is minus two times the other."""
    model = copy.deepcopy(adapted)
    model.load_adapter(str(tiny_adapter), "other")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B.other" in name:
                parameter.mul_(-2)
    return model


def test_analysis_counts_what_each_adapter_changes(make: Any, two: Any) -> None:
    run = make("run.zarr", model=two, stream="base", states="none")
    with pytest.raises(StoreError, match="name one of"):
        analyze.changes(run)
    results = {name: analyze.changes(run, adapter=name) for name in ("default", "other")}
    ids, starts = run.read_static("tokens/token_id"), run.read_static("samples/token_start")
    contexts = [(*ids[max(start for start in starts if start <= i) : i + 1],) for i in range(run.n_tokens)]
    is_new = np.array([context not in contexts[:i] for i, context in enumerate(contexts)])
    assert (~is_new).sum() > 0
    for name, result in results.items():
        stored = run.changes(name)
        kl = stored["kl_adapted_base"].values.astype(float)
        weight = run.tokens["weight"].values * is_new
        assert result.attrs["adapter"] == name
        assert result.attrs["kl_adapted_base"] == pytest.approx(np.average(kl, weights=weight))
        assert result.attrs["kl"] == pytest.approx(np.average(run.reduction("kl", name), weights=weight))
        n_changed = int((stored["adapted_choice"] != stored["base_choice"]).values[is_new].sum())
        assert result["choices/count"].values.sum() == n_changed > 0
        assert result["roles/n"].values.sum() == is_new.sum() == run.n_tokens - result.attrs["n_repeated"]
        assert (result["tokens/n_samples"] >= 3).all()
        assert set(result["tokens/text"].values) <= set(run.vocabulary())
    assert results["default"].attrs["kl"] != results["other"].attrs["kl"]


def test_each_adapter_of_a_run_has_its_own(make: Any, two: Any) -> None:
    both: Run = make("both.zarr", model=copy.deepcopy(two), stream="base", states="none")
    for name in ("default", "other"):
        two.set_adapter(name)
        one: Run = make(f"{name}.zarr", model=two, stream="adapted")
        for key, array in one.changes().data_vars.items():
            np.testing.assert_array_equal(both.changes(name)[key].values, array.values, err_msg=key)
        np.testing.assert_array_equal(both.reduction("kl", name).values, one.reduction("kl").values)
    assert (both.changes("default")["base_draw"].values == both.changes("other")["base_draw"].values).all()
    with pytest.raises(StoreError, match="name one of"):
        both.changes()


def test_nothing_else_changes_and_states_do_not_matter(go: Any, content: Any, tmp_path: Path) -> None:
    without, run, bare = go("without.zarr", changes="none"), go("run.zarr"), go("bare.zarr", states="none")
    ours = content(tmp_path / "run.zarr")
    for name, stored in content(tmp_path / "without.zarr").items():
        assert name == "zarr.json" or name.startswith("rows/digest/") or ours[name] == stored, name
    assert without.attributes["fingerprint"] == run.attributes["fingerprint"]
    assert "optional_groups" not in without.attributes
    for name, array in run.changes().data_vars.items():
        np.testing.assert_array_equal(array.values, bare.changes()[name].values)
        assert (array.values >= 0).any()
    measured = run.attributes["measured"]
    assert (measured["change_tokens"], measured["stages"]["changes"] > 0) == (run.n_tokens, True)
    assert without.attributes["measured"].get("change_tokens") is None
    with pytest.raises(StoreError, match="capture it again with `--changes all`"):
        without.changes()


@pytest.mark.parametrize("stream", slow_but(["adapted", "base"], "adapted"))
def test_a_capture_that_goes_on_stores_the_same(go: Any, content: Any, tmp_path: Path, stream: str) -> None:
    """Also where another choice is asked for: that of the beginning counts, as in the rows that are there."""

    def fail(progress: CaptureProgress) -> None:
        if progress.stage == "capture" and progress.done >= 2300:
            raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        go("run.zarr", stream=stream, changes="all", progress=fail)
    begun = open_run(tmp_path / "run.zarr")
    assert 0 < begun.committed_rows.sum() < begun.n_rows
    go("run.zarr", stream=stream, changes="none")
    go("whole.zarr", stream=stream, changes="all")
    assert content(tmp_path / "run.zarr") == content(tmp_path / "whole.zarr")


def test_a_run_that_was_begun_without_goes_on_without(go: Any, tmp_path: Path) -> None:
    def fail(progress: CaptureProgress) -> None:
        if progress.stage == "capture" and progress.done >= 2300:
            raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        go("run.zarr", changes="none", progress=fail)
    with pytest.raises(StoreError, match="was begun with `changes` 'none', not 'all'; leave it out, or name a new"):
        go("run.zarr", changes="all")
    run = go("run.zarr")
    assert run.finished
    assert not [path for path in run.arrays if "changes" in path or path.startswith("vocabulary")]


def test_long_captures_store_a_share(go: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lorascope.capture.settling import make_layout

    monkeypatch.setattr(make_layout, "CHANGE_TOKENS", 1000)
    run, again = go("run.zarr", states="none"), go("again.zarr", states="none", kl_share=0.9)
    gain = run.changes()["gain"].values[:, 0]
    stored = ~np.isnan(gain)
    assert 0 < stored.sum() == run.attributes["measured"]["change_tokens"] < run.n_tokens / 2
    assert ((run.changes()["base_draw"].values >= 0).all(axis=1) == stored).all()
    assert np.isfinite(run.reduction("kl").values[stored]).all()
    assert np.isfinite(again.reduction("kl").values).sum() > stored.sum()
    np.testing.assert_array_equal(run.changes()["gain"].values, again.changes()["gain"].values)
    assert verify(run.path).ok
    whole = go("whole.zarr", states="none", changes="all")
    assert np.isfinite(whole.changes()["kl_adapted_base"].values).all()


@pytest.mark.parametrize(
    ("stream", "n_adapters", "share"),
    [("adapted", 1, 0.2 / 1.45), ("base", 1, 0.2 / 1.45), ("base", 3, 0.2 / 4.35), ("pair", 1, 0.4 / 0.45)],
)
def test_the_share_costs_a_fifth_of_the_passes(stream: Any, n_adapters: int, share: float) -> None:
    """A further pass takes 1 of a pass, the changes of an adapter .45; a pair has two passes, and needs no other."""
    names = tuple(f"a{index}=a{index}" for index in range(n_adapters))
    config = CaptureConfig(model="m", adapter=names, data=("d",), out="o", stream=stream)
    assert choose_change_share(config, 20_000) == 1
    assert choose_change_share(config, 20_001) == pytest.approx(share)
    whole = CaptureConfig(model="m", adapter=names, data=("d",), out="o", stream=stream, changes="all")
    assert choose_change_share(whole, 10**9) == 1


def test_chosen_and_generated_tokens(make: Any) -> None:
    run = make("some.zarr", tokens="last:3", generate=4, score=False, states="none")
    changes = run.changes().load()
    assert run.n_tokens == changes.sizes["token"] == 18
    assert (changes["adapted_choice"].values >= 0).all()
    np.testing.assert_array_equal(changes["adapted_nll"].values, run.tokens["nll"].values)
    generated = run.tokens["role"].values == 3
    # What was generated greedily is the adapted model's first choice after the token before it.
    follows = generated[1:] & (np.diff(run.tokens["sample"].values) == 0)
    assert follows.any()
    chosen = changes["adapted_choice"].values[:-1][follows]
    np.testing.assert_array_equal(run.tokens["token_id"].values[1:][follows], chosen)


def test_a_vocabulary_larger_than_the_tokenizers(make: Any, tiny_tokenizer: Any, tiny_adapter: Path) -> None:
    from lorascope.capture import attach_adapter

    n = len(tiny_tokenizer) + 21
    run = make("wide.zarr", model=attach_adapter(llama(n), tiny_adapter), states="none")
    texts = run.vocabulary()
    assert len(texts) == n
    assert set(texts[-21:]) == {""}
    expected = tiny_tokenizer.batch_decode([[index] for index in range(n - 21)])
    assert texts[:-21].tolist() == expected
    assert run.changes()["base_draw"].values.max() >= n - 21  # the model isn't trained
    assert verify(run.path).ok


def test_an_encoder_has_none_and_a_note_says_so(tiny_items: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = adapt(BertForMaskedLM(BertConfig(**BERT)).eval(), target_modules=["query"])
    run = capture(model, tiny_items, tmp_path / "r", tokenizer=tiny_tokenizer, score=False, progress=False)
    notes = [note["message"] for note in run.attributes["provenance"]["preflight"] if note["kind"] == "changes"]
    assert notes == ["next-token changes aren't stored, since BertForMaskedLM doesn't predict the next token"]
    assert not [path for path in run.arrays if "changes" in path or path.startswith("vocabulary")]


def test_plan_names_passes_and_bytes(
    tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, text: Path, tmp_path: Path
) -> None:
    from ..tiny import save_model

    folder = save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    config = CaptureConfig(
        model=str(folder), adapter=(str(tiny_adapter),), data=(str(text),), out=str(tmp_path / "run.zarr"),
        window_tokens=200, batch_tokens=400, states="none", score=False,
    )  # fmt: skip
    made = plan(config)
    run = capture(config)
    measured = run.attributes["measured"]
    assert made.changes["passes"] == measured["change_passes"] == made.changes["batches"] > 1
    assert made.changes["tokens"] == measured["change_tokens"] == run.n_tokens
    assert made.seconds["changes"] > 0
    (part,) = (part for part in made.estimate.parts if part.name == "changes")
    assert part.raw_bytes == run.n_tokens * 4 * (4 * 20 + 2 * 8 + 7)
    folder = tmp_path / "run.zarr/adapters/default/changes"
    stored = sum(file.stat().st_size for file in folder.rglob("c.*"))
    assert stored == pytest.approx(part.stored_bytes, rel=0.25)
    assert made.as_dict()["changes"] == dict(made.changes)
    assert plan(dataclasses.replace(config, changes="none"), probe=False).changes == {}
