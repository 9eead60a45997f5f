"""Stores made to harm: what would be executed, lie outside, or take memory, is refused before it is touched."""

import json
import os
import re
import stat
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs.blosc
import numpy as np
import pytest
import zarr

from lorascope.stores import StoreError, open_run, verify
from lorascope.stores.format.stored_array import MAX_TEXT_BYTES, announced_text_bytes

from ..on_disk import BATCHED

F32, BF16, F16 = (f"model.layers.{i}.mlp.up_proj" for i in range(3))
BASE = f"states/{F32}/base"
CRC = {"name": "crc32c"}
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


def edit(root: Path, change: Callable[[str, dict[str, Any]], None]) -> None:
    """Change the metadata of each node; consolidated ones go, so that each node's own count."""
    for file in root.rglob("zarr.json"):
        document = json.loads(file.read_text())
        document.pop("consolidated_metadata", None)
        change(file.parent.relative_to(root).as_posix(), document)
        file.write_text(json.dumps(document))


def set_fields(root: Path, path: str, **fields: Any) -> None:
    edit(root, lambda at, document: document.update(fields) if at == path else None)


def lengthen(root: Path, old: int, new: int, *, where: Callable[[str], bool], chunk: int | None = None) -> None:
    """Give arrays whose first axis is `old` long another length, and tables longer chunks too."""

    def change(path: str, document: dict[str, Any]) -> None:
        if document.get("shape", [0])[0] == old and where(path):
            document["shape"][0] = new
            shape = document["chunk_grid"]["configuration"]["chunk_shape"]
            if chunk is not None and document["attributes"]["written"] == "once":
                shape[0] = chunk

    edit(root, change)


def rewrite(root: Path, path: str, values: Any) -> None:
    with zarr.config.set({"codec_pipeline.path": BATCHED}):
        array = zarr.open_array(root / path, mode="r+")
        array[...] = np.asarray(values, dtype=array.dtype)


def with_checksum(content: bytes) -> bytes:
    return content + struct.pack("<I", google_crc32c.value(content))


def claim(content: bytes, n_bytes: int) -> bytes:
    """A Blosc chunk whose header announces another size."""
    return content[:4] + struct.pack("<I", n_bytes) + content[8:]


GZIP = {"name": "gzip", "configuration": {"level": 1}}
ZLIB = {
    "name": "blosc",
    "configuration": {"typesize": 4, "cname": "zlib", "clevel": 1, "shuffle": "shuffle", "blocksize": 0},
}
INNER = {"chunk_shape": [1024, 12], "codecs": [LITTLE, CRC], "index_codecs": [LITTLE, CRC], "index_location": "end"}


@pytest.mark.parametrize(
    "codecs",
    [
        [LITTLE],
        [LITTLE, GZIP, CRC],
        [LITTLE, ZLIB, CRC],
        [LITTLE, CRC, CRC],
        [LITTLE, CRC, GZIP],
        [{"name": "bytes", "configuration": {"endian": "big"}}, CRC],
        [{"name": "transpose", "configuration": {"order": [1, 0]}}, LITTLE, CRC],
        [{"name": "numcodecs.zlib", "configuration": {"level": 1}}],
        [{"name": "numcodecs.pickle", "configuration": {}}],
        [{"name": "vlen-bytes"}, CRC],
        [{"name": "sharding_indexed", "configuration": {**INNER, "codecs": [LITTLE, GZIP, CRC]}}],
        [{"name": "sharding_indexed", "configuration": {**INNER, "index_codecs": [LITTLE]}}],
        [{"name": "sharding_indexed", "configuration": {**INNER, "index_location": "start"}}],
        [{"name": "sharding_indexed", "configuration": INNER}, CRC],
    ],
)
@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification")
@pytest.mark.filterwarnings("ignore:The codec `vlen-bytes` is currently not part")
@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")
def test_codecs_of_another_kind_are_refused(make_run: Any, codecs: Any) -> None:
    run = make_run()
    set_fields(run.path, BASE, codecs=codecs)
    with pytest.raises(StoreError, match=f"'{BASE}' can't be decoded: its|metadata of .* can't be read"):
        open_run(run.path)


def test_encodings_beside_the_codecs_are_refused(make_run: Any) -> None:
    factor = "adapters/default/factor"
    for place, path in enumerate((BASE, factor, "samples/id")):
        run = make_run(f"{place}.zarr")
        set_fields(run.path, path, storage_transformers=[{"name": "indirection"}])
        words = rf"'{path}' can't be decoded: it has the storage transformers \[{{'name': 'indirection'}}\], which this"
        with pytest.raises(StoreError, match=words):
            open_run(run.path)
    run = make_run()
    codecs = json.loads((run.path / factor / "zarr.json").read_text())["codecs"]
    codecs[0]["configuration"]["index_location"] = "start"
    set_fields(run.path, factor, codecs=codecs)
    with pytest.raises(StoreError, match=rf"'{factor}' can't be decoded: its shard index lies at the start"):
        open_run(run.path)


