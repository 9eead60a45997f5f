"""Projections of features onto few axes: principal axes of a stream of tokens, canonical axes of two sides."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Shaped

Sides = Callable[[], Iterable[Sequence[np.ndarray]]]
"""Function that returns the same sequence of blocks at each call; an item has one block (token, feature) per side."""

N_EXTRA = 10
"""Number of extra random directions, which make the last axes more accurate."""
PIECE_VALUES = 2**17
"""Number of values of a block that are converted to float64 at a time: 1 MiB, which stays in the cache."""
VARIANCE_TOLERANCE = 1e-13
"""Share of the first axis' variance below which a variance is rounding of float64."""
WHITE_TOLERANCE = 1e-10
"""Share of the largest variance below which one may be rounding of float32 states."""
CONSTANT_TOLERANCE = 1e-12
"""Share of a feature's largest value below which its standard deviation is rounding."""


class Axes(NamedTuple):
    """Directions in the space of features, and the mean that is subtracted first."""

    mean: Float64[np.ndarray, " feature"]
    vectors: Float64[np.ndarray, "feature axis"]
    """Orthonormal if they are principal axes."""
    variances: Float64[np.ndarray, " axis"] = np.empty(0)
    """Variances along the axes, descending; only of principal axes."""
    total_variance: float = np.nan
    """Trace of the covariance; only of principal axes."""


def project(states: Float[np.ndarray, "token feature"], axes: Axes) -> Float64[np.ndarray, "token axis"]:
    """Return the projections of states onto axes, (states - mean) @ vectors, in float64."""
    return np.asarray(np.subtract(states, axes.mean, dtype=np.float64) @ axes.vectors)


def principal_axes(sides: Sides, n_axes: int, *, names: Sequence[str] = ("x", "y"), seed: int = 0) -> list[Axes]:
    """Return the first principal axes of each side of a stream of tokens, by random projection in two passes.

    Parameters
    ----------
    sides
        Function that returns the same blocks (token, feature) of each side, such as base and lora, at each of two
        calls.
    n_axes
        Largest number of axes.
    names
        Names of the sides in messages.
    seed
        Seed of the random projection.

    Returns
    -------
    list of Axes
        Orthonormal float64 axes of each side; the largest entry of each axis is positive. They are fewer than `n_axes`
        for fewer features, fewer than `n_axes` + 1 tokens, or fewer directions in which the states vary.

    Raises
    ------
    ValueError
        If a block isn't finite, there are fewer than two tokens or all are equal, or the second pass has another number
        of tokens than the first.

    Notes
    -----
    Let C = sum_t (x_t - mean)(x_t - mean)'. The first pass computes n, the mean and C Omega for a Gaussian Omega
    (feature, n_axes + 10); Q is an orthonormal basis of C Omega. The second pass computes C Q, Q'C Q and tr C. The axes
    are eigenvectors of Nystrom's approximation C Q (Q'C Q)^-1 Q'C. It is more accurate than Q Q'C Q Q', which needs the
    same two passes. Since it never exceeds C, `variances` are at most the principal ones and at most those of the
    states along the axes. All are equal if the states vary in no more than n_axes + 10 directions.

    Sums are in float64, over tokens minus a first guess of their mean, so that neither an offset nor one huge channel
    hides the others; block boundaries affect only rounding.

    References
    ----------
    Halko, Martinsson & Tropp 2011, SIAM Review 53, arXiv 0909.4061, algorithm 5.5.
    """
    sketches: dict[int, _Sketch] = {}
    for side, piece in _float64_pieces(sides, names):
        if side not in sketches:
            sketches[side] = _Sketch(piece, n_axes + N_EXTRA, np.random.default_rng(seed))
        sketches[side].add(piece)
        del piece  # before the next one is made
    n_tokens = sketches[0].n_tokens if sketches else 0
    if n_tokens < 2:
        raise ValueError(f"`{names[0]}` has {n_tokens} tokens; a variance needs at least 2")
    products = {side: _Product(*sketch.result()) for side, sketch in sketches.items()}
    for side, piece in _float64_pieces(sides, names):
        products[side].add(piece)
        del piece
    n_found = products[0].n_found
    if n_found != n_tokens:
        raise ValueError(
            f"`sides()` gave {n_tokens} tokens at the first call and {n_found} at the second; it must return the same "
            "blocks each time (a generator can be used only once: give a function that makes a new one)"
        )
    return [_principal_axes_of(product, name, n_axes) for product, name in zip(products.values(), names, strict=False)]


