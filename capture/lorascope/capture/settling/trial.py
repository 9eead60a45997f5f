"""How fast a capture runs here: a trial that passes, measures, encodes and writes a few rows as a capture does."""

import dataclasses
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch

from lorascope.stores import RowWritten, RunSpec, RunWriter, create_run, open_place
from lorascope.stores.format.encode import ChunkEncoder
from lorascope.stores.format.spec import FORMAT_VERSION, Codec
from lorascope.stores.reading.digests import chunk_digest
from lorascope.stores.reading.read import open_group
from lorascope.stores.writing.write import collect

from ..adapters.adapter import attach_adapters
from ..adapters.components import LoraComponent, chosen_components
from ..adapters.passes import evaluating, passes_of
from ..buffers.copies import Chosen, copier_for
from ..buffers.row_buffer import RowBuffer
from ..buffers.target import flat_places
from ..config import CaptureConfig
from ..models.device import input_device
from ..recording.forward import forward, forward_seconds, kl_divergence, probe
from ..recording.hooks import Recorder
from ..recording.run_model import fill_rows
from ..recording.stream import Streamed
from ..samples.batches import plan_batches
from ..samples.encoded import EncodedSample
from ..samples.tables import make_tables
from .estimate import estimate
from .load import Loaded, load_base
from .prepare import Prepared, settle

TRIAL_TOKENS = 1024
"""Tokens after which no further sample is added to a trial, or half of the data's; they take seconds."""
BARE_SECONDS = 1.0
"""About how long bare passes are measured."""
ENCODED_BYTES = 2**26
"""About as many bytes of a row are encoded once more, by themselves, to see what that takes."""


def run_trial(
    config: CaptureConfig,
    samples: Sequence[EncodedSample],
    skip: Sequence[str],
    device: torch.device,
    codecs: Sequence[Codec],
) -> dict[Codec | Literal["none"], Streamed]:
    """Load the model and capture the first few of these samples by each codec, beside `out`; see `try_codecs`.

    Components at the paths in `skip` are left out. Beside what such a capture measures, `load_seconds` says how long
    loading took. Where states are kept, `none` has what a capture without them measures. Raises what `capture` raises
    of the model and its adapters.
    """
    start = time.perf_counter()
    model, tokenizer = load_base(config, device)
    adapted = attach_adapters(model, config.adapters, allow_zero=config.allow_zero)
    load_seconds = time.perf_counter() - start
    place = input_device(adapted)
    loaded = Loaded(adapted, tokenizer, tuple(config.adapters), place, {}, str, {})
    with evaluating(adapted):
        components = chosen_components(adapted, loaded.adapters, config.component, skip=skip)
        dtypes = probe(adapted, Recorder(adapted, components, stream=config.stream), samples[:1], place)  # warms up too
        found = try_ways(config, loaded, samples, components, dtypes, codecs)
    return {
        way: streamed._replace(measured={**streamed.measured, "load_seconds": load_seconds})
        for way, streamed in found.items()
    }


