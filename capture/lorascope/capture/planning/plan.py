"""Plans of captures: disk, memory and time, before a capture begins."""

import dataclasses
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from lorascope.stores import Problem, RunSpec, open_place, run_state
from lorascope.stores.format.spec import Codec
from lorascope.stores.format.tables import REPLY_SCALES
from lorascope.stores.size import format_size

from ..buffers.rows import queue_bytes_needed, row_spans
from ..config import CaptureConfig
from ..models.adapter import read_adapter
from ..models.components import select_components
from ..models.device import is_present, parse_device
from ..models.model import is_causal, model_facts
from ..models.passes import n_change_passes
from ..models.preflight import Note, finite_notes, inspect
from ..models.refusal import plan_problems, split_problems
from ..models.tensor_plan import require_shardable
from ..models.training_record import base_notes
from ..recording.importance import MOST_SAMPLES, choose_samples
from ..recording.layout import Layout
from ..recording.nulls import require_turnable
from ..recording.progress import Report, report_stage
from ..recording.reduce import has_kernel
from ..samples.encoded import EncodedSample, count_roles
from ..samples.replies import REPLY_TOKENS, encode_reply_prompts
from ..samples.reply_prompts import read_reply_prompts
from ..settling.data import data_notes, encode_data, read_data
from ..settling.estimate import Estimate, estimate, ways_to_fit
from ..settling.inputs import require_inputs
from ..settling.load import require_splittable
from ..settling.make_layout import make_layout, with_chosen_tokens
from ..settling.neutral import longest_layout
from ..settling.trial import TrialResult, Way, codecs_to_try, run_trial, scored_tokens
from .memory import device_bytes_needed, expert_bytes, free_device_bytes, free_host_bytes
from .meta import MetaModel, attach_on_meta, load_on_meta, meta_inputs, output_dtypes
from .processes import link_bytes, shards, weight_bytes


