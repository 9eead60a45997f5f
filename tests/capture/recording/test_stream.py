"""Batches through a tiny model into rows that stay in memory."""

import copy
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BigBirdConfig, BigBirdForMaskedLM, XLNetConfig, XLNetLMHeadModel

from lorascope.capture import CaptureConfig, CaptureError, CaptureProgress, attach_adapter
from lorascope.capture.buffers.rows import RowQueue, row_spans
from lorascope.capture.models.components import find_components
from lorascope.capture.models.model import model_facts
from lorascope.capture.models.preflight import inspect
from lorascope.capture.recording.forward import forward_seconds, probe
from lorascope.capture.recording.hooks import Recorder
from lorascope.capture.recording.layout import Layout, TokenPlan, plan_tokens
from lorascope.capture.recording.reduce import Reducer
from lorascope.capture.recording.stream import Streamed, stream_states
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.encoded import PROBE_TOKENS, EncodedSample, pad, plan_batches, probe_samples
from lorascope.capture.samples.items import TextItem
from lorascope.capture.settling.make_layout import make_run_spec
from lorascope.stores.format.spec import ROW_TOKENS
from lorascope.stores.writing.write import RowWritten

CPU = torch.device("cpu")
BATCH = 400
NAME = "default"


class Job(NamedTuple):
    model: Any
    samples: Sequence[EncodedSample]
    batches: Sequence[slice]
    plan: TokenPlan

    def recorder(self, stream: str = "adapted", **options: Any) -> Recorder:
        components = find_components(self.model, NAME)
        starts = np.concatenate([[0], np.cumsum([component.rank for component in components])])[:-1]
        return Recorder({NAME: components}, stream=stream, factor_start={NAME: [int(s) for s in starts]}, **options)

    def layout(self, states: Any, stream: Any) -> Layout:
        config = CaptureConfig(model="m", adapter=("a",), data=("d",), out="o", states=states, stream=stream)
        components = {NAME: find_components(self.model, NAME)}
        dtypes = {component.path: torch.float32 for component in components[NAME]}
        counts = {"n_tokens": self.plan.n_tokens, "n_samples": len(self.samples), "n_choices": 0}
        spec = make_run_spec(config, components, dtypes, **counts)
        return Layout(self.samples, self.batches, self.plan, components, spec, "all", 0.1)


class MemoryWriter:
    """Keeps rows by their numbers; each takes a while to write, if so wished."""

    def __init__(self, arrays: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], seconds: float = 0.0) -> None:
        self.arrays = arrays
        self.seconds = seconds
        self.rows: dict[int, dict[str, np.ndarray]] = {}

    def row_arrays(self, row: int) -> Any:
        return self.arrays

    def write_row(self, row: int, blocks: Any) -> RowWritten:
        time.sleep(self.seconds)
        self.rows[row] = {path: block.copy() for path, block in blocks.items()}
        return RowWritten(row, 100, 50, 0.25, 0.5)


@pytest.fixture
def job(tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path) -> Job:
    """Five rows of text in windows of 90 tokens; the last window is short."""
    text = " ".join(f"the question {i} is the answer {i * i % 97} times;" for i in range(190))
    item = TextItem(id="t", dataset="tiny", split="", text=text)
    samples = encode_items([item], tiny_tokenizer, max_length=256, window_tokens=90)
    batches = plan_batches([len(s.token_ids) for s in samples], batch_tokens=BATCH)
    plan = plan_tokens(samples, batches, "all", js_share=0.1, seed=0)
    return Job(attach_adapter(copy.deepcopy(tiny_model), tiny_adapter), samples, batches, plan)


