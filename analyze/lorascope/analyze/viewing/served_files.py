"""Files that a browser may get: the page, the manifest of its runs, and nodes and chunks of their stores."""

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
"""Addresses of a run's Zarr store and of its view index, relative to the page, by the run's number."""
_CHUNK = re.compile(r"(.+)/c((?:\.[0-9]{1,9})+)")


def page() -> bytes:
    """Return the HTML of the browser page about runs, as bytes; it only requests files next to it."""
    return (files(__package__) / "page.html").read_bytes()


def manifest(
    runs: Sequence[Run], addresses: Sequence[str], reports: Sequence[Mapping[str, str]] | None = None
) -> bytes:
    """Return `view.json` as bytes: each run's name, and addresses of the run and its index relative to the page.

    `reports` has the file of the report by adapter, for each run; by default no run has one.
    """
    names = run_names([run.place.name for run in runs])
    entries = [
        {"name": one_line(name), "run": address, "index": INDEX.format(place)}
        | ({"reports": dict(reports[place])} if reports and reports[place] else {})
        for place, (name, address) in enumerate(zip(names, addresses, strict=True))
    ]
    return json.dumps({"format": "lorascope.view", "format_version": 1, "runs": entries}).encode()


@dataclass(frozen=True)
class ServedStore:
    """A Zarr store that only gives out its own nodes and chunks, by the names and sizes that its metadata allow."""

    place: Place
    nodes: frozenset[str]
    """Keys of the metadata of all nodes."""
    arrays: Mapping[str, StoredArray]

    @classmethod
    def of(cls, root: Root) -> Self:
        """Return the served store of a Zarr root; raise StoreError if metadata below it can't be read."""
        paths = node_paths(root.place) if root.nodes is None else root.nodes
        arrays = {path: StoredArray.from_metadata(path, metadata) for path, metadata in root.arrays.items()}
        return cls(root.place, frozenset(["zarr.json", *(f"{path}/zarr.json" for path in paths)]), arrays)

    def limit(self, key: str) -> int | None:
        """Return the largest allowed number of bytes of a key's file; None if the key isn't part of the store."""
        if key in self.nodes:
            return MAX_BYTES if key == "zarr.json" else MAX_NODE_BYTES
        chunk = _CHUNK.fullmatch(key)
        if chunk is None or chunk[1] not in self.arrays:
            return None
        array = self.arrays[chunk[1]]
        return array.max_bytes if chunk[2].count(".") == len(array.shape) else None

    def size(self, key: str) -> int:
        """Return the number of bytes of a key's file; raise if it isn't part of the store, or too large.

        Raises
        ------
        FileNotFoundError, NotADirectoryError
            If the key isn't part of the store, or doesn't exist.
        StoreError
            If it is a link that leads out of the store, isn't a regular file, or has more bytes than allowed.
        """
        most, n_bytes = self._require_part(key), self.place.size(key)
        if n_bytes is None:
            raise FileNotFoundError(f"{key!r} doesn't exist")
        require_size(key, n_bytes, most)
        return n_bytes

    def read(self, key: str) -> bytes:
        """Return all bytes of a key's file; raise if it isn't part of the store or too large, like `size`."""
        return self.place.read(key, at_most=self._require_part(key))

    def read_part(self, key: str, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop` of a key's file; raise if it isn't part of the store, like `size`."""
        return self.place.read_part(key, start, stop, at_most=self._require_part(key))

    def _require_part(self, key: str) -> int:
        """Return the largest allowed number of bytes of a key's file; raise if it isn't in the store or leads out."""
        at_most = self.limit(key)
        if at_most is None:
            raise FileNotFoundError(f"{key!r} isn't part of the store")
        if isinstance(self.place.path, Path):  # the folder itself may be a link
            folder, file = map(os.path.realpath, (self.place.path, self.place.path / key))
            if not Path(file).is_relative_to(folder):
                raise StoreError(f"{key!r} is a link that leads out of the store")
        return at_most