class Fit(NamedTuple):
    """Disk or memory that a capture needs, and how much of it is free."""

    what: str
    """`disk`, `device` or `host`."""
    parts: Mapping[str, int]
    """Part -> the bytes that it needs."""
    free_bytes: int | None
    """None if unknown."""

    @property
    def needed_bytes(self) -> int:
        """Bytes of disk or memory that the capture needs: the sum over `parts`."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether the needed bytes are free; True if that isn't known."""
        return self.free_bytes is None or self.needed_bytes <= self.free_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Plan of a capture: exact counts, and estimates of the disk, memory and time that it will need."""

    config: CaptureConfig
    """The settings; if there is a budget, with the tokens that it chose."""
    n_samples: int
    n_all_tokens: int
    """Number of tokens that pass the model, captured or not, without padding."""
    roles: Mapping[str, int]
    """Role -> number of these tokens with it, such as `template` for tokens that a chat template adds."""
    n_batches: int
    n_padded: int
    """Tokens of all batches, padding included."""
    estimate: Estimate
    """Arrays, files and bytes."""
    fit: tuple[Fit, ...]
    """Disk and memory against what is free."""
    problems: tuple[Problem, ...]
    """Reasons why the adapters can't be captured, as far as they are known without the model's weights."""
    notes: tuple[Note, ...]
    """Unusual things about the adapters; they are stored in the run."""
    remarks: tuple[str, ...]
    """Assumptions behind the numbers."""
    ways: tuple[str, ...]
    """Options that would make it fit; empty if it fits."""
    trials: Mapping[Way, TrialResult]
    """Codec, or `none` for a capture without states -> measurements on this machine; empty without a trial."""
    seconds: Mapping[str, float]
    """Seconds of `load`, as measured, and of `score` (with answers), `replies`, `importance`, `null adapters`,
    `capture`, `changes`, `ablate` and `neutral`, from the trial; else empty."""
    ablation: Mapping[str, int]
    """Numbers of an ablation's `passes`, `batches` and captured `tokens`; empty without an ablation."""
    changes: Mapping[str, int]
    """Numbers of further `passes` for next-token changes, their `batches` and captured `tokens`; empty without."""
    processes: int
    """Number of processes over which the model is spread; memory is that of one."""
    links: Mapping[str, int]
    """Exchange between processes -> bytes that the busiest one receives over all passes; empty for one process."""

    @property
    def spec(self) -> RunSpec:
        """Specification of the run: components, adapters, sizes."""
        return self.estimate.spec

    @property
    def fits(self) -> bool:
        """Whether disk and memory suffice, as far as it is known."""
        return all(need.fits for need in self.fit)

    @property
    def ok(self) -> bool:
        """Whether disk and memory suffice and the adapters have no problem."""
        return self.fits and not self.problems

    @property
    def trial(self) -> TrialResult | None:
        """Measurements of the trial with the capture's codec; None without a trial."""
        return self.trials.get(self.spec.codec)

    @property
    def codec_seconds(self) -> dict[Codec, float]:
        """Codec -> seconds that the capture would take with it, estimated from the trials."""
        return {way: tried.seconds * self.n_padded for way, tried in self.trials.items() if way != "none"}

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as a dictionary of JSON values."""
        spec, estimated, trial = self.spec, self.estimate, self.trial
        return {
            "ok": self.ok,
            "fits": {
                need.what: {**need._asdict(), "needed_bytes": need.needed_bytes, "fits": need.fits} for need in self.fit
            },
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
            "notes": [note._asdict() for note in self.notes],
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
            "bottleneck": trial
            and {**trial.costs.as_dict(), "ways": {way: tried.costs.as_dict() for way, tried in self.trials.items()}},
            "seconds": dict(self.seconds),
            "ablation": dict(self.ablation),
            "changes": dict(self.changes),
            "processes": self.processes,
            "links": dict(self.links),
            "codec": spec.codec,
            "codec_seconds": self.codec_seconds,
            "settings": dataclasses.asdict(self.config),
        }


def plan(config: CaptureConfig, *, probe: bool = True, processes: int | None = None, progress: Report = None) -> Plan:
    """Estimate how much disk, memory and time a capture will need, and return a Plan; nothing stays on the disk.

    Parameters
    ----------
    config
        What to capture, from where and to where.
    probe
        Whether to load the model and capture a few rows next to `out`, to measure how long that takes. Without it the
        model's weights aren't read, and may be missing. A model that is spread over processes isn't tried.
    processes
        Number of processes that torchrun will start for a model that is spread over them; by default `tensor_parallel`.
    progress
        Called with a `CaptureProgress` at the beginning and end of each stage: `check`, `load model` and those of the
        trial, such as `try a capture`.

    Raises
    ------
    AdapterError
        If an adapter can't be read or fits no layer of the model; other problems with it are in the plan.
    CaptureError
        If a hook doesn't fire once a pass, or a layer's output isn't its base plus delta.
    StoreError
        If the budget doesn't suffice for one token of each sample.
    ValueError, FileNotFoundError
        If the model or a data file can't be read, or a sample can't be captured as it is.
    """
    require_inputs(config, weights=False)
    processes = _count_processes(config, processes)
    place = open_place(config.out)
    run_state(place)  # refuses what is neither empty nor a run
    written_bytes = sum(size for _, size in place.sizes())
    device = parse_device(config.device)
    with report_stage(progress, "check"):
        data = read_data(config)
        loaded = load_on_meta(config.model, **config.loading)
        if config.is_split:
            require_splittable(config, {})
        require_shardable(loaded.model, tensor_parallel=config.tensor_parallel, fully_shard=config.fully_shard)
        facts = model_facts(loaded.model)
        scored, _ = encode_data(data, loaded.tokenizer, config, facts.context_length)
        new = np.zeros(config.generate, np.int64)  # as many as a sample may get; the ids aren't known yet
        samples = [sample.continued_with(new) for sample in scored] if config.generate else scored
        model, problems = attach_on_meta(loaded.model, config.adapters, allow_zero=config.allow_zero)
        for settings, tensors in map(read_adapter, config.adapters.values() if config.is_split else ()):
            problems += split_problems(settings)
            problems += plan_problems(model, tensors) if config.tensor_parallel > 1 else []
        # Whether lora_B is zero was seen in the files.
        names = tuple(config.adapters)
        if config.null_adapters:
            require_turnable(model, names)
        preflight = inspect(model, names, stream=config.stream, allow_zero=True, probe=meta_inputs(model))
        problems += preflight.problems
        components = select_components(model, names, config.component, skip=preflight.skipped)
        prompts = encode_reply_prompts(read_reply_prompts(config.replies), loaded.tokenizer, facts.context_length)
        layers: dict[str, Any] = {"components": components, "dtypes": output_dtypes(components), "device": device}
        layers["n_logits"] = facts.n_known_tokens % sys.maxsize  # none if the model doesn't state their number
        inner = None if config.neutral is None else longest_layout(config, facts, loaded.tokenizer, **layers)
        texts = {"neutral texts": estimate(inner.spec).needed_bytes} if inner else {}
        layers |= {"n_prompts": len(prompts), "reserved_bytes": sum(texts.values())}
        layout = make_layout(config, facts, samples, **layers)
    chosen = with_chosen_tokens(config, layout)
    n_scored = sum(_scored_tokens(sample, config) for sample in scored) if facts.is_causal else 0
    tables: dict[str, Any] = {"base_scores": n_scored > 0 and config.score_base, "answers": config.answer_tokens > 0}
    tables["change_share"] = layout.change_share
    estimated = estimate(layout.spec, **tables)
    lengths = [len(sample.token_ids) for sample in samples]
    padded = [len(lengths[batch]) * max(lengths[batch]) for batch in layout.batches]

    def needs() -> tuple[Fit, ...]:
        """Return one Fit each for disk and memory: bytes that the current estimate needs, and bytes that are free."""
        disk = Fit("disk", {"run": max(estimated.needed_bytes - written_bytes, 0), **texts}, place.free_bytes())
        return disk, *_memory_fits(layout, model, estimated, max(padded), config, processes)

    fit = needs()
    graded = choose_samples(len(lengths), config.seed).tolist()
    n_graded = sum(lengths[number] for number in graded)
    trials: dict[Way, TrialResult] = {}
    seconds: dict[str, float] = {}
    notes = [*preflight.notes, *base_notes(model, names, config.model), *data_notes(data, loaded.tokenizer)]
    if probe and processes == 1 and loaded.has_weights and not problems and all(need.fits for need in fit):
        codecs = codecs_to_try(config, layout.spec, fit[0].free_bytes)
        trials = run_trial(chosen, samples, device, codecs, skip=preflight.skipped, progress=progress)
        if config.codec == "auto" and min(codecs, key=lambda codec: trials[codec].seconds) == "raw":
            layout = layout._replace(spec=dataclasses.replace(layout.spec, codec="raw"))
            estimated = estimate(layout.spec, **tables)
            fit = needs()
        tried = trials[layout.spec.codec]
        notes += finite_notes(tried.measured["not_finite"])
        seconds["load"] = tried.measured["load_seconds"]
        seconds["score"] = tried.measured.get("score_seconds_per_token", 0.0) * n_scored
        if prompts:
            seconds["replies"] = tried.costs.forward * _reply_tokens(prompts.values(), len(names))
        if config.null_adapters:
            seconds["null adapters"] = tried.costs.forward * n_graded * _null_passes(config) * len(names)
        if config.importance:
            # Each draw takes a backward pass and, since only what enters a layer is kept, the forward one again.
            seconds["importance"] = tried.costs.forward * n_graded * (1 + 2 * config.importance) * len(names)
        seconds["capture"] = tried.seconds * sum(padded)  # seconds per token as in the trial
        if layout.spec.n_vocabulary:
            n_passing = np.dot(padded, layout.plan.change_batches)
            seconds["changes"] = tried.measured["change_seconds_per_token"] * float(n_passing)
        if layout.spec.ablate:
            n_passing = len(layout.spec.ablation_parts) * np.dot(padded, layout.plan.ablate_batches)
            seconds["ablate"] = tried.measured["ablation_seconds_per_token"] * float(n_passing)
        if inner:
            once = tried.costs.forward  # of a text that the base writes, and of its pass without the adapter
            seconds["neutral"] = (tried.seconds + 2 * once) * inner.plan.n_tokens
    remarks = [*_remarks(chosen, layout, loaded, written_bytes, processes, is_tried=bool(trials))]
    if inner:
        own = f"{len(inner.samples)} neutral texts are counted with {inner.plan.n_tokens} tokens"
        remarks.append(f"{own}, at the speed of a pass; those that the base writes one by one take longer")
    return Plan(
        config=chosen,
        n_samples=len(samples),
        n_all_tokens=sum(lengths),
        roles=count_roles(samples),
        n_batches=len(layout.batches),
        n_padded=sum(padded),
        estimate=estimated,
        fit=fit,
        problems=tuple(problems),
        notes=tuple(notes),
        remarks=tuple(remarks),
        ways=() if fit[0].fits else tuple(ways_to_fit(layout.spec, (fit[0].free_bytes or 0) - sum(texts.values()))),
        trials=trials,
        seconds=seconds,
        ablation=_counts(layout, layout.plan.ablate_batches, len(layout.spec.ablation_parts)),
        changes=_counts(layout, layout.plan.change_batches, n_change_passes(config.stream, names)),
        processes=processes,
        links=link_bytes(model, layout, config, processes=processes, n_passed=sum(padded)),
    )


def _count_processes(config: CaptureConfig, processes: int | None) -> int:
    """Return the number of processes of a capture; raise ValueError if these settings can't have `processes`."""
    n = config.tensor_parallel if processes is None else processes
    if config.fully_shard and n < 2:
        raise ValueError(f"`fully_shard` is True, but `processes` is {processes}; give the number, 2 or more")
    if n < 1 or n % config.tensor_parallel:
        raise ValueError(f"`processes` is {n}; give a multiple of `tensor_parallel`, {config.tensor_parallel}")
    if n > 1 and config.tensor_parallel == 1 and not config.fully_shard:
        raise ValueError(f"`processes` is {n}, but neither `tensor_parallel` nor `fully_shard` is set; set one of them")
    return n


