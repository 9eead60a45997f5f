"""Plan: what a capture would store, hold in memory and take in time, before it begins."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from lorascope.stores import Problem, RunSpec, open_place, run_state
from lorascope.stores.size import format_size, parse_size

from ..adapters.adapter import attach_adapters
from ..adapters.remarks import Note
from ..config import CaptureConfig
from ..models.device import is_here, named_device
from ..models.model import is_causal, load_model
from ..prepare import encode_files, read_files
from ..recording.stream import evaluating
from .estimate import Estimate, estimate, require_writable, ways_to_fit
from .memory import Need, device_needs, free_device_bytes, free_host_bytes, host_needs, tensor_bytes
from .meta import MetaModel, attach_on_meta, load_on_meta
from .outline import Outline, draw_outline
from .probe import Rates, Times, expect, measure

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
    """What the numbers rest on, and what couldn't be checked."""
    ways: tuple[str, ...]
    """What to drop so that it fits; empty where it does."""
    rates: Rates | None
    """What a trial on this machine measured; None where there was none."""
    times: Times | None
    """What follows from it."""

    @property
    def spec(self) -> RunSpec:
        """What the run would hold."""
        return self.estimate.spec

    @property
    def tokens(self) -> str:
        """The selection of tokens, chosen by the budget if there is one."""
        return self.config.tokens

    @property
    def fits(self) -> bool:
        """Whether disk and memory suffice, as far as anybody knows."""
        return all(one.fits for one in self.fit)

    @property
    def ok(self) -> bool:
        """Whether it fits and the adapters have no problem."""
        return self.fits and not self.problems

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        spec, estimated = self.spec, self.estimate
        return {
            "ok": self.ok,
            "fits": {one.what: {**one._asdict(), "fits": one.fits} for one in self.fit},
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
            "notes": [note.as_dict() for note in self.notes],
            "remarks": list(self.remarks),
            "ways_to_fit": list(self.ways),
            "tokens": self.tokens,
            "n_tokens": spec.n_tokens,
            "n_all_tokens": self.n_all_tokens,
            "n_rows": spec.n_rows,
            "n_samples": self.n_samples,
            "n_batches": self.n_batches,
            "n_components": len(spec.components),
            "n_arrays": estimated.n_arrays,
            "n_files": estimated.n_files,
            "raw_bytes": estimated.raw_bytes,
            "stored_bytes": estimated.stored_bytes,
            "needed_bytes": estimated.needed_bytes,
            "row_bytes": estimated.row_bytes,
            "parts": [part._asdict() for part in estimated.parts],
            "memory": [need._asdict() for need in self.needs],
            "rates": None if self.rates is None else self.rates._asdict(),
            "times": None if self.times is None else self.times._asdict(),
            "settings": dataclasses.asdict(self.config),
        }


def plan(config: CaptureConfig, *, probe: bool = True) -> Plan:
    """What a capture would store, hold in memory and take in time; nothing stays on the disk.

    Parameters
    ----------
    config
        What to capture, from where and to where.
    probe
        Whether to load the model and measure for a few seconds how fast it, the copies and the disk are. Without it the
        model's weights aren't read, and needn't be there.

    Raises
    ------
    AdapterError
        If an adapter can't be read, fits no layer of the model, or can't be captured at all; lesser problems are in the
        plan.
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
    samples, _ = encode_files(config, loaded.model, loaded.tokenizer, files)
    model, problems = attach_on_meta(loaded.model, config.adapters, allow_zero=config.allow_zero)
    outline = draw_outline(config, model, samples)
    problems += outline.preflight.problems
    estimated = estimate(
        outline.spec,
        base_scores=outline.scored_tokens > 0 and config.score_base,
        answers=config.answer_tokens > 0,
    )
    needs = _needs(outline, model, estimated, device)
    fit = _fit(config, estimated, needs, device)
    may_load = loaded.has_weights and not problems and all(one.fits for one in fit if one.what != "disk")
    rates = _try(outline, device) if probe and may_load else None
    return Plan(
        config=outline.config,
        n_samples=len(outline.samples),
        n_all_tokens=outline.n_all_tokens,
        n_batches=len(outline.batches),
        estimate=estimated,
        needs=needs,
        fit=fit,
        problems=tuple(problems),
        notes=outline.preflight.notes,
        remarks=(*_remarks(outline, loaded, device), *_time_remarks(outline, loaded, probe, rates)),
        ways=() if fit[0].fits else tuple(ways_to_fit(outline.spec, fit[0].free_bytes or 0)),
        rates=rates,
        times=None if rates is None else _times(outline, rates, estimated, device),
    )


def _needs(outline: Outline, model: Any, estimated: Estimate, device: torch.device) -> tuple[Need, ...]:
    """Memory of the largest batch and of the rows; a model on the CPU is in the host's."""
    vocabulary = model.get_base_model().config.get_text_config().vocab_size if is_causal(model) else 0
    largest = max(outline.batch_tokens)
    on_device = device_needs(tensor_bytes(model), outline.spec, batch_tokens=largest, vocabulary=vocabulary)
    if device.type == "cpu":
        on_device = [need._replace(where="host") for need in on_device if need.what != "copies under way"]
    n_threads = min(32, (os.cpu_count() or 1) + 4)  # of a ThreadPoolExecutor, by default
    queue_bytes = None if outline.config.queue is None else parse_size(outline.config.queue)
    pinned = device.type == "cuda"
    on_host = host_needs(estimated, outline.spans, queue_bytes=queue_bytes, n_threads=n_threads, pinned=pinned)
    return (*on_device, *on_host)