@pytest.mark.parametrize("dtype", ["variable_length_bytes", "complex128", "r8", "string"])
@pytest.mark.filterwarnings("ignore:The data type")
def test_types_of_another_kind_are_refused(make_run: Any, dtype: str) -> None:
    run = make_run()
    fill = {"complex128": [0.0, 0.0], "string": "", "variable_length_bytes": ""}.get(dtype, 0)
    set_fields(run.path, BASE, data_type=dtype, fill_value=fill)
    with pytest.raises(StoreError, match=rf"`dtype` of '{BASE}' is '{dtype}'; it must be 'float32'|can't be read"):
        open_run(run.path)


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "a/../../b", "..", "a..b", ".hidden"])
def test_names_that_leave_the_folder_are_refused(make_run: Any, name: str) -> None:
    run = make_run()
    rewrite(run.path, "components/path", [name, BF16, F16])
    with pytest.raises(StoreError, match="component name .* can't be kept in a store"):
        open_run(run.path)


def test_tokens_without_their_chunks_are_refused(make_run: Any) -> None:
    run = make_run()
    many = 10**15

    def change(path: str, document: dict[str, Any]) -> None:
        if path == ".":
            document["attributes"] |= {"n_tokens": many, "n_rows": -(-many // 1024)}
        if path in ("rows/digest", "rows/commit"):
            document["shape"][0] = -(-many // 1024)
        if path == "rows/digest":
            document["chunk_grid"]["configuration"]["chunk_shape"][0] = 65_536

    edit(run.path, change)
    lengthen(run.path, 2148, many, where=lambda path: True, chunk=65_536)
    with pytest.raises(StoreError, match=rf"'tokens/sample' announces {many} entries, but has 1 of \d+ chunks"):
        open_run(run.path)
    lengthen(run.path, many, many, where=lambda path: True, chunk=many)
    with pytest.raises(StoreError, match=rf"chunks of 'tokens/\w+' are \({many},\); .* and 65536 at most"):
        open_run(run.path)
    lengthen(run.path, many, many, where=lambda path: True, chunk=1)
    with pytest.raises(StoreError, match=r"chunks of 'tokens/\w+' are \(1,\); .* tables by 1024 at least"):
        open_run(run.path)


@pytest.mark.parametrize("table", ["samples", "choices"])
def test_tables_without_their_chunks_are_refused(make_run: Any, table: str) -> None:
    run = make_run()
    length = {"samples": 2, "choices": 4}[table]
    lengthen(run.path, length, 10**12, where=lambda path: path.startswith(table), chunk=65_536)
    with pytest.raises(StoreError, match=f"'{table}/.*' announces {10**12} entries, but has 1 of"):
        open_run(run.path)


def test_passes_without_their_chunks_are_refused(make_run: Any) -> None:
    run = make_run(importance=(6, 9))
    lengthen(run.path, 6, 10**12, where=lambda path: "/importance/" in path, chunk=1024)
    with pytest.raises(
        StoreError, match=f"'adapters/default/importance/gradient' announces {10**12} entries, but has 1"
    ):
        open_run(run.path)


def test_variants_that_fill_no_chunk_are_refused(make_run: Any) -> None:
    run = make_run(n_variants=3)
    for name in ("miub", "kl", "ce_change"):
        grid = {"name": "regular", "configuration": {"chunk_shape": [2, 10**12]}}
        set_fields(run.path, f"adapters/default/nulls/{name}", shape=[2, 10**12], chunk_grid=grid)
    with pytest.raises(StoreError, match=r"chunks of 'adapters/default/nulls/\w+' are .* none may hold 2 GiB"):
        open_run(run.path)


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (10**6, "`components` announces 1000000 entries; a run has at most 16384"),
        (16_384, r"chunk 'components/path/c.0' is broken \(it announces 3 texts, not 16384\)"),
    ],
)
def test_components_without_their_chunks_are_refused(make_run: Any, n: int, words: str) -> None:
    run = make_run()
    lengthen(run.path, 3, n, where=lambda path: not path.startswith("rows/"), chunk=n)
    with pytest.raises(StoreError, match=words):
        open_run(run.path)


def test_rows_of_states_without_their_chunks_are_refused(make_run: Any) -> None:
    run = make_run(states="sample", state_rows=(True, False, True))
    (run.path / "rows/states/c.0").unlink()
    set_fields(run.path, "tokens/sample")
    with pytest.raises(StoreError, match="'rows/states' announces 3 entries, but has 0 of 1 chunks"):
        open_run(run.path)


def test_width_that_no_chunk_can_hold_is_refused(make_run: Any) -> None:
    run = make_run(factored=(False, True, False))
    wide = 2**31 - 1
    rewrite(run.path, "components/d_out", [wide, 20, 6])

    def change(path: str, document: dict[str, Any]) -> None:
        if F32 in path and "shape" in document:
            document["shape"][1] = wide
            document["chunk_grid"]["configuration"]["chunk_shape"][1] = wide

    edit(run.path, change)
    with pytest.raises(StoreError, match=rf"chunks of '{BASE}' are \(1024, {wide}\); .* none may hold 2 GiB"):
        open_run(run.path)


@pytest.mark.parametrize("codec", ["zstd", "raw"])
@pytest.mark.parametrize("path", [BASE, f"states/{BF16}/base", "adapters/default/js", "tokens/nll"])
def test_chunk_that_announces_another_size_is_refused(make_run: Any, path: str, codec: str) -> None:
    run = make_run(codec=codec)
    file = next((run.path / path).glob("c.0*"))
    content = file.read_bytes()[:-4]
    file.write_bytes(with_checksum(claim(content, 2**31 - 17) if codec == "zstd" else content + bytes(8)))
    words = f"chunk '{path}/{file.name}' is broken .it isn.t .* bytes compressed by Blosc"
    with pytest.raises(StoreError, match=words if codec == "zstd" else "is broken"):
        open_run(run.path)._row_array(path)[:10]
    decoding = [p.message for p in verify(run.path, level="decode").problems if p.kind == "decode"]
    assert len(decoding) == 1
    assert ("bytes compressed by Blosc" in decoding[0]) == (codec == "zstd")


def test_part_of_a_shard_that_announces_another_size_is_refused(make_run: Any) -> None:
    run = make_run()
    file = run.path / "adapters/default/factor/c.0.0"
    content = file.read_bytes()
    opened = open_run(run.path)
    offset, length = struct.unpack("<QQ", content[-20:-4])  # its only inner chunk comes first
    assert offset == 0
    for forged, words in (
        (with_checksum(claim(content[: length - 4], 2**31 - 17)) + content[length:], "it isn.t .* compressed by Blosc"),
        (content[:-20] + with_checksum(struct.pack("<QQ", 0, 2**40)), "a part of it lies beyond its end"),
        (content[:10], "it ends before its index"),
        (content[:-20] + with_checksum(struct.pack("<QQ", 2**64 - 1, 2**64 - 1)), "part 0 of it is missing"),
    ):
        file.write_bytes(forged)
        with pytest.raises(StoreError, match=rf"factor/c.0.0' is broken \({words}.*\); run `lorascope verify`"):
            opened.factor(F32)[:10].values
    with pytest.raises(StoreError, match="part 0 of it is missing"):
        opened.take([3], component=[F32])
    problems = verify(run.path, level="decode").problems
    assert "a part of it is missing" in {p.place: p.message for p in problems}["adapters/default/factor/c.0.0"]


@pytest.mark.parametrize("path", ["samples/ce", f"adapters/default/lora_B/{F32}", "components/d_out"])
def test_table_or_weight_that_announces_another_size_is_refused(make_run: Any, path: str) -> None:
    run = make_run()
    file = next((run.path / path).glob("c.0*"))
    file.write_bytes(with_checksum(claim(file.read_bytes()[:-4], 2**31 - 17)))
    with pytest.raises(
        StoreError, match=f"chunk '{path}/{file.name}' is broken .it isn.t .* bytes compressed by Blosc"
    ):
        open_run(run.path).read_static(path)


def test_text_that_announces_what_there_isnt_is_refused(make_run: Any) -> None:
    assert announced_text_bytes(b"short") == -1
    for codec in ("zstd", "raw"):
        run = make_run(f"{codec}.zarr", codec=codec)
        file = run.path / "samples/id/c.0"
        content = file.read_bytes()[:-4]
        many = struct.pack("<I", 2**31) + (numcodecs.blosc.decompress(content) if codec == "zstd" else content)[4:]
        packed = numcodecs.blosc.compress(many, b"zstd", 1, 0, typesize=1)
        cases = [(packed if codec == "zstd" else many, r"it announces 2147483648 texts, not 2\)")]
        body = struct.pack("<II", 2, 1) + b"a" + struct.pack("<I", 2**31) + b"b"
        cases += [
            (body if codec == "raw" else numcodecs.blosc.compress(body, b"zstd", 1, 0, typesize=1), "before text 1")
        ]
        if codec == "zstd":
            cases += [(claim(content, MAX_TEXT_BYTES + 1), "bytes of text"), (claim(content, 20), "")]
            cases += [(b"abc", "it announces -1 bytes of text")]
        for forged, words in cases:
            file.write_bytes(with_checksum(forged))
            with pytest.raises(StoreError, match=rf"'samples/id/c.0' is broken \(.*{words}"):
                open_run(run.path).samples


def test_metadata_that_are_nested_without_end(make_run: Any) -> None:
    run = make_run()
    deep = "[" * 100_000 + "]" * 100_000
    (run.path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {"x": ' + deep + "}}")
    with pytest.raises(StoreError, match="isn't a readable Zarr group"):
        open_run(run.path)


PLACES = {
    "root": "zarr.json",
    "node": "samples/id/zarr.json",
    "table": "samples/dataset/c.0",
    "row": f"{BASE}/c.1.0",
    "digest": "rows/digest/c.0.0",
}
KINDS: dict[str, Callable[[Path], object]] = {
    "named pipe": os.mkfifo,
    "40 GB": lambda path: (path.touch(), os.truncate(path, 40 * 10**9)),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_in_the_place_of_one_is_said_in_words(make_run: Any, place: str, kind: str) -> None:
    run = make_run(n_tokens=1100)
    file = run.path / PLACES[place]
    file.unlink()
    KINDS[kind](file)
    # Whoever waits for the pipe to be written to gets an end after all, so that this fails and doesn't hang.
    release = threading.Timer(20, lambda: kind == "named pipe" and os.close(os.open(file, os.O_RDWR)))
    release.start()
    begun = time.monotonic()
    words = f"`{file}`? (is a {kind}, not a file|has 40 GB, where at most)"
    try:
        found = " ".join(problem.message for problem in verify(run.path).problems)
    except StoreError as error:
        found = str(error)
        assert place == "root"
    assert re.search(words, found), found
    if place in ("root", "table", "row", "digest"):
        with pytest.raises(StoreError, match=words):
            (lambda opened: (opened.samples, opened.base(F32).values))(open_run(run.path))
    release.cancel()
    assert time.monotonic() - begun < 15


def test_text_that_unpacks_to_a_multiple_of_itself_takes_bounded_memory(make_run: Any) -> None:
    run = make_run(n_tokens=1100)
    largest = b"\0" * (MAX_TEXT_BYTES - 12)
    bodies = {
        "samples/id": struct.pack("<II", 2, len(largest)) + largest + struct.pack("<I", 0),
        "samples/dataset": struct.pack("<II", 2, len(largest)) + largest + struct.pack("<I", 1) + b"x",  # one too many
        "samples/split": struct.pack("<II", 2, len(largest)) + largest + struct.pack("<I", 0),
        "choices/text": struct.pack("<II", 4, len(largest)) + largest + bytes(12),
    }
    for path, body in bodies.items():
        packed = numcodecs.blosc.compress(body, b"zstd", 1, 0, typesize=1)
        assert len(packed) < 100_000
        (run.path / path / "c.0").write_bytes(with_checksum(packed))
    del bodies, body, largest
    tracemalloc.start()
    try:
        problems = {problem.place: problem.message for problem in verify(run.path, level="decode").problems}
        assert tracemalloc.get_traced_memory()[1] < 220 * 2**20
    finally:
        tracemalloc.stop()
    assert {"samples/dataset/c.0", "choices/text/c.0", "tables"} == set(problems)
    assert "it announces 67108865 bytes of text, where at most 67108864 can be" in problems["samples/dataset/c.0"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda nodes: nodes.update({BASE: 0.5}), "the consolidated metadata aren't a table of nodes"),
        (
            lambda nodes: nodes[BASE].update(attributes=[0]),
            f"'{BASE}' can't be made .*attributes are no object",
        ),
    ],
)
def test_nodes_that_are_no_objects_are_refused(make_run: Any, change: Callable[[Any], None], words: str) -> None:
    run = make_run()
    content = json.loads((run.path / "zarr.json").read_text())
    change(content["consolidated_metadata"]["metadata"])
    (run.path / "zarr.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match=words):
        open_run(run.path)
    assert "metadata" in {problem.place for problem in verify(run.path).problems}


def test_metadata_with_a_line_break_are_refused_in_one_line(make_run: Any) -> None:
    run = make_run().path
    set_fields(run, "rows/digest", zarr_format="a\nb")
    with pytest.raises(StoreError) as refused:
        open_run(run)
    assert "\n" not in str(refused.value)
