"""Few axes out of many features: principal ones of a stream of tokens, random ones, canonical ones of two sides."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float64, Shaped

__all__ = [
    "Axes",
    "CanonicalAxes",
    "ChosenAxes",
    "canonical_axes",
    "chosen_n_axes",
    "feature_blocks",
    "halves",
    "principal_axes",
    "principal_axes_together",
    "project",
    "random_axes",
]

Blocks = Callable[[], Iterable[np.ndarray]]
"""() -> the same blocks (token, feature) each time, one after the other."""
Sides = Callable[[], Iterable[Sequence[np.ndarray]]]
"""() -> the same lists of blocks each time, a block of each side."""

PIECE_VALUES = 2**20
"""Values of a block that are widened at a time: 8 MiB of float64, whatever the block's size."""
VARIANCE_TOLERANCE = 1e-13
"""Of the first axis' variance: what lies below is the rounding of float64."""
SINGULAR_TOLERANCE = 1e-6
"""Of the first singular value: what lies below may be the rounding of float32 states."""
CONSTANT_TOLERANCE = 1e-12
"""Standard deviation of a constant feature, as a share of its largest value: float32 can't vary by so little."""


class Axes(NamedTuple):
    """Directions in the space of features, with the mean that is taken away first."""

    mean: Float64[np.ndarray, " feature"]
    vectors: Float64[np.ndarray, "feature axis"]
    """Orthonormal, but for canonical axes."""
    variances: Float64[np.ndarray, " axis"]
    """Along each axis, descending; NaN for random axes, which rest on no states."""
    total_variance: float
    """Trace of the covariance; NaN for random axes."""
    n_tokens: int
    """Tokens that the axes rest on."""


class CanonicalAxes(NamedTuple):
    """Axes of two sides, pair by pair, and how well each pair correlates."""

    x: Axes
    y: Axes
    correlations: Float64[np.ndarray, " axis"]
    """Descending, of the samples that the axes were fitted on."""


class ChosenAxes(NamedTuple):
    """How many axes are kept, and what they hold."""

    n_axes: int
    share_kept: float
    """Of the total variance."""


def project(states: Float[np.ndarray, "token feature"], axes: Axes) -> Float64[np.ndarray, "token axis"]:
    """States along each axis, (states - mean) vectors, in float64."""
    return np.asarray(np.subtract(states, axes.mean, dtype=np.float64) @ axes.vectors)


def principal_axes(blocks: Blocks, n_axes: int, *, seed: int = 0, n_extra: int = 10) -> Axes:
    """The first principal axes of a stream of tokens, by random projection in two passes.

    Parameters
    ----------
    blocks
        A function that returns the same finite blocks (token, feature) each time it is called; it is called twice.
    n_axes
        How many axes are wanted.
    seed
        Of the random projection.
    n_extra
        Further random directions: with more of them the last axes come closer to the principal ones.

    Returns
    -------
    Axes
        Orthonormal, of float64, the largest entry of each positive. There are fewer than `n_axes` where there are fewer
        features, fewer than `n_axes` + 1 tokens, or fewer directions in which the states vary beyond rounding.

    Raises
    ------
    ValueError
        If `n_axes` is below 1 or `n_extra` below 0, a block isn't (token, feature) or not finite, there are fewer than
        two tokens or no two of them differ, or the second pass brings other tokens than the first.

    Notes
    -----
    Let C = sum_t (x_t - mean)(x_t - mean)'. The first pass takes n, mean and C Omega, with a Gaussian Omega
    (feature, n_axes + n_extra), and Q is an orthonormal basis of C Omega; the second takes C Q, Q'C Q and tr C. The
    axes are eigenvectors of C Q (Q'C Q)^-1 Q'C, Nystrom's approximation of C. It has the range of C^2 Omega, and so
    comes closer than Q Q'C Q Q', which would cost the same two passes. As it is nowhere above C, `variances` are at
    most the principal ones, and at most those of the states along the axes found; they are equal to both where the
    states vary in no more than n_axes + n_extra directions. Of a slow decay (variances like 1/k) take more `n_extra`.

    Sums run in float64 over tokens less a first guess of their mean, so that neither an offset nor one huge channel
    drowns the others; where blocks are cut changes the rounding only. Memory: some arrays (feature, n_axes + n_extra),
    one block, and a few of `PIECE_VALUES`.

    References
    ----------
    Halko, Martinsson & Tropp 2011, SIAM Review 53, arXiv 0909.4061, algorithm 5.5.
    """
    return principal_axes_together(lambda: map(_alone, blocks()), n_axes, seed=seed, n_extra=n_extra)[0]


