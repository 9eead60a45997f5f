"""Plan: what a capture would store, hold in memory and take in time, before it begins."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from lorascope.stores import Problem, RunSpec, open_place, run_state
from lorascope.stores.size import format_size

from ..adapters.components import find_components
from ..adapters.preflight import Note, inspect
from ..buffers.rows import row_spans
from ..config import CaptureConfig
from ..models.device import is_here, named_device
from ..models.model import is_causal
from ..prepare import Settled, encode_files, read_files, settle
from ..samples.encode import GENERATED, EncodedSample
from .estimate import Estimate, estimate, require_writable, ways_to_fit
from .memory import Need, device_needs, free_device_bytes, free_host_bytes, host_needs, weight_bytes
from .meta import MetaModel, attach_on_meta, load_on_meta, meta_inputs, output_dtypes
from .trial import Trial, run_trial

__all__ = ["Fit", "Plan", "plan"]


class Fit(NamedTuple):
    """Whether one thing fits."""

    what: str
    """`disk`, `device` or `host`."""
    needed_bytes: int
    free_bytes: int | None
    """None where nobody knows."""

    @property
    def fits(self) -> bool:
        """Whether it does, as far as anybody knows."""
        return self.free_bytes is None or self.needed_bytes <= self.free_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a capture would be: counts as they will be; stored bytes, memory and time as estimates."""

    config: CaptureConfig
    """With the tokens that a budget chose."""
    n_samples: int
    n_all_tokens: int
    """Tokens that pass the model, captured or not; padding left out."""
    n_batches: int
    estimate: Estimate
    """Arrays, files and bytes."""
    needs: tuple[Need, ...]
    """Memory, part by part."""
    fit: tuple[Fit, ...]
    """Disk and memory against what is free."""
    problems: tuple[Problem, ...]
    """What keeps the adapters from being captured, as far as it shows without the model's weights."""
    notes: tuple[Note, ...]
    """What is unusual about them, and goes into the store."""
    remarks: tuple[str, ...]
    """What the numbers rest on."""
    ways: tuple[str, ...]
    """What to drop so that it fits; empty where it does."""
    trial: Trial | None
    """What a trial on this machine measured; None where there was none."""
    seconds: Mapping[str, float]
    """What the trial promises of `score` (and answers) and of `capture`; empty where there was none."""

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
        spec, estimated = self.spec, self.estimate
        return {
            "ok": self.ok,
            "fits": {one.what: {**one._asdict(), "fits": one.fits} for one in self.fit},
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
            "notes": [note.as_dict() for note in self.notes],
            "remarks": list(self.remarks),
            "ways_to_fit": list(self.ways),
            "tokens": self.config.tokens,
            "n_tokens": spec.n_tokens,
            "n_rows": spec.n_rows,
            "n_components": len(spec.components),
            **{name: getattr(self, name) for name in ("n_all_tokens", "n_samples", "n_batches")},
            **{name: getattr(estimated, name) for name in ("n_arrays", "n_files", "raw_bytes", "stored_bytes")},
            "needed_bytes": estimated.needed_bytes,
            "row_bytes": estimated.row_bytes,
            "parts": [part._asdict() for part in estimated.parts],
            "memory": [need._asdict() for need in self.needs],
            "trial": None if self.trial is None else self.trial._asdict(),
            "seconds": dict(self.seconds),
            "settings": dataclasses.asdict(self.config),
        }


