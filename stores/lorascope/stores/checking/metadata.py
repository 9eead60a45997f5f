"""Checks of a run's metadata with digests: the root, each node's own file, and the fingerprint."""

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from ..errors import Problem, StoreError
from ..format.digests import combine_digests, run_fingerprint
from ..json_document import parse_json
from ..reading.root import Root, node_paths, read_node_documents, root_digest_problem

WITHOUT_ROOT_DIGEST = (
    "this run was written before roots had a digest, so changes of attributes such as parameter counts, weight hashes "
    "and settings, and of metadata in a node and in the root alike, can't be found"
)


def metadata_problems(root: Root) -> list[Problem]:
    """Return a list of Problem, one for each change in a run's `zarr.json` files that their digests show."""
    problem = root_digest_problem(root)
    problems = [] if problem is None else [Problem("zarr.json", "digest", problem)]
    if "metadata_digest" in root.attributes and not _is_fingerprint_right(root):
        message = "the fingerprint isn't that of the provenance; one of them isn't what was written"
        problems.append(Problem("fingerprint", "digest", message))
    return problems + _node_problems(root)


def _is_fingerprint_right(root: Root) -> bool:
    """Return whether a run's fingerprint is the hash of its provenance; True too if it has neither."""
    attributes = root.attributes
    if "provenance" not in attributes and "fingerprint" not in attributes:
        return True
    try:
        return bool(attributes.get("fingerprint") == run_fingerprint(attributes.get("provenance")))
    except (ValueError, RecursionError):  # the provenance has a number that isn't finite
        return False


def _node_problems(root: Root) -> list[Problem]:
    """Return problems of arrays' and groups' own `zarr.json`: missing, unreadable, or unlike their copy in the root.

    If there are no such problems, the digest of all of them together is compared.
    """
    expected = root.attributes.get("metadata_digest")
    try:
        nodes = root.nodes
        paths = list(nodes) if nodes is not None else node_paths(root.place) if expected is not None else []
    except StoreError:  # a problem of the layout
        return []
    contents = read_node_documents(root.place, paths)
    in_root = nodes or {}
    problems = [problem for path in in_root for problem in _document_problems(path, contents[path], in_root[path])]
    parts = ((f"{path}/zarr.json", sha256(own).digest()) for path, own in contents.items() if isinstance(own, bytes))
    if not problems and expected is not None and combine_digests(parts).hex() != expected:
        problems.append(
            Problem("metadata", "digest", "metadata of nodes aren't what was written: their digest differs")
        )
    return problems


def _document_problems(path: str, own: bytes | StoreError | None, in_root: Any) -> Iterator[Problem]:
    """Yield a Problem if a node's own `zarr.json` is missing, unreadable or differs from its copy in the root."""
    key = f"{path}/zarr.json"
    if own is None:
        yield Problem(key, "missing", f"{key!r} is missing; a plain reader of Zarr wouldn't find this part of the run")
        return
    try:
        if isinstance(own, StoreError):
            raise own
        differs = _canonical_text(parse_json(own, key)) != _canonical_text(in_root)
    except StoreError as error:
        yield Problem(key, "unreadable", f"{key!r} can't be read: {error}")
        return
    if differs:
        yield Problem(key, "digest", f"{key!r} isn't what the root's consolidated metadata say of it")


def _canonical_text(document: Any) -> str:
    """Return an array's or group's metadata as JSON text with sorted keys, so that two copies can be compared."""
    if isinstance(document, dict) and document.get("node_type") == "group":
        document = {**document, "consolidated_metadata": None}  # each group in the root has an empty one
    return json.dumps(document, sort_keys=True)
