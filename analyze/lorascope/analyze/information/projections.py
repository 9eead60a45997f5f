"""Few axes out of many features: principal ones of a stream of tokens, canonical ones of two sides."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float64, Shaped

Sides = Callable[[], Iterable[Sequence[np.ndarray]]]
"""() -> the same lists of blocks each time, a block of each side."""

N_EXTRA = 10
"""Random directions beyond the axes wanted: with them the last axes come close to the principal ones."""
PIECE_VALUES = 2**20
"""Values of a block that are widened at a time: 8 MiB of float64, whatever the block's size."""
VARIANCE_TOLERANCE = 1e-13
"""Variances below this share of the first axis' are the rounding of float64."""
SINGULAR_TOLERANCE = 1e-6
"""Singular values below this share of the first may be the rounding of float32 states."""
CONSTANT_TOLERANCE = 1e-12
"""A standard deviation below this share of a feature's largest value is rounding: float32 can't vary by so little."""


class Axes(NamedTuple):
    """Directions in the space of features, with the mean that is taken away first."""

    mean: Float64[np.ndarray, " feature"]
    vectors: Float64[np.ndarray, "feature axis"]
    """Orthonormal, but for canonical axes."""
    variances: Float64[np.ndarray, " axis"] = np.empty(0)
    """Along each axis, descending; of principal axes alone, as the next."""
    total_variance: float = np.nan
    """Trace of the covariance."""


def project(states: Float[np.ndarray, "token feature"], axes: Axes) -> Float64[np.ndarray, "token axis"]:
    """States along each axis, (states - mean) vectors, in float64."""
    return np.asarray(np.subtract(states, axes.mean, dtype=np.float64) @ axes.vectors)


def principal_axes(sides: Sides, n_axes: int, *, names: Sequence[str] = ("x", "y"), seed: int = 0) -> list[Axes]:
    """The first principal axes of each side of a stream of tokens, by random projection in two passes.

    Parameters
    ----------
    sides
        A function that returns the same lists of blocks each time it is called, which it is twice: one block
        (token, feature) of each side, for instance base and lora.
    n_axes
        How many axes are wanted.
    names
        The sides' names, for messages.
    seed
        Seed of the random projection.

    Returns
    -------
    list of Axes
        For each side, orthonormal, of float64, the largest entry of each positive. There are fewer than `n_axes` where
        there are fewer features, fewer than `n_axes` + 1 tokens, or fewer directions in which the states vary beyond
        rounding.

    Raises
    ------
    ValueError
        If a block isn't finite, there are fewer than two tokens or no two of them differ, or the second pass brings
        other tokens than the first.

    Notes
    -----
    Let C = sum_t (x_t - mean)(x_t - mean)'. The first pass takes n, mean and C Omega, with a Gaussian Omega
    (feature, n_axes + 10), and Q is an orthonormal basis of C Omega; the second takes C Q, Q'C Q and tr C. The axes are
    eigenvectors of C Q (Q'C Q)^-1 Q'C, Nystrom's approximation of C. It has the range of C^2 Omega, and so comes closer
    than Q Q'C Q Q', which would cost the same two passes. As it is nowhere above C, `variances` are at most the
    principal ones, and at most those of the states along the axes found; they are equal to both where the states vary
    in no more than n_axes + 10 directions.

    Sums run in float64 over tokens less a first guess of their mean, so that neither an offset nor one huge channel
    drowns the others; where blocks are cut changes the rounding only. Memory: some arrays (feature, n_axes + 10), one
    block of each side, and a few of `PIECE_VALUES`.

    References
    ----------
    Halko, Martinsson & Tropp 2011, SIAM Review 53, arXiv 0909.4061, algorithm 5.5.
    """
    sketches = _accumulate(sides, names, lambda: _Sketch(n_axes + N_EXTRA, np.random.default_rng(seed)))
    n_tokens = sketches[0].n_tokens if sketches else 0
    if n_tokens < 2:
        raise ValueError(f"`{names[0]}` has {n_tokens} tokens; a variance needs at least 2")
    made = iter(sketches)
    products = _accumulate(sides, names, lambda: _Product(*next(made).result()))
    n_found = products[0].n_found if products else 0
    if n_found != n_tokens:
        raise ValueError(
            f"`sides()` gave {n_tokens} tokens at first and {n_found} when called again; it must return the same "
            "blocks each time (a generator can be gone through once: give a function that makes a new one)"
        )
    return [_axes(product, name, n_axes) for product, name in zip(products, names, strict=False)]


def n_axes_for(axes: Axes, share: float, most: int) -> tuple[int, float]:
    """The smallest number of principal axes, up to `most`, that keep this share of the variance; and what they keep."""
    sums = np.cumsum(axes.variances)
    n_needed = int(np.searchsorted(sums, share * axes.total_variance)) + 1
    n_axes = min(n_needed, most, len(sums))
    return n_axes, float(sums[n_axes - 1] / axes.total_variance)


