"""Copy a run or a part of it: some components, samples or tokens, in another encoding."""

import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..checking.metadata import metadata_problems
from ..checking.verify import require_as_written, verify
from ..errors import StoreError
from ..format.digests import combine_row_digests
from ..format.layout import GROUPS, array_specs
from ..format.spec import CODECS, ROW_TOKENS, Adapter, Codec, RunSpec, block_path
from ..names import Patterns, pattern_list, require_choice
from ..places.file_lock import run_lock
from ..places.place import open_place
from ..progress import Progress
from ..reading.read import checked_run, neutral_place, open_neutral, open_root, open_run
from ..reading.require_run import find_run_path
from ..reading.run import Run
from ..reading.token_choice import narrow_population, parse_choice
from ..writing.write import RunWriter
from .copy_rows import Slice, copy_rows, select_slice, takes_all_arrays
from .copy_target import DERIVED_ATTRIBUTES, copied_spec, open_copy, read_tables, read_weights


def pull(
    source: str | Path,
    out: str | Path,
    *,
    component: Patterns = None,
    samples: Patterns | int = None,
    tokens: str = "all",
    seed: int = 0,
    adapters: Patterns = None,
    codec: Codec = "default",
    progress: Progress | None = None,
) -> Run:
    """Copy a run or a part of it, finished or not, into a finished run, and return the copy as a Run.

    The source doesn't change.

    Only completely committed samples are copied, and all values are exactly those of the source. Each chunk is decoded
    and compared with its values before it is written, and the copy is read and compared with its digests before it
    counts as finished. If it is interrupted, the same call continues it.

    Parameters
    ----------
    source
        Folder or url of the run.
    out
        Folder or url of the copy, new or empty.
    component
        Path of a component to take or a pattern, such as `model.layers.3.*`, or several; by default all.
    samples
        An id or a pattern of ids, or several, which may follow `data set/` or `prompt/data set/`; or the number of
        samples to take from the start; by default all. An id alone takes the item with all its prompts.
    tokens
        Choice of each sample's tokens in words of `lorascope.stores.reading.token_choice`. `every:K` and `share:P` draw
        at random, and `tokens/weight` grows so that weighted means and sums over tokens stay unbiased; after the others
        `population` in the provenance says which tokens the copy is about.
    seed
        Seed of the draw; a sample's tokens don't depend on the other samples.
    adapters
        A name or pattern, or several; by default all.
    codec
        Compression of the copy: `default` (by type), `zstd`, `lz4`, or `raw` for none.
    progress
        Called with (rows of the source done, rows in all), and then from 1 again with (rows of the copy read back,
        rows in all).

    Raises
    ------
    StoreError
        If a name matches nothing, no sample is complete, the source's metadata, tables, weights or a chunk aren't what
        was written, something else is at `out`, a compressor changed values, or the copy isn't what is read back.
    ValueError
        If `tokens` or `codec` isn't known, `tokens` takes no token of a sample, or a number of samples is below 1.
    FileExistsError
        If another process writes the copy.

    Notes
    -----
    Every chunk is checked with its own checksum; if all chunks of a row are read, also with the row's digest, which
    isn't possible with fewer components: `checked` in the provenance says which. Memory has at most two rows of the
    copy, rows of the source that `stored_rows` reads ahead, and for a moment the weights. A row of a run of states
    'sample' keeps its states if all of its tokens had them.

    A copy of a whole run has the run's fingerprint, since it is that run in another encoding; a part has its own.
    Arrays that this version doesn't know aren't copied: `omitted` in the provenance lists them, by group if they are in
    one of the root's `optional_groups`. Importance keeps passes and directions of the copy's parts, null
    adapters its samples, in a copy of all components. A run of neutral texts inside is copied with it, with the same
    components and adapters, and all its samples and tokens.
    """
    require_choice("codec", codec, CODECS)
    source = find_run_path(source)
    place, root = open_root(source)
    run = checked_run(place, root)
    part = select_slice(run, component=component, samples=samples, tokens=tokens, seed=seed, adapters=adapters)
    asked = {
        "components": pattern_list(component),
        "samples": samples if isinstance(samples, int) else pattern_list(samples),
        "tokens": tokens,
        "seed": seed if parse_choice(tokens).is_random else None,
        "adapters": pattern_list(adapters),
        "codec": codec,
    }
    require_as_written(run, metadata_problems(root))
    measured = _slice_measured(run, part)
    spec = replace(_slice_spec(run, part, measured), codec=codec, attributes=_slice_attributes(run, part, asked))
    weights = read_weights(run, spec) | measured
    with run_lock(out):
        target = open_copy(source, out, spec, tables=_slice_tables(run, part), weights=weights)
        if not isinstance(target, Run):
            _fill_copy(run, part, target, progress)
    if (neutral := open_neutral(run)) is not None:
        same: dict[str, Any] = {"component": component, "adapters": adapters, "codec": codec, "progress": progress}
        pull(neutral.path, neutral_place(open_place(out)).path, **same)
    return open_run(out)


def _fill_copy(run: Run, part: Slice, target: RunWriter, progress: Progress | None) -> None:
    """Copy the missing rows of this part of a run, compare what was written with its digests, and finish the copy."""
    with target as writer:
        copy_rows(run, part, writer, progress)
        problems = verify(writer.place.path, level="digests", progress=progress).problems
        if problems:
            raise StoreError(
                f"`{writer.place.name}` isn't what was written to it: {problems[0].message}; delete it and copy to "
                "another disk"
            )
        writer.finish({})


