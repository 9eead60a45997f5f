"""Checking a run against itself: digests, then decoding, then what the numbers look like."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import zarr

from .digest import combine, hash_file
from .errors import Problem
from .layout import ROW_TOKENS, chunk_key
from .read import Run, open_run
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
        If there is no run at `path`.
    ValueError
        If `level` isn't one of the three.
    """
    if level not in LEVELS:
        raise ValueError(f"`level` is {level!r}; allowed are {LEVELS}")
    run = open_run(path)
    arrays = _arrays(run.path)
    by_row = {key: array for key, array in arrays.items() if array.attrs["written"] == "by row"}
    once = {key: array for key, array in arrays.items() if key not in by_row and key != "rows/digest"}
    problems = list(_check_static(run, once, level))
    n_chunks = sum(len(list((run.path / key).glob("c.*"))) for key in once)
    known = _Known(
        position=_decode("tokens/position", arrays["tokens/position"], slice(None))[0],
        token_id=_decode("tokens/token_id", arrays["tokens/token_id"], slice(None))[0],
    )
    rows = np.flatnonzero(run.committed_rows)
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


def _arrays(root: Path) -> dict[str, zarr.Array[Any]]:
    members = zarr.open_group(root, mode="r").members(max_depth=None)
    return {key: node for key, node in members if isinstance(node, zarr.Array)}


def _check_static(run: Run, once: dict[str, zarr.Array[Any]], level: Level) -> Iterator[Problem]:
    keys = [f"{folder}/{file.name}" for folder in once for file in (run.path / folder).glob("c.*")]
    found = combine((key, hash_file(run.path / key)) for key in keys)
    if found.hex() == run.attributes["static_digest"] and level == "digests":
        return
    broken = [p for key, array in once.items() for p in _decode(key, array, slice(None))[1]]
    yield from broken
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
    for path, array in by_row.items():
        if keys[path] in gone:
            continue
        block, undecodable = _decode(keys[path], array, tokens)
        yield from undecodable
        if level == "statistics" and block is not None:
            yield from _look(known, path, keys[path], widen_block(block, _logical(array)), tokens)
            if not path.endswith("/js"):  # all NaN in every row without a measured token
                yield from _repeats(path, row, hashes.get(keys[path]), seen)


def _missing(root: Path, key: str) -> Iterator[Problem]:
    file = root / key
    if not file.is_file():
        yield Problem(key, "missing", f"chunk {key!r} of a committed row is missing")
    elif file.stat().st_size == 0:
        yield Problem(key, "empty", f"chunk {key!r} of a committed row is an empty file")


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
        if known.token_id is not None:
            yield from _same_vector(key, block, known.token_id[tokens], zero)


def _count(key: str, kind: str, bad: Any, what: str) -> Iterator[Problem]:
    places = np.flatnonzero(bad)
    if len(places):
        more = f", and {len(places) - 1} more" if len(places) > 1 else ""
        yield Problem(key, kind, f"{key!r}: token {places[0]} of the row {what}{more}")


def _same_vector(key: str, block: np.ndarray, ids: np.ndarray, zero: Any) -> Iterator[Problem]:
    """Equal vectors under one token id are legitimate (equal prefixes, first layers), under two they are not."""
    owners: dict[bytes, set[int]] = defaultdict(set)
    for vector, token_id, blank in zip(block, ids, zero, strict=True):
        if not blank:
            owners[vector.tobytes()].add(int(token_id))
    shared = sum(len(found) > 1 for found in owners.values())
    if shared:
        yield Problem(key, "repeated", f"{key!r}: {shared} vectors stand under more than one token id")


def _repeats(path: str, row: int, part: bytes | None, seen: dict[tuple[str, bytes], int]) -> Iterator[Problem]:
    if part is None:
        return
    first = seen.setdefault((path, part), row)
    if first != row:
        yield Problem(f"row {row}", "repeated", f"row {row} of {path!r} equals row {first} byte for byte")