def plan(config: CaptureConfig, *, probe: bool = True) -> Plan:
    """What a capture would store, hold in memory and take in time; nothing stays on the disk.

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
    require_writable(config.out)
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
    samples = [_generated(sample, config.generate) for sample in scored] if config.generate else scored
    model, problems = attach_on_meta(loaded.model, config.adapters, allow_zero=config.allow_zero)
    # Whether lora_B is zero was seen in the files.
    names = tuple(config.adapters)
    preflight = inspect(model, names, stream=config.stream, allow_zero=True, probe=meta_inputs(model))
    problems += preflight.problems
    components = {name: find_components(model, name, skip=preflight.skipped) for name in names}
    settled = settle(config, model, samples, components, output_dtypes(model, components), device)
    n_scored = sum(_scored_tokens(sample, config) for sample in scored) if is_causal(model) else 0
    estimated = estimate(settled.spec, base_scores=n_scored > 0 and config.score_base, answers=config.answer_tokens > 0)
    lengths = [len(sample.token_ids) for sample in samples]
    padded = [len(lengths[batch]) * max(lengths[batch]) for batch in settled.batches]
    needs = _needs(settled, model, estimated, max(padded), device)
    fit = _fit(config, estimated, needs, device)
    may_try = probe and loaded.has_weights and not problems and all(one.fits for one in fit)
    trial = run_trial(settled.config, samples, preflight.skipped, device) if may_try else None
    return Plan(
        config=settled.config,
        n_samples=len(samples),
        n_all_tokens=sum(lengths),
        n_batches=len(settled.batches),
        estimate=estimated,
        needs=needs,
        fit=fit,
        problems=tuple(problems),
        notes=preflight.notes,
        remarks=tuple(_remarks(settled, loaded, device, probe=probe, trial=trial)),
        ways=() if fit[0].fits else tuple(ways_to_fit(settled.spec, fit[0].free_bytes or 0)),
        trial=trial,
        seconds={} if trial is None else _seconds(trial, n_scored, sum(padded)),
    )


def _generated(sample: EncodedSample, n: int) -> EncodedSample:
    """The sample with as many new tokens as it may get, which ones nobody knows yet."""
    prompt = sample.n_context if sample.choices else len(sample.token_ids)
    return dataclasses.replace(
        sample,
        token_ids=np.concatenate([sample.token_ids[:prompt], np.zeros(n, np.int64)]),
        roles=np.concatenate([sample.roles[:prompt], np.full(n, GENERATED, np.uint8)]),
    )


def _scored_tokens(sample: EncodedSample, config: CaptureConfig) -> int:
    """Tokens that pass for a sample's scores: its prompt once, and every choice; for its answer the prompt again."""
    n_models = (2 if config.score_base else 1) if config.score else 0
    if not sample.choices:
        return n_models * len(sample.token_ids)
    answered = sample.n_context + config.answer_tokens if config.answer_tokens else 0
    return n_models * (sample.n_context + sum(len(choice.token_ids) for choice in sample.choices) + answered)


def _needs(
    settled: Settled, model: Any, estimated: Estimate, batch_tokens: int, device: torch.device
) -> tuple[Need, ...]:
    """Memory of the largest batch and of the rows; a model on the CPU is in the host's."""
    vocabulary = model.get_base_model().config.get_text_config().vocab_size if is_causal(model) else 0
    weights = weight_bytes(model)
    on_device = device_needs(settled.spec, weights=weights, batch_tokens=batch_tokens, vocabulary=vocabulary)
    if device.type == "cpu":  # where states are copied at once
        on_device = [need._replace(where="host") for need in on_device if need.what != "states under way"]
    n_threads = min(32, (os.cpu_count() or 1) + 4)  # of a ThreadPoolExecutor, by default
    on_host = host_needs(
        estimated,
        row_spans(settled.plan.starts, settled.batches),
        queue_bytes=settled.config.queue_bytes,
        n_threads=n_threads,
        pinned=device.type == "cuda",
    )
    return (*on_device, *on_host)


def _fit(config: CaptureConfig, estimated: Estimate, needs: Sequence[Need], device: torch.device) -> tuple[Fit, ...]:
    place = open_place(config.out)
    written = sum(size for _, size in place.sizes())  # of the same capture, interrupted
    disk = Fit("disk", max(estimated.needed_bytes - written, 0), place.free_bytes())
    free = {"device": None if config.device_map else free_device_bytes(device), "host": free_host_bytes()}
    sums = {where: sum(need.n_bytes for need in needs if need.where == where) for where in free}
    return (disk, *(Fit(where, size, free[where]) for where, size in sums.items() if size))


def _seconds(trial: Trial, scored_tokens: int, padded_tokens: int) -> dict[str, float]:
    """Seconds of scores and of the capture, token by token as in the trial."""
    return {
        "score": trial.bare_seconds_per_token * scored_tokens,
        "capture": trial.seconds / trial.n_tokens * padded_tokens,
    }


def _remarks(
    settled: Settled, loaded: MetaModel, device: torch.device, *, probe: bool, trial: Trial | None
) -> Iterator[str]:
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
    elif not is_here(device):
        yield f"there is no device '{device}' on this machine, so what is free there isn't known"
    if n := config.answer_tokens:
        yield f"every answer is counted with all {n} tokens, at the speed of a whole pass; one by one they take longer"
    if config.generate:
        yield f"every sample is counted with all {config.generate} new tokens; those that end early are shorter"
    if trial is not None:
        yield (
            f"time rests on a trial just now: {trial.n_tokens} tokens captured in {trial.seconds:.1f} s, and "
            f"{format_size(trial.raw_bytes)} of states written as {format_size(trial.stored_bytes)}"
        )
    elif not loaded.has_weights:
        yield "the model's weights aren't there, so neither whether they are whole nor any time is known"
    elif not probe:
        yield "nothing was measured, so no time is known"
    else:
        yield "nothing was measured, since something doesn't fit or is wrong with the adapter"
