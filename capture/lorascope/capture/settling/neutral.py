"""Settle the capture of neutral texts, which becomes a run of its own inside the run of the user's data."""

import dataclasses
from typing import Any

from lorascope.stores import Run, StoreError, open_run, run_state
from lorascope.stores.format.layout import IN_RUN, NEUTRAL
from lorascope.stores.reading.read import neutral_place

from ..config import LOADING, CaptureConfig
from ..models.model import ModelFacts
from ..recording.forward import probe
from ..recording.hooks import Recorder
from ..recording.progress import Report, counting
from ..samples.encode import require_known_tokens
from ..samples.encoded import EncodedSample, probe_samples
from ..samples.neutral import read_neutral_texts, write_neutral_texts
from .data import Data, encode_data, read_data
from .make_layout import make_layout
from .settle import Settled, require_same_capture

OWN_SETTINGS = (
    *("model", "adapter", "component", "stream", "device", "queue", "overfill", "allow_zero", *LOADING),
    *("limit", "window_tokens", "batch_tokens", "store", "seed"),
)
"""Settings of a capture that its neutral texts share; all others are off, or as they are by default."""


def neutral_config(config: CaptureConfig) -> CaptureConfig:
    """Return the settings with which neutral texts are captured: measures and next-token changes of all their tokens.

    A file's texts are limited as those of the data are. No base and delta is stored, no text is scored.
    """
    neutral, own = config.neutral, {name: getattr(config, name) for name in OWN_SETTINGS}
    data = neutral if isinstance(neutral, str) else f"{neutral} texts by the base {IN_RUN}"
    out = f"{config.out.rstrip('/')}/{NEUTRAL}"
    return CaptureConfig(**own, data=(data,), out=out, states="none", changes="all", score=False)


def settle_neutral(settled: Settled, progress: Report) -> Settled | None:
    """Return the capture of the neutral texts that the settings ask for, ready for its first row; None if for none.

    The base writes texts unless an earlier attempt has stored them. Nothing is written to the disk.

    Raises
    ------
    StoreError
        If the run has other neutral texts already.
    ValueError
        If the model predicts no next token or can't write texts, or a file's texts can't be captured as they are.
    """
    whole, loaded, ranks = settled.config, settled.loaded, settled.ranks
    if whole.neutral is None:
        return None
    require_predictions(whole, loaded.facts)
    config, place = neutral_config(whole), neutral_place(settled.place)
    state = ranks.from_leader(run_state(place))
    stored = open_run(place) if state in ("unfinished", "finished") else None
    if stored is not None:
        _require_same_source(stored, config)
    data, omitted = Data({}, settled.data.prompts), dict[str, int]()
    texts: list[EncodedSample]
    if isinstance(whole.neutral, str):
        data = read_data(config.data, config.prompt, config.examples, seed=config.seed)
        window = {"max_length": loaded.facts.context_length, "window_tokens": config.window_tokens}
        texts, omitted = encode_data(data, loaded.tokenizer, **window, limit=config.limit)
        require_known_tokens(loaded.facts.n_known_tokens, texts)
    elif stored is not None:
        texts = read_neutral_texts(stored)
    else:
        options: dict[str, Any] = {"seed": config.seed, "batch_tokens": config.batch_tokens}
        options["progress"] = counting(progress, "write neutral texts", "texts")
        texts = write_neutral_texts(loaded.model, loaded.tokenizer, whole.neutral, ranks, **options)
    components = settled.layout.components
    recorder = Recorder(components, stream=config.stream)
    sequences = probe_samples(max(texts, key=lambda text: len(text.token_ids)), whole=loaded.facts.attends_by_length)
    dtypes, n_logits = probe(loaded.model, recorder, sequences, loaded.device)
    parts: dict[str, Any] = {"config": config, "place": place, "state": state, "data": data, "omitted": omitted}
    parts["layout"] = make_layout(config, loaded.facts, texts, components, dtypes, loaded.device, n_logits=n_logits)
    neutral = dataclasses.replace(settled, **parts, scored=tuple(texts), prompts={})
    if stored is not None:
        require_same_capture(neutral, stored, neutral.provenance())
    return neutral


def require_predictions(config: CaptureConfig, facts: ModelFacts) -> None:
    """Raise ValueError if neutral texts are asked for and the model predicts no next token."""
    if config.neutral is not None and not facts.is_causal:
        raise ValueError(
            f"`neutral` is {config.neutral!r}, but {facts.class_name} doesn't predict the next token, and neutral "
            "texts show how predictions change; leave `neutral` out"
        )


def _require_same_source(stored: Run, config: CaptureConfig) -> None:
    """Raise StoreError if stored neutral texts are of another kind or number than those of the settings."""
    source = list(stored.attributes["provenance"]["settings"]["data"])
    if any(name.endswith(IN_RUN) for name in (*source, *config.data)) and source != list(config.data):
        raise StoreError(
            f"`{stored.place.name}` has neutral texts already: {source[0]!r}, not {config.data[0]!r}; give the same "
            "`neutral`, or delete that folder"
        )
