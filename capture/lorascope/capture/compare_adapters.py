"""Scores of several adapters of one model on the same data, without a run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from lorascope.stores.progress import Progress

from .buffers.target import flat_index
from .models.adapter import attach_adapters
from .models.device import input_device
from .models.model import model_facts
from .models.passes import Pass, isolated, restoring_modes
from .recording.forward import forward, kl_divergence
from .samples.encode import encode_items, require_known_tokens
from .samples.encoded import plan_batches
from .samples.items import Item
from .samples.scoring import Scores, score

BATCH_TOKENS, WINDOW_TOKENS = 1024, 512
"""Largest number of tokens in a batch, with padding, and in a window of plain text."""


def compare_adapters(
    model: Any,
    tokenizer: Any,
    items: Sequence[Item],
    adapters: Mapping[str, str | Path],
    *,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Score samples without an adapter and with each one; return a Dataset of cross-entropy, hits and KL.

    Parameters
    ----------
    model, tokenizer
        A causal language model of transformers without adapters, and its fast tokenizer. Afterwards the model is as
        before, unless an adapter's init changes the base.
    items
        Items from `read_items`; questions are asked with the prompt `main`.
    adapters
        Name -> folder. All are compared with the first one.
    progress
        Called with the number of passes and batches that are done, and their total.

    Returns
    -------
    xr.Dataset
        Over `adapter` (`base`, then as given) and `sample`: `ce` in nat/token and `correct` (NaN for text) as `score`
        defines them, and `kl`, the mean over a sample's tokens of KL(first adapter || this one) of the next token's
        distribution, in nat. All use the same batches, so differences are paired by sample.

    Raises
    ------
    AdapterError, ValueError
        If an adapter doesn't fit the model, the model isn't causal, or the items can't be encoded.
    """
    facts = model_facts(model)
    if not facts.is_causal:
        raise ValueError(f"the model is a {type(model).__name__}; only causal ones predict the next token")
    length = facts.context_length
    samples = encode_items(items, tokenizer, max_length=length, window_tokens=min(WINDOW_TOKENS, length))
    require_known_tokens(facts.n_known_tokens, samples)
    n_tokens = [len(sample.token_ids) for sample in samples]
    batches = plan_batches(n_tokens, batch_tokens=BATCH_TOKENS)
    device = input_device(model)
    passes = [Pass("base", None), *(Pass("adapted", name) for name in adapters)]
    scores: list[Scores] = []
    kl: list[np.ndarray] = []

    def report() -> None:
        """Call `progress`, if it is given, with the number of finished passes and batches, and their total."""
        if progress is not None:
            progress(len(scores) + len(kl), len(passes) + len(batches))

    def next_token_logits(pass_: Pass, batch: slice) -> Any:
        """Return logits (sample, position, token id) of a batch, with the adapter of this pass or without any."""
        with pass_.enabled(adapted):
            return forward(adapted, samples[batch], device)

    with _restoring_modules(model):
        adapted = attach_adapters(model, adapters)
        with isolated(adapted, device):
            for pass_ in passes:
                with pass_.enabled(adapted):
                    scores.append(score(adapted, samples, batch_tokens=BATCH_TOKENS))
                report()
            for batch in batches:
                first, lengths = next_token_logits(passes[1], batch), n_tokens[batch]
                flat = torch.from_numpy(flat_index([np.arange(n) for n in lengths], first.shape[1])).to(device)
                values = [kl_divergence(first, next_token_logits(pass_, batch), flat).cpu() for pass_ in passes]
                starts = np.cumsum([0, *lengths[:-1]])
                kl.append(np.add.reduceat(np.stack(values).astype(float), starts, axis=1) / lengths)
                report()
    dims, hits = ("adapter", "sample"), np.stack([part.correct for part in scores]).astype(float)
    return xr.Dataset(
        {
            "ce": (dims, np.stack([part.ce for part in scores]), {"units": "nat/token"}),
            "correct": (dims, np.where(hits < 0, np.nan, hits), {"units": "1"}),
            "kl": (dims, np.concatenate(kl, axis=1), {"units": "nat"}),
        },
        coords={"adapter": ["base", *adapters], "sample": [f"{sample.dataset}/{sample.id}" for sample in samples]},
        attrs={"measure": "scores of adapters of one model on the same samples", "n_tokens": sum(n_tokens)},
    )


@contextmanager
def _restoring_modules(model: Any) -> Iterator[None]:
    """When the context ends, put the model's own submodules and flags back, and delete `peft_config`.

    PEFT's `unload` would keep trained copies of some modules.
    """
    own = [(module, dict(module._modules)) for module in model.modules()]
    try:
        with restoring_modes(model):
            yield
    finally:
        for module, children in own:
            module._modules.update(children)
        vars(model).pop("peft_config", None)