def principal_axes_together(sides: Sides, n_axes: int, *, seed: int = 0, n_extra: int = 10) -> list[Axes]:
    """`principal_axes` of several sides that come side by side, base and lora for instance, in the same two passes.

    `sides` is a function that returns the same lists of blocks each time, one block (token, feature) of each side.
    """
    if n_axes < 1 or n_extra < 0:
        raise ValueError(f"`n_axes` is {n_axes} and `n_extra` {n_extra}; they must be at least 1 and 0")
    sketches = _passed(sides, lambda: _Sketch(n_axes + n_extra, np.random.default_rng(seed)))
    n_tokens = min((sketch.n_tokens for sketch in sketches), default=0)
    if n_tokens < 2:
        raise ValueError(f"`blocks()` gave {n_tokens} tokens; a variance needs at least 2")
    made = iter(sketches)
    products = _passed(sides, lambda: _Product(*next(made).result()))
    n_found = min((product.n_found for product in products), default=0)
    if n_found != n_tokens:
        raise ValueError(
            f"`blocks()` gave {n_tokens} tokens at first and {n_found} when called again; it must return the same "
            "blocks each time (a generator can be gone through once: give a function that makes a new one)"
        )
    return [_axes(product, n_axes) for product in products]


def _alone(block: np.ndarray) -> list[np.ndarray]:
    return [block]


def _axes(product: "_Product", n_axes: int) -> Axes:
    n_tokens, mean, trace = product.n_tokens, product.mean, product.trace
    if trace <= n_tokens * CONSTANT_TOLERANCE**2 * (mean @ mean):
        raise ValueError(f"the {n_tokens} tokens are all equal; they have no axes")
    vectors, variances = _nystrom(product.product / (n_tokens - 1), product.gram / (n_tokens - 1))
    n_kept = min(n_axes, n_tokens - 1, int((variances > VARIANCE_TOLERANCE * variances[0]).sum()))
    vectors = vectors[:, :n_kept] * _signs(vectors[:, :n_kept])
    return Axes(mean, vectors, variances[:n_kept], trace / (n_tokens - 1), n_tokens)


def random_axes(n_features: int, n_axes: int, *, seed: int) -> Axes:
    """Orthonormal axes in uniformly random directions, with a mean of zero and variances NaN.

    Raises
    ------
    ValueError
        If `n_axes` isn't in 1 to `n_features`.
    """
    if not 1 <= n_axes <= n_features:
        raise ValueError(f"`n_axes` is {n_axes}; of {n_features} features there can be 1 to {n_features}")
    basis, triangle = np.linalg.qr(np.random.default_rng(seed).standard_normal((n_features, n_axes)))
    vectors = basis * np.sign(np.diag(triangle))  # without it directions would depend on LAPACK's signs
    return Axes(np.zeros(n_features), vectors, np.full(n_axes, np.nan), float("nan"), 0)


