"""`miub` over whole stores: `python benchmarks/analysis.py` prints Markdown tables.

It is compared with reading and decoding the same arrays with the same reader and threads, and with the script that a
user of zarr and torch would write. It runs on threads, processes and a cluster of worker processes, whose results must
have the same bits; and over stores from 0.1 to 20 GB, each in a new process. Stores are bfloat16, rank 8, random
(`synthetic.py`).
"""

import argparse
import cProfile
import json
import pstats
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from memory import status_bytes
from rounds import Took, print_table, ratios, spread, stored_bytes, take_turns, timed, write_json
from synthetic import write_run

from lorascope.analyze.measuring.run import measure_run
from lorascope.analyze.measuring.sources import GROUP_BYTES, component_sources
from lorascope.analyze.miub.miub import miub
from lorascope.stores import Run, open_run
from lorascope.stores.format.spec import ROW_TOKENS
from lorascope.stores.process import keeping_freed_memory
from lorascope.stores.reading.source import group_sizes, read_factors

SHAPES = {576: 112, 4096: 28}
"""Width -> components; with 8 rows some 1.3 and 1.9 GB of bfloat16."""
SCALE_COMPONENTS = 224
SCALE_WIDTH = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=8, help="rows of 1024 tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--gigabytes", type=float, nargs="*", default=[0.1, 0.5, 2, 5, 10, 20], help="of the scale part"
    )
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--folder", type=Path, help="where stores are written; a temporary folder if not given")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure_once(*arguments.measure)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        content = {name: PARTS[name](Path(folder), arguments) for name in arguments.parts}
    write_json(arguments.json, content)


