"""The view index: what the page of `lorascope view` needs and a run doesn't hold, computed once and kept beside it."""

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

from lorascope.analyze.directions.decomposition import N_TOP, Directions, directions_of, state_rows
from lorascope.analyze.miub.reduce import SampleSums, token_blocks, usable_samples
from lorascope.analyze.results.weights import token_weights
from lorascope.stores import Run
from lorascope.stores.format.codec import compressors
from lorascope.stores.json_document import read_json
from lorascope.stores.places.file_lock import file_lock
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike, as_run

from ..measuring.measures import feature_permutation
from ..measuring.run import measure_resumable, rows_digest
from ..measuring.sources import component_sources, has_all_states

FORMAT, FORMAT_VERSION = "lorascope.view", 1
CHUNK_TOKENS = 256
"""A sample's js is read in few chunks, and little else with it."""
SCALE_LEVEL = 0.995
"""Quantile of js that the darkest colour stands for: above it few tokens stand out, and would pale all others."""
SCALE_VALUES = 2**24
"""Most values of js that a quantile is taken of, those of evenly spaced tokens."""


def view_index(run: RunLike, *, n_workers: int | None = None, progress: Progress | None = None) -> Path:
    """Folder of a run's view index, which is made where it isn't there, or is of fewer rows.

    It lies beside the run, `run.view.zarr` for `run.zarr`; that of a remote run in the current folder, with a digest of
    its url in the name. `docs/view.md` says what it holds. If the call is stopped, the same call continues it. Js by
    token is never held in memory as a whole.

    Parameters
    ----------
    run
        An open run or its path or url, finished or not, with states or without.
    n_workers
        Threads; by default one a processor.
    progress
        Called with (done, total, part), for each part anew.

    Raises
    ------
    StoreError
        If a chunk is broken, or there is no run.
    HeldError
        If another process makes it.
    PermissionError
        If the folder can't be written to.
    FileExistsError
        If something else lies there.
    """
    run = as_run(run)
    target = index_path(run)
    identity = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "static_digest": run.attributes["static_digest"],
        "rows": rows_digest(run),
    }
    if _is_there(target, identity):
        return target
    if not os.access(target.parent, os.W_OK):
        link = f"view the run through a link in a folder of yours, as `ln -s {os.path.abspath(run.path)}` makes one"
        raise PermissionError(
            f"`{target}` can't be made: `{target.parent}` can't be written to; "
            f"{'change to a folder of yours' if run.place.remote else link}"
        )
    with file_lock(target):
        if not _is_there(target, identity):  # another one may just have made it
            _make(run, target, identity, n_workers, progress)
    return target


def index_path(run: Run) -> Path:
    """Path of the view index of a run."""
    if isinstance(run.path, Path):
        place = Path(os.path.abspath(run.path))  # links aren't followed: they may lead where nothing can be written
        name = place.name.removesuffix(".zarr")
        return place.with_name(f"{name}.view{place.name[len(name) :]}")  # that of `x` isn't that of `x.zarr` beside it
    name = run.path.rstrip("/").rpartition("/")[2].removesuffix(".zarr")
    return Path.cwd() / f"{name}-{sha256(run.path.encode()).hexdigest()[:8]}.view.zarr"


def _is_there(target: Path, identity: Mapping[str, Any]) -> bool:
    """Tell whether the index is there and fits the run as it is now; raises if something else is there."""
    if not target.exists():
        return False
    root = read_json(target / "zarr.json") if (target / "zarr.json").exists() else None
    attributes = root.get("attributes") if isinstance(root, dict) else None
    if not isinstance(attributes, dict) or attributes.get("format") != FORMAT:
        raise FileExistsError(f"`{target}` isn't an index of the view, which is written there; move it elsewhere")
    return all(attributes.get(name) == value for name, value in identity.items())


