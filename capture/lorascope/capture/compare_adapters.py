"""What adapters of one model say to the same data, beside each other: no run is written."""

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float64

from lorascope.stores.progress import Progress

from .adapters.adapter import attach_adapters
from .adapters.passes import Pass, alone
from .buffers.target import flat_places
from .given import given_items
from .models.device import input_device
from .models.model import context_length, is_causal
from .prepare import require_known_tokens
from .recording.forward import forward, kl_divergence
from .samples.batches import plan_batches
from .samples.encode import encode_items
from .samples.encoded import EncodedSample
from .samples.scoring import score

BASE = "base"
"""What the model without adapters is called."""


def compare_adapters(
    model: Any,
    tokenizer: Any,
    data: Any,
    adapters: Mapping[str, str | Path],
    *,
    limit: int | None = None,
    batch_tokens: int = 1024,
    window_tokens: int = 512,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Cross-entropy, hits and KL divergence of each adapter, by sample; and of the model without any.

    Parameters
    ----------
    model
        A causal language model of transformers without adapters; afterwards it has none again.
    tokenizer
        Its fast tokenizer.
    data
        Whatever `read_items` takes, a list of files, or items; held-out ones, where the question is what is lost.
    adapters
        Name -> folder; the first is the one that the others are compared with.
    limit
        Take only so many samples from the start of each file.
    batch_tokens
        Largest number of tokens in a batch, with padding.
    window_tokens
        Tokens in each window that plain text is cut into; at most the model's context.
    progress
        Called after each batch of each pass with how many of all are done.

    Returns
    -------
    xr.Dataset
        Over `adapter` (`base` first, then as given) and `sample`: `ce` (nat/token; see `score`), `correct` (1 or 0; NaN
        for text) and `kl`, the mean over the sample's tokens of KL(first adapter || this one) of the distributions of
        the next token, in nat.

    Raises
    ------
    AdapterError
        If an adapter can't be attached to this model.
    ValueError
        If the model isn't causal, an adapter is called `base` or there is none, or data can't be read or encoded.

    Notes
    -----
    Questions are asked with the prompt `main`. Every adapter passes over the same batches, so that differences between
    two of them are paired by sample; windows of one text aren't independent of each other.
    """
    if not adapters or BASE in adapters:
        raise ValueError(f"`adapters` are {list(adapters)}; name at least one, and none {BASE!r}")
    if not is_causal(model):
        raise ValueError(f"the model is a {type(model).__name__}; what comes next is foreseen by causal ones alone")
    samples = _encode(model, tokenizer, data, limit, window_tokens)
    device, adapted = input_device(model), attach_adapters(model, adapters)
    passes = [Pass("base", None), *(Pass("adapted", name) for name in adapters)]
    batches = plan_batches([len(sample.token_ids) for sample in samples], batch_tokens=batch_tokens)
    done, total = 0, (len(passes) + 1) * len(samples)
    scores, kl = [], []
    try:
        with alone(adapted, device):
            for one in passes:
                with one.enabled(adapted):
                    scores.append(score(adapted, samples, batch_tokens=batch_tokens))
                done += len(samples)
                if progress is not None:
                    progress(done, total)
            for batch in batches:
                kl.append(_divergences(adapted, samples[batch], passes, device))
                done += len(samples[batch])
                if progress is not None:
                    progress(done, total)
    finally:
        adapted.unload()
    hits = np.stack([one.correct for one in scores]).astype(np.float64)
    first = next(iter(adapters))
    values = {
        "ce": (np.stack([one.ce for one in scores]), "cross-entropy of the tokens to be predicted", "nat/token"),
        "correct": (np.where(hits < 0, np.nan, hits), "whether the likeliest choice is the right one", "1"),
        "kl": (np.concatenate(kl, axis=1), f"mean KL({first} || adapter) of the next token's distributions", "nat"),
    }
    return xr.Dataset(
        {
            name: (("adapter", "sample"), numbers, {"long_name": text, "units": unit})
            for name, (numbers, text, unit) in values.items()
        },
        coords={
            "adapter": np.array([BASE, *adapters], object),
            "sample": np.array([f"{one.dataset}/{one.id}" for one in samples], object),
        },
        attrs={
            "measure": "what adapters of one model say to the same samples",
            "n_tokens": sum(len(one.token_ids) for one in samples),
            "lorascope": version("lorascope"),
        },
    )


def _encode(model: Any, tokenizer: Any, data: Any, limit: int | None, window_tokens: int) -> list[EncodedSample]:
    is_listed = isinstance(data, list | tuple) and all(isinstance(one, str | Path) for one in data)
    max_length = context_length(model) or sys.maxsize
    window_tokens = min(window_tokens, max_length)
    samples: list[EncodedSample] = []
    for source in data if is_listed else [data]:
        items = given_items(source)
        samples += encode_items(items, tokenizer, max_length=max_length, window_tokens=window_tokens)[:limit]
    require_known_tokens(model, samples)
    return samples


def _divergences(
    model: Any, samples: Sequence[EncodedSample], passes: Sequence[Pass], device: torch.device
) -> Float64[np.ndarray, "adapter sample"]:
    """Mean KL of the first adapter's next-token distributions from each pass's, over the tokens of each sample."""
    _, reference, *_ = passes

    def logits_of(one: Pass) -> torch.Tensor:
        with one.enabled(model):
            logits = forward(model, samples, device)
        assert logits is not None  # of a causal model
        return logits

    expected = logits_of(reference)
    lengths = [len(sample.token_ids) for sample in samples]
    places = torch.from_numpy(flat_places([np.arange(length) for length in lengths], expected.shape[1])).to(device)
    means = np.zeros((len(passes), len(samples)))
    for row, one in enumerate(passes):
        if one is not reference:
            kl = kl_divergence(expected, logits_of(one), places).double().cpu().numpy()
            means[row] = [part.mean() for part in np.split(kl, np.cumsum(lengths)[:-1])]
    return means
