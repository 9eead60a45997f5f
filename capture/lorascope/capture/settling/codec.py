"""Which codec a capture takes: the one that its run began with, the one that is asked for, or what a trial chooses."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from lorascope.stores import open_place
from lorascope.stores.format.spec import Codec

from ..config import CaptureConfig
from ..recording.ranks import Ranks
from .load import Loaded
from .prepare import Prepared
from .trial import codecs_to_try, seconds_a_token, try_codecs


def with_stored_codec(config: CaptureConfig, provenance: Mapping[str, Any]) -> CaptureConfig:
    """The settings of a capture that goes on: unless another codec is asked for, with that of the stored provenance."""
    settings = provenance.get("settings")
    stored = settings.get("codec") if isinstance(settings, dict) else None
    if config.codec in ("default", "auto") and stored in ("default", "zstd", "lz4", "raw"):
        return dataclasses.replace(config, codec=stored)
    return config


def with_tried_codec(prepared: Prepared, config: CaptureConfig, loaded: Loaded, ranks: Ranks) -> Prepared:
    """A capture of codec `auto` as one of the codec that is faster here, by the leader's trial; others as they are.

    `config` has the settings as they were given, with their budget.
    """
    if config.codec != "auto":
        return prepared
    codec: Codec = "default"
    if ranks.leads:
        codecs = codecs_to_try(config, prepared.spec, open_place(config.out).free_bytes())
        codec = codecs[0]
        if len(codecs) > 1:
            dtypes = {one.path: getattr(torch, one.dtype) for one in prepared.spec.components}
            given = (prepared.config, loaded, prepared.samples, prepared.components, dtypes, codecs)
            seconds = seconds_a_token(try_codecs(*given))
            codec = min(codecs, key=seconds.__getitem__)
    codec = ranks.of_leader(codec)
    settled = dataclasses.replace(prepared.config, codec=codec)
    spec = dataclasses.replace(prepared.spec, codec=codec)
    return prepared._replace(config=settled, spec=spec, provenance=lambda: _with_codec(prepared.provenance(), codec))


def _with_codec(provenance: Mapping[str, Any], codec: Codec) -> dict[str, Any]:
    return {**provenance, "settings": {**provenance["settings"], "codec": codec}}
