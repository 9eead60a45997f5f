"""Checking a run against itself: digests, then decoding, then what the numbers look like."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import zarr

from .check import is_base_score
from .digest import combine, hash_file
from .errors import Problem, StoreError
from .layout import ROW_TOKENS, chunk_key
from .read import Run, find_layout_problems, list_nodes, open_group
from .widen import widen_block

__all__ = ["LEVELS", "Verdict", "verify"]

Level = Literal["digests", "decode", "statistics"]
LEVELS: tuple[Level, ...] = ("digests", "decode", "statistics")


class Verdict(NamedTuple):
    """What `verify` looked at and what it found."""

    level: Level
    n_rows: int
    n_committed: int
    n_chunks: int
    """Chunks that were checked."""
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


class _Known(NamedTuple):
    """Columns of the token table that say what is legitimate; None where they can't be decoded."""

    position: np.ndarray | None
    token_id: np.ndarray | None


def verify(
    path: str | Path, *, level: Level = "statistics", progress: Callable[[int, int], None] | None = None
) -> Verdict:
    """Every problem of the run at `path` up to a level; each level includes those before it.

    Parameters
    ----------
    path
        Folder of the run.
    level
        `digests` reads every chunk's bytes; `decode` decompresses them; `statistics` looks for NaN, Inf, tokens whose
        vector is zero or constant, one vector under different tokens, and rows that repeat another one.
    progress
        Called with (rows done, rows in all).

    Raises
    ------
    StoreError
        If there is no run at `path`, or one of a format version that we don't know, or one that is still being set up.
    ValueError
        If `level` isn't one of the three.
    """
    if level not in LEVELS:
        raise ValueError(f"`level` is {level!r}; allowed are {LEVELS}")
    root, group = open_group(path)
    broken = find_layout_problems(root, group)
    if broken:  # where the parts lie isn't known, so nothing else can be checked
        n_rows = group.attrs.get("n_rows")
        return Verdict(level, n_rows if isinstance(n_rows, int) else 0, 0, 0, tuple(broken))
    run = Run(root, group)
    try:
        rows = np.flatnonzero(run.committed_rows)
    except StoreError as error:
        return Verdict(level, run.n_rows, 0, 0, (Problem("rows/digest", "decode", str(error)),))
    return _check_parts(run, rows, level, progress)


def _check_parts(run: Run, rows: np.ndarray, level: Level, progress: Callable[[int, int], None] | None) -> Verdict:
    arrays = _arrays(run.path)
    by_row = {key: array for key, array in arrays.items() if array.attrs.get("written") == "by row"}
    once = {key: array for key, array in arrays.items() if key not in by_row and key != "rows/digest"}
    problems = list(_check_static(run, once, level))
    n_chunks = sum(len(list((run.path / key).glob("c.*"))) for key in once)
    known = _Known(
        position=_decode("tokens/position", arrays["tokens/position"], slice(None))[0],
        token_id=_decode("tokens/token_id", arrays["tokens/token_id"], slice(None))[0],
    )
    problems += [_lost(int(row)) for row in run.lost_rows]
    if not len(rows):
        problems.append(
            Problem("rows", "nothing", f"none of {run.n_rows} rows is committed; there is nothing to check")
        )
    seen: dict[tuple[str, bytes], int] = {}
    for done, row in enumerate(rows, 1):
        problems += _check_row(run, by_row, int(row), level, known, seen)
        n_chunks += len(by_row)
        if progress is not None:
            progress(done, len(rows))
    return Verdict(level, run.n_rows, len(rows), n_chunks, tuple(problems))


def _lost(row: int) -> Problem:
    key = chunk_key("rows/digest", row, 2)
    message = f"row {row} of a finished run has no digest; {key!r} was lost, and the row can't be read without it"
    return Problem(f"row {row}", "missing", message)


def _arrays(root: Path) -> dict[str, zarr.Array[Any]]:
    members = list_nodes(zarr.open_group(root, mode="r"))
    return {key: node for key, node in members if isinstance(node, zarr.Array)}


