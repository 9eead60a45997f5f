"""The speed of a capture on this machine, measured by a trial that captures a few rows."""

import dataclasses
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from lorascope.stores import Place, RowWritten, RunSpec, RunWriter, create_run, open_place, open_run
from lorascope.stores.format.codec import encode_chunk
from lorascope.stores.format.digests import chunk_digest
from lorascope.stores.format.spec import FORMAT_VERSION, Codec
from lorascope.stores.writing.write import collect_results

from ..buffers.copies import ChosenTokens, copier_for
from ..buffers.row_buffer import RowBuffer
from ..buffers.target import flat_index
from ..config import CaptureConfig
from ..models.adapter import attach_adapters
from ..models.components import LoraComponent, select_components
from ..models.device import input_device
from ..models.model import ModelFacts, load_model, model_facts
from ..models.passes import evaluating, n_change_passes, stream_passes
from ..models.weights import ReadableWeights, base_tensors, count_not_finite
from ..recording.changes import draw_uniforms, next_token_changes
from ..recording.forward import forward, forward_seconds, kl_divergence, probe
from ..recording.hooks import Recorder
from ..recording.layout import Layout, make_tables
from ..recording.progress import Report, report_stage
from ..recording.run_model import fill_rows
from ..recording.stream import Streamed
from ..samples.encoded import EncodedSample, probe_samples
from ..samples.scoring import score
from .estimate import Costs, estimate, n_cores
from .load import Loaded
from .make_layout import make_layout, with_chosen_tokens

TRIAL_TOKENS = 1024
"""Largest number of tokens of a short trial, unless half of the data is less."""
TRIAL_SECONDS = 10.0
"""About how many seconds a short trial takes after loading; on a busy machine it has fewer tokens."""
TRIAL_PASSES = 14
"""About how many forward passes over its tokens a trial takes: each way with hooks, bare passes, scores, changes."""
TIMED_TOKENS = 128
"""Number of tokens of the pass that decides how many a short trial has."""
MOST_TOKENS = 2**15
"""Largest number of tokens of a trial that is to last for some seconds."""
BARE_SECONDS = 1.0
"""About how many seconds bare passes are measured."""
ENCODED_BYTES = 2**26
"""About how many bytes of a row are encoded once more, alone, to time the encoder."""

Way = Codec | Literal["none"]
"""A way to capture: with states and a codec, or without states."""


class TrialResult(NamedTuple):
    """Speed of a trial capture of a few samples, with one codec or without base and delta, and each stage's cost."""

    tokens: int
    """Tokens that passed, padding included."""
    measured: Mapping[str, Any]
    """Numbers that a run stores (`Streamed`); `alone`, the same without encoding and writing; `load_seconds`,
    `not_finite` (name, count of NaN and infinite numbers) of the base's weights that hold any; `bare_seconds` and
    `bare_tokens` of passes without hooks; rates of disk, encoder and, from a GPU, copies."""
    costs: Costs

    @property
    def seconds(self) -> float:
        """Seconds of the capture per token that passed the model, padding included."""
        return float(self.measured["seconds"]) / self.tokens


def run_trial(
    config: CaptureConfig,
    samples: Sequence[EncodedSample],
    device: torch.device,
    codecs: Sequence[Codec],
    *,
    skip: Sequence[str] = (),
    seconds: float | None = None,
    progress: Report = None,
) -> dict[Way, TrialResult]:
    """Load the model, capture a few samples with each codec and without base and delta; return way -> TrialResult.

    The runs are written next to `out`, and deleted.

    Paths in `skip` are no components. With `seconds`, a second trial takes enough samples to keep each way busy for
    that long. Nothing stays on the disk; `progress` hears of the stages. Raises what `capture` raises on the model and
    its adapters.
    """
    start = time.perf_counter()
    with report_stage(progress, "load model"):
        base, _ = load_model(config.model, device=str(device), **config.loading)
        model = attach_adapters(base, config.adapters, allow_zero=config.allow_zero)
        load_seconds = time.perf_counter() - start
        weights = ReadableWeights(model, base_tensors(model))
        not_finite = [(name, n) for name in weights if (n := count_not_finite(weights[name]))]
    place, facts = input_device(model), model_facts(model)
    with evaluating(model):
        components = select_components(model, tuple(config.adapters), config.component, skip=skip)
        recorder = Recorder(components, stream=config.stream)
        few = probe_samples(samples[0], whole=facts.attends_by_length)
        dtypes, _ = probe(model, recorder, few, place)  # warms up too
        short = first_samples(samples, _affordable_tokens(model, samples, place))
        tried = try_ways(config, model, facts, short, components, dtypes, place, codecs, progress)
        if seconds is not None:
            slowest = max(tried.values(), key=lambda way: way.seconds)
            raw = max(way.measured["raw_bytes"] / way.tokens for way in tried.values())
            room = (open_place(config.out).free_bytes() or 2**40) / 2 / raw
            longer = first_samples(samples, int(min(seconds / slowest.seconds, MOST_TOKENS, room)))
            tried = try_ways(config, model, facts, longer, components, dtypes, place, codecs, progress)
    loading = {"load_seconds": load_seconds, "not_finite": not_finite}
    return {way: result._replace(measured={**result.measured, **loading}) for way, result in tried.items()}


