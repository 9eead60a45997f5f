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
from lorascope.stores.places.files import atomic_write, read_regular

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

    The file is in `results_folder(run)`, without which nothing is written; nor is it where the folder can't be.

    Parameters
    ----------
    run
        An open run that was compared with its digests (`open_as_written`).
    name
        Name of the function that computes the result.
    compute
        Called without arguments; its result must depend on nothing but run, adapter, options, inputs and the code.
        None isn't written.
    adapter
        Name of the adapter; the run's first one if None.
    options
        Chosen components, or whatever else changes numbers; each choice has a file of its own.
    inputs
        What else the result is computed from, as text; a file with other inputs is replaced.

    Returns
    -------
    xarray.Dataset or xarray.DataTree
        Read from the file, it has the attribute `computed`, the time at which it was computed.

    Notes
    -----
    The file is the BLAKE3 digest (32 bytes) of what determines the numbers and of the rest; the rest is in safetensors
    format. What determines them are the run's name, attributes and digests of rows, adapter, options, and the code. A
    file that is damaged, or of another run, rows, options or code, doesn't fit this digest, and is replaced.
    """
    folder = results_folder(run)
    about = [adapter or run.adapters[0], options]
    path = None if folder is None else folder / f"{name}-{blake3(json.dumps(about).encode()).hexdigest()[:8]}"
    determined_by = json.dumps([run.place.name, run.attributes, rows_digest(run), name, about, inputs, code_digest()])
    if path is not None:
        with suppress(OSError, StoreError):
            file = read_regular(path, at_most=MOST_BYTES)
            if _digest(determined_by, file[DIGEST_BYTES:]) == file[:DIGEST_BYTES]:
                stored: Result = _unpacked(file[DIGEST_BYTES:])
                return stored
    result = compute()
    if path is not None and result is not None:
        content = _packed(result)
        with suppress(OSError), atomic_write(path) as partial:  # the folder can't be written to, or the disk is full
            partial.write_bytes(_digest(determined_by, content) + content)
    return result


def results_folder(run: Run) -> Path | None:
    """Return the folder of a run's stored results, `run.zarr.results` for `run.zarr`; None for a remote run."""
    if not isinstance(run.path, Path):
        return None
    place = Path(os.path.abspath(run.path))  # a link isn't followed, since its target may not be writable
    return place.with_name(f"{place.name}.results")


@cache
def code_digest() -> str:
    """Return a digest of the code and the versions of packages that compute results, in hexadecimal.

    The version of lorascope alone doesn't change with each change of its code.
    """
    digest = blake3(" ".join(version(package) for package in (*NUMERIC_PACKAGES, "scikit-learn", "numba")).encode())
    for package in CODE:
        folder = files(f"lorascope.{package}")
        for file in sorted(Path(str(folder)).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _digest(determined_by: str, content: bytes) -> bytes:
    """Return the digest of a file's content and of what determines its numbers."""
    return blake3(determined_by.encode()).update(content).digest()


def _packed(result: xr.Dataset | xr.DataTree) -> bytes:
    """Return a result in safetensors format: its arrays of numbers, and all else as JSON."""
    arrays, nodes = dict[str, np.ndarray](), dict[str, Any]()
    for node in encode_labels(result).subtree:
        dataset = node.to_dataset(inherit=False)
        variables = {}
        for name, variable in dataset.variables.items():
            values, texts = variable.values, None
            if values.dtype.kind in "OU":
                texts = values.ravel().tolist()
            else:
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
