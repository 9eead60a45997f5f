"""Estimators of mutual information by name: what each computes, its largest value, and its best verdict."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from lorascope.analyze.results.options import require_whole
from lorascope.stores.names import require_choice, suggestion

from .bound import js_lower_bound
from .classifier import classifier_js
from .gaussian import (
    NOISE,
    gaussian_bias,
    gaussian_information,
    gaussian_lower_bound,
    most_checkable,
    noise_curve,
    normal_scores,
    standardised_or_scores,
)
from .held_out import cca_ksg, characteristic_ksg, quadratic_cca_ksg, radial_ksg
from .ksg import extrapolated_ksg, ksg, ksg_ceiling
from .pairs import Pairs, Settings


class Estimator(NamedTuple):
    """An estimator of mutual information, and the properties that its verdict depends on."""

    function: Callable[[Pairs, Settings], float]
    """(pairs, settings) -> estimate in nats."""
    long_name: str
    """Description for readers."""
    says: Literal["ok", "lower bound only", "assumes Gaussian"]
    """Its best possible verdict. `ok`: consistent; `lower bound only`: it misses some dependence, so that apart from
    noise it is at most the truth; `assumes Gaussian`: neither, unless the data are Gaussian."""
    sees: Literal["values", "scores", "tempered"] = "values"
    """Form of the pairs that it gets: values, normal scores, or scores only of columns with heavy tails."""
    has_ceiling: bool = False
    """Whether `ksg_ceiling` is its largest possible value; otherwise it is unlimited."""
    bias: Callable[[int, int, int], float] | None = None
    """(n, dx, dy) -> bias in nats that was subtracted; None without a closed form."""
    checked_up_to: Callable[[int], float] | None = None
    """n -> nats above which n rows can't check it, so that it assumes Gaussian; None if no check is needed."""
    null_is_bias: bool = False
    """Whether its mean over shuffles is subtracted as bias."""


def _gaussian_estimate(pairs: Pairs, settings: Settings) -> float:
    """Return the Gaussian mutual information in nats, minus its exact bias."""
    return gaussian_information(pairs.x, pairs.y) - gaussian_bias(len(pairs.x), pairs.x.shape[1], pairs.y.shape[1])


def _ksg_scaled(pairs: Pairs, settings: Settings) -> float:
    """Return the nearest-neighbour estimate (KSG 1) of mutual information in nats, of columns scaled to variance 1."""
    x, y = (side / side.std(axis=0) for side in (pairs.x, pairs.y))
    return ksg(x, y, k=settings.k, groups=(pairs.groups_x, pairs.groups_y))


def _ksg_copula(pairs: Pairs, settings: Settings) -> float:
    """Return the nearest-neighbour estimate (KSG 1) of mutual information in nats, extrapolated to distance 0."""
    return extrapolated_ksg(pairs.x, pairs.y, k=settings.k, groups=(pairs.groups_x, pairs.groups_y))


def _noise_estimate(pairs: Pairs, settings: Settings, *, sd: float) -> float:
    """Return the Gaussian mutual information in nats with noise of standard deviation `sd` added to both sides."""
    return float(noise_curve(pairs.x, pairs.y, (sd,))[0])


def _classifier_estimate(pairs: Pairs, settings: Settings) -> float:
    """Return a lower bound of mutual information in nats, from a classifier of real and mismatched pairs."""
    return js_lower_bound(max(classifier_js(pairs.x, pairs.y, groups=pairs.groups_x, seed=settings.seed), 0.0))


ESTIMATORS: Mapping[str, Estimator] = {
    "ksg1": Estimator(_ksg_scaled, "nearest neighbours (KSG 1), columns of unit variance", "ok", has_ceiling=True),
    "ksg_copula": Estimator(
        _ksg_copula, "nearest neighbours (KSG 1) of normal scores, extrapolated", "ok", "scores", True
    ),
    "gaussian": Estimator(_gaussian_estimate, "Gaussian, exact bias taken off", "assumes Gaussian", bias=gaussian_bias),
    "gaussian_copula": Estimator(
        gaussian_lower_bound, "Gaussian copula, as far as a variational bound holds it", "lower bound only", "scores",
        bias=gaussian_bias, checked_up_to=most_checkable,
    ),
    "cca_ksg": Estimator(cca_ksg, "held-out canonical directions, by KSG 1", "lower bound only", "scores", True),
    "quadratic_cca_ksg": Estimator(
        quadratic_cca_ksg, "held-out canonical directions of quadratic features, by KSG 1", "lower bound only",
        "scores", True,
    ),
    "characteristic_ksg": Estimator(
        characteristic_ksg, "held-out directions of characteristic functions, by KSG 1", "lower bound only",
        "tempered", True,
    ),
    "radial_ksg": Estimator(radial_ksg, "norms of both sides by KSG 1", "lower bound only", "scores", True),
    **{
        f"noise_{sd:g}": Estimator(
            partial(_noise_estimate, sd=sd), f"Gaussian, noise of {sd:g} sd on both sides", "assumes Gaussian",
            null_is_bias=True,
        )
        for sd in NOISE
    },
    "classifier": Estimator(
        _classifier_estimate, "Xi of a classifier's JS(joint, product), held out", "lower bound only"
    ),
}  # fmt: skip
"""Every estimator by its name."""

