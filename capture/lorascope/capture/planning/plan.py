"""Plan: what a capture would store, hold in memory and take in time, before it begins."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from lorascope.stores import Problem, RunSpec, open_place, run_state
from lorascope.stores.format.spec import Codec
from lorascope.stores.size import format_size

from ..adapters.components import chosen_components
from ..adapters.preflight import Note, inspect
from ..adapters.training_record import base_notes
from ..buffers.rows import queue_bytes_needed, row_spans
from ..config import CaptureConfig
from ..models.device import is_here, named_device
from ..models.model import is_causal
from ..recording.reduce import has_kernel
from ..recording.stream import Streamed
from ..samples.encoded import EncodedSample, count_roles
from ..settling import costs as bottleneck
from ..settling.costs import Costs
from ..settling.estimate import Estimate, estimate, ways_to_fit
from ..settling.inputs import require_inputs
from ..settling.prepare import Prepared, data_notes, encode_files, read_files, settle
from ..settling.trial import codecs_to_try, run_trial, seconds_a_token
from .memory import device_needs, free_device_bytes, free_host_bytes
from .meta import MetaModel, attach_on_meta, load_on_meta, meta_inputs, output_dtypes


class Fit(NamedTuple):
    """Whether one thing fits."""

    what: str
    """`disk`, `device` or `host`."""
    parts: Mapping[str, int]
    """What takes how many bytes of it."""
    free_bytes: int | None
    """None where nobody knows."""

    @property
    def needed_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether it does, as far as anybody knows."""
        return self.free_bytes is None or self.needed_bytes <= self.free_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a capture will need: exact counts, and estimates of stored bytes, memory and time."""

    config: CaptureConfig
    """The settings; if there is a budget, with the tokens that it chose."""
    n_samples: int
    n_all_tokens: int
    """Tokens that pass the model, captured or not; padding left out."""
    roles: Mapping[str, int]
    """How many of these each role has, such as `template` for what a chat template adds."""
    n_batches: int
    estimate: Estimate
    """Arrays, files and bytes."""
    fit: tuple[Fit, ...]
    """Disk and memory against what is free."""
    problems: tuple[Problem, ...]
    """Reasons why the adapters can't be captured, as far as they show without the model's weights."""
    notes: tuple[Note, ...]
    """Unusual things about the adapters; they are stored in the run."""
    remarks: tuple[str, ...]
    """Assumptions behind the numbers."""
    ways: tuple[str, ...]
    """What to leave out so that it fits; empty if it fits."""
    trial: Streamed | None
    """What a trial on this machine measured; None where there was none."""
    codec_seconds: Mapping[Codec, float]
    """Seconds of the capture by codec, as the trial tells: of `raw` and of a compressed run; empty without a trial."""
    seconds: Mapping[str, float]
    """Seconds of `load`, as measured, and of `score` (with answers), `capture` and `ablate`, from the trial; else
    empty."""
    ablation: Mapping[str, int]
    """`passes` without a part of the adapter, in so many `batches` and captured `tokens`; empty without an ablation."""
    costs: Costs | None
    """What each stage takes for a token, from the trial; None where there was none."""
    faster: Mapping[str, Costs]
    """What would make the capture faster -> the costs with it."""

    @property
    def spec(self) -> RunSpec:
        """What the run would hold."""
        return self.estimate.spec

    @property
    def fits(self) -> bool:
        """Whether disk and memory suffice, as far as anybody knows."""
        return all(one.fits for one in self.fit)

    @property
    def ok(self) -> bool:
        """Whether it fits and the adapters have no problem."""
        return self.fits and not self.problems

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        spec, estimated, trial = self.spec, self.estimate, self.trial
        return {
            "ok": self.ok,
            "fits": {
                one.what: {**one._asdict(), "needed_bytes": one.needed_bytes, "fits": one.fits} for one in self.fit
            },
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
            "notes": [note.as_dict() for note in self.notes],
            "remarks": list(self.remarks),
            "ways_to_fit": list(self.ways),
            "tokens": self.config.tokens,
            "n_tokens": spec.n_tokens,
            "n_rows": spec.n_rows,
            "n_components": len(spec.components),
            **{name: getattr(self, name) for name in ("n_all_tokens", "n_samples", "n_batches")},
            "n_tokens_by_role": dict(self.roles),
            **{name: getattr(estimated, name) for name in ("n_arrays", "n_files", "raw_bytes", "stored_bytes")},
            "needed_bytes": estimated.needed_bytes,
            "parts": [part._asdict() for part in estimated.parts],
            "trial": trial and {"tokens": trial.tokens, **trial.measured},
            "bottleneck": self.costs and bottleneck.as_dict(self.costs, self.faster),
            "seconds": dict(self.seconds),
            "ablation": dict(self.ablation),
            "codec": spec.codec,
            "codec_seconds": dict(self.codec_seconds),
            "settings": dataclasses.asdict(self.config),
        }


def plan(config: CaptureConfig, *, probe: bool = True) -> Plan:
    """How much disk, memory and time a capture will need; nothing stays on disk.

    Parameters
    ----------
    config
        What to capture, from where and to where.
    probe
        Whether to load the model and capture a few rows beside `out`, to measure how long that takes. Without it the
        model's weights aren't read, and needn't be there.

    Raises
    ------
    AdapterError
        If an adapter can't be read or fits no layer of the model; what else is wrong with it is in the plan.
    CaptureError
        If a hook doesn't fire once a pass, or a layer's output isn't its base plus delta.
    StoreError
        If the budget doesn't suffice for one token of each sample.
    ValueError, FileNotFoundError
        If the model or a data file can't be read, or a sample can't be captured as it is.
    """
    require_inputs(config, weights=False)
    run_state(config.out)  # refuses what is neither empty nor a run
    device = named_device(config.device)
    files = read_files(config)
    loaded = load_on_meta(
        config.model,
        dtype=config.dtype,
        trust_remote_code=config.trust_remote_code,
        share=config.share,
        shared_layers=config.shared_layers,
    )
    scored, _ = encode_files(config, loaded.model, loaded.tokenizer, files)
    new = np.zeros(config.generate, np.int64)  # as many as a sample may get, which ones nobody knows yet
    samples = [sample.going_on(new) for sample in scored] if config.generate else scored
    model, problems = attach_on_meta(loaded.model, config.adapters, allow_zero=config.allow_zero)
    # Whether lora_B is zero was seen in the files.
    names = tuple(config.adapters)
    preflight = inspect(model, names, stream=config.stream, allow_zero=True, probe=meta_inputs(model))
    problems += preflight.problems
    components = chosen_components(model, names, config.component, skip=preflight.skipped)
    settled = settle(config, model, samples, components, output_dtypes(model, components), device)
    n_scored = sum(_scored_tokens(sample, config) for sample in scored) if is_causal(model) else 0
    tables = {"base_scores": n_scored > 0 and config.score_base, "answers": config.answer_tokens > 0}
    estimated = estimate(settled.spec, **tables)
    lengths = [len(sample.token_ids) for sample in samples]
    padded = [len(lengths[batch]) * max(lengths[batch]) for batch in settled.batches]
    fit = _fit(settled, model, estimated, max(padded), device)
    ablated = np.flatnonzero(settled.plan.ablate_batches).tolist()
    may_try = probe and loaded.has_weights and not problems and all(one.fits for one in fit)
    trial, seconds, codec_seconds, costs, faster = None, {}, {}, None, {}
    if may_try:
        codecs = codecs_to_try(config, settled.spec, fit[0].free_bytes)
        trials = run_trial(settled.config, samples, preflight.skipped, device, codecs)
        # Token by token as in the trial.
        by_codec = {codec: trials[codec] for codec in codecs}
        codec_seconds = {codec: each * sum(padded) for codec, each in seconds_a_token(by_codec).items()}
        if config.codec == "auto" and min(codecs, key=codec_seconds.__getitem__) == "raw":
            settled = settled._replace(spec=dataclasses.replace(settled.spec, codec="raw"))
            estimated = estimate(settled.spec, **tables)
            fit = _fit(settled, model, estimated, max(padded), device)
        trial = trials[settled.spec.codec]
        times = trial.measured
        seconds["load"] = times["load_seconds"]
        seconds["score"] = times["bare_seconds"] / times["bare_tokens"] * n_scored
        seconds["capture"] = codec_seconds[settled.spec.codec]
        if settled.spec.ablate:
            n_passing = len(settled.spec.ablation_parts) * sum(padded[batch] for batch in ablated)
            seconds["ablate"] = times["ablation_seconds_per_token"] * n_passing
        options: dict[Any, str] = {"none": "--states none", "raw": "--codec raw"}
        others = {options[way]: bottleneck.costs_of(one, device) for way, one in trials.items() if way in options}
        costs = bottleneck.costs_of(trial, device)
        faster = bottleneck.ways(costs, others)
    return Plan(
        config=settled.config,
        n_samples=len(samples),
        n_all_tokens=sum(lengths),
        roles=count_roles(samples),
        n_batches=len(settled.batches),
        estimate=estimated,
        fit=fit,
        problems=tuple(problems),
        notes=(*preflight.notes, *base_notes(model, names, config.model), *data_notes(files, loaded.tokenizer)),
        remarks=tuple(_remarks(settled, loaded, is_tried=trial is not None)),
        ways=() if fit[0].fits else tuple(ways_to_fit(settled.spec, fit[0].free_bytes or 0)),
        trial=trial,
        codec_seconds=codec_seconds,
        seconds=seconds,
        ablation=_ablation(settled, ablated),
        costs=costs,
        faster=faster,
    )


def _ablation(settled: Prepared, batches: Sequence[int]) -> dict[str, int]:
    """How many passes an ablation takes, in how many batches and captured tokens."""
    if settled.spec.ablate is None:
        return {}
    starts = settled.plan.starts
    n_tokens = sum(int(starts[one.stop] - starts[one.start]) for one in map(settled.batches.__getitem__, batches))
    return {"passes": len(settled.spec.ablation_parts) * len(batches), "batches": len(batches), "tokens": n_tokens}


def _scored_tokens(sample: EncodedSample, config: CaptureConfig) -> int:
    """Tokens that pass for a sample's scores: its prompt once, and every choice; for its answer the prompt again."""
    n_models = (2 if config.score_base else 1) if config.score else 0
    if not sample.choices:
        return n_models * len(sample.token_ids)
    answered = sample.n_context + config.answer_tokens if config.answer_tokens else 0
    return n_models * (sample.n_context + sum(len(choice.token_ids) for choice in sample.choices) + answered)