def n_axes_for(axes: Axes, share: float, most: int) -> tuple[int, float]:
    """Return how many principal axes reach `share` of the variance, at most `most`, and the share that they have."""
    sums = np.cumsum(axes.variances)
    n_needed = int(np.searchsorted(sums, share * axes.total_variance)) + 1
    n_axes = min(n_needed, most, len(sums))
    return n_axes, float(sums[n_axes - 1] / axes.total_variance)


class WhiteSide(NamedTuple):
    """Rows of a side whitened: uncorrelated, of variance 1 (less with a ridge), and the way to and from them."""

    rows: Float64[np.ndarray, "direction sample"]
    from_white: Float64[np.ndarray, "feature direction"]
    """Matrix from directions of whitened rows to directions of the side."""
    to_white: Float64[np.ndarray, "direction feature"]
    """Matrix from directions of the side to directions of whitened rows."""


def whitened(side: Float[np.ndarray, "sample feature"], name: str, ridge: float = 0.0) -> WhiteSide:
    """Return a side whitened along the principal axes of its features, which are scaled to variance 1 first.

    The ridge is added to the variance 1 of each feature. Constant features get weight 0, and directions with less than
    `WHITE_TOLERANCE` of the largest variance are dropped. Raises ValueError if all features are constant.
    """
    centred = side - side.mean(axis=0, dtype=np.float64)
    spread = centred.std(axis=0)
    varies = spread > CONSTANT_TOLERANCE * np.abs(side).max(axis=0)
    if not varies.any():
        raise ValueError(f"`{name}` is the same in all {len(side)} samples; it correlates with nothing")
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)
    centred *= scale
    variances, axes = np.linalg.eigh(centred.T @ centred / len(side))
    is_real = variances > WHITE_TOLERANCE * variances[-1]
    roots, axes = np.sqrt(variances[is_real] + ridge), axes[:, is_real]
    return WhiteSide((axes / roots).T @ centred.T, scale[:, None] * axes / roots, (axes * roots).T * spread)


