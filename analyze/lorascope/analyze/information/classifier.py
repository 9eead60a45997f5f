"""Distance of the joint distribution of two sides from the product, by a classifier that tells their rows apart."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from .bound import LN2
from .gaussian import normal_scores
from .projections import canonical_axes, halves, project

N_PARTNERS = 4
"""Rows of y from other groups that each row of x is put together with; each counts a fourth."""
N_PAIRS = 8
"""Canonical pairs that the classifier sees."""
ROWS_AN_AXIS = 3
"""Rows for each dimension of a side: with fewer, canonical directions would correlate whatever they are."""
RIDGE = 1e-3
"""Added to the variance of each score, of 1, before canonical directions are found."""


def classifier_js(
    x: Float[np.ndarray, "row feature_x"],
    y: Float[np.ndarray, "row feature_y"],
    *,
    groups: Shaped[np.ndarray, " row"] | None = None,
    seed: int = 0,
) -> float:
    """Lower bound of JS(joint || product) in nats, held out: noise may lead below 0.

    Parameters
    ----------
    x, y
        Finite samples of both sides, row by row.
    groups
        Labels of rows that aren't independent of each other: halves are made of whole groups, and no row of x is put
        together with a y of its own group. By default every row is alone.
    seed
        Seed of the halves and of the rows put together.

    Raises
    ------
    ValueError
        If a side is constant, be it only in a part that directions are found on, or a half holds a single group.

    Notes
    -----
    JS >= ln 2 - CE, where CE is the cross-entropy, in nats, of any classifier between equally many rows of the joint
    and of the product. Here it is scikit-learn's logistic regression, on features of normal scores. Half of the rows
    are for fitting: canonical directions are found on half of these, and the classifier is fitted on the others, with
    each row of x beside four y of other groups. It is tried on the other half; the halves then change places, and all
    rows are averaged. Log odds are cut at ln(rows/2) on both sides: no row may be more certain than that.

    References
    ----------
    Goodfellow et al. 2014, arXiv 1406.2661, theorem 1: ln 2 - CE is JS for the best classifier, and less for others.
    """
    x, y = normal_scores(x), normal_scores(y)
    labels = np.arange(len(x)) if groups is None else np.unique(groups, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    first = halves(labels, seed=seed)
    if _least_groups(labels, first) < 2:
        raise ValueError("a half of the rows is of one group; give more groups, or fewer rows of the largest")
    most = math.log(min(first.sum(), (~first).sum()))
    losses = np.empty(len(x))
    for fitting in (first, ~first):
        own, is_direction = _parted(labels[fitting], seed)
        directions, training = np.flatnonzero(fitting)[is_direction], np.flatnonzero(fitting)[~is_direction]
        u, v = _coordinates(x, y, directions)
        model = _fitted(*_features(u[training], v[training], own[~is_direction], rng))
        features = _features(u[~fitting], v[~fitting], labels[~fitting], rng)
        joint, product = (model.decision_function(rows) for rows in features)
        joint, product = joint.clip(-most, most), product.clip(-most, most).reshape(-1, N_PARTNERS)
        losses[~fitting] = np.logaddexp(0, -joint) + np.logaddexp(0, product).mean(axis=1)
    return float(LN2 - losses.mean() / 2)


def _parted(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a fitting half, and which of its rows directions are found on.

    Where a part would hold a single group, each row is taken for a group: what is fitted may then be worse, but the
    bound, which other rows give, is still one.
    """
    first = halves(labels, seed=seed)
    if _least_groups(labels, first) < 2:
        labels = np.arange(len(labels))
        first = halves(labels, seed=seed)
    return labels, first


def _least_groups(labels: np.ndarray, first: np.ndarray) -> int:
    """Groups in the part that has fewer of them."""
    return min(len(np.unique(labels[part])) for part in (first, ~first))


def _coordinates(x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Canonical pairs, found on some rows, and a pair of norms, which tell a shared scale, as Student's."""
    sides = [_principal(side, rows) for side in (x, y)]
    axes = canonical_axes(sides[0][rows], sides[1][rows], N_PAIRS, ridge=RIDGE)
    u, v = (project(side, along) for side, along in zip(sides, axes, strict=True))
    if x.shape[1] == y.shape[1] == 1:
        return u, v
    norms = [
        side if side.shape[1] == 1 else normal_scores(np.linalg.norm(side, axis=1, keepdims=True)) for side in (x, y)
    ]
    return np.hstack([u, norms[0]]), np.hstack([v, norms[1]])


def _principal(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The scores, or as many principal axes of them as these rows allow."""
    n_axes = max(1, len(rows) // ROWS_AN_AXIS)
    if scores.shape[1] <= n_axes:
        return scores
    return np.asarray(scores @ np.linalg.svd(scores[rows], full_matrices=False)[2][:n_axes].T)


def _features(
    u: np.ndarray, v: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Features of rows (row, 8 pair), and of each row's u with its partners' v (row x partner, 8 pair)."""
    partners = _partners(labels, rng)
    return _quadratic(u, v), _quadratic(np.repeat(u, N_PARTNERS, axis=0), v[partners.ravel()])


def _quadratic(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """u, u^2, v, v^2 and their products: the log density ratio of Gaussians, and more, is a sum of them."""
    first, second = np.stack([u, u**2]), np.stack([v, v**2])
    products = (first[:, None] * second).reshape(4, *u.shape)
    return np.concatenate([*first, *second, *products], axis=1)


def _partners(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Places of rows of other groups, drawn at random, int64 (row, partner)."""
    _, labels, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(labels, kind="stable")
    starts, own = (np.cumsum(sizes) - sizes)[labels][:, None], sizes[labels][:, None]
    drawn = rng.integers(0, len(labels) - own, (len(labels), N_PARTNERS))
    return np.asarray(order[drawn + own * (drawn >= starts)])  # past the row's own group


def _fitted(joint: np.ndarray, product: np.ndarray) -> Any:
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # a second, for this alone
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    # Few features and many rows: Newton's method needs a dozen steps, and the penalty keeps it from going astray.
    model = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky"))
    is_joint = np.repeat([1, 0], [len(joint), len(product)])
    weights = np.where(is_joint == 1, 1.0, 1 / N_PARTNERS)
    return model.fit(np.concatenate([joint, product]), is_joint, logisticregression__sample_weight=weights)