def _fit(
    settled: Prepared, model: Any, estimated: Estimate, batch_tokens: int, device: torch.device
) -> tuple[Fit, ...]:
    """Disk, and memory of the largest batch and of the rows; a model on the CPU is in the host's."""
    config, place = settled.config, open_place(settled.config.out)
    written = sum(size for _, size in place.sizes())  # of the same capture, interrupted
    disk = Fit("disk", {"run": max(estimated.needed_bytes - written, 0)}, place.free_bytes())
    base, spans = model.get_base_model(), row_spans(settled.plan.starts, settled.batches)
    vocabulary = base.config.get_text_config().vocab_size if is_causal(model) else 0
    weights = base.get_memory_footprint()  # shared ones once; the adapters' are within it
    by_kernel = not is_here(device) or has_kernel(device)  # elsewhere as most cards do
    on_device = device_needs(
        settled.spec, weights=weights, batch_tokens=batch_tokens, vocabulary=vocabulary, has_kernel=by_kernel
    )
    n_threads = min(32, (os.cpu_count() or 1) + 4)  # of a ThreadPoolExecutor, by default
    on_host = {
        "row buffers": queue_bytes_needed(estimated.row_sizes(), spans, config.queue_bytes),
        "encoding": n_threads * 2 * max(estimated.row_arrays),  # a chunk and what becomes of it
    }
    if device.type == "cpu":  # where states are copied at once
        on_device.pop("states under way", None)
        return disk, Fit("host", on_device | on_host, free_host_bytes())
    free = None if config.device_map else free_device_bytes(device)
    return disk, Fit("device", on_device, free), Fit("host", on_host, free_host_bytes())


def _remarks(settled: Prepared, loaded: MetaModel, *, is_tried: bool) -> Iterator[str]:
    """What stored bytes, memory and time rest on."""
    config = settled.config
    if there := sum(size for _, size in open_place(config.out).sizes()):
        yield (
            f"`{config.out}` holds {format_size(there)} already: capture goes on with it if it is the same capture, "
            "and refuses any other when it begins"
        )
    if settled.spec.codec != "raw":
        yield "stored bytes rest on how well states of SmolLM2-135M compress; other models differ by some percent"
    if loaded.quantized:
        yield "the weights are quantised, but counted as if they weren't: they take less memory than is said here"
    if config.device_map:
        yield "the model is spread by `device_map`, so what is free on its devices isn't looked at"
    if n := config.answer_tokens:
        yield f"every answer is counted with all {n} tokens, at the speed of a whole pass; one by one they take longer"
    if config.generate:
        yield f"every sample is counted with all {config.generate} new tokens; those that end early are shorter"
    if not loaded.has_weights:
        yield "the model's weights aren't there, so neither whether they are whole nor any time is known"
    elif not is_tried:
        yield "nothing was measured, so no time is known: it wasn't asked for, doesn't fit, or an adapter has a problem"
