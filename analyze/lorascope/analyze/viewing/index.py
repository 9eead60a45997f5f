"""Make the view index of a run: data that the page of `lorascope view` needs and the run lacks, stored next to it."""

import json
import os
import shutil
from collections.abc import Mapping
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from lorascope.analyze.directions.decomposition import N_TOP, Directions, directions_of
from lorascope.analyze.miub.experts import experts
from lorascope.analyze.miub.miub import miub
from lorascope.analyze.miub.reduce import SampleSums, token_blocks, usable_samples
from lorascope.analyze.results.digests import add_digests, is_changed
from lorascope.analyze.results.stored import outside_stores
from lorascope.analyze.results.tree import rows_digest
from lorascope.analyze.results.weights import token_weights
from lorascope.stores import Run
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.format.codec import compressors
from lorascope.stores.format.spec import block_path
from lorascope.stores.json_document import read_json
from lorascope.stores.places.file_lock import file_lock
from lorascope.stores.places.files import explain_full_disk
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike

from ..measuring.measures import feature_permutation
from ..measuring.run import measure_run
from ..measuring.sources import component_sources

FORMAT, FORMAT_VERSION = "lorascope.view", 1
CHUNK_TOKENS = 256
"""Tokens per chunk of js: few chunks per sample, with few tokens of others."""
SCALE_LEVEL = 0.995
"""Quantile of js that has the darkest colour; a few larger values would make all other tokens pale."""
SCALE_VALUES = 2**24
"""Largest number of values of js behind a quantile; they are those of evenly spaced tokens."""


def view_index(run: RunLike, *, progress: Progress | None = None) -> Path:
    """Return the folder of a run's view index (data for the browser page); make it if missing or out of date.

    It is next to the run, `run.view.zarr` for `run.zarr`; for a remote run, it is in the current folder, with a digest
    of the url in its name. `docs/view.md` describes it. If the call is stopped, the same call continues it. Js by token
    is never in memory as a whole.

    Parameters
    ----------
    run
        An open run or its path or url, finished or not, with states or without.
    progress
        Called with (done, total, part); every part counts from 0 again.

    Raises
    ------
    StoreError
        If a chunk is broken, or the run doesn't exist.
    HeldError
        If another process is making it.
    PermissionError
        If the folder isn't writable.
    FileExistsError
        If something else has its name.
    """
    run = open_as_written(run)
    target = index_path(run)
    identity = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "static_digest": run.attributes["static_digest"],
        "fingerprint": run.attributes.get("fingerprint", ""),
        "rows": rows_digest(run),
    }
    if _is_current(target, identity):
        return target
    if not os.access(target.parent, os.W_OK):
        link = f"view the run through a link in a folder of yours, as `ln -s {os.path.abspath(run.path)}` makes one"
        raise PermissionError(
            f"`{target}` can't be made: `{target.parent}` can't be written to; "
            f"{'change to a folder of yours' if run.place.remote else link}"
        )
    with file_lock(target), explain_full_disk(target, "what was computed stays for the next attempt"):
        if not _is_current(target, identity):  # another process may just have made it
            _make_index(run, target, identity, progress)
    return target


def index_path(run: Run) -> Path:
    """Return the path of a run's view index: next to a local run, in the current folder for a remote one."""
    if isinstance(run.path, Path):
        place = outside_stores(Path(os.path.abspath(run.path)))  # a link isn't followed: its target may not be writable
        name = place.name.removesuffix(".zarr")
        return place.with_name(
            f"{name}.view{place.name[len(name) :]}"
        )  # the index of `x` differs from that of `x.zarr`
    name = run.path.rstrip("/").rpartition("/")[2].removesuffix(".zarr")
    return Path.cwd() / f"{name}-{sha256(run.path.encode()).hexdigest()[:8]}.view.zarr"


