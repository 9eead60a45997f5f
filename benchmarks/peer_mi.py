"""KSG of the package benchmark-mi on arrays in a file, in an environment of its own: prints seconds and values as JSON.

`python peer_mi.py PAIRS.npz K METRIC ROUNDS`, with arrays `x` and `y`.
"""

import json
import sys
from time import perf_counter, process_time

import numpy as np
from bmi.estimators import KSGEnsembleFirstEstimator


def main(path: str, k: str, metric: str, rounds: str) -> None:
    with np.load(path, allow_pickle=False) as file:
        x, y = file["x"], file["y"]
    estimator = KSGEnsembleFirstEstimator(neighborhoods=(int(k),), metric_x=metric)
    estimator.estimate(x[:200], y[:200])  # what is compiled or imported late
    found = []
    for _ in range(int(rounds)):
        wall, processor = perf_counter(), process_time()
        value = float(estimator.estimate(x, y))
        found.append({"wall": perf_counter() - wall, "processor": process_time() - processor, "value": value})
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