def fastest_codec(config: CaptureConfig, layout: Layout, loaded: Loaded, place: Place) -> Codec:
    """Return the codec that captures the first samples fastest in a trial; the only choice is returned untried.

    `config` are the settings before a budget chose the tokens.
    """
    codecs = codecs_to_try(config, layout.spec, place.free_bytes())
    if len(codecs) == 1:
        return codecs[0]
    dtypes = {component.path: getattr(torch, component.dtype) for component in layout.spec.components}
    samples = first_samples(layout.samples, _affordable_tokens(loaded.model, layout.samples, loaded.device))
    inputs = (loaded.facts, samples, layout.components, dtypes, loaded.device)
    few = _trial_layout(with_chosen_tokens(config, layout), *inputs)
    streamed = time_codecs(few, loaded.model, loaded.device, config.out, codecs)
    return min(codecs, key=lambda codec: streamed[codec].measured["seconds"] / streamed[codec].tokens)


def codecs_to_try(config: CaptureConfig, spec: RunSpec, free_bytes: int | None) -> tuple[Codec, ...]:
    """Return the codecs that a trial compares: `raw` if it may help, and the requested one or the default.

    `raw` is excluded if it gains nothing or has no room: without states, with a budget, or if the run wouldn't fit the
    free bytes.
    """
    if config.codec == "raw":
        return "raw", "default"
    raw = estimate(dataclasses.replace(spec, codec="raw")).needed_bytes
    may_be_raw = config.states != "none" and config.budget is None and (free_bytes is None or raw <= free_bytes)
    return ("raw", spec.codec) if may_be_raw else (spec.codec,)


def first_samples(samples: Sequence[EncodedSample], n_tokens: int) -> Sequence[EncodedSample]:
    """Return the first samples that together have `n_tokens` tokens, or all of them."""
    totals = np.cumsum([len(sample.token_ids) for sample in samples])
    return samples[: int(np.searchsorted(totals, min(n_tokens, totals[-1]))) + 1]


def _affordable_tokens(model: Any, samples: Sequence[EncodedSample], device: torch.device) -> int:
    """Return how many tokens a short trial has, by the time of one pass: at most 1024, and half of all."""
    few = first_samples(samples, TIMED_TOKENS)
    n_padded = len(few) * max(len(sample.token_ids) for sample in few)
    seconds = forward_seconds(model, few, device) / n_padded
    half = sum(len(sample.token_ids) for sample in samples) // 2
    return max(min(int(TRIAL_SECONDS / TRIAL_PASSES / seconds), TRIAL_TOKENS, half), 1)


