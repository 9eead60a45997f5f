"""Copying a slice of a run: some components, some samples, some of their tokens, into a small run for the laptop."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..format.spec import ROW_TOKENS, Adapter, RunSpec
from ..places.file_lock import run_lock
from ..progress import Progress
from ..reading.read import open_checked, open_group, open_run
from ..reading.run import Run
from ..reading.there import find_run
from .copy_rows import Slice, copy_rows, select
from .copy_target import add_step, copy_target, spec_of, tables_of, weights_of


def pull(
    source: str | Path,
    out: str | Path,
    *,
    components: Sequence[str] | None = None,
    samples: Sequence[str] | int | None = None,
    token_share: float | None = None,
    seed: int = 0,
    adapters: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Run:
    """Copy part of a run, finished or not, into a smaller, finished run.

    Only samples that are wholly committed are copied, and all copied values are exactly those of the source. If it is
    interrupted, the same call continues it.

    Parameters
    ----------
    source
        Folder or url of the run.
    out
        Folder or url of the slice, new or empty.
    components
        Names, or patterns such as `model.layers.3.*`, of the components to take; by default all.
    samples
        Ids or patterns of ids, which may follow `data set/` or `prompt/data set/`; or a number, to take that many from
        the start; by default all. An id alone takes the item with every prompt that it was asked with.
    token_share
        Share of each sample's tokens to draw, without replacement, at least one of each; `tokens/weight` grows so that
        weighted means and sums over tokens stay unbiased.
    seed
        Seed of the draw; a sample's tokens don't depend on the other samples.
    adapters
        Names or patterns; by default all.
    progress
        Called with (rows of the source done, rows in all).

    Raises
    ------
    StoreError
        If a name fits nothing, no sample is whole, a chunk of the source is broken, or something else is at `out`.
    ValueError
        If `token_share` isn't in (0, 1], or a number of samples is below 1.
    FileExistsError
        If another process writes the slice.

    Notes
    -----
    Each chunk that is read is checked by its own checksum; a row of which every chunk is read, by its digest too. With
    fewer components most chunks stay where they are, and their row's digest can't be compared: `checked` in the
    provenance says which it was. Memory holds two rows of the slice at most, a chunk a thread, and for a moment the
    weights, of which an unembedding is the largest. A row of a run of
    states 'sample' keeps its states if all of its tokens had them.
    """
    source = find_run(source)
    run = open_checked(*open_group(source))
    part = select(run, components=components, samples=samples, token_share=token_share, seed=seed, adapters=adapters)
    asked = {
        "components": None if components is None else list(components),
        "samples": samples if samples is None or isinstance(samples, int) else list(samples),
        "token_share": token_share,
        "seed": seed if token_share is not None else None,
        "adapters": None if adapters is None else list(adapters),
    }
    spec = replace(_spec(run, part), attributes=_attributes(run, part, asked))
    with run_lock(out):
        target = copy_target(source, out, spec, tables=_tables(run, part), weights=weights_of(run, spec))
        if isinstance(target, Run):
            return target
        with target as writer:
            copy_rows(run, part, writer, writer.write_row, progress)
            writer.finish({})
        return open_run(out)


def _spec(run: Run, part: Slice) -> RunSpec:
    whole = spec_of(run)
    n_rows = -(-len(part.tokens) // ROW_TOKENS)
    with_states = run.with_states.values[part.tokens]
    state_rows = tuple(bool(with_states[row * ROW_TOKENS : (row + 1) * ROW_TOKENS].all()) for row in range(n_rows))
    return replace(
        whole,
        codec="default",
        components=tuple(whole.components[index] for index in part.components),
        adapters=tuple(_adapter(one, part) for one in whole.adapters if one.name in part.adapters),
        n_tokens=len(part.tokens),
        n_samples=len(part.samples),
        n_choices=int(np.isin(run.choices["sample"].values, part.samples).sum()),
        state_rows=state_rows if whole.states == "sample" else (),
    )


def _adapter(adapter: Adapter, part: Slice) -> Adapter:
    columns = {name: getattr(adapter, name) for name in ("rank", "scaling", "factored", "biased", "delta_source")}
    kept: dict[str, Any] = {
        name: tuple(values[index] for index in part.components) for name, values in columns.items() if values
    }
    return replace(adapter, **kept)


def _tables(run: Run, part: Slice) -> dict[str, dict[str, np.ndarray]]:
    tables = tables_of(run)
    samples = {name: values[part.samples] for name, values in tables["samples"].items()}
    stops = np.cumsum(part.n_tokens)
    samples |= {"token_start": stops - part.n_tokens, "token_stop": stops}
    kept = np.isin(tables["choices"]["sample"], part.samples)
    choices = {name: values[kept] for name, values in tables["choices"].items()}
    tokens = {name: values[part.tokens] for name, values in tables["tokens"].items()}
    for table in (choices, tokens):
        table["sample"] = np.searchsorted(part.samples, table["sample"])
    # Runs of older writers, whose tokens were all taken or stand for themselves, have no weights.
    tokens["weight"] = (tokens.get("weight", np.float32(1)) * part.weight).astype(np.float32)
    return {"samples": samples, "choices": choices, "tokens": tokens}


def _attributes(run: Run, part: Slice, asked: Mapping[str, Any]) -> dict[str, Any]:
    all_read = len(part.components) == len(run.component_paths) and part.adapters == run.adapters
    attributes = add_step(
        run,
        "pull",
        np.unique(part.tokens // ROW_TOKENS).tolist(),
        finished=run.finished,
        checked="digest of every row" if all_read else "checksum of every chunk",
        selection=dict(asked),
        components=[len(part.components), len(run.component_paths)],
        samples=[len(part.samples), run.samples.sizes["sample"]],
        samples_incomplete=part.n_samples_incomplete,
        tokens=[len(part.tokens), run.n_tokens],
    )
    attributes.pop("measured", None)  # what the capture took, not this
    return attributes
