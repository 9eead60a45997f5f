"""How far the joint distribution of two sides lies from the product, by a classifier that tells their rows apart."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64, Shaped

from .bound import LN2, js_lower_bound
from .contrastive import HeldOutBound, check_rows, choice_halves, error_of_mean, group_halves, paired_coordinates

__all__ = ["classifier_certificate", "classifier_js", "classifier_nwj", "pair_features"]

N_PARTNERS = 4
"""Rows of y from other groups that each row of x is put together with; each counts a fourth."""
PENALTIES = (1.0, 1e-2, 1e-4)
"""C of the logistic regression: one over the weight of the squared coefficients."""
NWJ_CLIP = 3.0
"""Log odds beyond it count as this in the NWJ bound, whose variance grows with the exponential of the largest."""


class _LogOdds(NamedTuple):
    """What a classifier that never saw them says of all rows, in favour of joint against product, nats."""

    joint: np.ndarray
    """Float64 (row,)."""
    product: np.ndarray
    """Float64 (row, partner)."""
    labels: np.ndarray
    """Int64 (row,): groups."""
    most: float
    """No log odds lie further from 0."""


def classifier_js(
    x: Float[np.ndarray, "row feature_x"],
    y: Float[np.ndarray, "row feature_y"],
    *,
    groups: Shaped[np.ndarray, " row"] | None = None,
    seed: int = 0,
) -> HeldOutBound:
    """Lower bound of JS(joint || product) in nats, held out, with its standard error and ceiling.

    Parameters
    ----------
    x, y
        Samples of both sides, row by row.
    groups
        Labels of rows that aren't independent of each other: halves are made of whole groups, and no row of x is put
        together with a y of its own group. By default every row is alone.
    seed
        Of the halves and of the rows put together.

    Raises
    ------
    ValueError
        As `contrastive.infonce`.

    Notes
    -----
    JS >= ln 2 - CE, where CE is the cross-entropy, in nats, of any classifier between equally many rows of the joint
    and of the product. Here it is a logistic regression on `pair_features`, standardised, fitted on one half with each
    row of x beside four y of other groups, and tried on the other half; the halves then change places, and all rows are
    averaged. Its ridge penalty (C = 1, 0.01 or 0.0001) is the one that does best inside the fitting half, from one half
    of it to the other. Log odds are cut at ln(rows/2) on both sides: no row may be more certain than that.

    References
    ----------
    Goodfellow et al. 2014, arXiv 1406.2661, theorem 1: ln 2 - CE is JS for the best classifier, and less for others.
    """
    odds = _log_odds(x, y, groups, seed)
    return _bound(LN2 - _losses(odds.joint, odds.product) / 2, odds, LN2 - math.log1p(math.exp(-odds.most)))


def classifier_certificate(
    x: Float[np.ndarray, "row feature_x"],
    y: Float[np.ndarray, "row feature_y"],
    *,
    groups: Shaped[np.ndarray, " row"] | None = None,
    seed: int = 0,
) -> HeldOutBound:
    """Lower bound of the mutual information in nats, the least that goes with the JS of `classifier_js`.

    Parameters and errors as of `classifier_js`.

    Notes
    -----
    I >= Xi(JS), see `js_lower_bound`; a JS below 0 counts as 0. The standard error is that of JS times the slope of Xi,
    2 exp(Xi)/ln(1 + exp(Xi)).
    """
    js = classifier_js(x, y, groups=groups, seed=seed)
    value = js_lower_bound(max(js.value_nats, 0.0))
    slope = 2 * math.exp(value) / math.log1p(math.exp(value))
    return HeldOutBound(value, slope * js.standard_error_nats, js_lower_bound(js.ceiling_nats))


def classifier_nwj(
    x: Float[np.ndarray, "row feature_x"],
    y: Float[np.ndarray, "row feature_y"],
    *,
    groups: Shaped[np.ndarray, " row"] | None = None,
    seed: int = 0,
) -> HeldOutBound:
    """Lower bound of the mutual information in nats by the log odds themselves, held out: sharper up to about 2 nats.

    Parameters and errors as of `classifier_js`.

    Notes
    -----
    I >= E_joint f - (E_product exp f - 1) for every f. Here f are the log odds of `classifier_js` on the half that they
    weren't fitted on, cut at 3 on both sides. With the log density ratio as f both are equal; what the cut takes from
    it is lost, and above 3 + 1 - exp(-3) = 3.95 nats there is nothing to be had.

    References
    ----------
    Nguyen, Wainwright and Jordan 2010, arXiv 0809.0853; Poole et al. 2019, arXiv 1905.06922, section 2.
    """
    odds = _log_odds(x, y, groups, seed)
    joint, product = (np.clip(values, -NWJ_CLIP, NWJ_CLIP) for values in (odds.joint, odds.product))
    return _bound(joint - np.expm1(product).mean(axis=1), odds, NWJ_CLIP - math.expm1(-NWJ_CLIP))


def pair_features(u: Float64[np.ndarray, "row pair"], v: Float64[np.ndarray, "row pair"]) -> np.ndarray:
    """What the classifier sees of paired coordinates, float64 (row, 8 pair): eight features of each pair.

    Notes
    -----
    u, u^2, v, v^2 and the products of the first two with the last two, so that the log density ratio of Gaussians, and
    more, is a sum of them. Of different pairs there are no products: canonical pairs don't correlate with each other.
    As there are at most 8 canonical pairs and one of norms (see `paired_coordinates`), features are at most 72.
    """
    first, second = np.stack([u, u**2]), np.stack([v, v**2])
    products = (first[:, None] * second).reshape(4, *u.shape)
    return np.concatenate([*first, *second, *products], axis=1)


def _bound(terms: np.ndarray, odds: _LogOdds, ceiling: float) -> HeldOutBound:
    return HeldOutBound(float(terms.mean()), error_of_mean(terms, odds.labels), ceiling)


def _log_odds(x: np.ndarray, y: np.ndarray, groups: np.ndarray | None, seed: int) -> _LogOdds:
    labels = check_rows(x, y, groups)
    rng = np.random.default_rng(seed)
    first = group_halves(labels, seed)
    joint, product = np.empty(len(x)), np.empty((len(x), N_PARTNERS))
    for fitted in (first, ~first):
        penalty = _chosen_penalty(x[fitted], y[fitted], labels[fitted], rng, seed)
        (found,) = _tried(x, y, labels, fitted, (penalty,), rng)
        joint[~fitted], product[~fitted] = found
    most = math.log(min(first.sum(), (~first).sum()))
    return _LogOdds(joint.clip(-most, most), product.clip(-most, most), labels, most)


def _chosen_penalty(x: np.ndarray, y: np.ndarray, labels: np.ndarray, rng: np.random.Generator, seed: int) -> float:
    """The C with the least cross-entropy on one half of the fitting half, fitted on its other half."""
    labels, fitted = choice_halves(labels, seed)
    losses = [_losses(*found).mean() for found in _tried(x, y, labels, fitted, PENALTIES, rng)]
    return PENALTIES[int(np.argmin(losses))]


def _losses(joint: np.ndarray, product: np.ndarray) -> np.ndarray:
    """-ln of the probability that the right answer is given, for a row of the joint plus its mean of the product."""
    return np.asarray(np.logaddexp(0, -joint) + np.logaddexp(0, product).mean(axis=1))


def _tried(
    x: np.ndarray,
    y: np.ndarray,
    labels: np.ndarray,
    fitted: np.ndarray,
    penalties: Sequence[float],
    rng: np.random.Generator,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Log odds (row,) of the joint and (row, partner) of the product, for rows not fitted on and each penalty."""
    u, v = paired_coordinates(x, y, fitted)
    (seen, seen_mixed), (new, new_mixed) = (
        _features(u[rows], v[rows], labels[rows], rng) for rows in (fitted, ~fitted)
    )
    models = [_fitted_model(seen, seen_mixed, penalty) for penalty in penalties]
    return [
        (model.decision_function(new), model.decision_function(new_mixed).reshape(-1, N_PARTNERS)) for model in models
    ]


def _features(
    u: np.ndarray, v: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Features of rows (row, feature), and of each row's u with its partners' v (row x partner, feature)."""
    partners = _partners(labels, rng)
    return pair_features(u, v), pair_features(np.repeat(u, N_PARTNERS, axis=0), v[partners.ravel()])


def _partners(labels: Int64[np.ndarray, " row"], rng: np.random.Generator) -> np.ndarray:
    """Places of rows of other groups, drawn at random, int64 (row, partner)."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels)[:, None]
    sizes = np.bincount(labels)[labels][:, None]
    drawn = rng.integers(0, len(labels) - sizes, (len(labels), N_PARTNERS))
    return np.asarray(order[drawn + sizes * (drawn >= starts)])  # past the row's own group


def _fitted_model(joint: np.ndarray, product: np.ndarray, penalty: float) -> Any:
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # a second, for this alone
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    # Few features and many rows: Newton's method needs a dozen steps, and the penalty keeps it from going astray.
    model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, solver="newton-cholesky"))
    is_joint = np.repeat([1, 0], [len(joint), len(product)])
    weights = np.where(is_joint == 1, 1.0, 1 / N_PARTNERS)
    return model.fit(np.concatenate([joint, product]), is_joint, logisticregression__sample_weight=weights)
