"""Columns of a chunk equal what Zarr reads, of arrays with and without shards."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from lorascope.stores import StoreError, open_place
from lorascope.stores.format.codec import compressors
from lorascope.stores.format.stored_array import StoredArray
from lorascope.stores.reading.chunks import read_chunk_columns

SHAPE = (2048, 200)


def stored(array: zarr.Array[Any]) -> StoredArray:
    return StoredArray.from_metadata("x", array.metadata)  # type: ignore[arg-type]  # version 3 alone is written


def make_array(path: Path, *, codec: Any = "zstd", shards: bool = False, dtype: str = "float32") -> zarr.Array[Any]:
    rng = np.random.default_rng(0)
    group = zarr.create_group(path)
    array = group.create_array(
        "x",
        shape=SHAPE,
        dtype=dtype,
        chunks=(1024, 64 if shards else 200),
        shards=(1024, 256) if shards else None,
        compressors=compressors(dtype, codec),
        chunk_key_encoding={"name": "default", "separator": "."},
        fill_value=7,
        config={"write_empty_chunks": False},
    )
    array[...] = rng.integers(0, 1000, SHAPE).astype(dtype)
    return array


@pytest.mark.parametrize("dtype", ["float32", "uint16", "float16"])
@pytest.mark.parametrize("shards", [True, False])
@pytest.mark.parametrize("codec", ["zstd", "lz4", "raw"])
def test_they_equal_what_zarr_reads(tmp_path: Path, codec: str, shards: bool, dtype: str) -> None:
    array = make_array(tmp_path, codec=codec, shards=shards, dtype=dtype)
    columns = [slice(0, 8), slice(60, 70), slice(63, 129), slice(128, 192), slice(199, 200), slice(0, 200), slice(None)]
    found = read_chunk_columns(open_place(tmp_path), stored(array), 1, columns)
    for one, block in zip(columns, found, strict=True):
        np.testing.assert_array_equal(block, array[1024:, one])
        assert block.dtype == array.dtype


def test_part_of_a_shard_that_is_not_there_is_never_read_as_fill(tmp_path: Path) -> None:
    array = make_array(tmp_path, shards=True)
    expected = array[:1024]
    array[:1024, 64:128] = 7
    with pytest.raises(
        StoreError, match=r"chunk 'x/c.0.0' is broken \(part 1 of it is missing\); run `lorascope verify`"
    ):
        read_chunk_columns(open_place(tmp_path), stored(array), 0, [slice(60, 130)])
    found = read_chunk_columns(open_place(tmp_path), stored(array), 0, [slice(0, 60)])
    np.testing.assert_array_equal(found[0], expected[:, :60])


def test_only_wanted_parts_of_a_shard_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = make_array(tmp_path, shards=True)
    place = open_place(tmp_path)
    asked = []
    read_part = type(place).read_part
    monkeypatch.setattr(
        type(place), "read_part", lambda *args, **most: asked.append(args[1:]) or read_part(*args, **most)
    )
    read_chunk_columns(place, stored(array), 0, [slice(0, 8), slice(8, 16), slice(130, 140)])
    assert len(asked) == 3  # the index and two inner chunks
