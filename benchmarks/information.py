"""Mutual information: speed and accuracy of the estimators, as Markdown tables.

`python benchmarks/information.py [speed] [large] [tasks] [choosing] [unseen] [peers] [report] [store]`, by default
all but the peers:

- speed: KSG at 5000 pairs compared with scikit-learn and the brute force of benchmark-mi (`.venv-bmi`, made by
  `make .venv-bmi/installed`), in turns, in processor time, and how far the values lie apart.
- large: KSG of 100,000 pairs in 5 + 5 dimensions.
- tasks: every estimator on the tasks with known values in `../shared/mi_tasks`, or another folder given by `--tasks`.
- choosing, unseen: the panel on our own tasks (`information_tasks.py`), of the set that it was chosen by, or of the
  one that was looked at once; `peers` after it runs benchmark-mi's KSG, CCA, InfoNCE and MINE on the same samples,
  minutes a task. Rows go to `information_tasks.json`, which pages and tests read; existing rows of the same
  samples are kept, except the panel's.
- report: that file as tables: errors, how often intervals hold the truth, and each unseen task.
- store: `lorascope mi` over a run of 210 components, given by `--run`, at default settings: seconds and peak memory.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # before NumPy loads

import argparse
import hashlib
import json
import math
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
from information_tasks import tasks as own_tasks
from sklearn.feature_selection import mutual_info_regression

from lorascope.analyze import mutual_information
from lorascope.analyze.information import ESTIMATORS, PANEL, VERDICTS, ksg

ROOT = Path(__file__).parent.parent
PEER = ROOT / ".venv-bmi" / "bin" / "python"
RESULTS = Path(__file__).parent / "information_tasks.json"
N_ROUNDS = 3
DIMENSIONS = (1, 3, 5, 25)
PEERS = ("KSG", "CCA", "InfoNCE", "MINE")
FLAGS = {"ok": "", "lower bound only": "", "assumes Gaussian": "g", "saturated": "s", "undersampled": "u"}


def gaussian_pairs(n: int, d: int, rho: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(d)
    x = rng.normal(size=(n, d))
    return x, rho * x + np.sqrt(1 - rho**2) * rng.normal(size=(n, d))


def speed() -> None:
    print("| dimensions | ours, s | benchmark-mi, s | times | largest difference, nat | scikit-learn, s |")
    print("|---|---|---|---|---|---|")
    for d in DIMENSIONS:
        x, y = (side.astype(np.float32).astype(np.float64) for side in gaussian_pairs(5000, d))
        peer = _peer(x, y)
        ours, values = [], []
        scaled = [(side - side.mean(axis=0)) / side.std(axis=0) for side in (x, y)]
        ksg(*scaled, k=10)  # compiles
        for _ in range(N_ROUNDS):
            started = process_time()
            values.append(ksg(*scaled, k=10))
            ours.append(process_time() - started)
        seconds, other = median(ours), median(one["processor"] for one in peer)
        difference = max(abs(one["value"] - value) for one, value in zip(peer, values, strict=True))
        sklearn = _sklearn_seconds(x, y) if d == 1 else ""
        cells = [f"{d} + {d}", f"{seconds:.3f}", f"{other:.2f}", f"{other / seconds:.0f}", f"{difference:.1e}"]
        print("| " + " | ".join([*cells, sklearn]) + " |", flush=True)


def _peer(x: np.ndarray, y: np.ndarray) -> list[dict[str, float]]:
    found: list[dict[str, float]] = _in_peer(x, y, "ksg", "10", "chebyshev", str(N_ROUNDS))
    return found


def _in_peer(x: np.ndarray, y: np.ndarray, *what: str) -> Any:
    if not PEER.exists():
        raise SystemExit("benchmark-mi isn't installed; run `make .venv-bmi/installed` first")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.npz"
        np.savez(path, x=x, y=y)
        command = [str(PEER), str(Path(__file__).parent / "peer_mi.py"), str(path), *what]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _sklearn_seconds(x: np.ndarray, y: np.ndarray) -> str:
    seconds = []
    for _ in range(N_ROUNDS):
        started = process_time()
        value = mutual_info_regression(x, y[:, 0], n_neighbors=3)[0]
        seconds.append(process_time() - started)
    ours = ksg(x / x.std(axis=0), y / y.std(axis=0), k=3)
    return f"{median(seconds):.3f} (k = 3: differs by {abs(value - ours):.1e})"


def large() -> None:
    truth = -2.5 * np.log(1 - 0.6**2)
    print("| pairs | dimensions | processor, s | value, nat | truth |")
    print("|---|---|---|---|---|")
    for n in (20_000, 100_000):
        x, y = gaussian_pairs(n, 5)
        started = process_time()
        value = ksg(x, y, k=3)
        cells = [n, "5 + 5", f"{process_time() - started:.1f}", f"{value:.3f}"]
        print("| " + " | ".join(map(str, cells)) + f" | {truth:.3f} |", flush=True)


def tasks(folder: Path) -> None:
    names = [name for name in ESTIMATORS if not name.startswith("noise")]
    names.insert(names.index(PANEL[-1]) + 1, "panel")
    print("| task | truth | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 2) + "|")
    errors: dict[str, list[float]] = {name: [] for name in names}
    for task, x, y, truth in _tasks(folder):
        found = _estimates(x, y, names)
        cells = [f"{value - truth:+.3f}{FLAGS[word]}" for value, word in found]
        print(f"| {task} | {truth:.3f} | " + " | ".join(cells) + " |", flush=True)
        if not task.startswith("extra"):
            for name, (value, _) in zip(names, found, strict=True):
                errors[name].append(value - truth)
    summaries = {"mean absolute error": lambda e: np.abs(e).mean(), "largest excess": np.max, "worst": np.min}
    for title, reduce in summaries.items():
        cells = [f"{reduce(np.array(errors[name])):.3f}" for name in names]
        print(f"| **{title}**, {len(errors['panel'])} tasks | | " + " | ".join(cells) + " |")
    _seconds(names)


def _estimates(x: np.ndarray, y: np.ndarray, names: list[str]) -> list[tuple[float, str]]:
    """Value and verdict of each; the panel needs shuffles for what is taken off it."""
    panel = mutual_information(x, y)
    others = mutual_information(
        x, y, estimator=[name for name in names if name not in panel["estimator"]], n_shuffles=0
    )
    found = {}
    for result in (panel, others):
        rows = zip(result["estimator"].values, result["value"].values, result["verdict"].values, strict=True)
        found |= {str(name): (float(value), str(word)) for name, value, word in rows}
    return [found[name] for name in names]


def _tasks(folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray, float]]:
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            yield path.name.partition("__")[0], file["x"], file["y"], float(file["mi_true"])


def _seconds(names: list[str]) -> None:
    """Processor seconds of one evaluation, without null, ladder and interval."""
    from lorascope.analyze.information.estimators import evaluate, resolve_estimators
    from lorascope.analyze.information.pairs import Settings, check_pairs

    print("\n| seconds for 5000 pairs | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for d in DIMENSIONS:
        pairs, cells = check_pairs(*gaussian_pairs(5000, d)), []
        for name in names:
            started = process_time()
            evaluate(pairs, resolve_estimators(name), Settings())
            cells.append(f"{process_time() - started:.2f}")
        print(f"| {d} + {d} | " + " | ".join(cells) + " |")


def own(name_of_set: str, *, with_peers: bool) -> None:
    """The panel, and perhaps peers, on our own tasks of a set; rows to the file, a table to the screen."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for task in own_tasks():
        if task.set != name_of_set:
            continue
        x, y = task.sample()
        digest = hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()
        row = rows.get(task.name, {})
        if row.get("sha256") != digest:
            row = {"set": name_of_set, "family": task.family, "dimensions": [x.shape[1], y.shape[1]], "sha256": digest}
        row |= {"truth": task.truth, **_own_estimates(x, y)}
        if with_peers and "peers" not in row:
            row["peers"] = _peers(x, y)
        rows[task.name] = row
        RESULTS.write_text(json.dumps(rows, indent=1, sort_keys=True, allow_nan=False) + "\n")
        error = row["value"] - task.truth
        print(
            f"{task.name:32} {task.truth:7.3f} {error:+.3f} {row['low']:.3f} {row['high']:.3f} {row['verdict']}",
            flush=True,
        )