def try_ways(
    config: CaptureConfig,
    loaded: Loaded,
    samples: Sequence[EncodedSample],
    components: Mapping[str, Sequence[LoraComponent]],
    dtypes: Mapping[str, torch.dtype],
    codecs: Sequence[Codec],
    *,
    n_tokens: int | None = None,
) -> dict[Codec | Literal["none"], Streamed]:
    """What `try_codecs` gives, and under `none` the same without states unless the capture has none anyway.

    Beside what such a capture measures stands what bare passes, the disk and the way off the device take by themselves.
    """
    given = (loaded, samples, components, dtypes)
    found: dict[Any, Streamed] = {**try_codecs(config, *given, codecs, n_tokens=n_tokens)}
    if config.states != "none":
        without = dataclasses.replace(config, states="none", budget=None)
        found["none"] = try_codecs(without, *given, codecs[-1:], n_tokens=n_tokens)[codecs[-1]]
    n_chunks = 1 + sum(len(parts) for parts in components.values())
    row_bytes = max(one.measured["stored_bytes"] // one.measured["rows"] for one in found.values())
    rates = _bare_passes(config, loaded, _tried(samples, n_tokens))
    rates |= {"disk_bytes_per_second": disk_rate(config.out, row_bytes // n_chunks)}
    if config.ablate:
        prepared = settle(config, loaded.model, _tried(samples, n_tokens), components, dtypes, loaded.device)
        rates["ablation_seconds_per_token"] = _ablation_seconds(prepared, loaded)
    if loaded.device.type == "cuda":
        rates["copy_bytes_per_second"] = copy_rate(loaded.device)
    return {way: one._replace(measured={**one.measured, **rates}) for way, one in found.items()}


def try_codecs(
    config: CaptureConfig,
    loaded: Loaded,
    samples: Sequence[EncodedSample],
    components: Mapping[str, Sequence[LoraComponent]],
    dtypes: Mapping[str, torch.dtype],
    codecs: Sequence[Codec],
    *,
    n_tokens: int | None = None,
) -> dict[Codec, Streamed]:
    """What capturing the first few of these samples measures by each codec, in a place that is gone afterwards.

    They have `n_tokens`, or as many as a trial has. Beside the rest, `alone` has what the same passes measure where
    nothing is encoded or written, and `encoder_seconds_per_byte` the processor's time for a byte in memory.
    """
    few = _tried(samples, n_tokens)
    # Of few batches, an ablation would be most of the trial; the unembedding takes its time whatever the data's length.
    config = dataclasses.replace(config, ablate=None, unembedding=False)
    prepared = settle(config, loaded.model, few, components, dtypes, loaded.device)
    tables = make_tables(few, prepared.plan, [""] * prepared.plan.n_tokens, None, None)
    weights, every = prepared.weights(loaded.model, loaded.tokenizer), np.ones(prepared.spec.n_rows, np.bool_)
    found: dict[Codec, Streamed] = {}
    alone: Streamed | None = None
    for codec in codecs:
        spec = dataclasses.replace(prepared.spec, codec=codec)
        with _beside(config.out) as out, create_run(out, spec, tables=tables, weights=weights) as writer:
            if alone is None:
                kept = _WritesNothing(writer)
                if loaded.device.type == "cuda" or config.states != "all":
                    fill_rows(prepared, loaded, kept, every)  # triton or numba compile what measures
                alone = fill_rows(prepared, loaded, kept, every)
            streamed = fill_rows(prepared, loaded, writer, every)
            more = {"alone": alone.measured, "encoder_seconds_per_byte": _encoder_seconds(out, kept.blocks)}
            found[codec] = streamed._replace(measured={**streamed.measured, **more})
    return found


def _tried(samples: Sequence[EncodedSample], n_tokens: int | None) -> Sequence[EncodedSample]:
    """The first few samples: with so many tokens, or as many as a trial has."""
    totals = np.cumsum([len(sample.token_ids) for sample in samples])
    enough = min(TRIAL_TOKENS, totals[-1] / 2) if n_tokens is None else min(n_tokens, totals[-1])
    return samples[: int(np.searchsorted(totals, enough)) + 1]


def _bare_passes(config: CaptureConfig, loaded: Loaded, few: Sequence[EncodedSample]) -> dict[str, float]:
    """Seconds and tokens, padding included, of passes over a trial's batches without hooks: the median of a second."""
    lengths = [len(sample.token_ids) for sample in few]
    batches = plan_batches(lengths, batch_tokens=config.batch_tokens)
    seconds: list[float] = []
    while sum(seconds) < BARE_SECONDS:
        spent = 0.0
        for pass_ in passes_of(config.stream, loaded.adapters):
            with pass_.enabled(loaded.model):
                spent += sum(forward_seconds(loaded.model, few[batch], loaded.device) for batch in batches)
        seconds.append(spent)
    n_tokens = sum(len(lengths[batch]) * max(lengths[batch]) for batch in batches)
    return {"bare_seconds": median(seconds), "bare_tokens": n_tokens}


def _ablation_seconds(prepared: Prepared, loaded: Loaded) -> float:
    """Seconds for a token that passes, padding included, of one more pass of the first batch and its KL."""
    batch, (pass_, *_) = prepared.batches[0], passes_of("adapted", loaded.adapters)
    samples = prepared.samples[batch]
    shape = len(samples), max(len(sample.token_ids) for sample in samples)
    flat = torch.from_numpy(flat_places(prepared.plan.positions[batch], shape[1])).to(loaded.device)
    with pass_.enabled(loaded.model):
        adapted = forward(loaded.model, samples, loaded.device)
        assert adapted is not None
        for _ in range(2):  # the first one warms up
            start = time.perf_counter()
            without = forward(loaded.model, samples, loaded.device)
            assert without is not None
            kl_divergence(adapted, without, flat).cpu()
    return (time.perf_counter() - start) / (shape[0] * shape[1])


class _WritesNothing:
    """Stands where a run's writer does, and keeps some blocks of the first row."""

    def __init__(self, writer: RunWriter) -> None:
        self.row_arrays = writer.row_arrays
        self.blocks: dict[str, np.ndarray] = {}

    def write_row(self, row: int, blocks: Mapping[str, np.ndarray]) -> RowWritten:
        if not row:
            step = 1 + sum(block.nbytes for block in blocks.values()) // ENCODED_BYTES
            self.blocks = {path: block.copy() for path, block in list(blocks.items())[::step]}
        return RowWritten(row, 0, 0, 0.0, 0.0)


def _encoder_seconds(out: str, blocks: Mapping[str, np.ndarray]) -> float:
    """Seconds of the processor for a byte of these blocks of a run: compression, checksums and digests."""
    metadata = open_group(out)[1].arrays
    encoder = ChunkEncoder({path: metadata[path] for path in blocks})

    def encode() -> float:
        start = time.thread_time()
        for path, block in blocks.items():
            chunk_digest(FORMAT_VERSION, *encoder.encode(path, block))
        return time.thread_time() - start

    with ThreadPoolExecutor(1) as thread:  # as for rows: in the main thread Blosc would begin threads of its own
        return thread.submit(encode).result() / sum(block.nbytes for block in blocks.values())


def disk_rate(out: str, file_bytes: int, *, seconds: float = 0.5) -> float:
    """Bytes a second that the place of a run takes in such files, each flushed, by as many threads as write rows."""
    block, written = memoryview(np.random.default_rng(0).bytes(max(file_bytes, 1))), 0
    with _beside(out) as beside, ThreadPoolExecutor() as threads:
        place = open_place(beside)
        place.write("zarr.json", b"{}")

        def write(index: int) -> None:
            place.write(f"{index}/c", block)
            place.flush(str(index))

        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            collect([threads.submit(write, written + index) for index in range(2 * threads._max_workers)])
            written += 2 * threads._max_workers
        return written * len(block) / (time.perf_counter() - start)


def copy_rate(device: torch.device, *, n_bytes: int = 2**28) -> float:
    """Bytes a second from a device into the host's memory, by a capture's copier with nothing else to do."""
    output, chosen = torch.ones(16, n_bytes // 16, dtype=torch.uint8, device=device), Chosen(np.arange(16))
    buffer = RowBuffer({"bytes": (tuple(output.shape), np.dtype(np.uint8))})
    copier = copier_for(device)
    copier.pin(buffer.memory)
    try:
        for _ in range(2):  # the first one warms up
            start = time.perf_counter()
            copier.copy(output, chosen, buffer.tensors["bytes"])
            copier.mark()()
            taken = time.perf_counter() - start
    finally:
        copier.close()
    return n_bytes / taken


def seconds_a_token(trials: Mapping[Codec, Streamed]) -> dict[Codec, float]:
    """Seconds that a capture takes for each token that passes, by codec."""
    return {codec: one.measured["seconds"] / one.tokens for codec, one in trials.items()}


def codecs_to_try(config: CaptureConfig, spec: RunSpec, free_bytes: int | None) -> tuple[Codec, ...]:
    """The codecs between which a trial may choose, in its order: the raw one, and what is asked for or the default.

    Raw is left out where there is nothing to gain by it or no room for it: without states, and where the run is to have
    a certain size or raw wouldn't fit into the free bytes.
    """
    if config.codec == "raw":
        return "raw", "default"
    raw = estimate(dataclasses.replace(spec, codec="raw")).needed_bytes
    may_be_raw = config.states != "none" and config.budget is None and (free_bytes is None or raw <= free_bytes)
    return ("raw", spec.codec) if may_be_raw else (spec.codec,)


@contextmanager
def _beside(out: str) -> Iterator[str]:
    """An address on the disk, or in the object store, where a run is to lie; gone afterwards."""
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
