"""Processor seconds a GB of states, by stage: `python benchmarks/stages.py` prints a Markdown table for each type.

One row of SmolLM2-135M-Instruct, 1024 tokens of the demo's questions at 210 linear layers, in float32 and bfloat16,
goes through everything between a layer's output and the disk: the copy into the row, compression with its checksum,
the digest, and the write with every flush. One thread, the ways taking turns; processor seconds, a
little more on a loaded machine. "before" is how format version 1 was written: Zarr's pipeline into memory, SHA-256,
and a flush of each folder as well as its file. The sums are what a capture takes in addition to the pass, except its
checks and reductions, which `benchmarks/capture.py` has in its ratio.
"""

import argparse
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import zarr
from models import smollm2
from rounds import print_table, take_turns, write_json
from zarr.storage import MemoryStore

from capture import RANK, run_capture, write_text
from lorascope.capture.buffers.row_buffer import RowBuffer
from lorascope.stores import Run, open_place, open_run
from lorascope.stores.format.codec import compressors, encode_chunk
from lorascope.stores.format.digests import chunk_digest
from lorascope.stores.format.spec import FORMAT_VERSION
from lorascope.stores.format.stored_array import StoredArray

STAGES = ("copy", "encode", "digest", "write")
BARS = {"before, zstd": "", "before, raw": "", "default": "1.8 (1.3)", "zstd": "", "lz4": "", "raw": "0.5 (0.35)"}
"""Way -> its bar (aim); every way that is measured."""


class Passed(NamedTuple):
    """One row through every stage."""

    seconds: dict[str, float]
    stored_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, action="append", help="a raw run to take the row of; else they are made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="take one array in EVERY")
    parser.add_argument("--folder", type=Path, help="where chunks are written; a temporary folder if not given")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    content = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        runs = arguments.run or [make_raw(folder, dtype) for dtype in ("float32", "bfloat16")]
        for path in runs:
            run = open_run(path)
            blocks = states(run, arguments.every)
            jobs: dict[str, Callable[[], Passed]] = {
                way: lambda way=way, blocks=blocks: pass_row(folder / "chunks", way, blocks) for way in BARS
            }
            found = take_turns(jobs, arguments.rounds)
            content[run.components["stored_dtype"].values[0]] = tell(run, blocks, found)
    write_json(arguments.json, content)


def make_raw(folder: Path, dtype: str) -> Path:
    """A run of one row in this type, not compressed."""
    adapted = smollm2(folder / f"adapter-{dtype}", dtype=dtype, rank=RANK)
    out = folder / f"{dtype}.zarr"
    run_capture(adapted, write_text(folder, 1), out, 1, {"codec": "raw", "dtype": dtype, "score": False})
    return out


def states(run: Run, every: int) -> dict[str, np.ndarray]:
    """Path -> the first row of base at each component, as it is stored."""
    return {f"states/{path}/base": run.base_rows(path).read_stored(0) for path in run.component_paths[::every]}


def pass_row(folder: Path, way: str, blocks: Mapping[str, np.ndarray]) -> Passed:
    """Take a row through every stage in this way."""
    before, codec = way.startswith("before"), way.rpartition(" ")[2]
    spent, place, stored = dict.fromkeys(STAGES, 0.0), open_place(folder), 0
    place.write("zarr.json", b"{}")
    arrays = {path: made(block, codec, before=before) for path, block in blocks.items()}
    described = {path: StoredArray.from_metadata(path, array.metadata) for path, (array, _) in arrays.items()}
    for path in blocks:
        place.write(f"{path}/zarr.json", b"{}")
    row = RowBuffer({path: (block.shape, block.dtype) for path, block in blocks.items()})
    fill(row, blocks)  # buffers go round: only the first row's memory is new
    with spending(spent, "copy"):
        fill(row, blocks)
    for path, block in row.blocks(len(next(iter(blocks.values())))).items():
        array, memory = arrays[path]
        with spending(spent, "encode"):
            if before:
                array[:] = block
                pieces: tuple[Any, ...] = (
                    memory.pop(next(key for key in memory if "/c" in f"/{key}")).as_numpy_array(),
                )
            else:
                pieces = encode_chunk(described[path], block)
        with spending(spent, "digest"):
            hashlib.sha256(pieces[0]).digest() if before else chunk_digest(FORMAT_VERSION, *pieces)
        with spending(spent, "write"):
            place.write(f"{path}/c.0.0", *pieces)
            if before:
                place.flush(path)
        stored += sum(piece.nbytes for piece in pieces)
    if not before:
        with spending(spent, "write"):
            for path in blocks:
                place.flush(path)
    shutil.rmtree(folder)
    return Passed(spent, stored)


def fill(row: RowBuffer, blocks: Mapping[str, np.ndarray]) -> None:
    """Copy as hooks do."""
    for path, block in blocks.items():
        source = torch.from_numpy(block.view(np.int16) if block.dtype == np.uint16 else block)
        row.tensors[path].view(source.dtype).copy_(source)


def made(block: np.ndarray, codec: str, *, before: bool) -> tuple[Any, dict[str, Any]]:
    """An array for one block, and the memory that it lies in."""
    memory: dict[str, Any] = {}
    settings: Any = compressors(block.dtype.name, codec)  # type: ignore[arg-type]  # one of the format's
    array = zarr.create_array(
        MemoryStore(memory), shape=block.shape, chunks=block.shape, dtype=block.dtype, compressors=settings,
        config={"write_empty_chunks": True},
    )  # fmt: skip
    memory.clear()
    return array, memory


@contextmanager
def spending(spent: dict[str, float], stage: str) -> Iterator[None]:
    """Add the processor's seconds of a block to a stage."""
    start = time.process_time()
    yield
    spent[stage] += time.process_time() - start


def tell(run: Run, blocks: Mapping[str, np.ndarray], found: Mapping[str, list[Passed]]) -> dict[str, Any]:
    """Print the table of one run; returns its numbers."""
    gigabytes = sum(block.nbytes for block in blocks.values()) / 1e9
    numbers, rows = {}, []
    for way, bar in BARS.items():
        stages = {stage: median(one.seconds[stage] for one in found[way]) / gigabytes for stage in STAGES}
        whole = median(sum(one.seconds.values()) for one in found[way]) / gigabytes
        ratio = found[way][0].stored_bytes / gigabytes / 1e9
        numbers[way] = {**stages, "sum": whole, "ratio": ratio}
        rows.append([way, f"{ratio:.3f}", *(f"{seconds:.2f}" for seconds in stages.values()), f"{whole:.2f}", bar])
    dtype = run.components["stored_dtype"].values[0]
    title = (
        f"Processor seconds a GB, {dtype}, {gigabytes:.2f} GB in {len(blocks)} chunks; medians of {len(found['raw'])}"
    )
    print_table(title, ("way", "stored", *STAGES, "sum", "bar (aim)"), rows)
    return numbers


if __name__ == "__main__":
    main()
