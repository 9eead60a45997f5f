"""Estimators of the package benchmark-mi on arrays in a file, in an environment of its own: prints JSON.

`python peer_mi.py PAIRS.npz ksg K METRIC ROUNDS` prints seconds and values of KSG; `python peer_mi.py PAIRS.npz all`
prints the value and the seconds of its KSG, CCA, InfoNCE and MINE at their own settings. The file has arrays `x`, `y`.
"""

import json
import sys
from time import perf_counter, process_time

import numpy as np
from bmi.estimators import (
    CCAMutualInformationEstimator,
    InfoNCEEstimator,
    KSGEnsembleFirstEstimator,
    MINEEstimator,
)

ALL = {
    "KSG": lambda: KSGEnsembleFirstEstimator(neighborhoods=(10,)),
    "CCA": CCAMutualInformationEstimator,
    "InfoNCE": InfoNCEEstimator,
    "MINE": MINEEstimator,
}


def ksg(x: np.ndarray, y: np.ndarray, k: str, metric: str, rounds: str) -> list[dict[str, float]]:
    estimator = KSGEnsembleFirstEstimator(neighborhoods=(int(k),), metric_x=metric)
    estimator.estimate(x[:200], y[:200])  # what is compiled or imported late
    found = []
    for _ in range(int(rounds)):
        wall, processor = perf_counter(), process_time()
        value = float(estimator.estimate(x, y))
        found.append({"wall": perf_counter() - wall, "processor": process_time() - processor, "value": value})
    return found


def every(x: np.ndarray, y: np.ndarray) -> dict[str, dict[str, float]]:
    found = {}
    for name, make in ALL.items():
        started = perf_counter()
        value = float(make().estimate(x, y))
        found[name] = {"value": value, "seconds": perf_counter() - started}
    return found


def main(path: str, what: str, *options: str) -> None:
    with np.load(path, allow_pickle=False) as file:
        x, y = file["x"], file["y"]
    print(json.dumps(ksg(x, y, *options) if what == "ksg" else every(x, y)))


if __name__ == "__main__":
    main(*sys.argv[1:])