def _own_estimates(x: np.ndarray, y: np.ndarray) -> dict[str, object]:
    found = mutual_information(x, y)
    panel = found.sel(estimator="panel")
    numbers = {name: round(float(panel[name]), 6) for name in ("value", "se", "low", "high", "p")}
    members = found["value"].sel(estimator=list(PANEL)).values
    return {
        **numbers,
        "verdict": str(panel["verdict"].values),
        "members": {name: round(float(value), 6) for name, value in zip(PANEL, members, strict=True)},
    }


def _peers(x: np.ndarray, y: np.ndarray) -> dict[str, float | None]:
    """None where a peer gives no finite number, as its KSG of pairs that occur more than once."""
    found = _in_peer(x, y, "all")
    return {name: round(one["value"], 6) if math.isfinite(one["value"]) else None for name, one in found.items()}


def report() -> str:
    """Markdown of the file of results: errors and coverage by set and verdict, and the unseen tasks one by one."""
    rows = json.loads(RESULTS.read_text())
    lines = ["| tasks | verdict | n | interval holds the truth | mean absolute error | worst | largest excess |"]
    lines.append("|---|---|--:|--:|--:|--:|--:|")
    for name_of_set in sorted({row["set"] for row in rows.values()}):
        of_set = [row for row in rows.values() if row["set"] == name_of_set]
        words = [word for word in VERDICTS if any(row["verdict"] == word for row in of_set)]
        for word in ("all", *words):
            some = [row for row in of_set if word in ("all", row["verdict"])]
            errors = np.array([row["value"] - row["truth"] for row in some])
            held = sum(row["low"] <= row["truth"] <= row["high"] for row in some)
            numbers = [f"{np.abs(errors).mean():.3f}", f"{errors.min():+.3f}", f"{errors.max():+.3f}"]
            lines.append(
                "| "
                + " | ".join([name_of_set, word, str(len(some)), f"{held} ({held / len(some):.0%})", *numbers])
                + " |"
            )
    lines += ["", *_unseen_lines({name: row for name, row in rows.items() if row["set"] == "unseen"})]
    return "\n".join(lines)


