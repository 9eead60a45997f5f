"""What lies where a run is, and what tests do to it there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from zarr.core.metadata import ArrayV3Metadata

from lorascope.stores import clear_torn, create_run, open_place, resume_run, run_state
from lorascope.stores.format.codec import ChunkEncoder
from lorascope.stores.format.digests import chunk_digest, combine_digests, with_root_digest
from lorascope.stores.format.stored_array import StoredArray

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


def forge_column(root: Path, path: str, place: int, value: float) -> None:
    """Put a value into a column that is written once, under digests that fit it."""
    metadata = ArrayV3Metadata.from_dict(json.loads((root / path / "zarr.json").read_text()))
    array = StoredArray.from_metadata(path, metadata)
    file = root / array.key(0)
    values = array.decode(0, file.read_bytes()).copy()
    values[place] = value
    file.write_bytes(b"".join(ChunkEncoder({path: metadata}).encode(path, values)))
    written = (
        f"{node.parent.relative_to(root).as_posix()}"
        for node in root.rglob("*/zarr.json")
        if json.loads(node.read_text()).get("attributes", {}).get("written") == "once"
    )
    keys = [f"{name}/{file.name}" for name in written if name != "rows/digest" for file in (root / name).glob("c.*")]
    digest = combine_digests((key, chunk_digest(2, (root / key).read_bytes())) for key in keys)
    edit_root(root, static_digest=digest.hex())
