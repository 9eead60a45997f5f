"""How fast this machine captures, and what each rate is bound by."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import torch

from lorascope.stores import open_place
from lorascope.stores.format.spec import Codec

from ..adapters.adapter import attach_adapters
from ..adapters.components import chosen_components
from ..adapters.passes import evaluating
from ..config import CaptureConfig
from ..models.device import input_device
from ..recording.forward import probe, probe_samples
from ..recording.hooks import Recorder
from ..settling.costs import costs_of
from ..settling.load import Loaded, load_base
from ..settling.prepare import encode_files, read_files
from ..settling.trial import try_codecs, try_ways

SECONDS = 6.0
"""About how long each way of capturing is measured."""
MOST_TOKENS = 2**15
NAMES = {"raw": "`--codec raw`", "none": "`--states none`", "default": "capture"}


class Rate(NamedTuple):
    """A rate, and what limits it."""

    what: str
    value: float
    unit: str
    """`tokens/s` or `B/s`."""
    limit: str
    of_bare: float | None = None
    """Over the bare pass's."""
    expected: float | None = None
    """What the stages by themselves add up to, as in `plan`."""


def measure_rates(config: CaptureConfig, device: torch.device) -> Iterator[Rate]:
    """The bare pass, captures without states, raw and by default, the way off the device, encoder and disk."""
    model, tokenizer = load_base(config, device)
    adapted = attach_adapters(model, config.adapters)
    loaded = Loaded(adapted, tokenizer, tuple(config.adapters), input_device(adapted), {}, str, {})
    samples, _ = encode_files(config, adapted, tokenizer, read_files(config))
    with evaluating(adapted):
        components = chosen_components(adapted, loaded.adapters, ())
        dtypes = probe(adapted, Recorder(adapted, components), probe_samples(adapted, samples[0]), loaded.device)
        given = (loaded, samples, components, dtypes)
        tried = try_ways(config, *given, ("raw", "default"))  # the first call of anything is slow
        bare = tried["raw"].measured["bare_seconds"] / tried["raw"].measured["bare_tokens"]
        yield Rate("bare pass", 1 / bare, "tokens/s", "the model")
        for way, first in sorted(tried.items(), key=lambda item: item[0] == "default"):
            changed = dataclasses.replace(config, states="none") if way == "none" else config
            codec: Codec = "default" if way == "none" else way
            n_tokens = min(SECONDS * first.tokens / first.measured["seconds"], MOST_TOKENS)
            room = (open_place(config.out).free_bytes() or 2**40) / 2 / first.measured["raw_bytes"] * first.tokens
            steady = try_codecs(changed, *given, (codec,), n_tokens=int(min(n_tokens, room)))[codec]
            measured = {**first.measured, **steady.measured}
            costs = costs_of(steady._replace(measured=measured), loaded.device)
            rate = steady.tokens / measured["seconds"]
            yield Rate(NAMES[way], rate, "tokens/s", costs.limit, rate * bare, 1 / costs.seconds)
    off_device = measured.get("copy_bytes_per_second") or measured["raw_bytes"] / measured["alone"]["stages"]["copy"]
    yield Rate("device to host", off_device, "B/s", "the link" if device.type == "cuda" else "the memory")
    yield Rate("encoder, one core", 1 / measured["encoder_seconds_per_byte"], "B/s", "the core")
    yield Rate("disk, flushed", measured["disk_bytes_per_second"], "B/s", "the disk")