def try_ways(
    config: CaptureConfig,
    model: Any,
    facts: ModelFacts,
    samples: Sequence[EncodedSample],
    components: Mapping[str, Sequence[LoraComponent]],
    dtypes: Mapping[str, torch.dtype],
    device: torch.device,
    codecs: Sequence[Codec],
    progress: Report = None,
) -> dict[Way, TrialResult]:
    """Capture these samples with each codec, and without base and delta; return way -> TrialResult.

    A way is a codec, or `none` for a capture without base and delta (states). `progress` hears of each.
    """
    inputs = (facts, samples, components, dtypes, device)
    layout = _trial_layout(config, *inputs)
    with report_stage(progress, "try a capture"):
        timed = time_codecs(layout, model, device, config.out, codecs)
    streamed: dict[Way, Streamed] = {codec: timed[codec] for codec in codecs}
    if config.states != "none":
        with report_stage(progress, "try without states"):
            bare = _trial_layout(dataclasses.replace(config, states="none"), *inputs)
            streamed["none"] = time_codecs(bare, model, device, config.out, codecs[-1:])[codecs[-1]]
    n_chunks = 1 + sum(len(parts) for parts in components.values())
    row_bytes = max(result.measured["stored_bytes"] // result.measured["rows"] for result in streamed.values())
    with report_stage(progress, "time passes"):
        rates = _time_bare_passes(layout, model, device)
    rates |= {"disk_bytes_per_second": disk_rate(config.out, row_bytes // n_chunks)}
    if config.score and facts.is_causal:
        with report_stage(progress, "time scores"):  # batches of choices are short, and take longer than bare passes
            start = time.perf_counter()
            score(model, layout.samples, batch_tokens=config.batch_tokens)
            seconds = time.perf_counter() - start
            rates["score_seconds_per_token"] = seconds / sum(map(scored_tokens, layout.samples))
    if config.ablate:
        with report_stage(progress, "time ablation"):
            rates["ablation_seconds_per_token"] = _further_seconds(layout, model, device, 1, kl_divergence)
    if config.changes != "none" and facts.is_causal:
        n_passes = n_change_passes(config.stream, list(components))
        with report_stage(progress, "time changes"):
            rates["change_seconds_per_token"] = _further_seconds(layout, model, device, n_passes, _change_kl)
    if device.type == "cuda":
        rates["copy_bytes_per_second"] = copy_rate(device)
    measured = {way: {**result.measured, **rates} for way, result in streamed.items()}
    return {
        way: TrialResult(result.tokens, measured[way], costs_of(measured[way], result.tokens, device))
        for way, result in streamed.items()
    }


def costs_of(measured: Mapping[str, Any], n_tokens: int, device: torch.device) -> Costs:
    """Return the Costs (seconds per token of each stage) that follow from `measured`, a trial's measurements."""
    stages, forward = measured["alone"]["stages"], measured["bare_seconds"] / measured["bare_tokens"]
    hooked = sum(stages[name] for name in ("forward", "reduce", "logits")) / n_tokens
    raw, stored = (measured[name] / n_tokens for name in ("raw_bytes", "stored_bytes"))
    on_host = device.type == "cpu"
    return Costs(
        forward=forward,
        measuring=max(hooked - forward, 0.0),
        copies=stages["copy"] / n_tokens if on_host else raw / measured["copy_bytes_per_second"],
        encoders=measured["encoder_seconds_per_byte"] * raw,
        disk=min(stored, raw) / measured["disk_bytes_per_second"],  # chunks of a short row are padded
        n_cores=n_cores(),
        n_threads=min(torch.get_num_threads(), n_cores()) if on_host else 0,
    )


def time_codecs(
    layout: Layout, model: Any, device: torch.device, out: str, codecs: Sequence[Codec]
) -> dict[Codec, Streamed]:
    """Capture a layout with each codec in a place next to `out`, then delete it; return codec -> measurements.

    The measurements have two more entries: `alone`, the same without encoding and writing, and
    `encoder_seconds_per_byte`, the processor's time for one byte in memory.
    """
    weights, rows = layout.weights(), np.ones(layout.spec.n_rows, np.bool_)
    tables = make_tables(layout.samples, layout.plan, [""] * layout.plan.n_tokens, None, None)
    streamed: dict[Codec, Streamed] = {}
    alone: Streamed | None = None
    for codec in codecs:
        spec = dataclasses.replace(layout.spec, codec=codec)
        with _temporary_place(out) as trial, create_run(trial, spec, tables=tables, weights=weights) as writer:
            if alone is None:
                sink = _DiscardingWriter(writer)
                if device.type == "cuda" or spec.states != "all":
                    fill_rows(layout, model, device, sink, rows)  # triton or numba compile their kernels
                alone = fill_rows(layout, model, device, sink, rows)
            written = fill_rows(layout, model, device, writer, rows)
            more = {"alone": alone.measured, "encoder_seconds_per_byte": _encoder_seconds_per_byte(trial, sink.blocks)}
            streamed[codec] = written._replace(measured={**written.measured, **more})
    return streamed


def disk_rate(out: str, file_bytes: int, *, seconds: float = 0.5) -> float:
    """Measure the bytes per second that can be written next to `out`, in flushed files of `file_bytes`.

    As many threads write as for rows.
    """
    block, n_written = memoryview(np.random.default_rng(0).bytes(max(file_bytes, 1))), 0
    with _temporary_place(out) as address, ThreadPoolExecutor() as threads:
        place = open_place(address)
        place.write("zarr.json", b"{}")

        def write(index: int) -> None:
            """Write one file of the block and flush it to the disk."""
            place.write(f"{index}/c", block)
            place.flush(str(index))

        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            collect_results([threads.submit(write, n_written + index) for index in range(2 * threads._max_workers)])
            n_written += 2 * threads._max_workers
        return n_written * len(block) / (time.perf_counter() - start)


def copy_rate(device: torch.device, *, n_bytes: int = 2**28) -> float:
    """Measure the bytes per second that a capture's copier copies from a device to the host."""
    output, chosen = torch.ones(16, n_bytes // 16, dtype=torch.uint8, device=device), ChosenTokens(np.arange(16))
    buffer = RowBuffer({"bytes": (tuple(output.shape), np.dtype(np.uint8))})
    copier = copier_for(device)
    copier.pin(buffer.memory)
    try:
        for _ in range(2):  # the first one warms up
            start = time.perf_counter()
            copier.copy(output, chosen, buffer.tensors["bytes"])
            copier.mark()()
            seconds = time.perf_counter() - start
    finally:
        copier.close()
    return n_bytes / seconds


def _trial_layout(config: CaptureConfig, *inputs: Any) -> Layout:
    """Return the layout of a trial: as the capture's, but without an ablation, next-token changes and importance.

    `inputs` are further arguments of `make_layout`. They are for a share of the data, and timed by themselves.
    """
    return make_layout(dataclasses.replace(config, ablate=None, changes="none", importance=0, null_adapters=0), *inputs)


def _time_bare_passes(layout: Layout, model: Any, device: torch.device) -> dict[str, float]:
    """Time passes over a trial's batches without hooks; return seconds (median of repeats) and tokens with padding."""
    seconds: list[float] = []
    while sum(seconds) < BARE_SECONDS:
        spent = 0.0
        for pass_ in stream_passes(layout.spec.stream, list(layout.components)):
            with pass_.enabled(model):
                spent += sum(forward_seconds(model, layout.samples[batch], device) for batch in layout.batches)
        seconds.append(spent)
    lengths = [len(sample.token_ids) for sample in layout.samples]
    n_tokens = sum(len(lengths[batch]) * max(lengths[batch]) for batch in layout.batches)
    return {"bare_seconds": median(seconds), "bare_tokens": n_tokens}


def scored_tokens(sample: EncodedSample) -> int:
    """Return the number of tokens that pass the model for a sample's scores: its context and choices, or all."""
    choices = sum(len(choice.token_ids) for choice in sample.choices)
    return sample.n_context + choices if choices else len(sample.token_ids)


def _further_seconds(
    layout: Layout,
    model: Any,
    device: torch.device,
    n_passes: int,
    compare: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
) -> float:
    """Measure the seconds per token (padding included) of further passes over a batch, and of comparing their logits.

    `compare` takes logits twice and the flat index of the captured tokens; each adapter's are compared once.
    """
    batch = layout.batches[0]
    samples = layout.samples[batch]
    logits = forward(model, samples, device)
    assert logits is not None
    flat = torch.from_numpy(flat_index(layout.plan.positions[batch], logits.shape[1])).to(device)
    for _ in range(2):  # the first one warms up
        start = time.perf_counter()
        for _ in range(n_passes):
            forward(model, samples, device)
        for _ in layout.components:
            compare(logits, logits, flat).cpu()
    return (time.perf_counter() - start) / logits.shape[:2].numel()


def _change_kl(base: torch.Tensor, adapted: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
    """Compute next-token changes as a capture does, and return KL(base || adapted) of the tokens."""
    uniforms = torch.from_numpy(draw_uniforms(0, 0, len(flat))).to(flat.device)
    return next_token_changes(base, adapted, flat, uniforms)["kl"]


class _DiscardingWriter:
    """Stand-in for a run's writer that discards rows, to time a capture without encoding and disk.

    It keeps some blocks of the first row.
    """

    def __init__(self, writer: RunWriter) -> None:
        """Take the shapes of a row's arrays from the run's own `writer`."""
        self.row_arrays = writer.row_arrays
        self.blocks: dict[str, np.ndarray] = {}

    def write_row(self, row: int, blocks: Mapping[str, np.ndarray]) -> RowWritten:
        """Discard a row; of row 0, keep copies of some blocks, of about ENCODED_BYTES together."""
        if not row:
            step = 1 + sum(block.nbytes for block in blocks.values()) // ENCODED_BYTES
            self.blocks = {path: block.copy() for path, block in list(blocks.items())[::step]}
        return RowWritten(row, 0, 0, 0.0, 0.0)


def _encoder_seconds_per_byte(out: str, blocks: Mapping[str, np.ndarray]) -> float:
    """Measure processor seconds per byte to compress, checksum and hash these blocks as the run `out` does."""
    arrays = open_run(out).arrays

    def encode() -> float:
        """Encode all blocks; return the processor seconds of this thread."""
        start = time.thread_time()
        for path, block in blocks.items():
            chunk_digest(FORMAT_VERSION, *encode_chunk(arrays[path], block))
        return time.thread_time() - start

    with ThreadPoolExecutor(1) as thread:  # as for rows: in the main thread Blosc would begin threads of its own
        return thread.submit(encode).result() / sum(block.nbytes for block in blocks.values())


@contextmanager
def _temporary_place(out: str) -> Iterator[str]:
    """Yield an unused address next to `out`, on the disk or in the object store; it is deleted afterwards."""
    target = open_place(out)
    if target.remote:
        address = f"{target.path}.plan-{uuid.uuid4().hex}"
        try:
            yield address
        finally:
            place = open_place(address)
            place.delete([*place.keys()])
        return
    parent = next(folder for folder in Path(target.path).absolute().parents if folder.is_dir())
    with tempfile.TemporaryDirectory(prefix=".lorascope-plan-", dir=parent) as folder:
        yield str(Path(folder, "run.zarr"))
