"""The last level of checking a run: the model computes some of its rows again, and they are compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lorascope.stores import Problem, RowWritten, Run, StoreError, open_run
from lorascope.stores.format.digests import provenance_identity
from lorascope.stores.format.layout import IN_RUN, is_measure
from lorascope.stores.format.spec import ROW_TOKENS
from lorascope.stores.format.stored_array import widen_block
from lorascope.stores.reading.walk import stored_rows

from .models.device import parse_device
from .models.passes import isolated
from .models.ranks import ALONE
from .recording.progress import CaptureProgress
from .recording.run_model import fill_rows
from .samples.prompt import read_prompts
from .settling.data import Data, name_data, read_data
from .settling.inputs import require_inputs, settings_of_run
from .settling.load import load
from .settling.neutral import read_neutral_texts
from .settling.provenance import require_same_identity
from .settling.settle import settle_loaded

TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest ||again - stored|| / ||stored|| of a token's vector, by the layers' output type: the largest difference that
another type of device, number of threads or order of summation makes over all layers of a deep model. A vector of
another token or adapter differs by about 1."""


@dataclass(slots=True)
class Reforwarded:
    """Result of a re-forward: samples that were computed again, and how much they differ from the stored ones."""

    samples: tuple[str, ...]
    """Ids of the chosen samples; all tokens of the rows that contain them were compared."""
    n_tokens: int = 0
    n_vectors: int = 0
    """Number of compared vectors: one per token and array."""
    n_equal: int = 0
    """Number of vectors that are equal bit for bit."""
    worst: float = 0.0
    """Largest ||again - stored|| / ||stored|| of a vector."""
    problems: list[Problem] = field(default_factory=list)


def reforward(
    path: str,
    k: int,
    *,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    model: Any = None,
    tokenizer: Any = None,
    data: Any = None,
    progress: Callable[[CaptureProgress], None] | None = None,
) -> Reforwarded:
    """Compute k random samples of a run again with its model, and return how they differ from what is stored.

    Parameters
    ----------
    path
        The run, finished or not; only its committed rows are compared.
    k
        Number of samples to choose; all rows that contain them are computed again.
    seed
        Seed of the random choice.
    overrides
        Settings of the capture that may differ here: `model`, `adapter`, `data`, `prompt`, `examples` (they are
        compared with the run's hashes), `device`, `device_map`, `trust_remote_code`.
    model, tokenizer, data
        Loaded objects, as for `capture`.
    progress
        Called with a `CaptureProgress` after every batch.

    Raises
    ------
    StoreError
        If the run wasn't written by `capture`, was pulled from another run or has no committed sample, or if model,
        tokenizer, adapter or data differ.
    ValueError
        If k is below 1.
    """
    if k < 1:
        raise ValueError(f"`k` is {k!r}; choose at least 1 sample")
    run = open_run(path)
    names, items = (None, None) if data is None else name_data(data)
    config = settings_of_run(run, {**(overrides or {}), **({"data": names} if names else {})})
    require_inputs(config, model_given=model is not None, data_given=items is not None, writes=False)
    chosen = _choose_samples(run, k, seed)
    if config.data[0].endswith(IN_RUN):
        data_read = Data({}, read_prompts(config.prompt, config.examples, seed=config.seed), read_neutral_texts(run))
    else:
        data_read = read_data(config, items)
    loaded = load(config, parse_device(config.device), model, tokenizer)
    with isolated(loaded.model, loaded.device):
        settled = settle_loaded(config, loaded, data_read, ALONE, run.place, "finished")
        stored = provenance_identity(run.attributes["provenance"])
        require_same_identity(
            {**stored, "libraries": {}},
            {**provenance_identity(settled.provenance()), "libraries": {}},
            f"`{path}` was captured from something else",
            "give the model, tokenizer, adapter and data that it was captured from",
        )
        compared = Reforwarded(tuple(str(run.samples["id"].values[index]) for index in chosen))
        comparer, rows = _Comparer(run, compared), _rows_with(run, chosen)
        fill_rows(settled.layout, loaded.model, loaded.device, comparer, rows, progress=progress)
    return compared