def canonical_axes(
    x: Float[np.ndarray, "sample feature_x"],
    y: Float[np.ndarray, "sample feature_y"],
    n_axes: int,
    *,
    ridge: float = 0.0,
) -> tuple[Axes, Axes]:
    """The pairs of directions in which two sides correlate most, each scaled to variance 1 (less, with a ridge).

    Fit them on one half of the samples and evaluate them on the other (see `halves`): on the samples that they were
    fitted on, correlations are too high. There are fewer than `n_axes` where a side varies in fewer directions; the
    ridge is added to each feature's variance, of 1, against directions in which a side hardly varies.

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
    white_x, scores_x = _whitening(x, "x", ridge)
    white_y, scores_y = _whitening(y, "y", ridge)
    ranks = scores_x.shape[1], scores_y.shape[1]
    if sum(ranks) >= len(x):
        raise ValueError(
            f"{len(x)} samples of {ranks[0]} and {ranks[1]} directions correlate whatever they are; give more than "
            f"{sum(ranks)} samples, or project to fewer axes first"
        )
    left, _, right = np.linalg.svd(scores_x.T @ scores_y, full_matrices=False)
    left, right = left[:, :n_axes], right[:n_axes].T
    signs = _signs(white_x @ left)
    mean_x, mean_y = (side.mean(axis=0, dtype=np.float64) for side in (x, y))
    return Axes(mean_x, white_x @ left * signs), Axes(mean_y, white_y @ right * signs)


def halves(groups: Shaped[np.ndarray, " sample"], *, seed: int) -> Bool[np.ndarray, " sample"]:
    """Bool by sample, True in the first half: groups stay whole, and halves are as equal as groups allow.

    Solves the subset sum exactly, in time that grows with groups times samples. Groups, at least two, are tried in the
    order of the seed: another one finds other halves, where there are several.

    Examples
    --------
    >>> halves(np.array(["a", "a", "a", "b", "c", "c"]), seed=0)
    array([ True,  True,  True, False, False, False])
    """
    labels, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.isin(inverse, order[_half_of(sizes[order])])


class _Sketch:
    """Number of tokens, their mean, and C Omega."""

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


def _accumulate(sides: Sides, names: Sequence[str], make: Callable[[], _Sum]) -> list[_Sum]:
    """One pass over all blocks: a sum (`make`) for each side, to which every block is added."""
    sums: list[_Sum] = []
    for blocks in sides():
        sums = sums or [make() for _ in blocks]
        for total, name, block in zip(sums, names, blocks, strict=False):
            _add(total, name, block)
        del blocks, block
    return sums


def _add(total: _Sketch | _Product, name: str, block: np.ndarray) -> None:
    """A few tokens at a time, float64, the sum's own."""
    step = max(1, PIECE_VALUES // block.shape[1])
    for start in range(0, len(block), step):
        piece = block[start : start + step].astype(np.float64)
        if not np.isfinite(piece).all():
            raise ValueError(f"`{name}` holds NaN or infinity; leave those tokens out")
        total.add(piece)


def _axes(product: _Product, name: str, n_axes: int) -> Axes:
    n_tokens, mean, trace = product.n_tokens, product.mean, product.trace
    if trace <= n_tokens * CONSTANT_TOLERANCE**2 * (mean @ mean):
        raise ValueError(f"`{name}`: the {n_tokens} tokens are all equal; they have no axes")
    vectors, variances = _nystrom(product.product / (n_tokens - 1), product.gram / (n_tokens - 1))
    n_kept = min(n_axes, n_tokens - 1, int((variances > VARIANCE_TOLERANCE * variances[0]).sum()))
    vectors = vectors[:, :n_kept] * _signs(vectors[:, :n_kept])
    return Axes(mean, vectors, variances[:n_kept], trace / (n_tokens - 1))


def _nystrom(product: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors (feature, axis) and eigenvalues of Nystrom's approximation of C, given C Q and Q'C Q (`gram`)."""
    values, turns = np.linalg.eigh(gram)
    varies = values > VARIANCE_TOLERANCE * values[-1]
    vectors, roots, _ = np.linalg.svd(product @ (turns[:, varies] / np.sqrt(values[varies])), full_matrices=False)
    return vectors, roots**2


def _signs(vectors: np.ndarray) -> np.ndarray:
    """(axis,): 1 or -1, that make each vector's largest entry positive."""
    largest = np.abs(vectors).argmax(axis=0)
    return np.asarray(np.sign(np.take_along_axis(vectors, largest[None], axis=0)[0]))


def _whitening(side: np.ndarray, name: str, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """sqrt(n - 1) V S^-1 D in the side's own units, (feature, direction), and U D, (sample, direction)."""
    centred = side - side.mean(axis=0, dtype=np.float64)
    spread = centred.std(axis=0)
    varies = spread > CONSTANT_TOLERANCE * np.abs(side).max(axis=0)
    if not varies.any():
        raise ValueError(f"`{name}` is the same in all {len(side)} samples; it correlates with nothing")
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)
    scores, values, directions = np.linalg.svd(centred * scale, full_matrices=False)
    is_real = values > SINGULAR_TOLERANCE * values[0]
    damped = np.sqrt(values[is_real] ** 2 + len(side) * ridge)
    white = scale[:, None] * directions[is_real].T / damped * np.sqrt(len(side) - 1)
    return white, scores[:, is_real] * (values[is_real] / damped)


def _half_of(sizes: np.ndarray) -> list[int]:
    """Places of sizes that add up to half of all, or to as little less as can be: a subset sum."""
    half = int(sizes.sum()) // 2
    if (sizes == sizes[0]).all():
        return list(range(half // int(sizes[0])))
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