def canonical_directions(x: WhiteSide, y: WhiteSide, n_axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of directions in which x and y correlate most, scaled to variance 1 (less with a ridge).

    Fit them on one half of the samples and evaluate them on the other (see `first_half`): on the samples of the fit,
    correlations are too high. There are fewer than `n_axes` pairs if a side varies in fewer directions.

    Notes
    -----
    The correlations are the singular values of the covariance of whitened rows, and the directions are its singular
    vectors. If the ranks of both sides add up to n or more, some correlations are 1 for any data; this raises
    ValueError.

    References
    ----------
    Bjorck & Golub 1973, Mathematics of Computation 27, pp. 579-594.
    """
    (rank_x, n), (rank_y, _) = x.rows.shape, y.rows.shape
    if rank_x + rank_y >= n:
        raise ValueError(
            f"{n} samples of {rank_x} and {rank_y} directions always correlate perfectly; give more than "
            f"{rank_x + rank_y} samples, or project to fewer axes first"
        )
    left, _, right = np.linalg.svd(x.rows @ y.rows.T, full_matrices=False)
    a, b = (x.from_white @ left[:, :n_axes], y.from_white @ right[:n_axes].T)
    scaled_signs = _axis_signs(a) * np.sqrt((n - 1) / n)
    return a * scaled_signs, b * scaled_signs


def first_half(groups: Shaped[np.ndarray, " sample"], *, seed: int) -> Bool[np.ndarray, " sample"]:
    """Return a mask of the samples in the first of two halves, bool (sample,); halves consist of whole groups.

    Halves are as equal as groups allow, by an exact subset sum in time groups times samples. The seed determines the
    order in which the groups, at least two, are tried.

    Examples
    --------
    >>> first_half(np.array(["a", "a", "a", "b", "c", "c"]), seed=0)
    array([ True,  True,  True, False, False, False])
    """
    labels, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.isin(inverse, order[_subset_of_half(sizes[order])])


class _Sketch:
    """Sums of a first pass over tokens: their mean, and their covariance times random directions.

    The latter is C Omega in the notes of `principal_axes`.
    """

    def __init__(self, first: np.ndarray, n_columns: int, generator: np.random.Generator) -> None:
        """Start empty sums; `first`, some tokens, gives the number of features and a guess of the mean."""
        self.n_tokens, self._guess, width = 0, first.mean(axis=0), first.shape[1]
        self._omega = generator.standard_normal((width, min(n_columns, width)))
        self._total, self._sketch = np.zeros(width), np.zeros(self._omega.shape)

    def add(self, piece: np.ndarray) -> None:
        """Add tokens (token, feature) to the sums; the array is changed in place."""
        piece -= self._guess
        self.n_tokens += len(piece)
        self._total += piece.sum(axis=0)
        self._sketch += piece.T @ (piece @ self._omega)

    def result(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Return the number of tokens, their mean, and an orthonormal basis of covariance times random directions."""
        rest = self._total / self.n_tokens
        sketch = self._sketch - self.n_tokens * np.outer(rest, rest @ self._omega)
        return self.n_tokens, self._guess + rest, np.linalg.qr(sketch).Q


class _Product:
    """Sums of a second pass over tokens: their covariance C times a basis Q, then Q'C Q, and the trace of C."""

    def __init__(self, n_tokens: int, mean: np.ndarray, basis: np.ndarray) -> None:
        """Start empty sums, for the number of tokens, the mean and the basis Q of the first pass."""
        self.n_tokens, self.mean, self._basis = n_tokens, mean, basis
        self.n_found, self.trace = 0, 0.0
        self.product, self.gram = np.zeros(basis.shape), np.zeros((basis.shape[1],) * 2)

    def add(self, piece: np.ndarray) -> None:
        """Add tokens (token, feature) to the sums; the array is changed in place."""
        piece -= self.mean
        scores = piece @ self._basis
        self.product += piece.T @ scores
        self.gram += scores.T @ scores
        self.trace += float(np.vdot(piece, piece))
        self.n_found += len(piece)


def _float64_pieces(sides: Sides, names: Sequence[str]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index of the side, some tokens as float64) from all blocks; raise ValueError if one isn't finite.

    No block stays in memory.
    """
    for blocks in sides():
        for side, block in enumerate(blocks):
            step = max(1, PIECE_VALUES // block.shape[1])
            for start in range(0, len(block), step):
                yield side, _finite_float64(block[start : start + step], names[side])
        del blocks, block


def _finite_float64(tokens: np.ndarray, name: str) -> np.ndarray:
    """Return a copy of tokens as float64; raise ValueError if one isn't finite."""
    piece = tokens.astype(np.float64)
    if not np.isfinite(piece).all():
        raise ValueError(f"`{name}` contains NaN or infinity; drop those tokens")
    return piece


def _principal_axes_of(product: _Product, name: str, n_axes: int) -> Axes:
    """Return the principal axes of one side from the sums of both passes; raise ValueError if all tokens are equal."""
    n_tokens, mean, trace = product.n_tokens, product.mean, product.trace
    if trace <= n_tokens * CONSTANT_TOLERANCE**2 * (mean @ mean):
        raise ValueError(f"`{name}`: the {n_tokens} tokens are all equal; they have no axes")
    vectors, variances = _nystrom(product.product / (n_tokens - 1), product.gram / (n_tokens - 1))
    n_kept = min(n_axes, n_tokens - 1, int((variances > VARIANCE_TOLERANCE * variances[0]).sum()))
    vectors = vectors[:, :n_kept] * _axis_signs(vectors[:, :n_kept])
    return Axes(mean, vectors, variances[:n_kept], trace / (n_tokens - 1))


def _nystrom(product: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvectors (feature, axis) and eigenvalues of a covariance C, approximated by `product` and `gram`.

    Nystrom's approximation: `product` is C Q and `gram` is Q'C Q, for an orthonormal basis Q.
    """
    values, turns = np.linalg.eigh(gram)
    varies = values > VARIANCE_TOLERANCE * values[-1]
    vectors, roots, _ = np.linalg.svd(product @ (turns[:, varies] / np.sqrt(values[varies])), full_matrices=False)
    return vectors, roots**2


def _axis_signs(vectors: np.ndarray) -> np.ndarray:
    """Return the signs (axis,) that make the largest entry of each vector positive."""
    largest = np.abs(vectors).argmax(axis=0)
    return np.asarray(np.sign(np.take_along_axis(vectors, largest[None], axis=0)[0]))


def _subset_of_half(sizes: np.ndarray) -> list[int]:
    """Return indices into `sizes` whose sum is as large as possible without exceeding half of the total."""
    half = int(sizes.sum()) // 2
    if (sizes == sizes[0]).all():
        return list(range(half // int(sizes[0])))
    reached = np.zeros(half + 1, bool)
    reached[0] = True
    last = np.zeros(half + 1, np.intp)  # sum -> size that first reached it; the sum without it was reached before
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
