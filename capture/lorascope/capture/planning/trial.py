"""How fast a capture runs here: a trial that passes, measures, encodes and writes a few rows as a capture does."""

import dataclasses
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from lorascope.stores import create_run, open_place

from ..adapters.adapter import attach_adapters
from ..adapters.components import chosen_components
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

TRIAL_TOKENS = 1024
"""Tokens after which no further sample is added to a trial, or half of the data's; they take seconds."""


def run_trial(
    config: CaptureConfig, samples: Sequence[EncodedSample], skip: Sequence[str], device: torch.device
) -> Streamed:
    """Load the model and capture the first few of these samples beside `out`, into a place that is gone afterwards.

    Components at the paths in `skip` are left out. Beside what such a capture measures, `load_seconds` says how long
    loading took. Raises what `capture` raises of the model and its adapters.
    """
    start = time.perf_counter()
    model, tokenizer = load_base(config, device)
    adapted = attach_adapters(model, config.adapters, allow_zero=config.allow_zero)
    load_seconds = time.perf_counter() - start
    totals = np.cumsum([len(sample.token_ids) for sample in samples])
    few = samples[: int(np.searchsorted(totals, min(TRIAL_TOKENS, totals[-1] / 2))) + 1]
    place = input_device(adapted)
    loaded = Loaded(adapted, tokenizer, tuple(config.adapters), place, {}, str, {})
    with evaluating(adapted), _beside(config.out) as out:
        components = chosen_components(adapted, loaded.adapters, config.component, skip=skip)
        dtypes = probe(adapted, Recorder(adapted, components, stream=config.stream), few[:1], place)  # warms up as well
        if config.states != "all":
            reduce_tokens(torch.ones(1, 8), torch.ones(1, 8))  # compiles its kernels
        prepared = settle(dataclasses.replace(config, measure_overhead=True), adapted, few, components, dtypes, place)
        tables = make_tables(few, prepared.plan, [""] * prepared.plan.n_tokens, None, None)
        with create_run(out, prepared.spec, tables=tables, weights=prepared.weights(adapted)) as writer:
            streamed = fill_rows(prepared, loaded, writer, np.ones(prepared.spec.n_rows, np.bool_))
    return streamed._replace(measured={**streamed.measured, "load_seconds": load_seconds})


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
