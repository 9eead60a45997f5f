"""What is decoded of a stored chunk is what was written, and nothing broken is read over."""

import struct
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs.blosc
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from zarr.codecs import BloscCodec

from lorascope.stores import open_run, widen
from lorascope.stores.format.codec import compressors
from lorascope.stores.format.stored_array import StoredArray, widen_block, without_checksum

N_ROWS, ROW_BYTES = 1024, 1100  # 1.07 MiB: two blocks of 512 KiB and a short one
BLOCK = 512 * 1024


def make_rows(seed: int = 0) -> np.ndarray:
    """Numbers that compress, so that blocks differ in length."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(N_ROWS, ROW_BYTES // 2), scale=20)).astype(np.int16).view(np.uint8)


def compress(rows: np.ndarray, cname: bytes = b"zstd", *, block: int = BLOCK, typesize: int = 2) -> np.ndarray:
    content = numcodecs.blosc.compress(rows.tobytes(), cname, 1, 1, block, typesize=typesize)
    return np.frombuffer(content, np.uint8)


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", google_crc32c.value(body))


def decode(body: np.ndarray, *, compressed: bool = True) -> np.ndarray:
    shape = (N_ROWS, ROW_BYTES)
    blosc = BloscCodec() if compressed else None
    array = StoredArray("x", shape, shape, None, np.dtype(np.uint8), blosc, 0, (), {})
    return array.decode_part(sealed(body.tobytes()))


@pytest.mark.parametrize(
    ("cname", "block"), [(b"zstd", BLOCK), (b"zstd", 64 * 1024), (b"zstd", 2**21), (b"lz4", 64 * 1024)], ids=str
)
def test_blocks_of_any_size_are_decoded(cname: bytes, block: int) -> None:
    plain = make_rows()
    np.testing.assert_array_equal(decode(compress(plain, cname, block=block)), plain)


def test_chunk_that_did_not_get_smaller() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (N_ROWS, ROW_BYTES), np.uint8)
    body = compress(noise)
    assert len(body) == noise.size + 16
    np.testing.assert_array_equal(decode(body), noise)


def test_block_that_did_not_get_smaller() -> None:
    plain = make_rows()
    plain[:476] = np.random.default_rng(0).integers(0, 256, (476, ROW_BYTES), np.uint8)
    np.testing.assert_array_equal(decode(compress(plain)), plain)


def test_uncompressed_chunk() -> None:
    plain = make_rows()
    np.testing.assert_array_equal(decode(plain, compressed=False), plain)
    with pytest.raises(ValueError, match="it has 1126390 bytes, not 1126400"):
        decode(plain.reshape(-1)[10:], compressed=False)


def test_checksum_covers_every_byte() -> None:
    body = make_rows()[0].tobytes()
    content = sealed(body)
    assert without_checksum(content).tobytes() == body
    for place in range(len(content)):
        broken = bytearray(content)
        broken[place] ^= 1 << place % 8
        with pytest.raises(ValueError, match="its checksum differs"):
            without_checksum(bytes(broken))
    for short in (b"", b"abc", content[:-1]):
        with pytest.raises(ValueError, match="its checksum differs"):
            without_checksum(short)


def forged(body: np.ndarray, form: str, place: int, *values: int) -> np.ndarray:
    content = bytearray(body.tobytes())
    struct.pack_into(form, content, place, *values)
    return np.frombuffer(bytes(content), np.uint8)


def test_forged_header_or_block_is_an_error() -> None:
    """Whoever knows how to make a checksum may still not make anything be read beyond its end."""
    body = compress(make_rows())
    for place, value, words in (
        (4, 2**31, "it isn't 1126400 bytes compressed by Blosc"),
        (8, 0, "it isn't 1126400 bytes compressed by Blosc"),
        (12, 20, "it isn't 1126400 bytes compressed by Blosc"),
        (8, 1, "it has no room for its 1126400 blocks"),
        (16, 2**32 - 1, "error during blosc decompression"),
        (16, 10**6, "error during blosc decompression"),
        (28, 2**31 - 1, "error during blosc decompression"),
        (28, 0, "error during blosc decompression"),
        (28, 99, "error during blosc decompression"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=words):
            decode(forged(body, "<I", place, value))
    with pytest.raises(ValueError, match="it isn't 1126400 bytes compressed by Blosc"):
        decode(np.zeros(15, np.uint8))  # too short for a header


def test_tiny_blocks_are_refused_before_any_is_counted() -> None:
    body = forged(compress(make_rows()), "<I", 8, 1)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="it has no room for its 1126400 blocks"):
            decode(body)
        assert tracemalloc.get_traced_memory()[1] < 8 * N_ROWS * ROW_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", ["zstd", "as it is", "raw"])
def test_what_comes_back_is_the_callers_own(form: str) -> None:
    plain = make_rows()
    if form == "as it is":
        plain = np.random.default_rng(0).integers(0, 256, plain.shape, np.uint8)
    found = decode(plain if form == "raw" else compress(plain), compressed=form != "raw")
    found += 1
    np.testing.assert_array_equal(found, plain + np.uint8(1))


@pytest.mark.parametrize("codec", ["zstd", "lz4", "raw"])
@pytest.mark.parametrize(
    ("shape", "shards"), [((1024,), None), ((1024, 24), None), ((1024, 192), (1024, 192))], ids=str
)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_no_chunk_is_larger_than_its_array_allows(
    tmp_path: Path, codec: Any, shape: Any, shards: Any, dtype: str
) -> None:
    """Noise gets larger by compression; nothing of it is more than the bound, and some of it is the bound."""
    chunks = shape if shards is None else (1024, 64)
    made = zarr.create_array(
        tmp_path / "x", shape=shape, chunks=chunks, shards=shards, dtype=dtype, compressors=compressors(dtype, codec)
    )
    noise = np.random.default_rng(0).integers(0, 256, shape[:1] + shape[1:] + (np.dtype(dtype).itemsize,), np.uint8)
    made[...] = noise.reshape(*shape[:-1], -1).view(dtype).reshape(shape)
    (file,) = (path for path in (tmp_path / "x/c").rglob("*") if path.is_file())
    array = StoredArray.from_metadata("x", made.metadata)
    over = 16 * (codec == "raw") * (1 if shards is None else 3)
    assert array.max_bytes - file.stat().st_size == over


@given(arrays(np.uint16, st.tuples(st.integers(0, 5), st.integers(0, 7))))
def test_bfloat16_is_the_upper_half_of_a_float32(block: np.ndarray) -> None:
    wide = widen_block(block, "bfloat16")
    assert wide.dtype == np.float32
    np.testing.assert_array_equal(wide.view(np.uint32), block.astype(np.uint32) << 16)


def test_float16_and_float32_keep_their_values() -> None:
    half = np.array([[1.5, -65504.0, np.inf]], np.float16)
    np.testing.assert_array_equal(widen_block(half, "float16"), half.astype(np.float32))
    full = np.ones(3, np.float32)
    assert widen_block(full, "float32") is full


def test_wrong_storage_type_is_refused() -> None:
    with pytest.raises(ValueError, match="bfloat16 is stored as uint16, not float32"):
        widen_block(np.zeros(2, np.float32), "bfloat16")
    with pytest.raises(ValueError, match="float32 is stored as float32, not uint16"):
        widen_block(np.zeros(2, np.uint16), "float32")
    with pytest.raises(ValueError, match="`dtype_logical` is 'uint16'; allowed are"):
        widen_block(np.zeros(2, np.uint16), "uint16")


@pytest.mark.parametrize("chunks", [{}, None])
def test_plain_tree_becomes_float32_and_stays_lazy(make_run: Any, chunks: Any) -> None:
    run = make_run()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = xr.open_datatree(run.path, engine="zarr", chunks=chunks)
    wide = widen(tree)
    opened = open_run(run.path)
    for component in opened.component_paths:
        array = wide[f"states/{component}/base"]
        assert array.dtype == np.float32
        assert array.attrs["dtype_logical"] == "float32"
        assert (chunks is None) == (array.chunks is None)
        np.testing.assert_array_equal(array.values, opened.base(component).values)
    assert wide["samples/id"].values.tolist() == ["a", "ü"]