def _unseen_lines(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Errors of panel, members and peers, task by task, and their means; where peers weren't run there is nothing."""
    names = [*(f"`{name}`" for name in PANEL), *(f"bmi {name}" for name in PEERS)]
    lines = ["| unseen task | truth | panel | 95 % interval | verdict | " + " | ".join(names) + " |"]
    lines.append("|---|--:|--:|---|---|" + "--:|" * len(names))
    errors = []
    for name, row in rows.items():
        peers = row.get("peers", {})
        values = [row["value"], *(row["members"][member] for member in PANEL), *(peers.get(peer) for peer in PEERS)]
        errors.append(np.array([math.nan if value is None else value for value in values]) - row["truth"])
        panel, *others = (f"{error:+.3f}" for error in errors[-1])
        blank = "none" if peers else ""
        cells = [f"{row['truth']:.3f}", panel, f"{row['low']:.3f} to {row['high']:.3f}", row["verdict"]]
        lines.append(f"| {name} | " + " | ".join([*cells, *(cell.replace("+nan", blank) for cell in others)]) + " |")
    has_peers = np.array(["peers" in row for row in rows.values()])
    for title, some in (("all", np.ones(len(rows), bool)), (f"the {has_peers.sum()} with peers", has_peers)):
        panel, *others = (f"{error:.3f}" for error in np.nanmean(np.abs(errors)[some], axis=0))
        if title == "all":
            others[len(PANEL) :] = [""] * len(PEERS)
        lines.append(f"| **mean absolute error**, {title} | | " + " | ".join([panel, "", "", *others]) + " |")
    return lines


def store(run: Path) -> None:
    command = [sys.executable, "-m", "lorascope", "mi", str(run), "--workers", "2"]
    started = perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"`lorascope mi` at default settings: {seconds:.0f} s, {peak:.0f} MiB at the peak, exit code {done.returncode}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "parts", nargs="*", default=["speed", "large", "tasks", "choosing", "unseen", "report", "store"]
    )
    parser.add_argument("--tasks", type=Path, default=ROOT.parent / "shared" / "mi_tasks")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "demo" / "run.zarr")
    options = parser.parse_args()
    for part in options.parts:
        print(f"\n## {part}\n")
        if part == "tasks":
            tasks(options.tasks)
        elif part == "store":
            store(options.run)
        elif part in ("choosing", "unseen"):
            own(part, with_peers="peers" in options.parts)
        elif part == "report":
            print(report())
        elif part == "peers":
            continue
        else:
            {"speed": speed, "large": large}[part]()


if __name__ == "__main__":
    main()