def _is_current(target: Path, identity: Mapping[str, Any]) -> bool:
    """Return whether the view index fits the run and is as written; raise FileExistsError if it isn't an index."""
    if not target.exists():
        return False
    root = read_json(target / "zarr.json") if (target / "zarr.json").exists() else None
    attributes = root.get("attributes") if isinstance(root, dict) else None
    if not isinstance(attributes, dict) or attributes.get("format") != FORMAT:
        raise FileExistsError(f"`{target}` isn't an index of the view, which is written there; move it elsewhere")
    return all(attributes.get(name) == value for name, value in identity.items()) and not is_changed(target)


def _make_index(run: Run, target: Path, identity: Mapping[str, Any], progress: Progress | None) -> None:
    """Compute the view index of a run in a temporary folder, and rename it to `target` once it is complete."""
    scratch = target.with_name(f".{target.name}.unfinished")
    partial, older = scratch / "index.zarr", scratch / "older.zarr"
    for left in (partial, older):
        shutil.rmtree(left, ignore_errors=True)

    def progress_of(what: str) -> Progress:
        """Return a function that reports progress of the part named `what`."""

        def report_part(done: int, total: int, part: str = what) -> None:
            """Call `progress` with the name of this part, if the caller wants progress."""
            if progress is not None:
                progress(done, total, part)

        return report_part

    attributes = {"adapters": list(run.adapters), "n_tokens": run.n_tokens, "lorascope": version("lorascope")}
    root = zarr.create_group(partial, zarr_format=3, attributes={**identity, **attributes})
    permutations = root.create_group("permutation")
    for width in np.unique(run.components["d_out"].values).tolist():
        order = feature_permutation(width).astype(np.int32)
        _create_array(permutations, str(width), {"feature": width}, "int32", fill=-1)[:] = order
    adapters = root.create_group("adapters")
    for name in run.adapters:
        group = adapters.create_group(name)
        of = f" of {name}" if len(run.adapters) > 1 else ""
        measured = _js_by_token(run, name, scratch / f"{name}.zarr", progress_of(f"js{of}"))
        scale = _write_js(group, run, measured)
        if usable_samples(measured, run, "mean").any():
            _write_experts(group, run)
        n_tokens = _write_directions(group, run, name, progress_of(f"directions{of}"))
        group.attrs.update({"scale": scale, "n_state_tokens": n_tokens})
    _consolidate(partial)
    add_digests(partial)
    if os.path.lexists(target):  # renamed first, so that no half-deleted index remains
        target.rename(older)
    partial.rename(target)
    shutil.rmtree(scratch)


def _js_by_token(run: Run, adapter: str, scratch: Path, progress: Progress) -> xr.Dataset:
    """Return a dataset of js (token, component), computed from states into `scratch`, or as measured at capture.

    Coordinates are those that reductions need, and the `place` of each component in the run.
    """
    touched = np.flatnonzero(run.adapter(adapter)["rank"].values > 0)
    if run.states == "all" and touched.size:
        js = measure_run(run, ("js",), scratch, adapter=adapter, progress=progress)["js"].variable
    else:
        js = run.js(adapter).variable[:, touched]
    tokens = {"counted": ("token", run.committed.values), "weight": ("token", token_weights(run))}
    return xr.Dataset({"js": js}, coords={**tokens, "place": ("component", touched)})


