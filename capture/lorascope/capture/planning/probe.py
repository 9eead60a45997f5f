"""How fast this model, this device and this disk are, from a trial of a few seconds, and the time that follows."""

import dataclasses
import hashlib
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import zarr
from zarr.storage import MemoryStore

from lorascope.stores import Component, RunSpec, open_place
from lorascope.stores.format.codec import ChunkEncoder, compressors
from lorascope.stores.format.layout import chunk_key
from lorascope.stores.places.place import Place

from ..adapters.components import adapted_modules
from ..models.device import input_device
from ..recording.stream import forward_seconds
from ..samples.encode import EncodedSample
from .estimate import Estimate

__all__ = ["Rates", "Times", "expect", "measure"]

TRIAL_BYTES = 128 * 2**20
"""Most bytes of states that a trial copies, encodes and writes."""
TRIAL_SECONDS = 2.0
MOST_PASSES = 8
"""How long, and how often, bare passes are repeated; the fastest counts, since others on the machine only slow it."""
WARM_UP_TOKENS = 8


class Rates(NamedTuple):
    """What a trial measured."""

    forward_seconds: float
    """Of the fastest bare pass, for one token, padding included."""
    copy_rate: float
    """Bytes of states a second, from the device into host memory."""
    encode_rate: float
    """Bytes of states a second, in all threads."""
    write_rate: float
    """Encoded bytes a second onto the disk, flushed."""
    ratio: float
    """Encoded bytes for one byte of states."""
    n_tokens: int
    """Tokens that passed for it, padding included."""
    n_bytes: int
    """Bytes of states that were copied, encoded and written."""


class Times(NamedTuple):
    """Seconds that a capture is expected to take."""

    stages: Mapping[str, float]
    """`score`, then `forward`, `copy`, `encode` and `write`, each by itself."""
    total: float
    """`score`, and the others as the pipeline lays them beside each other."""
    bottleneck: str
    """What a faster one of would help most."""


