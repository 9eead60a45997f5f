"""Places with made-up distributions of the next token, from which all that capture stores is computed exactly."""

import numpy as np

from lorascope.analyze.changes.places import Places

from ...stored import change_arrays


def places_of(
    p: np.ndarray, q: np.ndarray, sample: np.ndarray, *, weight: np.ndarray | None = None, seed: int = 0
) -> Places:
    """Places with these distributions, as though all tokens of a run were measured."""
    values = change_arrays(p, q, seed) | {"kl": (q * np.log(q / p)).sum(axis=1)}
    weight = np.ones(len(p)) if weight is None else weight
    return Places(np.arange(len(p)), sample, weight, int(sample.max()) + 1, 0, 0, values)


def random_distributions(rng: np.random.Generator, n: int, n_vocabulary: int, *, sharpness: float = 2.0) -> np.ndarray:
    """(place, vocabulary) probabilities, some tokens common everywhere, others at some places."""
    common = rng.normal(size=n_vocabulary) * sharpness
    logits = common + rng.normal(size=(n, n_vocabulary)) * sharpness
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def exchange_by_sample(
    p: np.ndarray, q: np.ndarray, sample: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """P and Q, exchanged in half of the samples at random: no real change is left."""
    swapped = rng.integers(0, 2, sample.max() + 1)[sample].astype(bool)[:, None]
    return np.where(swapped, q, p), np.where(swapped, p, q)
