"""Select a slice of a run, and copy its tokens into the rows of another run."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..errors import StoreError
from ..format.spec import ROW_TOKENS
from ..names import Patterns, matching_indices
from ..progress import Progress
from ..reading.run import Run
from ..reading.token_choice import chosen_token_weights, empty_sample_error, parse_choice
from ..reading.walk import stored_rows
from ..writing.write import RunWriter


class Slice(NamedTuple):
    """Part of a run that is copied: indices of its components, samples and tokens in the run."""

    components: np.ndarray
    """Indices of components, int (component,), ascending."""
    adapters: tuple[str, ...]
    samples: np.ndarray
    """Indices of samples, int (sample,), ascending; each is completely committed."""
    n_samples_incomplete: int
    """Number of selected samples that are skipped, since they aren't completely committed."""
    tokens: np.ndarray
    """Indices of tokens, int (token,), ascending."""
    n_tokens: np.ndarray
    """Number of these tokens in each sample, int (sample,)."""
    weight: np.ndarray
    """Weight of each token within its sample, float (token,), due to this selection alone."""


def select_slice(
    run: Run,
    *,
    component: Patterns,
    samples: Patterns | int,
    tokens: str,
    seed: int,
    adapters: Patterns,
) -> Slice:
    """Return the part of a run that names, patterns and a choice of tokens select, as indices in the run.

    Raises
    ------
    StoreError
        If a name or pattern matches nothing, or no selected sample is completely committed.
    ValueError
        If `tokens` isn't a choice of tokens or takes no token of a selected sample, or a number of samples is below 1.
    """
    parse_choice(tokens)
    if isinstance(samples, int) and samples < 1:
        raise ValueError(f"`samples` is {samples}; give at least 1, or names")
    chosen_components = np.array(matching_indices(run.component_paths, component, of="components of this run"))
    chosen_adapters = np.array(matching_indices(run.adapters, adapters, of="adapters of this run", option="adapters"))
    chosen, n_incomplete = _committed_samples(run, samples)
    starts, stops = run.samples["token_start"].values, run.samples["token_stop"].values
    of_sample = np.repeat(np.arange(len(starts)), stops - starts)
    weight = chosen_token_weights(run, tokens, np.isin(of_sample, chosen), seed=seed)
    places = np.flatnonzero(weight)
    n_tokens = np.bincount(of_sample[places], minlength=len(starts))
    for sample in chosen[(n_tokens[chosen] == 0) & (starts < stops)[chosen]][:1].tolist():
        name, dataset, prompt = (str(run.samples[key].values[sample]) for key in ("id", "dataset", "prompt"))
        positions, roles = (
            run.read_static(f"tokens/{key}")[starts[sample] : stops[sample]] for key in ("position", "role")
        )
        raise empty_sample_error(
            tokens,
            f"{name!r} of {dataset!r} under prompt {prompt!r}",
            positions=positions,
            roles=roles,
            length=int(run.samples["length"].values[sample]),
        )
    return Slice(
        components=chosen_components,
        adapters=tuple(run.adapters[index] for index in chosen_adapters),
        samples=chosen,
        n_samples_incomplete=n_incomplete,
        tokens=places,
        n_tokens=n_tokens[chosen],
        weight=weight[places],
    )