def _write_js(group: zarr.Group, run: Run, measured: xr.Dataset) -> dict[str, float]:
    """Write js by token (if computed from states) and MIUB by sample; return js and token sum of the darkest colour."""
    js, n_components = measured["js"].variable, len(run)
    stored = None
    if run.states == "all":
        sizes = {"token": run.n_tokens, "component": n_components}
        stored = _create_array(group, "js", sizes, "float32", chunks=(CHUNK_TOKENS, n_components))
    sums = SampleSums(measured, run, "mean", unit="nat")
    step = max(1, -(-js.size // SCALE_VALUES))
    sampled = np.empty((-(-run.n_tokens // step), js.shape[1]), np.float32)
    for tokens, block in token_blocks(js):
        sums.add(tokens, block)
        sampled[-(-tokens.start // step) : -(-tokens.stop // step)] = block[-tokens.start % step :: step]
        if stored is not None:
            whole = np.full((len(block), n_components), np.nan, np.float32)
            whole[:, measured["place"].values] = block
            stored[tokens] = whole
    by_sample = sums.values().sum(axis=1)
    by_sample[~usable_samples(measured, run, "mean")] = np.nan
    _create_array(group, "miub", {"sample": len(by_sample)}, "float64")[:] = by_sample
    is_finite = np.isfinite(sampled)
    by_token = sampled.sum(axis=1, where=is_finite, dtype=np.float64)
    return {"js": _quantile(sampled[is_finite]), "token": _quantile(by_token[is_finite.any(axis=1)])}


def _write_experts(group: zarr.Group, run: Run) -> None:
    """Write MIUB, sizes and shares by layer and expert, if the adapter is on experts."""
    paths = [path for path in run.component_paths if f"experts/{block_path(path)}/expert" in run.arrays]
    if paths:
        by_expert, numbers = experts(run, miub(run, component=paths)), group.create_group("experts")
        for name in ("layer", *by_expert.data_vars):
            values = by_expert[name]
            _create_array(numbers, name, dict(values.sizes), "float64")[...] = values.values


def _quantile(values: np.ndarray) -> float:
    """Return the quantile `SCALE_LEVEL` (0.995) of values, which it reorders; 0 for no values."""
    return float(np.quantile(values, SCALE_LEVEL, overwrite_input=True)) if values.size else 0.0


def _write_directions(group: zarr.Group, run: Run, adapter: str, progress: Progress) -> int:
    """Write directions and top tokens per component (if stored as factor); return how many tokens have states."""
    rank = int(run.adapter(adapter)["rank"].values.max())
    sources = component_sources(run, adapter) if run.has_states and rank else []
    sources = [source for source in sources if source.delta.lora_B is not None]
    places = [run.component_paths.index(source.component) for source in sources]
    n_tokens = int((run.committed & run.with_states).sum())
    of_components = directions_of(sources, progress=progress) if sources and n_tokens else list[Directions]()
    sizes = {"component": len(run), "direction": rank}
    for name, axis, dtype, fill, chunks in (
        ("rotation", {"rank": rank}, "float32", np.nan, (1, rank, rank)),
        ("share", {}, "float32", np.nan, (len(run), rank)),
        ("top_token", {"top": N_TOP}, "int64", -1, (1, rank, N_TOP)),
        ("top_score", {"top": N_TOP}, "float32", np.nan, (1, rank, N_TOP)),
    ):
        values = np.full([*sizes.values(), *axis.values()], fill, dtype)
        for place, directions in zip(places, of_components, strict=False):
            block = getattr(directions, name)
            values[place][tuple(map(slice, block.shape))] = block
        _create_array(group, name, sizes | axis, dtype, fill=fill, chunks=chunks)[...] = values
    return n_tokens


def _create_array(
    group: zarr.Group,
    name: str,
    sizes: Mapping[str, int],
    dtype: str,
    *,
    fill: float = np.nan,
    chunks: tuple[int, ...] | None = None,
) -> zarr.Array[Any]:
    """Return a new Zarr array of the group, by default with one chunk, encoded like arrays of runs."""
    shape = tuple(sizes.values())
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=tuple(max(1, n) for n in chunks or shape),
        fill_value=fill,
        compressors=compressors(dtype, "zstd"),
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=list(sizes),
        config={"write_empty_chunks": True},
    )


def _consolidate(path: Path) -> None:
    """Copy the metadata of all Zarr nodes below `path` into its root's (Zarr's own function for it warns)."""
    root = path / "zarr.json"
    nodes = {node.parent.relative_to(path).as_posix(): json.loads(node.read_text()) for node in path.rglob("zarr.json")}
    document = nodes.pop(".")
    table = {"kind": "inline", "must_understand": False, "metadata": dict(sorted(nodes.items()))}
    root.write_text(json.dumps({**document, "consolidated_metadata": table}))
