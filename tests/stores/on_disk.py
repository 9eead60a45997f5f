"""What lies where a run is, and what tests do to it there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from zarr.core.metadata import ArrayV3Metadata

from lorascope.stores import clear_torn, create_run, open_place, resume_run, run_state
from lorascope.stores.format.codec import encode_chunk
from lorascope.stores.format.digests import chunk_digest, combine_digests, combine_row_digests, with_root_digest
from lorascope.stores.format.layout import COMMITS, DIGEST_ARRAYS, DIGESTS
from lorascope.stores.format.stored_array import StoredArray
from lorascope.stores.writing.write import delete_commits

BATCHED = "zarr.core.codec_pipeline.BatchedCodecPipeline"
"""Zarr's own pipeline, whichever one this process is set to use."""
LARGEST = 2**31
"""Bytes of any file or object."""


def stored(path: Path | str) -> dict[str, bytes]:
    """Every file, unfinished ones too, or every object."""
    place = open_place(path)
    return {key: place.read(key, at_most=LARGEST) for key in (*place.keys(), *place.temporary_files())}


def go_on(path: Path | str, run: Any) -> None:
    """What the same command does when it is given again."""
    if run_state(path) == "torn":
        clear_torn(path)
    if run_state(path) == "absent":
        with create_run(path, run.spec, tables=run.tables, weights=run.weights):
            pass
    if run_state(path) == "unfinished":
        with resume_run(path) as writer:
            writer.delete_unfinished_files()
            for row in np.flatnonzero(~writer.committed_rows).tolist():
                writer.write_row(row, run.blocks[row])
            writer.finish({"provenance": {"note": "small"}})
    delete_commits(open_place(path))


def damage(file: Path, how: str) -> None:
    """Make a file missing, empty, truncated or a folder, or flip a bit in its middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4 * (how == "flip")
    file.write_bytes({"empty": b"", "truncated": content[:-9]}.get(how, content))
    if how in ("missing", "folder"):
        file.unlink()
    if how == "folder":
        file.mkdir()


def edit_root(root: Path, *, consolidated: bool = True, **attributes: Any) -> None:
    """Change attributes of the root; None deletes one. Its digest, if it has one, is computed again.

    Without consolidated metadata each node's own count, and as in a run of the first writers nothing has a digest.
    """
    file = root / "zarr.json"
    content = json.loads(file.read_text())
    merged = {**content["attributes"], **attributes}
    if not consolidated:
        content.pop("consolidated_metadata", None)
        merged |= {"root_digest": None, "metadata_digest": None}
    content["attributes"] = {name: value for name, value in merged.items() if value is not None}
    file.write_bytes(
        with_root_digest(content) if "root_digest" in content["attributes"] else json.dumps(content).encode()
    )


def unfinish(root: Path, *missing: int) -> None:
    """Make a finished run what it was before its last step, without the digests of the `missing` rows."""
    metadata, digests = _digest_metadata(root, COMMITS), stored_digests(root)
    for row in sorted({*range(len(digests))} - {*missing}):
        (root / f"{COMMITS}/c.{row}.0").write_bytes(encoded(COMMITS, metadata, digests[row : row + 1]))
    for file in (root / DIGESTS).glob("c.*"):
        file.unlink()
    edit_root(root, finished=False, rows_digest=None, measured=None)


def lose_rows(root: Path, *rows: int) -> None:
    """Take the digests of rows from a finished run, whose root fits what is left."""
    digests = stored_digests(root)
    digests[list(rows)] = 0
    (root / f"{DIGESTS}/c.0.0").write_bytes(encoded(DIGESTS, _digest_metadata(root, DIGESTS), digests))
    edit_root(root, rows_digest=combine_row_digests(dict(enumerate(map(bytes, digests)))))


def stored_digests(root: Path) -> np.ndarray:
    """The digests of a finished run's rows, uint8 (row, 32)."""
    array = StoredArray.from_metadata(DIGESTS, _digest_metadata(root, DIGESTS))
    return array.decode(0, (root / f"{DIGESTS}/c.0.0").read_bytes()).copy()


def encoded(path: str, metadata: ArrayV3Metadata, block: np.ndarray) -> bytes:
    """A chunk's bytes."""
    return b"".join(encode_chunk(StoredArray.from_metadata(path, metadata), block))


def _digest_metadata(root: Path, path: str) -> ArrayV3Metadata:
    return ArrayV3Metadata.from_dict(json.loads((root / path / "zarr.json").read_text()))


def forge_column(root: Path, path: str, place: int, value: float) -> None:
    """Put a value into a column that is written once, under digests that fit it."""
    metadata = ArrayV3Metadata.from_dict(json.loads((root / path / "zarr.json").read_text()))
    array = StoredArray.from_metadata(path, metadata)
    file = root / array.key(0)
    values = array.decode(0, file.read_bytes()).copy()
    values[place] = value
    file.write_bytes(encoded(path, metadata, values))
    written = (
        f"{node.parent.relative_to(root).as_posix()}"
        for node in root.rglob("*/zarr.json")
        if json.loads(node.read_text()).get("attributes", {}).get("written") == "once"
    )
    keys = [
        f"{name}/{file.name}" for name in written if name not in DIGEST_ARRAYS for file in (root / name).glob("c.*")
    ]
    digest = combine_digests((key, chunk_digest(2, (root / key).read_bytes())) for key in keys)
    edit_root(root, static_digest=digest.hex())
