"""Measures of a run on disk while they are being computed: finished components survive an interruption."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from lorascope.analyze.results.digests import DONE, add_digests
from lorascope.analyze.results.save import COMPRESSORS, encode_labels, open_result, save
from lorascope.analyze.results.tree import CHUNK_COMPONENTS, CHUNK_TOKENS
from lorascope.stores.places.files import PARTIAL

IDENTITY = "identity"
"""Attribute of the array `DONE` with everything that determines the numbers; xarray rewrites root attributes."""
NODE = "tokens"
"""Node of the result that contains the measures."""


class Unfinished:
    """Unfinished result on disk: an array (token, component) per measure, and which components are done."""

    def __init__(self, path: Path) -> None:
        """Open the Zarr group at `path`, which must exist, for reading and writing."""
        self.path = path
        self._group = zarr.open_group(path, mode="r+", use_consolidated=False)

    @property
    def done(self) -> np.ndarray:
        """Mask of the components that are done, bool (component,)."""
        return np.asarray(self._array(DONE)[:])

    def write(self, components: slice, blocks: Mapping[str, np.ndarray]) -> None:
        """Write the values (token, component) of some components, and then mark these components as done."""
        for name, block in blocks.items():
            self._array(f"{NODE}/{name}")[:, components] = block
        done = self.done
        done[components] = True
        self._array(DONE)[:] = done

    def open(self) -> xr.Dataset:
        """Return the measures as a dataset whose values are read from disk only when they are used."""
        options: dict[str, Any] = {"group": NODE, "consolidated": False, "drop_variables": [DONE]}
        return xr.open_dataset(self.path, engine="zarr", cache=False, **options)

    def _array(self, name: str) -> zarr.Array[Any]:
        """Return the Zarr array of this name in the group."""
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        return array


def open_unfinished(
    target: Path,
    *,
    identity: Mapping[str, Any],
    attributes: Mapping[str, Mapping[str, str]],
    shape: tuple[int, int],
) -> Unfinished:
    """Return the values computed so far for the result `target`; start over if they are missing or don't match.

    Parameters
    ----------
    target
        Path of the complete result.
    identity
        Everything that determines its numbers, as JSON; an unfinished part with another identity is deleted.
    attributes
        Name of each measure -> its attributes.
    shape
        Numbers of tokens and components.
    """
    path = unfinished_path(target)
    try:
        stored_identity = zarr.open_group(path, mode="r", use_consolidated=False)[DONE].attrs[IDENTITY]
    except (OSError, KeyError, ValueError):  # missing, or not completely set up
        stored_identity = None
    if stored_identity != json.loads(json.dumps(identity)):
        if path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        _create_unfinished(path, identity, attributes, shape)
    for partial in path.rglob(f"*{PARTIAL}"):  # Zarr's, of a process that was killed
        partial.unlink()
    return Unfinished(path)


def finish_result(result: xr.DataTree, target: Path) -> xr.DataTree:
    """Turn the values computed so far for `target` into the saved result, and return it opened from disk.

    Raises the errors of `save`.
    """
    unfinished = unfinished_path(target)
    large = {
        node.path: [name for name, values in node.data_vars.items() if values.dims == ("token", "component")]
        for node in result.subtree
    }
    if target.suffix == ".zarr":
        for node in encode_labels(result).subtree:
            others = node.to_dataset(inherit=False).drop_vars(large[node.path])
            for name in others.variables:  # else attributes of an interrupted call would stay
                shutil.rmtree(unfinished / node.path.strip("/") / str(name), ignore_errors=True)
            others.to_zarr(unfinished, group=node.path, mode="a", zarr_format=3, consolidated=False)
        add_digests(unfinished)
        unfinished.rename(target)
        shutil.rmtree(target / DONE)  # last: without it, the values computed so far would be discarded
    else:
        for node in result.subtree:
            node.update({name: node.dataset[name].chunk({"token": CHUNK_TOKENS}) for name in large[node.path]})
        save(result, target)
        shutil.rmtree(unfinished)
    return open_result(target)


def unfinished_path(target: Path) -> Path:
    """Return the path next to `target` that has the values of a result until it is complete."""
    return target.with_name(f".{target.name}.unfinished")


def _create_unfinished(
    path: Path, identity: Mapping[str, Any], attributes: Mapping[str, Mapping[str, str]], shape: tuple[int, int]
) -> None:
    """Write an unfinished result without values (all NaN) to `path`; its array `DONE` is written last."""
    group = zarr.create_group(path, zarr_format=3)
    n_tokens, n_components = shape
    chunks = (min(CHUNK_TOKENS, max(n_tokens, 1)), min(CHUNK_COMPONENTS, max(n_components, 1)))
    layout: dict[str, Any] = {"shape": shape, "chunks": chunks, "dtype": "float32", "fill_value": np.nan}
    layout["compressors"] = COMPRESSORS
    for name, attrs in attributes.items():
        group.create_array(f"{NODE}/{name}", **layout, dimension_names=("token", "component"), attributes=dict(attrs))
    # Last: a part without it wasn't completely set up.
    whole: dict[str, Any] = {IDENTITY: dict(identity)}
    group.create_array(DONE, shape=(n_components,), dtype="bool", dimension_names=("component",), attributes=whole)