def ratio(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time `miub` in turns with reading and decoding, and with the script."""
    rows, content = [], {}
    for width, n_components in SHAPES.items():
        run = open_run(store(folder, width, n_components, arguments.rows))
        jobs = ratio_jobs(run, arguments.threads)
        require_equal(run, arguments.threads)
        for job in jobs.values():  # compiled, and in the page cache
            job()
        found = take_turns(jobs, arguments.rounds)
        content[width] = found
        n_values = width * run.n_tokens * n_components
        base = [took.wall for took in found["read and decode"]]
        scripts = [[took.wall for took in found[name]] for name in SCRIPTS]
        for name, takes in found.items():
            wall = [took.wall for took in takes]
            rows.append(
                (
                    f"{name}, width {width}",
                    spread(wall),
                    spread(ratios(wall, base)),
                    *(spread(ratios(script, wall), 1) for script in scripts),
                    spread([1e9 * took.processor / n_values for took in takes]),
                )
            )
    title = f"{arguments.threads} threads, {arguments.rows} rows; {arguments.rounds} rounds"
    print_table(
        title, ("", "s", "/ read and decode", "script at once / this", "in rows / this", "processor ns a value"), rows
    )
    return content


SCRIPTS = ("zarr and torch, a component at once", "zarr and torch, in rows")


def ratio_jobs(run: Run, n_threads: int) -> dict[str, Callable[[], Took]]:
    """Whatever takes turns over one store."""
    path = Path(run.path)
    return {
        "read and decode": lambda: timed(lambda: read_all(run, n_threads))[1],
        "read and decode with zarrs": lambda: timed(lambda: read_with_zarrs(path, n_threads))[1],
        "lorascope": lambda: timed(lambda: measure_run(run, ("js",), n_workers=n_threads))[1],
        "lorascope, 13 measures": lambda: timed(lambda: measure_run(run, MANY, n_workers=n_threads))[1],
        SCRIPTS[0]: lambda: timed(lambda: torch_script(path, n_threads))[1],
        SCRIPTS[1]: lambda: timed(lambda: torch_script(path, n_threads, n_tokens=ROW_TOKENS))[1],
    }


def read_with_zarrs(path: Path, n_threads: int) -> None:
    """Arrays of the run through zarr-python with the zarrs pipeline, whole chunks, the factor once a row."""
    import zarr

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        group = zarr.open_group(path, mode="r")
        arrays = [group[f"states/{name}/base"] for name in group["components/path"][:]]
        factor = group["adapters/default/factor"]
    rows = [slice(start, start + ROW_TOKENS) for start in range(0, factor.shape[0], ROW_TOKENS)]
    with keeping_freed_memory(), ThreadPoolExecutor(n_threads) as threads:
        list(threads.map(lambda job: job[0][job[1]], [(array, row) for row in rows for array in (factor, *arrays)]))


MANY = (
    *("js", "kl_base_lora", "kl_lora_base", "entropy_base", "entropy_lora", "effective_width", "effective_width_lora"),
    *("argmax_agreement", "base_norm", "delta_norm", "delta_ratio", "delta_cosine", "js_permuted"),
)


def read_all(run: Run, n_threads: int) -> None:
    """Decode every chunk of base and factor as `miub` does, and do nothing with it."""
    sources = component_sources(run)
    size = group_sizes(sources, GROUP_BYTES)[0]

    def read(job: tuple[int, int]) -> None:
        first, row = job
        group = sources[first : first + size]
        read_factors(group, row)
        for source in group:
            source.base.read_stored(row)

    jobs = [(first, row) for row in range(run.n_rows) for first in range(0, len(sources), size)]
    with keeping_freed_memory(), ThreadPoolExecutor(n_threads) as threads:
        list(threads.map(read, jobs))


def torch_script(path: Path, n_threads: int, *, n_tokens: int | None = None) -> np.ndarray:
    """What a user of zarr and torch would write, a component at once or in steps of tokens: softmax and kl_div."""
    import torch
    import zarr

    torch.set_num_threads(n_threads)
    group = zarr.open_group(path, mode="r")
    adapter = group["adapters/default"]
    starts, ranks, scalings = (adapter[name][:] for name in ("factor_start", "rank", "scaling"))
    out = []
    with torch.inference_mode():
        for index, name in enumerate(group["components/path"][:]):
            base, lora_b = group[f"states/{name}/base"], torch.from_numpy(adapter[f"lora_B/{name}"][:])
            columns = slice(int(starts[index]), int(starts[index] + ranks[index]))
            step = n_tokens or base.shape[0]
            parts = []
            for start in range(0, base.shape[0], step):
                tokens = slice(start, start + step)
                states = torch.from_numpy(base[tokens].view(np.int16)).view(torch.bfloat16).float()
                delta = float(scalings[index]) * torch.from_numpy(adapter["factor"][tokens, columns]) @ lora_b.T
                parts.append(torch_js(states, delta))
            out.append(torch.cat(parts).numpy())
    return np.stack(out, axis=1)


def torch_js(base: Any, delta: Any) -> Any:
    import torch
    from torch.nn.functional import kl_div

    log_p, log_q = base.log_softmax(-1), (base + delta).log_softmax(-1)
    log_m = torch.logaddexp(log_p, log_q) - np.log(2)
    return 0.5 * sum(kl_div(log_m, x, reduction="none", log_target=True).sum(-1) for x in (log_p, log_q))


def require_equal(run: Run, n_threads: int) -> None:
    ours = measure_run(run, ("js",), n_workers=n_threads)["js"].values
    # In float32 the textbook form loses a JS below 1e-6 to rounding.
    np.testing.assert_allclose(torch_script(Path(run.path), n_threads), ours, rtol=0.02, atol=2e-7)


def same(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Whether the bits are alike from threads, processes and worker processes of a cluster, and what each takes."""
    import dask
    import distributed

    run = open_run(store(folder, 4096, SHAPES[4096], arguments.rows))
    expected, took = timed(lambda: js_bytes(run, n_workers=1))
    rows = [("1 thread", took)]
    for n in (2, 4):
        found, took = timed(lambda n=n: js_bytes(run, n_workers=n))
        assert found == expected
        rows.append((f"{n} threads", took))
    with dask.config.set({"multiprocessing.context": "spawn"}):
        for n in (1, 2, 4):
            found, took = timed(lambda n=n: js_bytes(run, scheduler="processes", n_workers=n))
            assert found == expected
            rows.append((f"{n} processes", took))
    for n in (1, 2, 4):
        with distributed.LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=":0") as local:
            js_bytes(run, scheduler=local.scheduler_address)  # workers have imported and compiled
            found, took = timed(lambda local=local: js_bytes(run, scheduler=local.scheduler_address))
        assert found == expected
        rows.append((f"{n} workers of a cluster", took))
    print_table("the same bits; seconds", ("", "s"), [(name, f"{took.wall:.2f}") for name, took in rows])
    return dict(rows)