PANEL = ("ksg_copula", "gaussian_copula", "cca_ksg", "quadratic_cca_ksg", "characteristic_ksg", "radial_ksg")
"""Members of the panel: each is too low, for a different reason; only the first can see any dependence."""
NAME_SETS: Mapping[str, tuple[str, ...]] = {
    "panel": (*PANEL, "panel"),
    "noise": tuple(name for name in ESTIMATORS if name.startswith("noise_")),
}
"""Names that stand for several estimators."""


def resolve_estimators(estimator: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the requested estimators, each once; names of sets are replaced by their members.

    `panel` becomes its members and itself, `noise` all estimators with added noise.

    Raises
    ------
    ValueError
        If a name isn't known, or no name is given.
    """
    if not isinstance(estimator, Sequence):
        raise ValueError(f"`estimator` is {estimator!r}; give a name, or a list of names")
    requested = (estimator,) if isinstance(estimator, str) else tuple(estimator)
    unknown = [name for name in requested if name not in NAME_SETS and name not in ESTIMATORS]
    if unknown or not requested:
        allowed = (*NAME_SETS, *ESTIMATORS)
        name, close = (repr(unknown[0]), suggestion(str(unknown[0]), allowed)) if unknown else ("nothing", "")
        raise ValueError(f"`estimator` names {name}; allowed are {', '.join(allowed)}{close}")
    names = [member for name in requested for member in NAME_SETS.get(name, (name,))]
    return tuple(dict.fromkeys(names))


def evaluate(pairs: Pairs, names: Sequence[str], settings: Settings, *, strict: bool = True) -> np.ndarray:
    """Return each named estimator's mutual information of the pairs in nats, float64 (estimator,).

    The panel is the largest of its members. If an estimator refuses the pairs, raise its ValueError, or without
    `strict` return NaN.
    """
    seen_pairs = {"values": pairs}
    transforms = {ESTIMATORS[name].sees for name in names if name in ESTIMATORS}
    if transforms != {"values"}:
        sides, seeds = (pairs.x, pairs.y), (2 * settings.seed, 2 * settings.seed + 1)
        scores = [normal_scores(side, seed=seed) for side, seed in zip(sides, seeds, strict=True)]
        seen_pairs["scores"] = pairs._replace(x=scores[0], y=scores[1])
        if "tempered" in transforms:
            x, y = (standardised_or_scores(*side, seed=seed) for *side, seed in zip(sides, scores, seeds, strict=True))
            seen_pairs["tempered"] = pairs._replace(x=x, y=y)
    values = dict.fromkeys(names, math.nan)
    for name in names:
        if name == "panel":
            continue
        try:
            values[name] = ESTIMATORS[name].function(seen_pairs[ESTIMATORS[name].sees], settings)
        except ValueError:
            if strict:
                raise
    if "panel" in names:
        values["panel"] = float(np.max([values[name] for name in PANEL]))
    return np.array([values[name] for name in names])


def ceilings(pairs: Pairs, names: Sequence[str], settings: Settings) -> np.ndarray:
    """Return the largest value in nats that each named estimator can have for these pairs; NaN if unlimited."""
    most = ksg_ceiling(len(pairs.x), settings.k)
    return np.array([most if name in ESTIMATORS and ESTIMATORS[name].has_ceiling else math.nan for name in names])


def check_settings(settings: Settings, unit: str, n_shuffles: int) -> None:
    """Raise ValueError unless `unit` is nat or bit, and k, seed and `n_shuffles` are large enough whole numbers."""
    for name, value, least in (("k", settings.k, 1), ("seed", settings.seed, 0), ("n_shuffles", n_shuffles, 0)):
        require_whole(name, value, least)
    require_choice("unit", unit, ("nat", "bit"))
