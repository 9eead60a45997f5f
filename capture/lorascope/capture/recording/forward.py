"""Forward passes over batches of samples, and measures of their logits."""

import inspect
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..buffers.target import empty_target, flat_index
from ..models.weights import plain_model
from ..samples.encoded import PROBE_TOKENS, EncodedSample, pad
from ..samples.scoring import logit_parts, token_nll
from .hooks import Recorder
from .reduce import has_kernel


def probe(
    model: Any, recorder: Recorder, samples: Sequence[EncodedSample], device: torch.device
) -> tuple[dict[str, torch.dtype], int]:
    """Run a trial batch with hooks and return component path -> output type, and the number of logits at a position.

    It checks that every hook fires, and that every layer's output is its base plus delta. A model without logits has 0.
    """
    logits: torch.Tensor | None = None
    lengths = [len(sample.token_ids) for sample in samples]
    for proof in (recorder, *recorder.proofs):
        with proof.attached():
            for pass_ in proof.passes:
                with pass_.enabled(model), proof.recording(empty_target(lengths, PROBE_TOKENS), pass_):
                    logits = forward(model, samples, device)
    return dict(recorder.dtypes), 0 if logits is None else logits.shape[-1]


def forward_seconds(model: Any, samples: Sequence[EncodedSample], device: torch.device) -> float:
    """Return the seconds of one forward pass over a batch without hooks, up to the end of the GPU's work."""
    start = time.perf_counter()
    forward(model, samples, device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def run_pass(model: Any, samples: Sequence[EncodedSample], device: torch.device) -> torch.Tensor | None:
    """Run one forward pass; return the logits (sequence, position, token id), or None if the model has no logits."""
    input_ids, attention_mask = pad(samples)
    # Encoders have no cache, and some don't accept the argument.
    parameters = inspect.signature(plain_model(model).forward).parameters
    takes_use_cache = "use_cache" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    output = model(
        input_ids=input_ids.to(device, non_blocking=True),
        attention_mask=attention_mask.to(device, non_blocking=True),
        **({"use_cache": False} if takes_use_cache else {}),
    )
    logits: torch.Tensor | None = getattr(output, "logits", None)
    return logits


forward = torch.no_grad()(run_pass)  # FSDP2 can't unshard weights in inference mode
"""Run one forward pass without a graph, as `run_pass` does."""


def negative_log_likelihood(
    logits: torch.Tensor, samples: Sequence[EncodedSample], positions: Sequence[np.ndarray]
) -> torch.Tensor:
    """Return -log p of the chosen tokens given the tokens before each, in nats, float32 (chosen token,).

    Parameters
    ----------
    logits
        Shape (sequence, position, token id), of a batch.
    samples, positions
        The batch's samples, and the chosen positions of each; position 0 gives NaN.
    """
    flat = flat_index(positions, logits.shape[1])
    ids = np.concatenate([sample.token_ids[chosen] for sample, chosen in zip(samples, positions, strict=True)])
    is_first = np.concatenate(positions) == 0
    before, own, first = (
        torch.from_numpy(values).to(logits.device) for values in (np.maximum(flat - 1, 0), ids, is_first)
    )
    nll = token_nll
    if has_kernel(logits.device):
        from .fused import token_nll as nll  # imports triton
    return nll(logits.flatten(0, 1), before, own).masked_fill_(first, torch.nan)


def kl_divergence(base: torch.Tensor, adapted: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
    """Return KL(base || adapted) of the next-token distributions at captured tokens, nats, float32 (token,).

    Parameters
    ----------
    base, adapted
        Logits (sequence, position, token id) of the same batch without and with the adapter.
    flat
        Index of each captured token in the flattened (sequence, position) axis, int64.

    Notes
    -----
    sum_i p_i (log p_i - log q_i) in float64: where terms nearly cancel, the error is about 1e-13.
    """
    base, adapted = base.flatten(0, 1), adapted.flatten(0, 1)
    if has_kernel(base.device):
        from . import fused  # imports triton

        return fused.kl_divergence(base, adapted, flat)
    kl = torch.empty(len(flat), dtype=torch.float32, device=base.device)
    for part in logit_parts(len(flat), base):
        log_p = base.index_select(0, flat[part]).double().log_softmax(-1)
        log_q = adapted.index_select(0, flat[part]).double().log_softmax(-1)
        kl[part] = (log_p.exp() * (log_p - log_q)).sum(-1).clamp_(min=0).float()
    return kl
