"""Lower bound of the Jensen-Shannon divergence (JS) of joint and product, by a classifier of pairs."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from .bound import LN2
from .gaussian import normal_scores
from .projections import canonical_directions, first_half, whitened

N_PARTNERS = 4
"""Number of mismatched pairs per row of x, each of weight 1/4: their y are rows of other groups."""
N_PAIRS = 8
"""Number of canonical pairs that are features of the classifier."""
ROWS_PER_AXIS = 3
"""Least rows per dimension of a side: with fewer, canonical correlations are high for any data."""
RIDGE = 1e-3
"""Ridge that is added to the variance 1 of each score when canonical directions are found."""


def classifier_js(
    x: Float[np.ndarray, "row feature_x"],
    y: Float[np.ndarray, "row feature_y"],
    *,
    groups: Shaped[np.ndarray, " row"] | None = None,
    seed: int = 0,
) -> float:
    """Return a held-out lower bound in nats of the Jensen-Shannon divergence of joint and product of x and y.

    Noise may make it negative.

    Parameters
    ----------
    x, y
        Finite samples of both sides, row by row.
    groups
        Labels of rows that depend on each other: halves consist of whole groups, and mismatched pairs have rows of
        different groups. By default every row is a group.
    seed
        Seed of the halves and of the mismatched pairs.

    Raises
    ------
    ValueError
        If a side is constant, also within a part of the rows, or a half contains a single group.

    Notes
    -----
    JS >= ln 2 - CE, where CE is the cross-entropy, in nats, of any classifier between equally many rows of the joint
    and of the product. Here it is scikit-learn's logistic regression, on features of normal scores. Half of the rows
    are for fitting: one half of these for canonical directions, the other for the classifier, which is evaluated on the
    other half of all rows. The halves change places, and the loss is the mean over all rows. Log odds are clipped at
    ln(rows/2) on both sides.

    References
    ----------
    Goodfellow et al. 2014, arXiv 1406.2661, theorem 1: ln 2 - CE is JS for the best classifier, and less for others.
    """
    x, y = normal_scores(x), normal_scores(y)
    labels = np.arange(len(x)) if groups is None else np.unique(groups, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    first = first_half(labels, seed=seed)
    if _fewest_groups(labels, first) < 2:
        raise ValueError("a half of the rows has only one group; give more groups, or fewer rows of the largest")
    most = math.log(min(first.sum(), (~first).sum()))
    losses = np.empty(len(x))
    for fitting in (first, ~first):
        own, is_direction = _split_fitting_half(labels[fitting], seed)
        directions, training = np.flatnonzero(fitting)[is_direction], np.flatnonzero(fitting)[~is_direction]
        u, v = _coordinates(x, y, directions)
        model = _fit_classifier(*_features(u[training], v[training], own[~is_direction], rng))
        features = _features(u[~fitting], v[~fitting], labels[~fitting], rng)
        joint, product = (model.decision_function(rows) for rows in features)
        joint, product = joint.clip(-most, most), product.clip(-most, most).reshape(-1, N_PARTNERS)
        losses[~fitting] = np.logaddexp(0, -joint) + np.logaddexp(0, product).mean(axis=1)
    return float(LN2 - losses.mean() / 2)


def _split_fitting_half(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split a fitting half into rows for directions and others for the classifier; return labels and a mask.

    The mask is that of the rows for directions. If a part would have a single group, every row becomes a group. The fit
    may then be worse, but the bound stays valid, since it is evaluated on other rows.
    """
    first = first_half(labels, seed=seed)
    if _fewest_groups(labels, first) < 2:
        labels = np.arange(len(labels))
        first = first_half(labels, seed=seed)
    return labels, first


def _fewest_groups(labels: np.ndarray, first: np.ndarray) -> int:
    """Return the number of distinct labels among the rows `first` or among the others, whichever is smaller."""
    return min(len(np.unique(labels[part])) for part in (first, ~first))


def _coordinates(x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all rows of both sides along canonical directions fitted on `rows`, with their norms as last columns.

    Norms show a scale that both sides share; if both sides have one dimension, none are added.
    """
    sides = [_principal_scores(side, rows) for side in (x, y)]
    white_x, white_y = whitened(sides[0][rows], "x", RIDGE), whitened(sides[1][rows], "y", RIDGE)
    directions = canonical_directions(white_x, white_y, N_PAIRS)
    u, v = ((side - side[rows].mean(axis=0)) @ along for side, along in zip(sides, directions, strict=True))
    if x.shape[1] == y.shape[1] == 1:
        return u, v
    norms = [
        side if side.shape[1] == 1 else normal_scores(np.linalg.norm(side, axis=1, keepdims=True)) for side in (x, y)
    ]
    return np.hstack([u, norms[0]]), np.hstack([v, norms[1]])


def _principal_scores(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return all `scores` projected onto principal axes of `rows`, at most one axis per three of these rows."""
    n_axes = max(1, len(rows) // ROWS_PER_AXIS)
    if scores.shape[1] <= n_axes:
        return scores
    return np.asarray(scores @ np.linalg.svd(scores[rows], full_matrices=False)[2][:n_axes].T)


def _features(
    u: np.ndarray, v: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return a classifier's features of real pairs (row, feature) and of mismatched pairs (row x partner, feature)."""
    partners = _draw_partners(labels, rng)
    return _quadratic(u, v), _quadratic(np.repeat(u, N_PARTNERS, axis=0), v[partners.ravel()])


def _quadratic(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return columns u, u^2, v, v^2 and products of u's with v's, in which a Gaussian log density ratio is linear."""
    first, second = np.stack([u, u**2]), np.stack([v, v**2])
    products = (first[:, None] * second).reshape(4, *u.shape)
    return np.concatenate([*first, *second, *products], axis=1)


def _draw_partners(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return random rows of other groups for each row, as its mismatched partners, int64 (row, partner)."""
    _, labels, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(labels, kind="stable")
    starts, own = (np.cumsum(sizes) - sizes)[labels][:, None], sizes[labels][:, None]
    drawn = rng.integers(0, len(labels) - own, (len(labels), N_PARTNERS))
    return np.asarray(order[drawn + own * (drawn >= starts)])  # skips the row's own group


def _fit_classifier(joint: np.ndarray, product: np.ndarray) -> Any:
    """Fit a classifier between the features of real and of mismatched pairs, and return it."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # takes a second
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    # For few features and many rows Newton's method needs a dozen steps; the penalty keeps it stable.
    model = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky"))
    is_joint = np.repeat([1, 0], [len(joint), len(product)])
    weights = np.where(is_joint == 1, 1.0, 1 / N_PARTNERS)
    return model.fit(np.concatenate([joint, product]), is_joint, logisticregression__sample_weight=weights)
