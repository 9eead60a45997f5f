"""Whether vectors stand beside the tokens that made them, as far as a run alone can tell.

Two things are known of any causal language model. A token's vectors follow from the tokens up to it, so two tokens
with the same sequence before them agree, within what the batch does to rounding. And what goes into the first layer
follows from the token itself, so there tokens of one id agree; if instead those agree that have one id so many
places further on, then the vectors were shifted by as many. Both need tokens that occur more than once.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from ..errors import Problem

SKETCH_WIDTH = 4
"""Random projections of a vector: enough to tell a distance of a third of the usual one from one of a fiftieth."""
MAX_SHIFT = 4
"""Tokens by which a shift is looked for, either way."""
MIN_APART = 5
"""Pairs that must disagree before a shift is spoken of."""
MAX_KEPT = 4096
"""Sequences that were seen twice whose vectors are kept for later rows."""
CAUSAL = ("ForCausalLM", "LMHeadModel")


class Sketch(NamedTuple):
    """Vectors of one row, small enough to be kept, with distances within a factor of two of the true ones."""

    values: np.ndarray
    """Float32 (token, projection); NaN where the vector isn't finite."""
    tolerance: np.ndarray
    """Float32 (token,): vectors further from it than this are others."""


def sketch(block: np.ndarray, tolerance: float) -> Sketch:
    """The sketch of a block, float32 (token, feature), whose vectors may differ by that share of their norm."""
    width = block.shape[1]
    matrix = np.random.default_rng(width).standard_normal((width, SKETCH_WIDTH), dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # a vector that isn't finite is found elsewhere
        values = block @ matrix
        norms = np.sqrt(np.einsum("ij,ij->i", block, block))
    finite = np.isfinite(values).all(axis=1) & np.isfinite(norms)
    values[~finite] = np.nan
    if not finite.any():
        return Sketch(values, norms)
    # Half of the usual distance of two tokens; where all lie close together, what rounding leaves of a vector.
    centred = values - np.median(values[finite], axis=0)
    spread = np.median(_length(centred[finite]))
    return Sketch(values, np.maximum(np.float32(0.35) * spread, np.float32(tolerance) * norms))


def _length(values: np.ndarray) -> np.ndarray:
    """Norm of a vector as its projections tell it."""
    return np.asarray(np.sqrt(np.square(values).mean(axis=-1)))


class PrefixKeys:
    """Keys of (position, token id) sequences from a sample's beginning, row after row in order."""

    def __init__(self) -> None:
        self._sample, self._next, self._sum = -1, 0, np.uint64(0)

    def row(self, sample: np.ndarray, position: np.ndarray, token_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(key, known): uint64 (token,), equal where all tokens up to this one are; bool (token,), which tokens' are.

        They are known where the run holds a sample from its first position on without a gap.
        """
        mixed = _mix(token_id.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + position.astype(np.uint64))
        sums = np.cumsum(mixed, dtype=np.uint64)
        begins = np.concatenate([[True], np.diff(sample) != 0])
        first = np.maximum.accumulate(np.where(begins, np.arange(len(sample)), 0))
        key = sums - (sums[first] - mixed[first])
        place = np.arange(len(sample)) - first
        goes_on = first == 0
        if sample[0] == self._sample:
            key = np.where(goes_on, key + self._sum, key)
            place = np.where(goes_on, place + self._next, place)
        # Once a position isn't the place from the sample's beginning, none after it is.
        gaps = np.cumsum(position != place)
        known = gaps == gaps[first] - (position != place)[first]
        self._sample = int(sample[-1])
        self._next = int(place[-1]) + 1 if known[-1] else -(2**31)
        self._sum = key[-1]
        return key, known


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's last step: every bit of the input reaches every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


class PrefixCheck:
    """Compares tokens that stand after the same sequence; a run's vectors are kept of few of them.

    Parameters
    ----------
    model_class
        Class of the model, which says whether it is causal. Without it the vectors have to: nine pairs in ten agree.
    """

    def __init__(self, model_class: str) -> None:
        self._causal = model_class.endswith(CAUSAL)
        self._keys = np.empty(0, np.uint64)
        self._hit = np.empty(0, bool)
        self._where = np.empty((0, 2), np.int64)
        self._sketches: dict[str, np.ndarray] = {}
        self.n_agree: dict[str, int] = {}
        self.n_apart: dict[str, int] = {}
        self._cases: dict[str, list[int]] = {}
        """Array -> row and place in it of a token, and of another one, that should agree and don't."""

    @property
    def n_pairs(self) -> int:
        """Pairs of tokens that were compared, in the array that had most of them."""
        return max((self.n_agree[path] + self.n_apart[path] for path in self.n_agree), default=0)

    def add(self, row: int, sketches: Mapping[str, Sketch], key: np.ndarray, known: np.ndarray) -> None:
        """Compare a row with itself and with what was kept, by array, and keep some of it."""
        tokens = np.flatnonzero(known)
        n_kept = len(self._keys)
        pool = np.concatenate([self._keys, key[tokens]])
        where = np.concatenate([self._where, np.stack([np.full(len(tokens), row), tokens], axis=1)])
        _, first, inverse = np.unique(pool, return_index=True, return_inverse=True)
        reference = first[inverse]  # the earliest with this key: np.unique sorts stably
        pairs = np.flatnonzero(reference != np.arange(len(pool)))
        for path, found in sketches.items():
            before = self._sketches.get(path, np.full((n_kept, SKETCH_WIDTH), np.nan, np.float32))
            values = np.concatenate([before, found.values[tokens]])
            self._compare(path, values, found.tolerance[tokens[pairs - n_kept]], pairs, reference[pairs], where)
            self._sketches[path] = values
        for path in self._sketches.keys() - sketches.keys():
            gap = np.full((len(tokens), SKETCH_WIDTH), np.nan, np.float32)
            self._sketches[path] = np.concatenate([self._sketches[path], gap])
        hit = np.concatenate([self._hit, np.zeros(len(tokens), bool)])
        hit[reference[pairs]] = True
        self._keep(pool, hit, where, first, n_new=len(tokens))

    def _compare(
        self,
        path: str,
        values: np.ndarray,
        tolerance: np.ndarray,
        pairs: np.ndarray,
        reference: np.ndarray,
        where: np.ndarray,
    ) -> None:
        distance = _length(values[pairs] - values[reference])
        apart = distance > tolerance
        self.n_agree[path] = self.n_agree.get(path, 0) + int((distance <= tolerance).sum())
        self.n_apart[path] = self.n_apart.get(path, 0) + int(apart.sum())
        if apart.any() and path not in self._cases:
            case = int(np.argmax(apart))
            self._cases[path] = [*where[pairs[case]].tolist(), *where[reference[case]].tolist()]

    def _keep(self, pool: np.ndarray, hit: np.ndarray, where: np.ndarray, first: np.ndarray, *, n_new: int) -> None:
        """Keep what was seen twice, up to a limit, and the first of each sequence of the latest row."""
        kept = np.zeros(len(pool), bool)
        kept[first] = True
        old = np.arange(len(pool)) < len(pool) - n_new
        kept &= hit | ~old
        kept[np.flatnonzero(kept & hit)[MAX_KEPT:]] = False
        self._keys, self._hit, self._where = pool[kept], hit[kept], where[kept]
        self._sketches = {path: values[kept] for path, values in self._sketches.items()}

    def problems(self) -> Iterator[Problem]:
        """Arrays whose pairs don't agree, one problem each."""
        agree, apart = sum(self.n_agree.values()), sum(self.n_apart.values())
        if not self._causal and agree < 9 * apart:
            return
        for path, (row, token, other_row, other_token) in self._cases.items():
            n_pairs = self.n_agree[path] + self.n_apart[path]
            yield Problem(
                path,
                "shifted",
                f"{path!r}: {self.n_apart[path]} of {n_pairs} pairs of tokens after the same sequence differ, first "
                f"token {token} of row {row} from token {other_token} of row {other_row}; one of them isn't its "
                "token's own",
            )


def shift_problems(path: str, row: int, found: Sketch, token_id: np.ndarray) -> Iterator[Problem]:
    """Whether vectors that follow from the token id alone stand so many tokens from where they belong."""
    n_pairs, n_apart = _pairs(found, token_id, 0)
    if n_apart < max(MIN_APART, 0.05 * n_pairs):
        return
    for shift in sorted(range(-MAX_SHIFT, MAX_SHIFT + 1), key=abs)[1:]:
        n_moved, n_moved_apart = _pairs(found, token_id, shift)
        if n_moved >= n_pairs / 2 and n_moved_apart <= min(0.05 * n_moved, n_apart / 5):
            yield Problem(
                f"row {row}",
                "shifted",
                f"row {row} of {path!r} is shifted: its vectors are those of the tokens {abs(shift)} places "
                f"{'after' if shift > 0 else 'before'} them",
            )
            return


def _pairs(found: Sketch, token_id: np.ndarray, shift: int) -> tuple[int, int]:
    """(pairs of neighbours among tokens with one id `shift` places on, how many of them are apart)."""
    tokens = np.arange(max(-shift, 0), len(token_id) - max(shift, 0))
    order = tokens[np.argsort(token_id[tokens + shift], kind="stable")]
    same = np.diff(token_id[order + shift]) == 0
    one, other = order[:-1][same], order[1:][same]
    distance = _length(found.values[one] - found.values[other])
    comparable = np.isfinite(distance)
    return int(comparable.sum()), int((distance > found.tolerance[one]).sum())