def js_bytes(run: Run, **options: Any) -> bytes:
    return measure_run(run, ("js",), **options)["js"].values.tobytes()


def profile(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Where one thread's time goes, by function."""
    content = {}
    for width, n_components in SHAPES.items():
        run = open_run(store(folder, width, n_components, arguments.rows))
        js_bytes(run, scheduler="synchronous")
        profiler = cProfile.Profile()
        profiler.runcall(js_bytes, run, scheduler="synchronous")
        stats = pstats.Stats(profiler)
        total = stats.total_tt  # type: ignore[attr-defined]
        top = sorted(stats.stats.items(), key=lambda item: -item[1][2])[:10]  # type: ignore[attr-defined]
        rows = [
            (f"{Path(file).name}:{name}", f"{own:.2f}", f"{own / total:.0%}")
            for (file, _, name), (_, _, own, *_) in top
        ]
        print_table(f"own time by function, width {width}, one thread, {total:.2f} s", ("", "s", "share"), rows)
        content[width] = rows
    return content


def scale(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time and peak memory of `miub --out`, each store in a process of its own."""
    rows, content = [], {}
    for gigabytes in arguments.gigabytes:
        n_components, n_rows = scale_shape(gigabytes)
        path = write_run(folder / "scale.zarr", width=SCALE_WIDTH, n_components=n_components, n_rows=n_rows)
        size = stored_bytes(path)
        command = [sys.executable, __file__, "--measure", str(path), str(folder / "result.zarr")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.strip().splitlines()[-1])
        found["stored_bytes"] = size
        content[gigabytes] = found
        values = found["values"]
        rows.append(
            (
                f"{size / 1e9:.2f}",
                f"{n_components} x {n_rows}",
                f"{found['seconds']:.1f}",
                f"{size / found['seconds'] / 1e6:.0f}",
                f"{2 * values / found['seconds'] / 1e9:.2f}",
                f"{found['peak_bytes'] / 2**20:.0f}",
                f"{(found['peak_bytes'] - found['before_bytes']) / 2**20:.0f}",
            )
        )
        for name in ("scale.zarr", "result.zarr"):
            subprocess.run(["rm", "-rf", str(folder / name)], check=True)
    columns = (
        "GB on disk",
        "components x rows",
        "s",
        "MB/s of disk",
        "GB/s decoded",
        "peak MiB",
        "without imports, MiB",
    )
    print_table(f"`miub` with --out, {arguments.threads} threads, width {SCALE_WIDTH}", columns, rows)
    return content


def scale_shape(gigabytes: float) -> tuple[int, int]:
    """Components and rows of a store of about this size: few components where it is small."""
    chunks = gigabytes * 1e9 / (2 * ROW_TOKENS * SCALE_WIDTH * 0.69)
    n_components = min(SCALE_COMPONENTS, max(7, round(chunks / 4)))
    return n_components, max(1, round(chunks / n_components))


def measure_once(path: str, out: str) -> dict[str, Any]:
    warm_up()
    run = open_run(path)
    before = status_bytes("self", "VmHWM")
    result, took = timed(lambda: miub(run, n_workers=2, out=out))
    return {
        "seconds": took.wall,
        "processor": took.processor,
        "peak_bytes": status_bytes("self", "VmHWM"),
        "before_bytes": before,
        "values": run.n_tokens * int(result["d_out"].sum()),
    }


def warm_up() -> None:
    """Compiled code comes from its cache before anything is timed."""
    from lorascope.analyze.measuring.jensen_shannon import jensen_shannon

    jensen_shannon(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))


def store(folder: Path, width: int, n_components: int, n_rows: int) -> Path:
    path = folder / f"{width}.zarr"
    return path if path.exists() else write_run(path, width=width, n_components=n_components, n_rows=n_rows)


PARTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "ratio": ratio,
    "same": same,
    "profile": profile,
    "scale": scale,
}

if __name__ == "__main__":
    main()