def measure(model: Any, samples: Sequence[EncodedSample], batches: Sequence[slice], spec: RunSpec, out: str) -> Rates:
    """Rates of a few seconds' trial: bare passes, and states of one of them copied, encoded and written.

    Parameters
    ----------
    model
        The adapted model, in eval mode, on its device.
    samples, batches
        What the capture is about to pass.
    spec
        What the run holds; some of its components are tried, spread over the model.
    out
        Where the run is to lie. The trial writes beside it, and takes away what it wrote.
    """
    device = input_device(model)
    first, middle = (samples[batch] for batch in (batches[0], batches[len(batches) // 2]))
    forward_seconds(model, [_cut(first[0])], device)  # warms up
    passes = _repeat_passes(model, (first, middle), device)
    states = _states(model, spec, first, device)
    hosts = [torch.empty(s.shape, dtype=s.dtype, pin_memory=s.device.type == "cuda") for s in states.values()]
    copy_seconds = _fastest(lambda: _copy(states.values(), hosts))
    stored = {c.path: c.stored_dtype for c in spec.components}
    blocks = {path: _as_stored(host, stored[path]) for path, host in zip(states, hosts, strict=True)}
    n_bytes = sum(block.nbytes for block in blocks.values())
    encoder = _encoder(blocks, spec.codec)
    chunks: dict[str, memoryview] = {}
    with ThreadPoolExecutor() as threads, _beside(out) as place:  # as many threads as `RunWriter` has
        encode_seconds = _fastest(
            lambda: chunks.update(threads.map(partial(_encode, encoder), *zip(*blocks.items(), strict=True)))
        )
        write_seconds = _fastest(lambda: [*threads.map(partial(_write, place), *zip(*chunks.items(), strict=True))])
    encoded = sum(chunk.nbytes for chunk in chunks.values())
    return Rates(
        forward_seconds=min(seconds / n_tokens for seconds, n_tokens in passes),
        copy_rate=n_bytes / copy_seconds,
        encode_rate=n_bytes / encode_seconds,
        write_rate=encoded / write_seconds,
        ratio=encoded / n_bytes,
        n_tokens=sum(n_tokens for _, n_tokens in passes),
        n_bytes=n_bytes,
    )


def expect(
    rates: Rates, estimated: Estimate, *, passed_tokens: int, scored_tokens: int, beside_the_pass: bool
) -> Times:
    """Seconds that a capture takes at these rates.

    Parameters
    ----------
    rates
        What a trial measured.
    estimated
        What the run takes.
    passed_tokens
        Tokens of all batches, padding included, once for each pass over them.
    scored_tokens
        Tokens that are scored, once for each pass over them.
    beside_the_pass
        Whether copies and encoding run beside the forward pass, as with a GPU. On a CPU they share its cores, so that
        their times add up; writing runs beside it in any case.
    """
    by_row = sum(part.raw_bytes for part in estimated.parts if part.name not in {"weights", "tables"})
    stages = {
        "score": rates.forward_seconds * scored_tokens,
        "forward": rates.forward_seconds * passed_tokens,
        "copy": by_row / rates.copy_rate,
        "encode": by_row / rates.encode_rate,
        "write": estimated.stored_bytes / rates.write_rate,
    }
    computing = [stages[name] for name in ("forward", "copy", "encode")]
    shared = max(computing) if beside_the_pass else sum(computing)
    slowest = max(("forward", "copy", "encode"), key=stages.__getitem__)
    return Times(
        stages=stages,
        total=stages["score"] + max(shared, stages["write"]),
        bottleneck="write" if stages["write"] > shared else slowest,
    )


def padded_tokens(lengths: Sequence[int]) -> int:
    """Tokens of a batch of samples so long, padding included."""
    return len(lengths) * max(lengths)


def _cut(sample: EncodedSample) -> EncodedSample:
    return dataclasses.replace(sample, token_ids=sample.token_ids[:WARM_UP_TOKENS], roles=sample.roles[:WARM_UP_TOKENS])


def _repeat_passes(
    model: Any, chosen: Sequence[Sequence[EncodedSample]], device: torch.device
) -> list[tuple[float, int]]:
    """(seconds, tokens) of bare passes over some batches in turn, the first in any case."""
    passes: list[tuple[float, int]] = []
    while len(passes) < MOST_PASSES and sum(seconds for seconds, _ in passes) < TRIAL_SECONDS:
        batch = chosen[len(passes) % len(chosen)]
        tokens = padded_tokens([len(sample.token_ids) for sample in batch])
        passes.append((forward_seconds(model, batch, device), tokens))
    return passes


def _states(
    model: Any, spec: RunSpec, samples: Sequence[EncodedSample], device: torch.device
) -> dict[str, torch.Tensor]:
    """Outputs (token, feature) of some components, spread over the model, from one pass, on the device."""
    modules = {path: module for a in spec.adapters for path, (_, module) in adapted_modules(model, a.name).items()}
    tokens = padded_tokens([len(sample.token_ids) for sample in samples])
    seen: dict[str, torch.Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        return lambda module, args, output: seen.__setitem__(path, output.detach().flatten(0, -2).clone())

    chosen = _spread(spec.components, tokens)
    handles = [modules[component.path].register_forward_hook(keep(component.path)) for component in chosen]
    try:
        forward_seconds(model, samples, device)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _spread(components: Sequence[Component], n_tokens: int) -> list[Component]:
    """Every k-th component, so that the trial's bytes stay within bounds; at least one."""
    n_bytes = n_tokens * sum(4 * component.d_out for component in components)
    return list(components[:: max(-(-n_bytes // TRIAL_BYTES), 1)])


def _copy(states: Iterable[torch.Tensor], hosts: Iterable[torch.Tensor]) -> None:
    for state, host in zip(states, hosts, strict=True):
        host.copy_(state, non_blocking=True)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _as_stored(state: torch.Tensor, stored_dtype: str) -> np.ndarray:
    narrow = state.to(getattr(torch, stored_dtype))
    block = narrow.view(torch.int16).numpy().view(np.uint16) if narrow.dtype == torch.bfloat16 else narrow.numpy()
    return np.ascontiguousarray(block)


def _encoder(blocks: Mapping[str, np.ndarray], codec: Any) -> ChunkEncoder:
    """The encoder that a run would have for these blocks, each the one chunk of an array."""
    group = zarr.create_group(MemoryStore())
    arrays = {
        path: group.create_array(
            path,
            shape=block.shape,
            chunks=block.shape,
            dtype=block.dtype,
            compressors=compressors(block.dtype.name, codec),
            chunk_key_encoding={"name": "default", "separator": "."},
        )
        for path, block in blocks.items()
    }
    return ChunkEncoder({path: array.async_array.metadata for path, array in arrays.items()})


def _encode(encoder: ChunkEncoder, path: str, block: np.ndarray) -> tuple[str, memoryview]:
    """A chunk's bytes, hashed as a row's are."""
    content = encoder.encode(path, 0, block)
    hashlib.sha256(content)
    return path, content


def _write(place: Place, path: str, content: memoryview) -> None:
    place.write(chunk_key(path, 0, 2), content)
    place.flush(path)


@contextmanager
def _beside(out: str) -> Iterator[Place]:
    """A place of its own on the disk, or in the object store, where a run is to lie; gone afterwards."""
    target = open_place(out)
    if not target.remote:
        parent = next(folder for folder in Path(target.path).absolute().parents if folder.is_dir())
        folder = Path(tempfile.mkdtemp(prefix=".lorascope-plan-", dir=parent))
        try:
            yield open_place(folder)
        finally:
            shutil.rmtree(folder)
        return
    place = open_place(f"{target.path}.plan-{uuid.uuid4().hex}")
    try:
        yield place
    finally:
        place.delete([*place.keys()])


def _fastest(work: Callable[[], Any]) -> float:
    """Seconds of some work, the shorter of two times: the first also finds memory and files that the second has."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        seconds.append(max(time.perf_counter() - start, 1e-9))
    return min(seconds)
