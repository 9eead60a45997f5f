"""Measures of a run on disk while they are being computed: what is done is kept, whenever it stops."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from lorascope.analyze.results.save import DONE, open_result, packed, save
from lorascope.analyze.results.tree import CHUNK_COMPONENTS, CHUNK_TOKENS

IDENTITY = "identity"
"""An attribute of the array `DONE`, since xarray writes those of the root anew."""
NODE = "tokens"
"""Node of the result that the measures belong to."""


class Unfinished:
    """Arrays float32 (token, component), one a measure, and which components are done; made by `open_unfinished`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._group = zarr.open_group(path, mode="r+", use_consolidated=False)

    @property
    def done(self) -> np.ndarray:
        """Bool (component,)."""
        return np.asarray(self._array(DONE)[:])

    def write(self, components: slice, blocks: Mapping[str, np.ndarray]) -> None:
        """Put the values (token, component) of some components there; they count once all of them are."""
        for name, block in blocks.items():
            self._array(f"{NODE}/{name}")[:, components] = block
        done = self.done
        done[components] = True
        self._array(DONE)[:] = done

    def open(self) -> xr.Dataset:
        """The measures, read from the disk where they are looked at."""
        options: dict[str, Any] = {"group": NODE, "consolidated": False, "drop_variables": [DONE]}
        return xr.open_dataset(self.path, engine="zarr", cache=False, **options)

    def _array(self, name: str) -> zarr.Array[Any]:
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
    """Open what was computed already for the result `target`; start anew where nothing, or something else, was.

    Parameters
    ----------
    target
        Name of the result when it is whole.
    identity
        Everything that decides its numbers, as JSON; a part whose own differs is thrown away.
    attributes
        Name of each measure -> its attributes.
    shape
        (token, component).
    """
    path = unfinished_path(target)
    try:
        stored_identity = zarr.open_group(path, mode="r", use_consolidated=False)[DONE].attrs[IDENTITY]
    except (OSError, KeyError, ValueError):  # nothing, or not set up to its end
        stored_identity = None
    if stored_identity != json.loads(json.dumps(identity)):
        if path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        _create(path, identity, attributes, shape)
    return Unfinished(path)


def finish(result: xr.DataTree, target: Path) -> xr.DataTree:
    """Turn the unfinished part beside `target` into the result itself; returns the result as it is on disk.

    Raises what `save` raises.
    """
    unfinished = unfinished_path(target)
    large = {
        node.path: [name for name, values in node.data_vars.items() if values.dims == ("token", "component")]
        for node in result.subtree
    }
    if target.suffix == ".zarr":
        for node in packed(result).subtree:
            others = node.to_dataset(inherit=False).drop_vars(large[node.path])
            for name in others.variables:  # xarray would leave an interrupted finish's attributes, such as units
                shutil.rmtree(unfinished / node.path.strip("/") / str(name), ignore_errors=True)
            others.to_zarr(unfinished, group=node.path, mode="a", zarr_format=3, consolidated=False)
        unfinished.rename(target)
        shutil.rmtree(target / DONE)  # afterwards: without it what was computed would be taken for nothing
    else:
        for node in result.subtree:
            node.update({name: node.dataset[name].chunk({"token": CHUNK_TOKENS}) for name in large[node.path]})
        save(result, target)
        shutil.rmtree(unfinished)
    return open_result(target)


def unfinished_path(target: Path) -> Path:
    """Path of a result until it is whole."""
    return target.with_name(f".{target.name}.unfinished")


def _create(
    path: Path, identity: Mapping[str, Any], attributes: Mapping[str, Mapping[str, str]], shape: tuple[int, int]
) -> None:
    group = zarr.create_group(path, zarr_format=3)
    n_tokens, n_components = shape
    chunks = (min(CHUNK_TOKENS, max(n_tokens, 1)), min(CHUNK_COMPONENTS, max(n_components, 1)))
    layout: dict[str, Any] = {"shape": shape, "chunks": chunks, "dtype": "float32", "fill_value": np.nan}
    for name, attrs in attributes.items():
        group.create_array(f"{NODE}/{name}", **layout, dimension_names=("token", "component"), attributes=dict(attrs))
    # Last: a part without it was never set up.
    whole: dict[str, Any] = {IDENTITY: dict(identity)}
    group.create_array(DONE, shape=(n_components,), dtype="bool", dimension_names=("component",), attributes=whole)
