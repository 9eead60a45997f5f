"""How a model does on held-out samples."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..samples.encode import EncodedSample
from ..samples.scoring import score

__all__ = ["Evaluation", "evaluate"]


class Evaluation(NamedTuple):
    """How the model does on held-out samples."""

    ce: float
    """Mean over samples of the cross-entropy of the right answer (or the text), nats per token."""
    accuracy: float | None
    """Share of choice samples whose right choice is the likeliest; None if there are only texts."""
    accuracy_per_token: float | None
    """Share of those whose right choice has the highest log-likelihood per token."""
    n_samples: int
    """Number of samples."""


def evaluate(model: Any, samples: Sequence[EncodedSample] | None, *, batch_tokens: int) -> Evaluation | None:
    """How the model does on samples in batches of at most so many tokens; None where there are none."""
    if samples is None:
        return None
    scores = score(model, samples, batch_tokens=batch_tokens)
    return Evaluation(
        ce=float(scores.ce.mean()),
        accuracy=_share(scores.correct),
        accuracy_per_token=_share(scores.correct_per_token),
        n_samples=len(samples),
    )


def _share(correct: np.ndarray) -> float | None:
    """Share of hits among the samples with choices."""
    known = correct[correct >= 0]
    return float(known.mean()) if len(known) else None