def canonical_axes(
    x: Float[np.ndarray, "sample feature_x"],
    y: Float[np.ndarray, "sample feature_y"],
    n_axes: int,
    *,
    ridge: float = 0.0,
) -> CanonicalAxes:
    """The pairs of directions in which two sides correlate most, each scaled to variance 1 (less, with a ridge).

    Fit them on one half of the samples and evaluate them on the other (see `halves`): on the samples that they were
    fitted on, correlations are too high.

    Parameters
    ----------
    x, y
        Samples of both sides, row by row.
    n_axes
        How many pairs are wanted; there are fewer where a side varies in fewer directions.
    ridge
        Added to each feature's variance, of 1: against directions in which a side hardly varies.

    Raises
    ------
    ValueError
        If `n_axes` is below 1 or `ridge` below 0, an array isn't (sample, feature) or not finite, they differ in
        samples, a side is constant, or there are so few samples that they correlate whatever they are.

    Notes
    -----
    Features are scaled to variance 1, which changes no correlation; constant ones get no weight. Of the thin SVDs
    X = U S V' of the centred sides, directions with a singular value below `SINGULAR_TOLERANCE` of the first are left
    out. The correlations are the singular values of D_x U_x'U_y D_y, where D = S / sqrt(S^2 + n ridge), and the axes of
    x are sqrt(n - 1) V S^-1 D times the left singular vectors. If the ranks of both add up to n or more, some
    correlations are 1 whatever the data, so that this is refused, with a ridge too.

    References
    ----------
    Bjorck & Golub 1973, Mathematics of Computation 27, pp. 579-594.
    """
    if n_axes < 1 or not 0 <= ridge < np.inf:
        raise ValueError(f"`n_axes` is {n_axes} and `ridge` {ridge!r}; they must be at least 1 and 0")
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
        raise ValueError(f"`x` is {x.shape} and `y` {y.shape}; both must be (sample, feature), of the same samples")
    white_x, scores_x = _whitening(x, "x", ridge)
    white_y, scores_y = _whitening(y, "y", ridge)
    ranks = scores_x.shape[1], scores_y.shape[1]
    if sum(ranks) >= len(x):
        raise ValueError(
            f"{len(x)} samples of {ranks[0]} and {ranks[1]} directions correlate whatever they are; give more than "
            f"{sum(ranks)} samples, or project to fewer axes first"
        )
    left, correlations, right = np.linalg.svd(scores_x.T @ scores_y, full_matrices=False)
    left, right = left[:, :n_axes], right[:n_axes].T
    signs = _signs(white_x @ left)
    return CanonicalAxes(
        _of_side(x, white_x @ left * signs, scores_x @ left),
        _of_side(y, white_y @ right * signs, scores_y @ right),
        np.minimum(correlations[:n_axes], 1.0),  # rounding leads a little beyond 1
    )


def halves(groups: Shaped[np.ndarray, " sample"], *, seed: int) -> Bool[np.ndarray, " sample"]:
    """Which samples are in the first half: groups stay whole, and halves are as equal as groups allow.

    Parameters
    ----------
    groups
        Label of each sample's group.
    seed
        Of the order in which groups are tried: another one finds other halves, where there are several.

    Raises
    ------
    ValueError
        If there are fewer than two groups.

    Notes
    -----
    Solves the subset sum exactly: time grows with groups times samples, memory with samples.

    Examples
    --------
    >>> halves(np.array(["a", "a", "a", "b", "c", "c"]), seed=0)
    array([ True,  True,  True, False, False, False])
    """
    labels, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(labels) < 2:
        raise ValueError(f"`groups` holds {len(labels)} group; two halves need at least 2")
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.isin(inverse, order[_half_of(sizes[order])])