def _slice_spec(run: Run, part: Slice, measured: Mapping[str, np.ndarray]) -> RunSpec:
    """Return the specification (components, adapters, sizes) of a copy of this part of a run."""
    whole = copied_spec(run)
    n_rows = -(-len(part.tokens) // ROW_TOKENS)
    with_states = run.with_states.values[part.tokens]
    state_rows = tuple(bool(with_states[row * ROW_TOKENS : (row + 1) * ROW_TOKENS].all()) for row in range(n_rows))
    components = tuple(whole.components[index] for index in part.components)
    blocks = {block_path(component.path) for component in components}
    return replace(
        whole,
        components=components,
        experts=tuple(block for block in whole.experts if block.path in blocks),
        adapters=tuple(
            _slice_adapter(adapter, part, measured) for adapter in whole.adapters if adapter.name in part.adapters
        ),
        n_tokens=len(part.tokens),
        n_samples=len(part.samples),
        n_choices=int(np.isin(run.choices["sample"].values, part.samples).sum()),
        state_rows=state_rows if whole.states == "sample" else (),
    )


def _slice_adapter(adapter: Adapter, part: Slice, measured: Mapping[str, np.ndarray]) -> Adapter:
    """Return the adapter with only the components of this part of a run, and the sizes of what was `measured`."""
    columns = {name: getattr(adapter, name) for name in ("rank", "scaling", "factored", "biased", "delta_source")}
    chosen: dict[str, Any] = {
        name: tuple(values[index] for index in part.components) for name, values in columns.items() if values
    }
    gradient, kl = (measured.get(f"adapters/{adapter.name}/{name}") for name in ("importance/gradient", "nulls/kl"))
    chosen["importance"] = None if gradient is None else gradient.shape
    return replace(adapter, **chosen, n_variants=0 if kl is None else kl.shape[1])


def _slice_measured(run: Run, part: Slice) -> dict[str, np.ndarray]:
    """Return {path: values} of the gradients and nulls of this part of a run, where adapters have any.

    Nulls are those of all components together.
    """
    sliced: dict[str, np.ndarray] = {}
    for name in part.adapters:
        root = f"adapters/{name}/importance"
        if f"{root}/gradient" in run.arrays:
            own = run.importance(name)
            for axis, column, chosen in (("pass", "sample", part.samples), ("direction", "component", part.components)):
                own = own.isel({axis: np.isin(own[column], chosen)})
                own[column] = axis, np.searchsorted(chosen, own[column]).astype(np.int32)
            if own["gradient"].size:
                sliced |= {f"{root}/{column}": values.values for column, values in own.variables.items()}
        if f"adapters/{name}/nulls/kl" in run.arrays and len(part.components) == len(run):
            own = run.null_adapters(name).isel(sample=part.samples)
            if own["kl"].notnull().any():
                sliced |= {f"adapters/{name}/nulls/{column}": values.values for column, values in own.items()}
    return sliced


def _slice_tables(run: Run, part: Slice) -> dict[str, dict[str, np.ndarray]]:
    """Return {table: {column: values}} of this part of a run; indices of samples and tokens are the copy's."""
    tables = read_tables(run)
    samples = {name: values[part.samples] for name, values in tables["samples"].items()}
    stops = np.cumsum(part.n_tokens)
    samples |= {"token_start": stops - part.n_tokens, "token_stop": stops}
    in_part = np.isin(tables["choices"]["sample"], part.samples)
    choices = {name: values[in_part] for name, values in tables["choices"].items()}
    tokens = {name: values[part.tokens] for name, values in tables["tokens"].items()}
    for table in (choices, tokens):
        table["sample"] = np.searchsorted(part.samples, table["sample"])
    # Runs of older writers have no weights, since all their tokens were taken.
    tokens["weight"] = (tokens.get("weight", np.float32(1)) * part.weight).astype(np.float32)
    return {"samples": samples, "choices": choices, "tokens": tokens}


def _slice_attributes(run: Run, part: Slice, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return root attributes of a copy of this part of a run: the run's, with a record of the copying in `copied`.

    `asked` are the arguments of `pull`.
    """
    counts = {
        "components": [len(part.components), len(run.component_paths)],
        "samples": [len(part.samples), run.samples.sizes["sample"]],
        "tokens": [len(part.tokens), run.n_tokens],
    }
    known = {entry.path for entry in array_specs(copied_spec(run))}
    unknown = ((path, path.partition("/")[0]) for path in run.arrays if path not in known)
    omitted = sorted({path if group in GROUPS else group for path, group in unknown})
    is_whole = run.finished and part.adapters == run.adapters and all(n == n_all for n, n_all in counts.values())
    is_whole = is_whole and not omitted
    rows = np.unique(part.tokens // ROW_TOKENS).tolist()
    step = {
        "how": "compact" if is_whole else "pull",  # the format's names for a copy of a whole run, and of a part
        "source": run.place.name,
        "fingerprint": run.attributes.get("fingerprint", ""),
        "static_digest": run.attributes["static_digest"],
        "rows_digest": combine_row_digests({row: bytes(run.digest(row)) for row in rows}),
        "finished": run.finished,
        "checked": "digest of every row" if takes_all_arrays(run, part) else "checksum of every chunk",
        "selection": dict(asked),
        "samples_incomplete": part.n_samples_incomplete,
        **({"omitted": omitted} if omitted else {}),
        **counts,
        "lorascope": version("lorascope"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    attributes = {name: value for name, value in run.attributes.items() if name not in DERIVED_ATTRIBUTES}
    provenance = dict(attributes.get("provenance") or {})
    provenance["copied"] = [*provenance.get("copied", []), step]
    if not is_whole:
        attributes.pop("measured", None)  # time and memory of the capture, not of the copy
        attributes.pop("meshes", None)  # other rows
        before = str(provenance.get("population", "all tokens"))
        if (population := narrow_population(before, asked["tokens"])) != before:
            provenance["population"] = population
    return {**attributes, "provenance": provenance}
