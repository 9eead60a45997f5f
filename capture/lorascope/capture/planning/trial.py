"""How fast a capture runs here: a trial that passes, measures, encodes and writes a few rows as a capture does."""

import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lorascope.stores import create_run, open_place

from ..adapters.adapter import attach_adapters
from ..adapters.components import find_components
from ..adapters.passes import evaluating
from ..config import CaptureConfig
from ..fill import fill_rows
from ..load import Loaded, load_base
from ..models.device import input_device
from ..prepare import Prepared, settle
from ..recording.forward import probe
from ..recording.hooks import Recorder
from ..recording.reduce import reduce_tokens
from ..samples.encode import EncodedSample
from ..samples.tables import make_tables

__all__ = ["Trial", "run_trial"]

TRIAL_TOKENS = 1024
"""Tokens after which no further sample is added to a trial; they take seconds."""


class Trial(NamedTuple):
    """What a trial measured."""

    n_tokens: int
    """Tokens that passed, padding included."""
    seconds: float
    """From the first batch to the last row on the disk: passes, hooks, copies, measures, encoding and writing."""
    bare_seconds_per_token: float
    """Seconds of a pass without hooks, for one token."""
    raw_bytes: int
    """Bytes of the rows in memory."""
    stored_bytes: int
    """Bytes of their chunks on the disk."""
    bottleneck: str
    """What a faster one of would help most: `forward`, `copy`, `encode` or `disk`."""


def run_trial(
    config: CaptureConfig, samples: Sequence[EncodedSample], skip: Sequence[str], device: torch.device
) -> Trial:
    """Load the model and capture the first few of these samples beside `out`, into a place that is gone afterwards.

    Components at the paths in `skip` are left out. Raises what `capture` raises of the model and its adapters.
    """
    model, tokenizer = load_base(config, device)
    adapted = attach_adapters(model, config.adapters, allow_zero=config.allow_zero)
    few = _few(samples)
    place = input_device(adapted)
    loaded = Loaded(adapted, tokenizer, tuple(config.adapters), place, {}, {})
    with evaluating(adapted), _beside(config.out) as out:
        components = {name: find_components(adapted, name, skip=skip) for name in config.adapters}
        dtypes = probe(adapted, Recorder(adapted, components, stream=config.stream), few[0], place)  # warms up as well
        if config.states != "all":
            reduce_tokens(torch.ones(1, 8), torch.ones(1, 8))  # compiles its kernels
        config, batches, plan, spec = settle(config, adapted, few, components, dtypes, place)
        prepared = Prepared(config, few, few, batches, plan, components, spec, {})
        tables = make_tables(few, plan, [""] * plan.n_tokens, None, None)
        with create_run(out, spec, tables=tables, weights=prepared.weights(adapted)) as writer:
            streamed, rows, _ = fill_rows(prepared, loaded, writer, np.ones(spec.n_rows, np.bool_))
    return Trial(
        n_tokens=streamed.tokens,
        seconds=streamed.seconds,
        bare_seconds_per_token=streamed.bare_seconds / streamed.bare_tokens,
        raw_bytes=rows.raw_bytes,
        stored_bytes=rows.stored_bytes,
        bottleneck=streamed.bottleneck,
    )


def _few(samples: Sequence[EncodedSample]) -> list[EncodedSample]:
    few: list[EncodedSample] = []
    for sample in samples:
        if sum(len(one.token_ids) for one in few) >= TRIAL_TOKENS:
            break
        few.append(sample)
    return few


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