def _counts(layout: Layout, chosen: np.ndarray, n_passes: int) -> dict[str, int]:
    """Return the numbers of chosen `batches`, of their captured `tokens` and further `passes`; {} if none is chosen."""
    n = int(chosen.sum())
    return {"passes": n_passes * n, "batches": n, "tokens": layout.count_tokens(chosen)} if n else {}


def _scored_tokens(sample: EncodedSample, config: CaptureConfig) -> int:
    """Return the number of tokens that pass the model for a sample's scores and answer, over all passes."""
    n_models = (2 if config.score_base else 1) if config.score else 0
    answered = sample.n_context + config.answer_tokens if config.answer_tokens and sample.choices else 0
    return n_models * (scored_tokens(sample) + answered)


def _reply_tokens(prompts: Collection[EncodedSample], n_adapters: int) -> int:
    """Return the number of tokens that pass the model for replies to prompts and their likelihoods, over all passes."""
    n_scales, n_tokens = len(REPLY_SCALES), sum(len(prompt.token_ids) for prompt in prompts)
    n_new = len(prompts) * REPLY_TOKENS
    n_written = (1 + (n_scales - 1) * n_adapters) * (n_tokens + n_new)
    return n_written + n_adapters * n_scales * (n_tokens + n_scales * n_new)