def _check_static(run: Run, once: dict[str, zarr.Array[Any]], level: Level) -> Iterator[Problem]:
    keys = [f"{folder}/{file.name}" for folder in once for file in (run.path / folder).glob("c.*")]
    found = combine((key, hash_file(run.path / key)) for key in keys)
    if found.hex() == run.attributes["static_digest"] and level == "digests":
        return
    for key, array in once.items():
        if not is_base_score(key):  # early writers made these without a chunk where they weren't asked for
            for chunk in range(-(-array.shape[0] // array.chunks[0])):
                yield from _missing(run.path, chunk_key(key, chunk, array.ndim))
        yield from _decode(key, array, slice(None))[1]
    if found.hex() != run.attributes["static_digest"]:
        yield Problem("tables", "digest", "tables or weights aren't what was written: their digest differs")


def _check_row(
    run: Run,
    by_row: dict[str, zarr.Array[Any]],
    row: int,
    level: Level,
    known: _Known,
    seen: dict[tuple[str, bytes], int],
) -> Iterator[Problem]:
    keys = {path: chunk_key(path, row, array.ndim) for path, array in by_row.items()}
    absent = [p for key in keys.values() for p in _missing(run.path, key)]
    yield from absent
    parts = [] if absent else [(key, hash_file(run.path / key)) for key in keys.values()]
    digest_differs = not absent and combine(parts) != bytes(run.digest(row))
    if digest_differs:
        yield Problem(f"row {row}", "digest", f"row {row} isn't what was committed: its digest differs")
    if level == "digests" and not digest_differs:
        return
    tokens = slice(row * ROW_TOKENS, min((row + 1) * ROW_TOKENS, run.n_tokens))
    gone = {problem.place for problem in absent}
    hashes = dict(parts)
    labels: dict[str, np.ndarray] = {}
    for path, array in by_row.items():
        if keys[path] in gone:
            continue
        block, undecodable = _decode(keys[path], array, tokens)
        yield from undecodable
        if level == "statistics" and block is not None:
            wide = widen_block(block, _logical(array))
            yield from _look(known, path, keys[path], wide, tokens)
            if path.startswith("states/"):
                labels[path] = _vector_labels(wide)
            if not path.endswith("/js"):  # all NaN in every row without a measured token
                yield from _repeats(path, row, hashes.get(keys[path]), seen, known)
    if known.token_id is not None:
        for name in ("base", "adapted"):
            in_order = [f"states/{component}/{name}" for component in run.component_paths]
            found = {keys[path]: labels[path] for path in in_order if path in labels}
            yield from _same_vectors(found, known.token_id[tokens])


def _missing(root: Path, key: str) -> Iterator[Problem]:
    file = root / key
    if not file.is_file():
        yield Problem(key, "missing", f"chunk {key!r} is missing")
    elif file.stat().st_size == 0:
        yield Problem(key, "empty", f"chunk {key!r} is an empty file")


def _decode(key: str, array: zarr.Array[Any], tokens: slice) -> tuple[np.ndarray | None, list[Problem]]:
    try:
        return np.asarray(array[tokens]), []
    except Exception as error:  # whatever a codec makes of broken bytes is the finding
        return None, [Problem(key, "decode", f"{key!r} can't be decoded: {type(error).__name__}: {error}")]


def _logical(array: zarr.Array[Any]) -> str:
    return str(array.attrs.get("dtype_logical", array.dtype.name))


def _look(known: _Known, path: str, key: str, block: np.ndarray, tokens: slice) -> Iterator[Problem]:
    if path == "tokens/nll":
        expected = np.isnan(block) if known.position is None else known.position[tokens] == 0
        yield from _count(key, "nan", np.isnan(block) & ~expected, "is NaN though a token stands before it")
        return
    if path.endswith("/js"):
        above = block > np.float32(np.log(2)) * (1 + 1e-6)
        yield from _count(key, "range", above.any(axis=1) | (block < 0).any(axis=1), "has a js outside of [0, ln 2]")
        return
    yield from _count(key, "nan", np.isnan(block).any(axis=1), "has a NaN")
    yield from _count(key, "inf", np.isinf(block).any(axis=1), "has an Inf")
    if path.startswith("states/"):
        zero = ~block.any(axis=1)
        yield from _count(key, "zero", zero, "is all zero")
        if block.shape[1] > 1:
            yield from _count(
                key, "constant", (block == block[:, :1]).all(axis=1) & ~zero, "has one value in all features"
            )


def _count(key: str, kind: str, bad: Any, what: str) -> Iterator[Problem]:
    places = np.flatnonzero(bad)
    if len(places):
        more = f", and {len(places) - 1} more" if len(places) > 1 else ""
        yield Problem(key, kind, f"{key!r}: token {places[0]} of the row {what}{more}")


def _vector_labels(block: np.ndarray) -> np.ndarray:
    """Int (token,): equal where two tokens' vectors are; -1 where one is all zero, which is found elsewhere."""
    order: dict[bytes, int] = {}
    labels = np.array([order.setdefault(vector.tobytes(), len(order)) for vector in block])
    return np.where(block.any(axis=1), labels, -1)


def _same_vectors(labels: Mapping[str, np.ndarray], ids: np.ndarray) -> Iterator[Problem]:
    """Vectors equal under two token ids though another component tells these tokens apart; components in order.

    Ids with one and the same embedding are legitimate (unused rows of a vocabulary): their tokens stay equal from the
    first component on, until an attention layer mixes in what stands before them. So in later components equality
    counts against a run only if an earlier one tells the tokens apart, and in the first only if the second does.
    """
    if len(labels) < 2:
        return
    apart = list(labels.values())[1]
    for index, (key, label) in enumerate(labels.items()):
        shared = _n_shared(label, ids, apart)
        if shared:
            yield Problem(key, "repeated", f"{key!r}: {shared} vectors stand under more than one token id")
        # Joint label: two tokens share it where they were equal in every component so far.
        so_far = label if index == 0 else np.stack([apart, label])
        apart = np.unique(so_far, axis=-1, return_inverse=True)[1].reshape(-1)


def _n_shared(label: np.ndarray, ids: np.ndarray, apart: np.ndarray) -> int:
    """Vectors that two tokens share which differ both in id and in the other label."""
    groups: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for vector, token_id, other in zip(label.tolist(), ids.tolist(), apart.tolist(), strict=True):
        if vector >= 0:
            groups[vector].add((token_id, other))
    return sum(any(a[0] != b[0] and a[1] != b[1] for a, b in combinations(group, 2)) for group in groups.values())


def _repeats(
    path: str, row: int, part: bytes | None, seen: dict[tuple[str, bytes], int], known: _Known
) -> Iterator[Problem]:
    """A row equal to an earlier one byte for byte, though other tokens stand in it."""
    if part is None or known.token_id is None or known.position is None:
        return
    first = seen.setdefault((path, part), row)
    if not all(_same_row(column, first, row) for column in (known.token_id, known.position)):
        yield Problem(f"row {row}", "repeated", f"row {row} of {path!r} equals row {first} byte for byte")


def _same_row(column: np.ndarray, first: int, second: int) -> bool:
    one, other = (column[row * ROW_TOKENS : (row + 1) * ROW_TOKENS] for row in (first, second))
    return np.array_equal(one, other)