def arrays_of(job: Job, states: str = "all", stream: str = "adapted") -> dict[str, Any]:
    components = find_components(job.model, NAME)
    f4, n = np.dtype("float32"), len(components)
    names = ["base", "adapted"] if stream == "pair" else ["base"]
    wide = {f"states/{c.path}/{name}": ((ROW_TOKENS, c.d_out), f4) for c in components for name in names}
    wide[f"adapters/{NAME}/factor"] = ((ROW_TOKENS, sum(c.rank for c in components)), f4)
    narrow = ["js", "swallowed"] if states == "all" else ["js", "swallowed", "delta_norm"]
    by_component = [f"adapters/{NAME}/{name}" for name in narrow]
    if states != "all":
        by_component += ["reductions/base_norm", "reductions/effective_width"]
    found = wide if states == "all" else {}
    return {
        **found,
        **dict.fromkeys(by_component, ((ROW_TOKENS, n), f4)),
        "tokens/nll": ((ROW_TOKENS,), f4),
        f"adapters/{NAME}/kl": ((ROW_TOKENS,), f4),
    }


def run(
    job: Job,
    *,
    states: str = "all",
    stream: str = "adapted",
    seconds: float = 0.0,
    queue: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[Streamed, dict[int, dict[str, np.ndarray]]]:
    writer = MemoryWriter(arrays_of(job, states, stream), seconds)
    recorder = job.recorder(stream, keep_states=states == "all", reducer=Reducer() if states == "none" else None)
    spans = row_spans(job.plan.starts, job.batches)
    with RowQueue(writer, n_tokens=job.plan.n_tokens, spans=spans, **queue or {}) as rows:
        streamed = stream_states(job.model, recorder, job.layout(states, stream), rows, device=CPU, **options)
    assert not any(module._forward_hooks for module in job.model.modules())
    return streamed, writer.rows


def same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(one[path].tobytes() == other[path].tobytes() for path in one)


def test_rows_that_are_wanted_come_out_as_in_a_whole_run(job: Job) -> None:
    """The batches are the same, so that a row doesn't change with where a run goes on, nor with who shares it."""
    whole, rows = run(job)
    assert sorted(rows) == [0, 1, 2, 3, 4]
    assert len(rows[4]["tokens/nll"]) == job.plan.n_tokens - 4 * ROW_TOKENS
    assert (whole.tokens >= job.plan.n_tokens, whole.stopped) == (True, False)
    for chosen in ([1], [0, 4]):
        wanted = np.isin(np.arange(5), chosen)
        calls: list[CaptureProgress] = []
        _, found = run(job, queue={"rows": wanted}, progress=calls.append)
        assert sorted(found) == chosen
        assert all(same(found[row], rows[row]) for row in chosen)
        touched = [bool(wanted[span.start : span.stop].any()) for span in row_spans(job.plan.starts, job.batches)]
        assert len(calls) == sum(touched) < len(job.batches)


@pytest.mark.parametrize("after", [0, 4, 100])
def test_stop_finishes_the_rows_that_are_begun_and_no_others(job: Job, after: int) -> None:
    _, whole = run(job)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > after

    streamed, rows = run(job, stop=stop)
    n_tokens = int(job.plan.starts[job.batches[min(after, len(job.batches)) - 1].stop]) if after else 0
    expected = -(-n_tokens // ROW_TOKENS)
    assert sorted(rows) == list(range(expected))
    assert all(same(rows[row], whole[row]) for row in rows)
    assert streamed.stopped == (after < len(job.batches))


@pytest.mark.parametrize("stream", ["adapted", "pair"])
def test_kl_of_the_chosen_batches(job: Job, stream: str) -> None:
    chosen = np.arange(len(job.batches)) % 3 == 1
    job = job._replace(plan=job.plan._replace(kl_batches=chosen))
    _, rows = run(job, stream=stream)
    kl = np.concatenate([rows[row][f"adapters/{NAME}/kl"] for row in range(5)])
    for index, batch in enumerate(job.batches):
        tokens = slice(int(job.plan.starts[batch.start]), int(job.plan.starts[batch.stop]))
        if not chosen[index]:
            assert np.isnan(kl[tokens]).all()
            continue
        sample = job.samples[batch][0]
        ids = torch.from_numpy(sample.token_ids)[None]
        with torch.inference_mode():
            q = job.model(input_ids=ids).logits[0].double().log_softmax(-1)
            with job.model.disable_adapter():
                p = job.model(input_ids=ids).logits[0].double().log_softmax(-1)
        expected = (p.exp() * (p - q)).sum(-1).numpy()
        np.testing.assert_allclose(kl[tokens][: len(expected)], expected, rtol=1e-3, atol=1e-6)
        assert expected.min() > 0


def test_base_stream_has_no_kl_and_the_base_models_nll(job: Job) -> None:
    chosen = np.ones(len(job.batches), np.bool_)
    job = job._replace(plan=job.plan._replace(kl_batches=chosen))
    _, base = run(job, stream="base")
    _, pair = run(job, stream="pair")
    _, adapted = run(job)
    assert np.isnan(base[0][f"adapters/{NAME}/kl"]).all()
    assert same({"nll": pair[0]["tokens/nll"]}, {"nll": adapted[0]["tokens/nll"]})
    assert not np.allclose(base[0]["tokens/nll"][1:50], adapted[0]["tokens/nll"][1:50])
    assert not np.isnan(pair[0][f"adapters/{NAME}/kl"]).any()


def test_model_without_logits_has_no_nll(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = job.model.get_base_model()
    monkeypatch.setattr(inner, "forward", lambda **arguments: inner.model(**arguments))
    _, rows = run(job._replace(plan=job.plan._replace(kl_batches=np.ones(len(job.batches), np.bool_))))
    assert all(np.isnan(rows[row]["tokens/nll"]).all() for row in range(5))
    assert np.isnan(rows[0][f"adapters/{NAME}/kl"]).all()


def test_forward_without_a_cache_is_not_asked_for_one(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = job.model.get_base_model()
    original = inner.forward
    asked: list[bool] = []

    def forward(
        input_ids: Any,
        attention_mask: Any,
        inputs_embeds: Any,
        labels: Any,
        output_attentions: Any,
        output_hidden_states: Any,
        return_dict: Any,
    ) -> Any:
        asked.append(True)
        return original(input_ids=input_ids, attention_mask=attention_mask)

    monkeypatch.setattr(inner, "forward", forward)
    assert forward_seconds(job.model, job.samples[:1], CPU) > 0
    assert asked


def test_bare_passes_run_without_hooks_and_are_not_counted(job: Job) -> None:
    hooked: list[int] = []
    inner: Any = job.model.get_base_model()
    inner.model.register_forward_pre_hook(
        lambda *_: hooked.append(sum(bool(m._forward_hooks) for m in inner.modules()))
    )
    streamed, _ = run(job)
    assert 0 not in hooked
    assert not {"bare_seconds", "bare_tokens", "overhead"} & streamed.measured.keys()
    hooked.clear()
    streamed, _ = run(job, measure_overhead=True)
    assert hooked.count(0) == 1
    assert hooked[-1] == 0
    seconds, bare, bare_tokens = (streamed.measured[name] for name in ("seconds", "bare_seconds", "bare_tokens"))
    assert bare_tokens == 360  # one batch of four windows
    assert bare > 0
    assert streamed.measured["overhead"] == pytest.approx(seconds / streamed.tokens * bare_tokens / bare)


def test_times_and_progress_name_every_stage(job: Job) -> None:
    calls: list[CaptureProgress] = []
    streamed, _ = run(job, progress=calls.append)
    assert [call.done for call in calls] == [int(job.plan.starts[batch.stop]) for batch in job.batches]
    assert {(call.stage, call.units, call.total) for call in calls} == {("capture", "tokens", job.plan.n_tokens)}
    stages = streamed.measured["stages"]
    assert (stages["encode"], stages["write"]) == (5 * 0.25, 5 * 0.5)
    assert all(stages[stage] > 0 for stage in ("forward", "copy", "logits"))
    assert sum(stages[stage] for stage in ("forward", "copy", "reduce", "logits", "wait")) > 0
    assert sum(stages[stage] for stage in stages if stage not in {"encode", "write"}) <= streamed.measured["seconds"]


def test_probe_tells_types_and_keeps_nothing(job: Job) -> None:
    dtypes, n_logits = probe(job.model, job.recorder(), job.samples[:1], CPU)
    assert set(dtypes) == {component.path for component in find_components(job.model, NAME)}
    assert set(dtypes.values()) == {torch.float32}
    assert n_logits == job.model.config.vocab_size


@pytest.mark.parametrize(("n_tokens", "lengths"), [(90, [16, 16]), (7, [4, 3]), (5, [3, 2]), (4, [4]), (1, [1])])
def test_a_probe_takes_the_first_tokens_in_two_sequences(job: Job, n_tokens: int, lengths: list[int]) -> None:
    whole = job.samples[0]
    sample = dataclasses.replace(whole, token_ids=whole.token_ids[:n_tokens], roles=whole.roles[:n_tokens])
    found = probe_samples(sample, whole=False)
    assert [len(one.token_ids) for one in found] == [len(one.roles) for one in found] == lengths
    np.testing.assert_array_equal(np.concatenate([one.token_ids for one in found]), whole.token_ids[: sum(lengths)])
    probe(job.model, job.recorder(), found, CPU)


@pytest.mark.parametrize("n_tokens", [3, 4, 5, 6])
def test_a_probe_of_few_tokens_finds_them_in_another_order(job: Job, n_tokens: int) -> None:
    """XLNet outputs (position, sequence): for two sequences of two tokens that looks like the batch's own layout."""
    model = XLNetLMHeadModel(XLNetConfig(vocab_size=4096, d_model=16, n_layer=1, n_head=2, d_inner=16))
    adapted: Any = get_peft_model(model, LoraConfig(target_modules=["layer_1"], init_lora_weights=False)).eval()
    whole = job.samples[0]
    sample = dataclasses.replace(whole, token_ids=whole.token_ids[:n_tokens], roles=whole.roles[:n_tokens])
    input_ids, attention_mask = pad(probe_samples(sample, whole=model_facts(adapted).attends_by_length))
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    (problem,) = inspect(adapted, ("default",), probe=inputs).problems
    assert problem.kind == "order"


def test_an_encoder_that_attends_by_length_is_probed_with_the_whole_sample(job: Job) -> None:
    """BigBird leaves its sparse attention for good when a short batch passes."""
    shape = {"vocab_size": 4096, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    blocks = {"num_attention_heads": 2, "block_size": 4, "num_random_blocks": 1, "attention_type": "block_sparse"}
    model = BigBirdForMaskedLM(BigBirdConfig(**shape, **blocks)).eval()
    whole = job.samples[0]
    sample = dataclasses.replace(whole, token_ids=whole.token_ids[:64], roles=whole.roles[:64])
    (found,) = probe_samples(sample, whole=model_facts(model).attends_by_length)
    assert found is sample
    adapted: Any = get_peft_model(model, LoraConfig(target_modules=["query"], init_lora_weights=False)).eval()
    probe(adapted, Recorder({"default": find_components(adapted, "default")}), [found], CPU)
    assert model.bert.attention_type == "block_sparse"


def test_a_probe_proves_its_first_tokens(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    layer: Any = job.model.get_base_model().model.layers[1].mlp.up_proj
    original, wrong = layer.forward, [0]
    monkeypatch.setattr(layer, "forward", lambda x: original(x) + torch.eye(x.shape[1])[wrong[0], :, None])
    with pytest.raises(CaptureError, match="isn't its base plus delta"):
        probe(job.model, job.recorder(), job.samples[:1], CPU)
    wrong[0] = PROBE_TOKENS
    probe(job.model, job.recorder(), job.samples[:1], CPU)
