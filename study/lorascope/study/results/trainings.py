"""Spread of a number made of means between trainings of the same settings."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

LEVEL = 0.95
Means = Mapping[str, np.ndarray]
"""Metric -> means, float64 (setting, draw)."""
Statistic = Callable[[Means], np.ndarray]
"""A number made of means, float64 (draw,)."""


class Training(NamedTuple):
    """One seed of a setting."""

    setting: str
    runs: str
    """Names of its units, by which a training is known that stands under two settings."""


class Spread(NamedTuple):
    """Spread of a number between trainings; NaN where no setting was trained twice."""

    sd: float = math.nan
    """Standard deviation of the number, in its unit, if each setting is trained once."""
    reach: float = math.nan
    """Half of the 95 % interval around the number of the trainings at hand, by Student's t."""
    n_seeds: int = 1
    """Fewest seeds of a setting on which the number depends."""
    most_seeds: int = 1


def between_trainings(
    statistic: Statistic, metrics: Sequence[str], trained: np.ndarray, trainings: Sequence[Training],
    settings: Sequence[str],
) -> Spread:  # fmt: skip
    """Spread of a statistic of the settings' means between trainings with other seeds.

    Parameters
    ----------
    trained
        Means over items, float64 (metric, training). Those of other settings are used to estimate the spread.

    Notes
    -----
    The statistic is recomputed with one setting's means shifted by the deviation of one of its seeds, in all metrics at
    once. The mean square of its changes, of n seeds with n - 1 degrees of freedom, is this setting's part of the
    variance. A setting with one seed is moved by what all seeds of settings with several differ from their
    means, as a share of these. Variances add up, as trainings count as independent, also those of two settings with one
    seed; degrees of freedom as in Welch's test (Satterthwaite 1946, Biometrics Bulletin 2, 110).
    """
    names = [training.setting for training in trainings]
    places = {name: [k for k, other in enumerate(names) if other == name] for name in names}
    means = {name: trained[:, own].mean(axis=1, keepdims=True) for name, own in places.items()}
    seeds = [len(places[name]) for name in settings]
    # A training that stands under two settings lends once.
    several = {tuple(trainings[k].runs for k in own): own for own in places.values() if len(own) > 1}
    lent, lent_freedom = [k for own in several.values() for k in own], sum(len(own) - 1 for own in several.values())
    if not lent:
        return Spread()
    levels = np.concatenate([means[name] for name in names], axis=1)
    shares = np.divide(trained, levels, out=np.ones_like(trained), where=levels != 0)
    at_hand = np.stack([means[name] for name in settings], axis=1)  # (metric, setting, 1)
    value = statistic(dict(zip(metrics, at_hand, strict=True)))
    parts = []  # variance that a setting brings in, its seeds, degrees of freedom
    for place, name in enumerate(settings):
        by, freedom = (places[name], seeds[place] - 1) if seeds[place] > 1 else (lent, lent_freedom)
        moved = np.repeat(at_hand, len(by), axis=2)
        moved[:, place] *= shares[:, by]
        changes = statistic(dict(zip(metrics, moved, strict=True))) - value
        parts.append((float(changes @ changes) / freedom, seeds[place], freedom))
    of_means = [(v / n, freedom) for v, n, freedom in parts if n > 1]
    of_means.append((sum(v for v, n, _ in parts if n == 1), lent_freedom))
    total, squares = sum(v for v, _ in of_means), sum(v**2 / freedom for v, freedom in of_means)
    reach = stats.t.ppf((1 + LEVEL) / 2, total**2 / squares) * math.sqrt(total) if squares > 0 else 0.0
    used = [n for v, n, _ in parts if v > 0] or seeds
    return Spread(math.sqrt(sum(v for v, *_ in parts)), float(reach), min(used), max(used))
