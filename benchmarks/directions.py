"""`directions` over ten million tokens of z: `python benchmarks/directions.py` prints Markdown tables.

It takes turns with reading and decoding the same factor twice, with the same reader and threads, each in a new process,
so that its peak of resident memory counts alone. Runs have one component of rank 16, no z occurs twice, and they are in
the page cache. The result is compared with NumPy's on all of z; one thread and two must give the same bits.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from memory import status_bytes
from rounds import print_table, ratios, spread, stored_bytes, take_turns, timed, write_json
from synthetic import write_run

from lorascope.analyze.directions.decomposition import scores
from lorascope.analyze.directions.directions import directions
from lorascope.analyze.measuring.sources import component_sources
from lorascope.stores import Run, open_run
from lorascope.stores.format.spec import ROW_TOKENS
from lorascope.stores.reading.walk import walk_rows

RANK, WIDTH, N_TOP = 16, 32, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=float, nargs="*", default=[1e6, 1e7], help="of the runs")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--folder", type=Path, help="where runs are written, or lie; a temporary folder if not given")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, path, n_threads = arguments.measure
        print(json.dumps(measure(JOBS[name], open_run(path), int(n_threads))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        runs = [prepared(arguments.folder or Path(temporary), round(n / ROW_TOKENS)) for n in arguments.tokens]
        rows: list[Sequence[str]] = []
        content: dict[str, Any] = {}
        for run in runs:
            require_right(run)
            for n_threads in arguments.threads:
                jobs = {name: partial(in_a_process, name, run, n_threads) for name in JOBS}
                found = take_turns(jobs, arguments.rounds)
                content[f"{run.n_tokens} tokens, {n_threads} threads"] = found
                rows += table_rows(run, n_threads, found)
    columns = ("tokens", "threads", "", "s", "/ reading", "million tokens/s", "peak MiB", "without imports, MiB")
    print_table(f"rank {RANK}, the {N_TOP} first tokens of each direction; two trips", columns, rows)
    write_json(arguments.json, content)


def prepared(folder: Path, n_rows: int) -> Run:
    path = folder / f"{n_rows}.zarr"
    if not path.exists():
        print(f"writing {n_rows * ROW_TOKENS} tokens", file=sys.stderr, flush=True)
        write_run(path, width=WIDTH, n_components=1, n_rows=n_rows, rank=RANK, fresh=True)
    run = open_run(path)
    factor = stored_bytes(path / "adapters" / "default" / "factor")
    print(f"{run.n_tokens} tokens: z of {4 * RANK * run.n_tokens / 1e6:.0f} MB, {factor / 1e6:.0f} MB stored")
    return run


def found_by(run: Run, n_threads: int) -> xr.Dataset:
    return directions(run, run.component_paths[0], n_top=N_TOP, n_workers=n_threads)


def read_twice(run: Run, n_threads: int) -> None:
    """Read as `directions` reads, and do nothing with it."""
    for _ in range(2):
        for _ in walk_rows(component_sources(run), ["factor"], n_threads=n_threads):
            pass


JOBS: dict[str, Callable[[Run, int], Any]] = {"reading alone": read_twice, "directions": found_by}


def measure(job: Callable[[Run, int], Any], run: Run, n_threads: int) -> dict[str, float]:
    before = status_bytes("self", "VmHWM")
    scores(np.zeros((1, RANK), np.float32), np.eye(RANK, dtype=np.float32))  # code and BLAS are loaded
    _, took = timed(lambda: job(run, n_threads))
    return {
        "seconds": took.wall,
        "processor": took.processor,
        "peak_bytes": status_bytes("self", "VmHWM"),
        "before_bytes": before,
    }


def in_a_process(name: str, run: Run, n_threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", name, str(run.path), str(n_threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def require_right(run: Run) -> None:
    """Shares and tokens against NumPy on all of z in float64; the same bits from one thread and from two."""
    one, two = (found_by(run, n) for n in (1, 2))
    xr.testing.assert_identical(one, two)
    path = run.component_paths[0]
    z, scaling = run.delta_arrays(path).rows, run.delta_arrays(path).scaling
    blocks = [slice(start, start + 2**18) for start in range(0, run.n_tokens, 2**18)]
    lora_b = scaling * run.lora_B(path).values.astype(np.float64)
    gram = sum(wide.T @ wide for wide in (z[block].astype(np.float64) for block in blocks))
    root = np.linalg.cholesky(gram)
    values = np.linalg.eigvalsh(root.T @ lora_b.T @ lora_b @ root)
    np.testing.assert_allclose(one["share"], values[::-1] / values.sum(), rtol=1e-9)
    rotation = (one["vector"].values.astype(np.float64) @ lora_b).T
    parts = []
    for block in blocks:
        size = np.abs(z[block].astype(np.float64) @ rotation)
        kept = np.argpartition(-size, N_TOP, axis=0)[:N_TOP]
        parts.append(np.stack([block.start + kept, np.take_along_axis(size, kept, axis=0)]))
    tokens, size = np.concatenate(parts, axis=1)
    order = np.argsort(-size, axis=0, kind="stable")[:N_TOP]
    np.testing.assert_array_equal(one["top_token"].T, np.take_along_axis(tokens, order, axis=0))


def table_rows(run: Run, n_threads: int, found: dict[str, list[dict[str, float]]]) -> list[Sequence[str]]:
    base = [one["seconds"] for one in found["reading alone"]]
    rows: list[Sequence[str]] = []
    for name, takes in found.items():
        seconds = [one["seconds"] for one in takes]
        peaks = [one["peak_bytes"] / 2**20 for one in takes]
        own = [(one["peak_bytes"] - one["before_bytes"]) / 2**20 for one in takes]
        rate = [run.n_tokens / one / 1e6 for one in seconds]
        rows.append(
            (
                f"{run.n_tokens}",
                f"{n_threads}",
                name,
                spread(seconds),
                spread(ratios(seconds, base)),
                spread(rate),
                spread(peaks, 0),
                spread(own, 0),
            )
        )
    return rows


if __name__ == "__main__":
    main()
