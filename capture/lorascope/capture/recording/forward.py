"""Forward passes over batches of samples."""

import inspect
import time
from collections.abc import Sequence
from typing import Any

import torch

from ..buffers.target import nowhere
from ..samples.batches import pad
from ..samples.encode import EncodedSample
from .hooks import Recorder

__all__ = ["forward", "forward_seconds", "probe"]


def probe(model: Any, recorder: Recorder, sample: EncodedSample, device: torch.device) -> dict[str, torch.dtype]:
    """Type of every component's output, from one sample in whose passes each hook must fire as planned."""
    for proof in (recorder, *recorder.proofs):
        with proof.attached():
            for pass_ in proof.passes:
                with pass_.enabled(model), proof.recording(nowhere((1, len(sample.token_ids))), pass_):
                    forward(model, [sample], device)
    return dict(recorder.dtypes)


def forward_seconds(model: Any, samples: Sequence[EncodedSample], device: torch.device) -> float:
    """Seconds of one bare forward pass over a batch, no hooks."""
    start = time.perf_counter()
    forward(model, samples, device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@torch.inference_mode()
def forward(model: Any, samples: Sequence[EncodedSample], device: torch.device) -> torch.Tensor | None:
    """Logits (sequence, position, token id) of a batch; None of a model that has none."""
    input_ids, attention_mask = pad(samples)
    output = model(
        input_ids=input_ids.to(device, non_blocking=True),
        attention_mask=attention_mask.to(device, non_blocking=True),
        **({"use_cache": False} if _takes_use_cache(model) else {}),
    )
    logits: torch.Tensor | None = getattr(output, "logits", None)
    return logits


def _takes_use_cache(model: Any) -> bool:
    """Encoders have no cache, and some no such argument."""
    parameters = inspect.signature(model.get_base_model().forward).parameters
    return "use_cache" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