def chosen_n_axes(
    variances: Float64[np.ndarray, " axis"],
    total_variance: float,
    *,
    share: float = 0.9,
    least: int = 1,
    most: int | None = None,
) -> ChosenAxes:
    """The smallest number of axes that keep `share` of the variance, from `least` to `most`.

    Where the axes given don't hold so much, all of them up to `most` are taken; `share_kept` tells.

    Parameters
    ----------
    variances
        Along the axes, descending.
    total_variance
        Along all axes there are, given or not.
    share
        Of the total variance, above 0 and up to 1.
    least, most
        Bounds of the number; `most` is by default all that are given, and so it is where fewer are given.

    Raises
    ------
    ValueError
        If `share`, `least` and `most` aren't so, there are no variances, or the total isn't positive.

    Examples
    --------
    >>> chosen_n_axes(np.array([6.0, 3.0, 0.5]), 10.0)
    ChosenAxes(n_axes=2, share_kept=0.9)
    """
    if not 0 < share <= 1:
        raise ValueError(f"`share` is {share!r}; it must be above 0 and at most 1")
    n_given = len(variances)
    most = n_given if most is None else most
    if not 1 <= least <= most or not n_given:
        raise ValueError(f"`least` is {least} and `most` {most} of {n_given} axes; it must be 1 <= `least` <= `most`")
    if not 0 < total_variance < np.inf:
        raise ValueError(f"`total_variance` is {total_variance!r}; it must be positive and finite")
    sums = np.cumsum(variances)
    n_needed = int(np.searchsorted(sums, share * total_variance)) + 1
    n_axes = min(max(n_needed, least), most, n_given)
    return ChosenAxes(n_axes, float(sums[n_axes - 1] / total_variance))


def feature_blocks(n_features: int, n_blocks: int) -> list[slice]:
    """Equal slices of the features side by side, as the heads of a projection lie.

    Raises
    ------
    ValueError
        If `n_blocks` doesn't divide `n_features`.

    Examples
    --------
    >>> feature_blocks(6, 2)
    [slice(0, 3, None), slice(3, 6, None)]
    """
    divisors = [n for n in range(1, n_features + 1) if n_features % n == 0]
    if n_blocks not in divisors:
        near = [n for n in divisors if n < n_blocks][-1:] + [n for n in divisors if n > n_blocks][:1]
        raise ValueError(f"`n_blocks` is {n_blocks}; it must divide the {n_features} features; near it are {near}")
    width = n_features // n_blocks
    return [slice(start, start + width) for start in range(0, n_features, width)]


