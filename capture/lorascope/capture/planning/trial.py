"""How fast a capture runs here: a trial that passes, measures, encodes and writes a few rows as a capture does."""

import dataclasses
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from lorascope.stores import RunSpec, create_run, open_place
from lorascope.stores.format.spec import Codec

from ..adapters.adapter import attach_adapters
from ..adapters.components import LoraComponent, chosen_components
from ..adapters.passes import evaluating
from ..config import CaptureConfig
from ..load import Loaded, load_base
from ..models.device import input_device
from ..prepare import settle
from ..recording.forward import probe
from ..recording.hooks import Recorder
from ..recording.reduce import reduce_tokens
from ..recording.stream import Streamed
from ..run_model import fill_rows
from ..samples.encoded import EncodedSample
from ..samples.tables import make_tables
from .estimate import estimate

TRIAL_TOKENS = 1024
"""Tokens after which no further sample is added to a trial, or half of the data's; they take seconds."""


def run_trial(
    config: CaptureConfig,
    samples: Sequence[EncodedSample],
    skip: Sequence[str],
    device: torch.device,
    codecs: Sequence[Codec],
) -> dict[Codec, Streamed]:
    """Load the model and capture the first few of these samples by each codec, beside `out`; see `try_codecs`.

    Components at the paths in `skip` are left out. Beside what such a capture measures, `load_seconds` says how long
    loading took. Raises what `capture` raises of the model and its adapters.
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
        found = try_codecs(
            dataclasses.replace(config, measure_overhead=True), loaded, samples, components, dtypes, codecs
        )
    return {
        codec: streamed._replace(measured={**streamed.measured, "load_seconds": load_seconds})
        for codec, streamed in found.items()
    }


def try_codecs(
    config: CaptureConfig,
    loaded: Loaded,
    samples: Sequence[EncodedSample],
    components: Mapping[str, Sequence[LoraComponent]],
    dtypes: Mapping[str, torch.dtype],
    codecs: Sequence[Codec],
) -> dict[Codec, Streamed]:
    """What capturing the first few of these samples measures by each codec, in a place that is gone afterwards."""
    totals = np.cumsum([len(sample.token_ids) for sample in samples])
    few = samples[: int(np.searchsorted(totals, min(TRIAL_TOKENS, totals[-1] / 2))) + 1]
    if config.states != "all":
        reduce_tokens(torch.ones(1, 8), torch.ones(1, 8))  # compiles its kernels
    prepared = settle(config, loaded.model, few, components, dtypes, loaded.device)
    tables = make_tables(few, prepared.plan, [""] * prepared.plan.n_tokens, None, None)
    weights, every = prepared.weights(loaded.model), np.ones(prepared.spec.n_rows, np.bool_)
    found: dict[Codec, Streamed] = {}
    for codec in codecs:
        spec = dataclasses.replace(prepared.spec, codec=codec)
        with _beside(config.out) as out, create_run(out, spec, tables=tables, weights=weights) as writer:
            found[codec] = fill_rows(prepared, loaded, writer, every)
    return found


def seconds_a_token(trials: Mapping[Codec, Streamed]) -> dict[Codec, float]:
    """Seconds that a capture takes for each token that passes, by codec."""
    return {codec: one.measured["seconds"] / one.tokens for codec, one in trials.items()}


def codecs_to_try(config: CaptureConfig, spec: RunSpec, free_bytes: int | None) -> tuple[Codec, ...]:
    """The codecs between which a trial may choose, in its order: the raw one, and what is asked for or the default.

    Raw is left out where there is nothing to gain by it or no room for it: without states, and where the run is to have
    a certain size or raw wouldn't fit into the free bytes. What is cold at first counts against it.
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
