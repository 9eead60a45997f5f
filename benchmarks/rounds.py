"""How the benchmarks take turns, sum up and print: medians with their spread, ratios within one round."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Took(NamedTuple):
    """Seconds of one job."""

    wall: float
    processor: float
    """All threads of the process together."""


def timed(job: Callable[[], T]) -> tuple[T, Took]:
    """What a job returns, and what it took."""
    wall, processor = time.perf_counter(), time.process_time()
    result = job()
    return result, Took(time.perf_counter() - wall, time.process_time() - processor)


def take_turns(jobs: Mapping[str, Callable[[], T]], n_rounds: int) -> dict[str, list[T]]:
    """Results of every job, one a round; each round begins with another one, so that none has a fixed predecessor."""
    results: dict[str, list[T]] = {name: [] for name in jobs}
    names = list(jobs)
    for index in range(n_rounds):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            print(f"round {index + 1} of {n_rounds}: {name}", file=sys.stderr, flush=True)
            results[name].append(jobs[name]())
            os.sync()  # what one leaves for the disk is not the next one's to pay
    return results


def ratios(values: Sequence[float], references: Sequence[float]) -> list[float]:
    """Ratio within each round."""
    return [value / reference for value, reference in zip(values, references, strict=True)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and smallest to largest."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A Markdown table."""
    print(f"\n{title}\n")
    print("|", " | ".join(columns), "|")
    print("|---" + "|--:" * (len(columns) - 1) + "|")
    for row in rows:
        print("|", " | ".join(map(str, row)), "|")
    print(flush=True)


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    """The numbers behind the tables, with the machine they were measured on."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **content}, indent=1, default=str) + "\n")


def machine() -> dict[str, Any]:
    """Processor, cores, and versions of what shapes the figures."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("lorascope", "torch", "transformers", "peft", "zarr", "numcodecs", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    return {"processor": name, "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def stored_bytes(store: Path) -> int:
    """Bytes of all files of a store."""
    return sum(file.stat().st_size for file in store.rglob("*") if file.is_file())


def disk_rate(folder: Path, n_bytes: int, file_bytes: int = 4 * 2**20) -> float:
    """Bytes a second that the disk itself takes: files of random bytes, each flushed, one after another."""
    block = os.urandom(file_bytes)
    n_files = max(n_bytes // file_bytes, 1)
    paths = [folder / f"probe.{index}" for index in range(n_files)]
    start = time.perf_counter()
    for path in paths:
        with open(path, "wb") as file:
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    for path in paths:
        path.unlink()
    return n_files * file_bytes / seconds