class _Sketch:
    """How many tokens, their mean, and C Omega."""

    def __init__(self, n_columns: int, generator: np.random.Generator) -> None:
        self.n_tokens, self._n_columns, self._generator = 0, n_columns, generator

    def add(self, piece: np.ndarray) -> None:
        if self.n_tokens == 0:
            self._guess = piece.mean(axis=0)
            width = len(self._guess)
            self._omega = self._generator.standard_normal((width, min(self._n_columns, width)))
            self._total, self._sketch = np.zeros(width), np.zeros(self._omega.shape)
        piece -= self._guess
        self.n_tokens += len(piece)
        self._total += piece.sum(axis=0)
        self._sketch += piece.T @ (piece @ self._omega)

    def result(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Tokens, mean, and an orthonormal basis of C Omega."""
        rest = self._total / self.n_tokens
        sketch = self._sketch - self.n_tokens * np.outer(rest, rest @ self._omega)
        return self.n_tokens, self._guess + rest, np.linalg.qr(sketch).Q


class _Product:
    """C Q, Q'C Q and tr C."""

    def __init__(self, n_tokens: int, mean: np.ndarray, basis: np.ndarray) -> None:
        self.n_tokens, self.mean, self._basis = n_tokens, mean, basis
        self.n_found, self.trace = 0, 0.0
        self.product, self.gram = np.zeros(basis.shape), np.zeros((basis.shape[1],) * 2)

    def add(self, piece: np.ndarray) -> None:
        piece -= self.mean
        scores = piece @ self._basis
        self.product += piece.T @ scores
        self.gram += scores.T @ scores
        self.trace += float(np.vdot(piece, piece))
        self.n_found += len(piece)


_Sum = TypeVar("_Sum", _Sketch, _Product)


def _passed(sides: Sides, make: Callable[[], _Sum]) -> list[_Sum]:
    """Sums over all blocks, one for each side; no block is held while the next is made."""
    sums: list[_Sum] = []
    widths: list[int] = []
    index = 0
    for blocks in sides():
        if not sums:
            sums = [make() for _ in blocks]
            widths = [block.shape[1] if block.ndim == 2 else 0 for block in blocks]
        for total, width, block in zip(sums, widths, blocks, strict=True):
            if block.ndim != 2 or not block.shape[1] or block.shape[1] != width:
                raise ValueError(
                    f"block {index} of `blocks()` is {block.shape}; each must be (token, feature), of the same features"
                )
            _add(total, block, index)
        index += 1  # noqa: SIM113 (`enumerate` would hold the blocks)
        del blocks, block
    return sums


def _add(total: _Sketch | _Product, block: np.ndarray, index: int) -> None:
    """A few tokens at a time, float64, the sum's own."""
    step = max(1, PIECE_VALUES // block.shape[1])
    for start in range(0, len(block), step):
        piece = block[start : start + step].astype(np.float64)
        if not np.isfinite(piece).all():
            n_bad = len(block) - int(np.isfinite(block).all(axis=1).sum())
            raise ValueError(
                f"block {index} of `blocks()` holds NaN or infinity in {n_bad} of its {len(block)} tokens; leave "
                "these out"
            )
        total.add(piece)


def _nystrom(product: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors (feature, axis) and eigenvalues of C Q (Q'C Q)^-1 Q'C, without directions that don't vary."""
    values, turns = np.linalg.eigh(gram)
    kept = values > VARIANCE_TOLERANCE * values[-1]
    vectors, roots, _ = np.linalg.svd(product @ (turns[:, kept] / np.sqrt(values[kept])), full_matrices=False)
    return vectors, roots**2


def _signs(vectors: np.ndarray) -> np.ndarray:
    """(axis,): 1 or -1, that make each vector's largest entry positive."""
    largest = np.abs(vectors).argmax(axis=0)
    return np.asarray(np.sign(np.take_along_axis(vectors, largest[None], axis=0)[0]))


def _whitening(side: np.ndarray, name: str, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """sqrt(n - 1) V S^-1 D in the side's own units, (feature, direction), and U D, (sample, direction)."""
    if not np.isfinite(side).all():
        raise ValueError(f"`{name}` holds NaN or infinity; leave those samples out, of both sides")
    centred = side - side.mean(axis=0, dtype=np.float64)
    spread = centred.std(axis=0)
    varies = spread > CONSTANT_TOLERANCE * np.abs(side).max(axis=0)
    if not varies.any():
        raise ValueError(f"`{name}` is the same in all {len(side)} samples; it correlates with nothing")
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)
    scores, values, directions = np.linalg.svd(centred * scale, full_matrices=False)
    kept = values > SINGULAR_TOLERANCE * values[0]
    damped = np.sqrt(values[kept] ** 2 + len(side) * ridge)
    white = scale[:, None] * directions[kept].T / damped * np.sqrt(len(side) - 1)
    return white, scores[:, kept] * (values[kept] / damped)


def _of_side(side: np.ndarray, vectors: np.ndarray, scores: np.ndarray) -> Axes:
    mean, variances = side.mean(axis=0, dtype=np.float64), np.var(side, axis=0, ddof=1, dtype=np.float64)
    return Axes(mean, vectors, np.square(scores).sum(axis=0), float(variances.sum()), len(side))


def _half_of(sizes: np.ndarray) -> list[int]:
    """Which of these add up to half of all, or to as little less as can be: the subset sum by dynamic programming."""
    half = int(sizes.sum()) // 2
    reached = np.zeros(half + 1, bool)
    reached[0] = True
    last = np.zeros(half + 1, np.intp)  # sum -> which one first led there: before it, the rest was reached already
    for index, size in enumerate(sizes.tolist()):
        if size <= half and not reached[half]:
            new = reached[: half + 1 - size] & ~reached[size:]
            last[size:][new] = index
            reached[size:] |= new
    rest, chosen = int(np.flatnonzero(reached)[-1]), []
    while rest:
        chosen.append(int(last[rest]))
        rest -= int(sizes[last[rest]])
    return chosen
