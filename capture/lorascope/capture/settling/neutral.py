"""Settle the capture of neutral texts, which becomes a run of its own inside the run of the user's data."""

from typing import Any

from lorascope.stores import StoreError, open_run, run_state
from lorascope.stores.format.layout import IN_RUN, NEUTRAL
from lorascope.stores.reading.read import neutral_place

from ..config import LOADING, CaptureConfig
from ..models.model import ModelFacts
from ..recording.progress import Report, counting
from ..samples.neutral import read_neutral_texts, write_neutral_texts
from .data import Data, read_data
from .settle import Settled, require_same_capture, settle_loaded

OWN_SETTINGS = (
    *("model", "adapter", "component", "stream", "device", "queue", "overfill", "allow_zero", *LOADING),
    *("limit", "window_tokens", "batch_tokens", "store", "seed"),
)
"""Settings of a capture that its neutral texts share; all others are off, or as they are by default."""


def neutral_config(config: CaptureConfig, facts: ModelFacts) -> CaptureConfig:
    """Return the settings with which neutral texts are captured: measures and next-token changes of all their tokens.

    A file's texts are limited as those of the data are. No base and delta is stored, no text is scored. Raises
    ValueError if the model predicts no next token.
    """
    neutral, own = config.neutral, {name: getattr(config, name) for name in OWN_SETTINGS}
    if not facts.is_causal:
        raise ValueError(
            f"`neutral` is {neutral!r}, but {facts.class_name} doesn't predict the next token, and neutral texts show "
            "how predictions change; leave `neutral` out"
        )
    data = neutral if isinstance(neutral, str) else f"{neutral} texts by the base {IN_RUN}"
    out = f"{config.out.rstrip('/')}/{NEUTRAL}"
    return CaptureConfig(**own, data=(data,), out=out, states="none", changes="all", score=False)


def settle_neutral(settled: Settled, progress: Report) -> Settled | None:
    """Return the capture of the neutral texts that the settings ask for, ready for its first row; None if for none.

    The base writes them unless an earlier attempt has stored them. Nothing is written to the disk. Raises StoreError if
    the run has other neutral texts already, ValueError if the model can't write any, or as `settle_loaded` does.
    """
    if (asked := settled.config.neutral) is None:
        return None
    loaded, place = settled.loaded, neutral_place(settled.place)
    config = neutral_config(settled.config, loaded.facts)
    state = settled.ranks.from_leader(run_state(place))
    stored = open_run(place) if state in ("unfinished", "finished") else None
    if stored is not None:
        (source,) = stored.attributes["provenance"]["settings"]["data"]
        if source != config.data[0] and (source + config.data[0]).count(IN_RUN):
            raise StoreError(
                f"`{place.name}` has neutral texts already: {source!r}, not {config.data[0]!r}; give the same "
                "`neutral`, or delete that folder"
            )
    if isinstance(asked, str):
        data = read_data(config.data, config.prompt, config.examples, seed=config.seed)
    elif stored is not None:
        data = Data({}, settled.data.prompts, read_neutral_texts(stored))
    else:
        options: dict[str, Any] = {"seed": config.seed, "batch_tokens": config.batch_tokens}
        options["progress"] = counting(progress, "write neutral texts", "texts")
        texts = write_neutral_texts(loaded.model, loaded.tokenizer, asked, settled.ranks, **options)
        data = Data({}, settled.data.prompts, texts)
    neutral = settle_loaded(config, loaded, data, settled.ranks, place, state)
    if stored is not None:
        require_same_capture(neutral, stored, neutral.provenance())
    return neutral
