"""The page itself, and the manifest beside it that says which runs it shows."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Self

from lorascope.analyze.results.format import run_names
from lorascope.stores import Place, Run, StoreError
from lorascope.stores.format.stored_array import StoredArray
from lorascope.stores.json_document import MAX_BYTES
from lorascope.stores.places.files import require_size
from lorascope.stores.reading.root import MAX_NODE_BYTES, Root, node_paths
from lorascope.stores.visible import one_line

MANIFEST = "view.json"
RUN, INDEX = "runs/{}/", "indexes/{}/"
"""Addresses of a run's Zarr and of its view index relative to the page, by the run's place in the manifest."""


def page() -> bytes:
    """The page as it was built from `view/`: HTML that asks for nothing but what lies where it does."""
    return (files(__package__) / "page.html").read_bytes()


def manifest(runs: Sequence[Run], addresses: Sequence[str]) -> bytes:
    """JSON of `view.json`: each run's name, its address relative to the page, and its index's."""
    names = run_names([run.place.name for run in runs])
    entries = [
        {"name": one_line(name), "run": address, "index": INDEX.format(place)}
        for place, (name, address) in enumerate(zip(names, addresses, strict=True))
    ]
    return json.dumps({"format": "lorascope.view", "format_version": 1, "runs": entries}).encode()


_CHUNK = re.compile(r"(.+)/c((?:\.[0-9]{1,9})+)")


@dataclass(frozen=True)
class ServedStore:
    """A Zarr store of which only its own nodes and chunks are served."""

    place: Place
    nodes: frozenset[str]
    """Keys of the metadata of every node."""
    arrays: Mapping[str, StoredArray]

    @classmethod
    def of(cls, root: Root) -> Self:
        """The store of this root; raises StoreError where metadata below it can't be read."""
        paths = node_paths(root.place) if root.nodes is None else root.nodes
        arrays = {path: StoredArray.from_metadata(path, metadata) for path, metadata in root.arrays.items()}
        return cls(root.place, frozenset(["zarr.json", *(f"{path}/zarr.json" for path in paths)]), arrays)

    def limit(self, key: str) -> int | None:
        """Bytes that this key can have; None where it names no part of the store."""
        if key in self.nodes:
            return MAX_BYTES if key == "zarr.json" else MAX_NODE_BYTES
        chunk = _CHUNK.fullmatch(key)
        if chunk is None or chunk[1] not in self.arrays:
            return None
        array = self.arrays[chunk[1]]
        return array.max_bytes if chunk[2].count(".") == len(array.shape) else None

    def size(self, key: str) -> int:
        """Bytes of a key.

        Raises
        ------
        FileNotFoundError, NotADirectoryError
            If it names no part of the store, or nothing is there.
        StoreError
            If it is a link that leads out of the store, or no regular file, or has more bytes than it can have.
        """
        most, n_bytes = self._require(key), self.place.size(key)
        if n_bytes is None:
            raise FileNotFoundError(f"{key!r} isn't there")
        require_size(key, n_bytes, most)
        return n_bytes

    def read(self, key: str) -> bytes:
        """All bytes of a key; raises as `size`."""
        return self.place.read(key, at_most=self._require(key))

    def read_part(self, key: str, start: int, stop: int) -> bytes:
        """Bytes start to stop of a key; raises as `size`."""
        return self.place.read_part(key, start, stop, at_most=self._require(key))

    def _require(self, key: str) -> int:
        at_most = self.limit(key)
        if at_most is None:
            raise FileNotFoundError(f"{key!r} is no part of the store")
        if isinstance(self.place.path, Path):  # the folder itself may be a link
            folder, file = map(os.path.realpath, (self.place.path, self.place.path / key))
            if not Path(file).is_relative_to(folder):
                raise StoreError(f"{key!r} is a link that leads out of the store")
        return at_most
