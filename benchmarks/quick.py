"""Ratios of lorascope's times in five minutes: `python benchmarks/quick.py` prints one Markdown table.

Each ratio compares two jobs that took turns in one process, so that it depends little on the machine. The table shows
the ratios that are committed in `quick.json` too, and marks those that are now a fifth larger; `--keep` writes the new
ones. Runs are made on the spot: 112 components of random states of width 576, and SmolLM2-135M over two rows of text.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from analysis import MANY, read_all
from models import smollm2
from rounds import Took, machine, print_table, ratios, spread, take_turns, timed
from synthetic import write_run
from threadpoolctl import threadpool_limits

from capture import bare_seconds, captured, run_capture, same_batches, write_text
from lorascope.analyze import measure_information
from lorascope.analyze.measuring.run import measure_run
from lorascope.analyze.report import write_report
from lorascope.stores import open_run, verify

KEPT = Path(__file__).with_name("quick.json")
SLOWER = 1.2
N_ROWS = 2
"""Rows of 1024 tokens that SmolLM2 captures."""
LIBRARIES = "import dask.array, numpy, pandas, xarray, zarr"
RATIOS = {
    "capture, states and measures": ("capture", "bare passes"),
    "capture with next-token changes": ("capture with changes", "bare passes"),
    "verify": ("verify", "read and decode"),
    "miub": ("miub", "read and decode"),
    "thirteen measures": ("thirteen measures", "read and decode"),
    "mutual information of two components": ("mutual information", "decomposition"),
    "report": ("report", "decomposition"),
    "report again": ("report again", "decomposition"),
    "start of `lorascope info`": ("info", "imports of its libraries"),
    "start of `lorascope capture --help`": ("help", "imports of its libraries"),
}
"""Line of the table -> (job, job that it is compared with)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="write the ratios into quick.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        jobs = {**analysis_jobs(Path(folder)), **model_jobs(Path(folder))}
        take_turns(
            {name: job for name, job in jobs.items() if name != "bare passes"}, 1
        )  # compiled, and in the page cache
        results = take_turns(jobs, arguments.rounds)
    seconds = {name: [took.wall for took in found] for name, found in results.items()}
    found = {line: ratios(seconds[job], seconds[other]) for line, (job, other) in RATIOS.items()}
    kept = json.loads(KEPT.read_text())["ratios"] if KEPT.exists() else {}
    rows = []
    for line, values in found.items():
        before, now = kept.get(line), median(values)
        mark = "SLOWER" if before and now > SLOWER * before else ""
        rows.append((line, f"/ {RATIOS[line][1]}", spread(values), before or "", mark))
    print_table(
        f"{arguments.rounds} rounds; median (least to largest)", ("", "compared with", "ratio", "committed", ""), rows
    )
    if arguments.keep:
        medians = {line: round(median(values), 3) for line, values in found.items()}
        KEPT.write_text(json.dumps({"machine": machine(), "ratios": medians}, indent=1) + "\n")


def analysis_jobs(folder: Path) -> dict[str, Callable[[], Took]]:
    """Jobs over one run of random states."""
    run = open_run(write_run(folder / "random.zarr", width=576, n_components=112, n_rows=2))
    return {
        "read and decode": lambda: timed(lambda: read_all(run, 2))[1],
        "miub": lambda: timed(lambda: measure_run(run, ("js",), n_workers=2))[1],
        "thirteen measures": lambda: timed(lambda: measure_run(run, MANY, n_workers=2))[1],
        "verify": lambda: timed(lambda: verify(run.path))[1],
        "decomposition": lambda: timed(decompose)[1],
        "info": lambda: timed(lambda: call("-m", "lorascope", "info", run.path))[1],
        "help": lambda: timed(lambda: call("-m", "lorascope", "capture", "--help"))[1],
        "imports of its libraries": lambda: timed(lambda: call("-c", LIBRARIES))[1],
    }


def model_jobs(folder: Path) -> dict[str, Callable[[], Took]]:
    """Jobs with SmolLM2, and over a run of it."""
    adapted = smollm2(folder / "adapter", dtype="float32", rank=8)
    data = write_text(folder, N_ROWS)
    batches = same_batches(folder, adapted, data, N_ROWS)
    run = run_capture(adapted, data, folder / "smollm2.zarr", N_ROWS, {"score": False, "changes": "all"})
    some = run.component_paths[::105]

    def passes() -> Took:
        """Bare forward passes over all batches."""
        return timed(lambda: bare_seconds(adapted.model, batches))[1]

    def capture(**options: Any) -> Took:
        """One capture, without scores."""
        return captured(folder, adapted, data, N_ROWS, {"score": False, **options}).took

    def report() -> Took:
        """One report of which nothing was computed before."""
        shutil.rmtree(f"{run.path}.results", ignore_errors=True)
        return timed(lambda: write_report([run], folder / "report.html"))[1]

    return {
        "bare passes": passes,
        "capture": capture,
        "capture with changes": lambda: capture(changes="all"),
        "mutual information": lambda: timed(lambda: measure_information(run, component=some))[1],
        "report": report,
        "report again": lambda: timed(lambda: write_report([run], folder / "report.html"))[1],
    }


def decompose() -> None:
    """Singular values of a fixed matrix, by one thread: a yardstick for work that isn't reading."""
    with threadpool_limits(1):
        np.linalg.svd(np.random.default_rng(0).standard_normal((1500, 1500)), compute_uv=False)


def call(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