def _make(
    run: Run, target: Path, identity: Mapping[str, Any], n_workers: int | None, progress: Progress | None
) -> None:
    """Write the index to a folder beside its name, which takes its place; js lies there too until that is done."""
    scratch = target.with_name(f".{target.name}.unfinished")
    partial, older = scratch / "index.zarr", scratch / "older.zarr"
    for left in (partial, older):
        shutil.rmtree(left, ignore_errors=True)

    def progress_of(what: str) -> Progress:
        def report_part(done: int, total: int, part: str = what) -> None:
            if progress is not None:
                progress(done, total, part)

        return report_part

    attributes = {"adapters": list(run.adapters), "n_tokens": run.n_tokens, "lorascope": version("lorascope")}
    root = zarr.create_group(partial, zarr_format=3, attributes={**identity, **attributes})
    permutations = root.create_group("permutation")
    for width in np.unique(run.components["d_out"].values).tolist():
        order = feature_permutation(width).astype(np.int32)
        _create(permutations, str(width), {"feature": width}, "int32", fill=-1)[:] = order
    adapters = root.create_group("adapters")
    for name in run.adapters:
        group = adapters.create_group(name)
        of = f" of {name}" if len(run.adapters) > 1 else ""
        measured = _js(run, name, scratch / f"{name}.zarr", n_workers, progress_of(f"js{of}"))
        scale = _write_js(group, run, measured)
        n_tokens = _write_directions(group, run, name, n_workers, progress_of(f"directions{of}"))
        group.attrs.update({"scale": scale, "n_state_tokens": n_tokens})
    _consolidate(partial)
    if os.path.lexists(target):  # moved first: one that is half deleted would be nobody's
        target.rename(older)
    partial.rename(target)
    shutil.rmtree(scratch)


def _js(run: Run, adapter: str, scratch: Path, n_workers: int | None, progress: Progress) -> xr.Dataset:
    """`js` (token, component), on disk: from states, by way of `scratch`, where the run keeps all; else the capture's.

    Beside it is what reductions ask for, and the `place` of each component in the run.
    """
    touched = np.flatnonzero(run.adapter(adapter)["rank"].values > 0)
    if has_all_states(run) and touched.size:
        options: dict[str, Any] = {"n_workers": n_workers, "progress": progress}
        js = measure_resumable(run, ("js",), scratch, adapter=adapter, **options)["js"].variable
    else:
        js = run.js(adapter).variable[:, touched]
    tokens = {"counted": ("token", run.committed.values), "weight": ("token", token_weights(run))}
    return xr.Dataset({"js": js}, coords={**tokens, "place": ("component", touched)})


def _write_js(group: zarr.Group, run: Run, measured: xr.Dataset) -> dict[str, float]:
    """Write js where the run keeps none of all tokens, and miub; returns the quantiles that colours stand for."""
    js, n_components = measured["js"].variable, len(run)
    stored = None
    if has_all_states(run):
        sizes = {"token": run.n_tokens, "component": n_components}
        stored = _create(group, "js", sizes, "float32", chunks=(CHUNK_TOKENS, n_components))
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
    miub = sums.values().sum(axis=1)
    miub[~usable_samples(measured, run, "mean")] = np.nan
    _create(group, "miub", {"sample": len(miub)}, "float64")[:] = miub
    is_there = np.isfinite(sampled)
    by_token = sampled.sum(axis=1, where=is_there, dtype=np.float64)
    return {"js": _quantile(sampled[is_there]), "token": _quantile(by_token[is_there.any(axis=1)])}


def _quantile(values: np.ndarray) -> float:
    return float(np.quantile(values, SCALE_LEVEL, overwrite_input=True)) if values.size else 0.0


def _write_directions(group: zarr.Group, run: Run, adapter: str, n_workers: int | None, progress: Progress) -> int:
    """Write rotation, share and top tokens of each component that has a factor; returns how many tokens they are of."""
    rank = int(run.adapter(adapter)["rank"].values.max())
    sources = component_sources(run, adapter) if run.has_states and rank else []
    sources = [source for source in sources if source.delta.lora_B is not None]
    places = [run.component_paths.index(source.component) for source in sources]
    of_components: list[Directions] = []
    if sources and state_rows(sources[0]):
        of_components = directions_of(sources, n_workers=n_workers, progress=progress)
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
        _create(group, name, sizes | axis, dtype, fill=fill, chunks=chunks)[...] = values
    return int((run.committed & run.with_states).sum())


def _create(
    group: zarr.Group,
    name: str,
    sizes: Mapping[str, int],
    dtype: str,
    *,
    fill: float = np.nan,
    chunks: tuple[int, ...] | None = None,
) -> zarr.Array[Any]:
    """A new array of the group, by default of one chunk; encoded as those of runs are."""
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
    """Put the metadata of every node into the root's, as Zarr does; Zarr's own function warns."""
    root = path / "zarr.json"
    nodes = {node.parent.relative_to(path).as_posix(): json.loads(node.read_text()) for node in path.rglob("zarr.json")}
    document = nodes.pop(".")
    table = {"kind": "inline", "must_understand": False, "metadata": dict(sorted(nodes.items()))}
    root.write_text(json.dumps({**document, "consolidated_metadata": table}))
