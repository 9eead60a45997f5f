"""Fits of scaling laws: how long a report takes, and one profile interval compared with lmfit's.

python benchmarks/fits.py [report] [engine]
"""

import math
import sys
import time
from typing import Any

import pandas as pd
from fit_coverage import DESIGNS, LEVEL, simulated

from lorascope.analyze import fit_report, fit_scaling_law
from lorascope.study import paper_study


def report() -> None:
    """Seconds of whole reports on the paper's 5 x 2 x 7 cells."""
    study = paper_study(once=True)
    options: dict[str, Any] = {"N": "N", "R": "R", "share": "share", "offsets": ["sweep"]}
    jobs = {
        "fit_report, Phi3 alone (35 cells)": lambda: fit_report(
            study[study["model"] == "Phi3"], "MIUB", groups=["dataset"], **options
        ),
        "fit_report, both models (65 cells), 1000 draws": lambda: fit_report(
            study, "MIUB", groups=["dataset", "model"], **options
        ),
    }
    print("\n### Time of a report\n\n| what | seconds |\n| --- | --- |")
    for name, job in jobs.items():
        start = time.perf_counter()
        job()
        print(f"| {name} | {time.perf_counter() - start:.1f} |")


def engine() -> None:
    """One profile interval here and by lmfit, on the same study."""
    import lmfit

    study = simulated(DESIGNS[0], 0)
    start = time.process_time()
    fit = fit_scaling_law(study, "y", N="N", R="R")
    own = fit.conf_int()
    ours = time.process_time() - start
    x, z, y = study["N"].max() / study["N"], study["R"].min() / study["R"], study["y"]

    def residual(values: Any) -> pd.Series:
        fitted = values["E"] + values["A"] * x ** values["alpha"] + values["B"] * z ** values["beta"]
        return 1 - fitted / y

    start = time.process_time()
    begin = lmfit.create_params(E=1400.0, A=200.0, alpha=0.5, B=150.0, beta=0.6)
    mini = lmfit.Minimizer(residual, begin)
    best = mini.minimize()
    found = lmfit.conf_interval(mini, best, p_names=["A", "B", "alpha", "beta"], sigmas=[LEVEL])
    theirs = time.process_time() - start
    print("\n### Profile intervals of four parameters, against lmfit from a start near the optimum\n")
    print("| parameter | lorascope | lmfit |\n| --- | --- | --- |")
    for name, ends in found.items():
        print(f"| {name} | {own.loc[name, 'low']:.6g} to {own.loc[name, 'high']:.6g} | ", end="")
        print(f"{ends[0][1]:.6g} to {ends[-1][1]:.6g} |")
    print(f"| processor seconds | {ours:.2f}, a grid of all exponents included | {theirs:.2f} |")
    assert math.isclose(best.params["alpha"].value, fit.params["alpha"], rel_tol=1e-4)


if __name__ == "__main__":
    for name in sys.argv[1:] or ("report", "engine"):
        {"report": report, "engine": engine}[name]()