def _choose_samples(run: Run, k: int, seed: int) -> np.ndarray:
    """Draw k samples that are written completely, or all such samples if they are fewer; return sorted indices."""
    committed = np.concatenate([[0], np.cumsum(run.committed.values)])
    starts, stops = run.samples["token_start"].values, run.samples["token_stop"].values
    whole = np.flatnonzero(committed[stops] - committed[starts] == stops - starts)
    if not len(whole):
        raise StoreError(f"no sample of `{run.path}` is wholly committed, so there is nothing to compare")
    return np.asarray(np.sort(np.random.default_rng(seed).permutation(whole)[:k]))


def _rows_with(run: Run, samples: np.ndarray) -> np.ndarray:
    """Return a mask, bool (row,), of the committed rows that have tokens of these samples."""
    rows = np.zeros(run.n_rows, dtype=bool)
    starts, stops = (run.samples[name].values[samples] for name in ("token_start", "token_stop"))
    for start, stop in zip(starts, stops, strict=True):
        rows[start // ROW_TOKENS : -(-stop // ROW_TOKENS)] = True
    return np.asarray(rows & run.committed_rows)


class _Comparer:
    """Stand-in for a run's writer that compares recomputed rows with the stored ones instead of writing them."""

    def __init__(self, run: Run, result: Reforwarded) -> None:
        """Compare with the rows of `run`; add counts and problems to `result`."""
        self._run = run
        self._tolerance = max(TOLERANCE[dtype] for dtype in run.components["dtype"].values.tolist())
        self._result = result

    def row_arrays(self, row: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return path -> (shape, dtype) of the block of each array that stores this row."""
        arrays = [self._run.arrays[path] for path in self._run.row_paths(row)]
        return {array.path: ((ROW_TOKENS, *array.shape[1:]), array.dtype) for array in arrays}

    def write_row(self, row: int, blocks: Mapping[str, np.ndarray]) -> RowWritten:
        """Compare a row's recomputed blocks (path -> array) with the stored ones; nothing is written."""
        ((_, stored),) = stored_rows(self._run, [row], blocks)
        for path, block in blocks.items():
            logical = str(self._run.arrays[path].attributes.get("dtype_logical", block.dtype.name))
            both = (block, stored[path])
            if block.dtype != np.int32:  # token ids
                both = widen_block(both[0], logical), widen_block(both[1], logical)
            again, before = (values.reshape(len(values), -1) for values in both)
            self._compare(path, row, again, before)
        self._result.n_tokens += len(next(iter(blocks.values())))
        return RowWritten(row, sum(block.nbytes for block in blocks.values()), 0, 0.0, 0.0)

    def _compare(self, path: str, row: int, again: np.ndarray, stored: np.ndarray) -> None:
        """Compare one array's vectors (token, feature), computed again and stored; update the result."""
        same = (stored == again) | (np.isnan(stored) & np.isnan(again))
        differing = np.flatnonzero(~same.all(axis=1))
        self._result.n_vectors += len(same)
        self._result.n_equal += len(same) - len(differing)
        # Measures follow from states; the relative difference of tiny measures says nothing.
        if not len(differing) or is_measure(path) or path == "tokens/nll":
            return
        off = np.linalg.norm(again[differing].astype(np.float64) - stored[differing], axis=1)
        size = np.linalg.norm(stored[differing].astype(np.float64), axis=1)
        relative = np.divide(off, size, out=np.full_like(off, np.inf), where=size > 0)
        relative[~np.isfinite(relative)] = np.inf
        self._result.worst = max(self._result.worst, float(relative.max()))
        bad = np.flatnonzero(relative > self._tolerance)
        if len(bad):
            token = row * ROW_TOKENS + int(differing[bad[0]])
            more = f", and {len(bad) - 1} more of row {row}" if len(bad) > 1 else ""
            message = (
                f"{path!r}: token {token} is off by {relative[bad[0]]:.3g} of its size when it is computed "
                f"again{more}; rounding explains {self._tolerance:g}"
            )
            self._result.problems.append(Problem(path, "reforward", message))