def _null_passes(config: CaptureConfig) -> int:
    """Return the time of null adapters in that of bare passes: each takes one or two, and measures of all tokens."""
    return 1 + (2 if config.stream == "adapted" else 3) * (1 + config.null_adapters)


def _memory_fits(
    layout: Layout, model: Any, estimated: Estimate, batch_tokens: int, config: CaptureConfig, processes: int
) -> tuple[Fit, ...]:
    """Return the Fit of device and host, or host only: memory that the largest batch and rows need, and free memory.

    `batch_tokens` are the tokens of the largest batch, with padding. Of several processes, it is that of one.
    """
    base, spans = model.get_base_model(), row_spans(layout.plan.starts, layout.batches)
    device, n = parse_device(config.device), config.tensor_parallel
    vocabulary = base.config.get_text_config().vocab_size if is_causal(model) else 0
    weights = weight_bytes(model, n, fully_shard=config.fully_shard, processes=processes)
    by_kernel = not is_present(device) or has_kernel(device)  # elsewhere as most cards do
    sizes = {"batch_tokens": batch_tokens, "vocabulary": vocabulary}
    on_device = device_bytes_needed(
        layout.spec, weights=weights, shards=shards(model, n), **sizes, has_kernel=by_kernel
    )
    n_choices = max((block.n_choices for block in layout.spec.experts), default=0)
    on_device |= expert_bytes(chain.from_iterable(layout.components.values()), n_choices, batch_tokens)
    n_threads = min(32, (os.cpu_count() or 1) + 4)  # of a ThreadPoolExecutor, by default
    on_host = {
        "row buffers": queue_bytes_needed(estimated.row_sizes(), spans, config.queue_bytes),
        "encoding": n_threads * 2 * max(estimated.row_arrays),  # a chunk, and the same chunk encoded
    }
    if device.type == "cpu":  # where states are copied at once
        on_device.pop("states under way", None)
        return (Fit("host", on_device | on_host, free_host_bytes()),)
    if config.null_adapters:
        on_host["null adapters"] = on_device.pop("null adapters")
    free = None if config.device_map else free_device_bytes(device)
    return Fit("device", on_device, free), Fit("host", on_host, free_host_bytes())


