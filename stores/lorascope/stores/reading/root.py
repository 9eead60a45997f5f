"""Metadata of a run: its root and every node below, checked and limited in size before Zarr parses them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import zarr.errors
from zarr.core.metadata import ArrayV3Metadata

from ..errors import StoreError
from ..format.digests import is_root_digest_right
from ..format.layout import NEUTRAL
from ..json_document import MAX_BYTES, parse_json
from ..places.place import Place
from ..threads import N_REQUESTS, map_in_order
from ..visible import one_line

MAX_NODE_BYTES = 256 * 1024
"""Most bytes of a node's own `zarr.json`, which usually has 1 kB."""
MAX_NODES = 2**14
"""Most arrays and groups of a run, which has about three per component, each taking a few kB of memory."""
METADATA_ERRORS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, AssertionError)
"""Errors that Zarr raises, besides its own, for metadata that it can't parse."""

_NODE_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,254}(/[A-Za-z0-9_][A-Za-z0-9_.\-]{0,254}){0,7}")


@dataclass(frozen=True)
class Root:
    """Root metadata of a run: its `zarr.json` as bytes and as a document, and what is in it."""

    place: Place
    content: bytes
    document: Mapping[str, Any]

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the root group."""
        attributes = self.document.get("attributes")
        return dict(attributes) if isinstance(attributes, dict) else {}

    @cached_property
    def nodes(self) -> Mapping[str, Any] | None:
        """Path -> metadata of every array and group, as consolidated in the root; None if they aren't.

        Raises
        ------
        StoreError
            If they aren't a table of documents, or a path can't be part of a run.
        """
        consolidated = self.document.get("consolidated_metadata")
        if not consolidated:
            return None
        nodes = consolidated.get("metadata") if isinstance(consolidated, dict) else None
        is_table = isinstance(nodes, dict) and all(isinstance(node, dict) for node in nodes.values())
        if not is_table or consolidated.get("kind") != "inline":
            raise StoreError("the consolidated metadata aren't a table of nodes")
        _require_node_paths(nodes)
        return nodes

    @cached_property
    def arrays(self) -> Mapping[str, ArrayV3Metadata]:
        """Path -> Zarr metadata of every array, consolidated in the root or else from its own `zarr.json`.

        Raises
        ------
        StoreError
            If the metadata of a node can't be parsed, or `nodes` raises it.
        """
        return parse_arrays(_read_nodes(self.place) if self.nodes is None else self.nodes)


def read_root(place: Place) -> Root:
    """Read the root `zarr.json` of the run at a place, and return it as a Root.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no root.
    StoreError
        If it isn't a readable Zarr group.
    """
    try:
        content = place.read("zarr.json", at_most=MAX_BYTES)
        document = parse_json(content, "zarr.json")
    except StoreError as error:
        raise StoreError(f"`{place.name}` isn't a readable Zarr group ({error})") from error
    if not isinstance(document, dict):
        raise StoreError(f"`{place.name}` isn't a readable Zarr group (its 'zarr.json' is {document!r:.40})")
    return Root(place, content, document)


def require_root_digest(root: Root) -> None:
    """Raise StoreError if the root `zarr.json` contradicts its digest; roots of older writers have no digest."""
    problem = root_digest_problem(root)
    if problem is not None:
        raise StoreError(f"`{root.place.name}` can't be resumed: {problem}; put that file back, or name a new folder")


def root_digest_problem(root: Root) -> str | None:
    """Return a sentence on a wrong digest of the root `zarr.json`; None if it is right or from an older writer."""
    attributes = root.attributes
    if "root_digest" not in attributes:
        return "'zarr.json' has lost its `root_digest`" if "metadata_digest" in attributes else None
    sealed = is_root_digest_right(root.content, attributes["root_digest"])
    return None if sealed else "'zarr.json' isn't what was written: its digest differs"


def read_node_documents(place: Place, paths: list[str]) -> dict[str, bytes | StoreError | None]:
    """Return path -> bytes of each array's or group's own `zarr.json`; None if missing, an error if unreadable."""

    def read(path: str) -> bytes | StoreError | None:
        """Return a node's own `zarr.json`, None if it is missing, or the error instead of raising it."""
        try:
            return place.read(f"{path}/zarr.json", at_most=MAX_NODE_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except StoreError as error:
            return error

    return dict(zip(paths, map_in_order(read, paths, n_threads=N_REQUESTS if place.remote else 1), strict=True))


def parse_arrays(nodes: Mapping[str, Any]) -> dict[str, ArrayV3Metadata]:
    """Return path -> Zarr metadata of each array in these documents; raises StoreError if one isn't Zarr's."""
    arrays = {}
    for path, document in nodes.items():
        try:
            if not isinstance(document.get("attributes", {}), dict):
                raise ValueError("its attributes are no object")
            if document["node_type"] == "array":
                arrays[path] = ArrayV3Metadata.from_dict(document)
            elif (document["node_type"], document["zarr_format"]) != ("group", 3):
                raise ValueError("it is no node of Zarr 3")
        except (*METADATA_ERRORS, zarr.errors.BaseZarrError) as error:
            reason = one_line(f"{type(error).__name__}: {error}")
            raise StoreError(f"{path!r} can't be made sense of ({reason})") from error
    return arrays


def node_paths(place: Place) -> list[str]:
    """Return the sorted paths of all arrays and groups with a `zarr.json`; raises StoreError for a bad path."""
    keys = (key for key, _ in place.sizes() if not key.startswith(f"{NEUTRAL}/"))
    paths = sorted(key.removesuffix("/zarr.json") for key in keys if key.endswith("/zarr.json"))
    _require_node_paths(paths)
    return paths


def _read_nodes(place: Place) -> dict[str, Any]:
    """Return path -> parsed `zarr.json` of every array and group of the run, from their own files."""
    nodes: dict[str, Any] = {}
    for path, content in read_node_documents(place, node_paths(place)).items():
        if isinstance(content, StoreError):
            raise content
        if content is not None:
            nodes[path] = parse_json(content, f"{path}/zarr.json")
    return nodes


def _require_node_paths(paths: Any) -> None:
    """Raise StoreError unless these can be paths of a run's arrays and groups, and aren't too many."""
    if len(paths) > MAX_NODES:
        raise StoreError(f"it announces {len(paths)} nodes; a run has at most {MAX_NODES}")
    for path in paths:
        if not _NODE_PATH.fullmatch(path) or ".." in path:
            raise StoreError(f"{path!r} names no part of a run; names are letters, digits, `_`, `-` and single dots")