def _fit(config: CaptureConfig, estimated: Estimate, needs: Sequence[Need], device: torch.device) -> tuple[Fit, ...]:
    place = open_place(config.out)
    written = sum(size for _, size in place.sizes())  # of the same capture, interrupted
    disk = Fit("disk", max(estimated.needed_bytes - written, 0), place.free_bytes())
    free = {"device": None if config.device_map else free_device_bytes(device), "host": free_host_bytes()}
    sums = {where: sum(need.n_bytes for need in needs if need.where == where) for where in free}
    return (disk, *(Fit(where, size, free[where]) for where, size in sums.items() if size))


def _try(outline: Outline, device: torch.device) -> Rates:
    """A trial with the real model."""
    config = outline.config
    model, _ = load_model(
        config.model,
        dtype=config.dtype,
        device=str(device),
        device_map=config.device_map,
        trust_remote_code=config.trust_remote_code,
        share=config.share,
        shared_layers=config.shared_layers,
        share_from=config.share_from,
    )
    adapted = attach_adapters(model, config.adapters, allow_zero=config.allow_zero)
    with evaluating(adapted):
        return measure(adapted, outline.samples, outline.batches, outline.spec, config.out)


def _times(outline: Outline, rates: Rates, estimated: Estimate, device: torch.device) -> Times:
    return expect(
        rates,
        estimated,
        passed_tokens=outline.passed_tokens,
        scored_tokens=outline.scored_tokens,
        beside_the_pass=device.type != "cpu",
    )


def _remarks(outline: Outline, loaded: MetaModel, device: torch.device) -> Iterator[str]:
    """What stored bytes and memory rest on, and what only a capture can check."""
    config = outline.config
    if there := sum(size for _, size in open_place(config.out).sizes()):
        yield (
            f"`{config.out}` holds {format_size(there)} already: capture goes on with it if it is the same capture, "
            "and refuses any other when it begins"
        )
    yield f"the type of the weights is that of {loaded.dtype_basis}"
    if not outline.runs_on_meta:
        yield "the model doesn't run on the meta device, so each layer is taken to put out the type of its weights"
    if outline.spec.codec != "raw":
        yield (
            "stored bytes rest on how well states of SmolLM2-135M compress; other models differ by some percent, and "
            "samples that begin alike take less"
        )
    if loaded.quantized:
        yield "the weights are quantised, but counted as if they weren't: they take less memory than is said here"
    if config.share > 1:
        yield (
            f"weights are counted as they are shared; until then, the model takes {format_size(loaded.loaded_bytes)} "
            "where it is loaded: the host, but for a `device_map`"
        )
    if config.device_map:
        yield "the model is spread by `device_map`, so what is free on its devices isn't looked at"
    elif not is_here(device):
        yield f"there is no device '{device}' on this machine, so what is free there isn't known"
    if config.answer_tokens:
        yield (
            f"every answer is counted with all {config.answer_tokens} tokens, at the speed of a whole pass; one by one "
            "they take longer"
        )
    if config.generate:
        yield f"every sample is counted with all {config.generate} new tokens; those that end early are shorter"
    yield "that each hook fires once a pass, and each layer's output is base plus delta, shows when a capture begins"


def _time_remarks(outline: Outline, loaded: MetaModel, probe: bool, rates: Rates | None) -> Iterator[str]:
    """What the time rests on, or why there is none."""
    if rates is not None:
        yield (
            f"time rests on a trial just now: {rates.n_tokens} tokens passed, and "
            f"{format_size(rates.n_bytes)} of states copied, encoded to {100 * rates.ratio:.0f} % and written; "
            "measuring js and decoding new tokens aren't in it"
        )
    elif not loaded.has_weights:
        yield "the model's weights aren't there, so neither whether they are whole nor any time is known"
    elif not probe:
        yield "nothing was measured, so no time is known"
    else:
        yield "nothing was measured, since the model can't be loaded as it is asked for"