def _remarks(
    config: CaptureConfig, layout: Layout, loaded: MetaModel, written_bytes: int, processes: int, *, is_tried: bool
) -> Iterator[str]:
    """Yield sentences on the assumptions behind a plan's bytes, memory and time."""
    if written_bytes:
        yield (
            f"`{config.out}` holds {format_size(written_bytes)} already: capture continues it if it is the same "
            "capture, and refuses any other when it begins"
        )
    if layout.spec.codec != "raw":
        yield "stored bytes rest on how well states of SmolLM2-135M compress; other models differ by some percent"
    if loaded.quantized:
        yield "the weights are quantised, but counted as if they weren't: they take less memory than stated here"
    if config.device_map:
        yield "the model is spread by `device_map`, so what is free on its devices isn't looked at"
    if processes > 1:
        yield f"memory and links are those of the one of {processes} processes that needs the most; none was tried here"
    if n := config.importance:
        yield f"importance takes as long as {1 + 2 * n} forward passes over up to {MOST_SAMPLES} samples an adapter"
    if config.null_adapters:
        n = _null_passes(config)
        yield f"null adapters take about as long as {n} passes over up to {MOST_SAMPLES} samples an adapter"
    if n := sum(component.block is not None for own in layout.components.values() for component in own):
        yield f"{n} components are weights of experts: for each its block runs again, and chosen experts once for all"
    if n := config.answer_tokens:
        yield f"every answer is counted with all {n} tokens, at the speed of a whole pass; one by one they take longer"
    if config.replies:
        yield f"every reply is counted with {REPLY_TOKENS} tokens at the speed of a pass; one by one they take longer"
    if config.generate:
        yield f"every sample is counted with all {config.generate} new tokens; those that end early are shorter"
    if not loaded.has_weights:
        yield "the model's weights aren't there, so neither whether they are whole nor any time is known"
    elif not is_tried and processes == 1:
        yield "nothing was measured, so no time is known: it wasn't asked for, doesn't fit, or an adapter has a problem"