def copy_rows(
    run: Run,
    part: Slice,
    writer: RunWriter,
    progress: Progress | None,
) -> None:
    """Copy the tokens of `part` into the rows that `writer` hasn't committed; each source row is read once."""
    columns = _source_columns(run, part, writer)
    committed = writer.committed_rows
    rows_of_tokens = part.tokens // ROW_TOKENS
    rows = np.unique(rows_of_tokens)
    bounds = np.searchsorted(rows_of_tokens, [rows, rows + 1]).T
    places = {row: (first, stop) for row, (first, stop) in zip(rows.tolist(), bounds.tolist(), strict=True)}
    targets = {
        row: [t for t in range(first // ROW_TOKENS, -(-stop // ROW_TOKENS)) if not committed[t]]
        for row, (first, stop) in places.items()
    }
    missing = [row for row in places if targets[row]]
    filling: dict[int, dict[str, np.ndarray]] = {}
    # For a row's digest, arrays that aren't copied are read too.
    paths = run.arrays if takes_all_arrays(run, part) else columns
    for done, (row, blocks) in enumerate(stored_rows(run, missing, paths), 1 + len(places) - len(missing)):
        first, stop = places[row]
        for target in targets[row]:
            within = writer.row_tokens(target)
            tokens = part.tokens[max(first, within.start) : min(stop, within.stop)] - row * ROW_TOKENS
            if target not in filling:
                filling[target] = _empty_blocks(writer, target, run)
            start = max(first - within.start, 0)
            _copy_tokens(blocks, filling[target], columns, tokens, start)
            if start + len(tokens) == within.stop - within.start:
                writer.write_row(target, filling.pop(target))
        if progress is not None:
            progress(done, len(places))


def takes_all_arrays(run: Run, part: Slice) -> bool:
    """Return whether a part of a run has all of its components and adapters, so that rows' digests can be compared."""
    return len(part.components) == len(run.component_paths) and part.adapters == run.adapters


def _source_columns(run: Run, part: Slice, writer: RunWriter) -> dict[str, np.ndarray | None]:
    """Return {path of each array to copy: indices of the columns to copy, None for all}."""
    paths = {path for row in range(writer.n_rows) for path in writer.row_arrays(row)}
    whole = len(part.components) == len(run.component_paths)
    columns: dict[str, np.ndarray | None] = {}
    for path in sorted(paths & run.arrays.keys()):
        columns[path] = None
        if run.arrays[path].dims == ("token", "component") and not whole:
            columns[path] = part.components
        elif path.endswith("/factor") and not whole:
            table = run.adapter(path.split("/")[1])
            starts, ranks = (table[name].values[part.components] for name in ("factor_start", "rank"))
            spans = [np.arange(start, start + rank) for start, rank in zip(starts, ranks, strict=True) if start >= 0]
            columns[path] = np.concatenate(spans)
    return columns


def _empty_blocks(writer: RunWriter, row: int, source: Run) -> dict[str, np.ndarray]:
    """Return {array path: empty block} for a row of the copy; NaN for arrays that an older source doesn't have."""
    tokens = writer.row_tokens(row)
    return {
        path: np.empty((tokens.stop - tokens.start, *shape[1:]), dtype)
        if path in source.arrays
        else np.full((tokens.stop - tokens.start, *shape[1:]), np.nan, dtype)
        for path, (shape, dtype) in writer.row_arrays(row).items()
    }


def _copy_tokens(
    blocks: Mapping[str, np.ndarray],
    into: dict[str, np.ndarray],
    columns: Mapping[str, np.ndarray | None],
    tokens: np.ndarray,
    start: int,
) -> None:
    """Copy tokens of a source row's `blocks` into the blocks of a copy's row, `into`, from token `start` on."""
    for path in columns.keys() & into.keys():
        chosen = columns[path]
        if np.array_equal(tokens, np.arange(len(into[path]))) and len(blocks[path]) == len(tokens) and chosen is None:
            into[path] = blocks[path]  # the whole row unchanged: no second copy
        else:
            values = blocks[path][tokens]
            into[path][start : start + len(tokens)] = values if chosen is None else values[:, chosen]


def _committed_samples(run: Run, samples: Patterns | int) -> tuple[np.ndarray, int]:
    """Return (indices of selected samples that are completely committed, number of the other selected ones).

    If `samples` is a number, it counts completely committed ones from the start, and the second value is 0.
    """
    ids = [str(name) for name in run.samples["id"].values]
    if samples is None or isinstance(samples, int):
        asked = np.arange(len(ids))
    else:
        # One item is a sample per prompt.
        full = [f"{dataset}/{name}" for dataset, name in zip(run.samples["dataset"].values, ids, strict=True)]
        prompted = [f"{prompt}/{name}" for prompt, name in zip(run.samples["prompt"].values, full, strict=True)]
        asked = np.array(matching_indices(ids, samples, full, prompted, of="samples of this run", option="samples"))
    starts, stops = run.samples["token_start"].values, run.samples["token_stop"].values
    committed = np.concatenate([[0], np.cumsum(run.committed.values)])
    starts, stops = starts[asked], stops[asked]
    whole = committed[stops] - committed[starts] == stops - starts
    if not whole.any():
        raise StoreError(
            f"none of the {len(asked)} samples asked for is wholly committed in `{run.place.name}`; capture more of it"
        )
    chosen = asked[whole]
    if isinstance(samples, int):
        return chosen[:samples], 0
    return chosen, int((~whole).sum())
