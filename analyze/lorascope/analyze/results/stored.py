"""Results in a folder next to their run, so that a later call needs no row of it; data only, never code."""

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy
import xarray as xr
from blake3 import blake3

from lorascope.stores import Run, StoreError
from lorascope.stores.format.layout import NEUTRAL
from lorascope.stores.places.files import PARTIAL, atomic_write, read_regular

from .save import NUMERIC_PACKAGES, decode_labels, encode_labels
from .tree import rows_digest

COMPUTED = "computed"
"""Attribute of a result that was read from its file: when it was computed, in UTC."""
MOST_BYTES = 2**31
"""Size of the largest file that is read; the result of a run of a million tokens has some 50 MB."""
STRUCTURE = "structure"
"""Name of the array with the JSON of a result's nodes, attributes and texts, as bytes."""
DIGEST_BYTES = blake3.digest_size
CODE = ("stores", "kernels", "analyze")
"""Packages of lorascope whose code determines a result's numbers."""
Result = TypeVar("Result", bound=xr.Dataset | xr.DataTree | None)


def stored_or_computed(
    run: Run,
    name: str,
    compute: Callable[[], Result],
    *,
    adapter: str | None = None,
    options: str | Sequence[str] | None = None,
    inputs: str = "",
) -> Result:
    """Return the result of `compute` from its file if it was computed before, else compute it and write that file.

    A result of `name` must depend on nothing but the run's content, adapter (by default its first one), options (such
    as chosen components, each choice with a file of its own), further `inputs`, and the code. Read from the file, it
    has the attribute `computed`: when it was. None isn't written, nor is anything where the folder can't be.

    The file is a BLAKE3 digest (32 bytes), then safetensors. The digest is that of all the above, of the run's files as
    `file_marks` sees them, and of the content: a file that is damaged, or of another run, row, option or code, doesn't
    fit it, and is replaced. So is one that was computed while other chunks stood in the place of today's.
    """
    folder = results_folder(run)
    if not adapter:
        run.adapter(adapter)  # raises StoreError if there are several
    # An array of names is a list of them. Two ways to name a run have a file each.
    about = json.dumps([run.place.name, adapter or run.adapters[0], options], default=list)
    path = None if folder is None else folder / f"{name}-{blake3(about.encode()).hexdigest()[:8]}"
    marks = "" if folder is None else file_marks(str(run.path))
    origin = json.dumps([run.attributes, rows_digest(run), marks, name, about, inputs, code_digest()])
    digest = blake3(origin.encode())
    if path is not None:
        with suppress(OSError, StoreError):
            file = read_regular(path, at_most=MOST_BYTES)
            content = file[DIGEST_BYTES:]
            if digest.copy().update(content).digest() == file[:DIGEST_BYTES]:
                stored: Result = _unpacked(content)
                return stored
    result = compute()
    if path is not None and result is not None:
        content = _packed(result)
        with suppress(OSError), atomic_write(path) as partial:  # the folder can't be written to, or the disk is full
            partial.write_bytes(digest.update(content).digest() + content)
    return result


def results_folder(run: Run) -> Path | None:
    """Return the folder of a run's stored results, `run.zarr.results` for `run.zarr`; None for a remote run."""
    if not isinstance(run.path, Path):
        return None
    place = outside_stores(Path(os.path.abspath(run.path)))  # a link isn't followed: its target may not be writable
    return place.with_name(f"{place.name}.results")


def outside_stores(path: Path) -> Path:
    """Return a run's path; of neutral texts inside `run.zarr` `run.zarr.neutral`, whose neighbours are in no store."""
    outer = Path(os.path.abspath(path)).parent
    is_inside = path.name == NEUTRAL and (outer / "zarr.json").is_file()
    return outer.with_name(f"{outer.name}.{NEUTRAL}") if is_inside else path


def file_marks(folder: str) -> str:
    """Return a digest of the names, sizes, inodes and times of change of all files below a folder; none is read."""
    marks, folders = blake3(), [folder]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif not entry.name.endswith(PARTIAL):
                    status = entry.stat(follow_symlinks=False)
                    facts = (entry.path[len(folder) :], status.st_size, status.st_ino, status.st_mtime_ns)
                    marks.update(json.dumps(facts).encode())
    return marks.hexdigest()


@cache
def code_digest() -> str:
    """Return a digest of the code and package versions that determine results: it changes more often than ours."""
    digest = blake3(" ".join(version(package) for package in (*NUMERIC_PACKAGES, "scikit-learn", "numba")).encode())
    for folder in (Path(str(files(f"lorascope.{package}"))) for package in CODE):
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _packed(result: xr.Dataset | xr.DataTree) -> bytes:
    """Return a result in safetensors format: its arrays of numbers, and all else as JSON."""
    arrays, nodes = dict[str, np.ndarray](), dict[str, Any]()
    for node in encode_labels(result).subtree:
        dataset = node.to_dataset(inherit=False)
        variables = {}
        for name, variable in dataset.variables.items():
            values = variable.values
            texts = values.ravel().tolist() if values.dtype.kind in "OU" else None
            if texts is None:
                arrays[f"{node.path}:{name}"] = np.ascontiguousarray(values)
            variables[name] = (variable.dims, values.shape, variable.attrs, texts, name in dataset.coords)
        nodes[node.path] = (variables, dataset.attrs)
    about = {"nodes": nodes, "is_tree": isinstance(result, xr.DataTree)}
    about |= {COMPUTED: time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}
    text = json.dumps(about, default=lambda value: value.tolist())
    return safetensors.numpy.save({**arrays, STRUCTURE: np.frombuffer(text.encode(), np.uint8)})


def _unpacked(content: bytes) -> Any:
    """Return the result that `_packed` was given, with the time at which it was as its attribute `COMPUTED`."""
    arrays = safetensors.numpy.load(content)
    about = json.loads(arrays.pop(STRUCTURE).tobytes())
    datasets = {}
    for path, (variables, attributes) in about["nodes"].items():
        columns: dict[bool, dict[str, Any]] = {True: {}, False: {}}
        for name, (dims, shape, own, texts, is_coordinate) in variables.items():
            values = arrays[f"{path}:{name}"] if texts is None else np.array(texts, object)
            columns[is_coordinate][name] = (dims, values.reshape(shape), own)
        datasets[path] = xr.Dataset(columns[False], columns[True], attributes)
    tree = decode_labels(xr.DataTree.from_dict(datasets))
    tree.attrs[COMPUTED] = about[COMPUTED]
    return tree if about["is_tree"] else tree.to_dataset()
