"""Fits of scaling laws: coverage of intervals on simulated studies, and how long a report takes.

python benchmarks/fits.py [coverage] [report] [engine]
"""

import math
import sys
import time
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lorascope.analyze import fit_report, fit_scaling_law
from lorascope.study import paper_study

N_STUDIES = 500
LEVEL = 0.95


class Design(NamedTuple):
    """A study to be simulated, and what is known of it."""

    name: str
    parameters: dict[str, float]
    sizes: dict[str, list[float]]
    groups: dict[str, float]
    noise: float
    is_cross: bool = False
    """Whether one size varies at a time, the others at their reference; else all combinations are there."""
    identified: tuple[str, ...] = ("alpha", "beta")


DESIGNS = (
    Design(
        "N 5 x R 5 over 2 decades each, 2 groups, 1 %",
        {"A": 300.0, "alpha": 0.4, "B": 200.0, "beta": 0.5},
        {"N": [1e8, 3e8, 1e9, 3e9, 1e10], "R": [4.0, 12.0, 40.0, 120.0, 400.0]},
        {"first": 1500.0, "second": 1700.0},
        0.01,
    ),
    Design(
        "one size at a time, 6 + 6 sizes, 5 groups, 1 %",
        {"A": 500.0, "alpha": 0.5, "B": 400.0, "beta": 0.5},
        {"N": [1e8, 3e8, 1e9, 3e9, 1e10, 3e10], "R": [2.0, 6.0, 20.0, 60.0, 200.0, 600.0]},
        {f"set {k}": 1500.0 + 50 * k for k in range(5)},
        0.01,
        is_cross=True,
    ),
    Design(
        "N over 0.1 decades, 4 sizes, 5 groups, 2 %",
        {"A": 300.0, "alpha": 0.4},
        {"N": [8e9, 8.6e9, 9.3e9, 1e10]},
        {f"set {k}": 1500.0 + 50 * k for k in range(5)},
        0.02,
        identified=(),
    ),
    Design(
        "the paper's design: 4 sizes in 0.21 decades, 3 ranks, 5 groups, 0.7 %; exponents 0.4",
        {"A": 300.0, "alpha": 0.4, "B": 15.0, "beta": 0.4},
        {"N": [4.98e9, 5.41e9, 6.29e9, 8.03e9], "R": [32.0, 128.0, 512.0]},
        {f"set {k}": 3200.0 + 50 * k for k in range(5)},
        0.007,
        is_cross=True,
        identified=(),
    ),
)


def simulated(design: Design, seed: int, groups: dict[str, float] | None = None) -> pd.DataFrame:
    """A study of eq. 8, with relative normal noise."""
    middle = {axis: min(sizes) if axis == "R" else max(sizes) for axis, sizes in design.sizes.items()}
    rows = [dict(zip(design.sizes, one, strict=True)) for one in product(*design.sizes.values())]
    if design.is_cross:
        rows = [row for row in rows if sum(row[axis] != middle[axis] for axis in row) < 2]
    settings = pd.DataFrame(rows)
    terms = sum(
        design.parameters[amplitude] * (middle[axis] / settings[axis]) ** design.parameters[exponent]
        for axis, amplitude, exponent in (("N", "A", "alpha"), ("R", "B", "beta"))
        if axis in design.sizes
    )
    random = np.random.default_rng(seed)
    return pd.concat(
        [
            settings.assign(group=name, y=(level + terms) * (1 + design.noise * random.standard_normal(len(settings))))
            for name, level in (groups or design.groups).items()
        ],
        ignore_index=True,
    )


def coverage() -> None:
    """Share of intervals that hold the truth, and of verdicts that say `not identified`."""
    print(f"### Coverage of {100 * LEVEL:g} % intervals, {N_STUDIES} simulated studies each\n")
    print("| design | parameter | truth | median | F | Wald | open by F | said not identified |")
    print("|" + " --- |" * 8)
    for design in DESIGNS:
        rows: dict[str, list[tuple[float, ...]]] = {}
        for seed in range(N_STUDIES):
            study = simulated(design, seed)
            axes = {axis: axis for axis in design.sizes}
            fit = fit_scaling_law(study, "y", **axes, groups=["group"], level=LEVEL, n_starts=0)
            for name, row in looked_at(fit, design).items():
                rows.setdefault(name, []).append(row)
        for name, found in rows.items():
            values = np.array(found)
            shares = [f"{100 * share:.1f} %" for share in values[:, 1:].mean(axis=0)]
            print(
                f"| {design.name} | {name} | {design.parameters[name]:g} | {np.median(values[:, 0]):.4g} | "
                f"{' | '.join(shares[:2])} | {shares[2]} | {shares[3] if name in fit.design.exponents else ''} |"
            )


def looked_at(fit: Any, design: Design) -> dict[str, tuple[float, ...]]:
    """Parameter -> estimate, and whether each interval holds the truth, is open, and the verdict is that it must be."""
    words = {one.claim.split()[-1]: one.word for one in fit.verdicts if one.claim.startswith("under this law")}
    wald = fit.conf_int("wald")
    found = {}
    for name, truth in design.parameters.items():
        one = fit.profiles[name].interval
        held = (one.low_open or one.low <= truth) and (one.high_open or truth <= one.high)
        by_wald = wald.loc[name, "low"] <= truth <= wald.loc[name, "high"]
        is_open = one.low_open or one.high_open
        found[name] = (
            fit.params[name], float(held), float(by_wald), float(is_open),
            float(words.get(name) == "not identified"),
        )  # fmt: skip
    return found


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

    design = DESIGNS[0]
    study = simulated(design, 0, {"all": 1500.0})
    start = time.perf_counter()
    fit = fit_scaling_law(study, "y", N="N", R="R", n_starts=0)
    own = fit.conf_int("F")
    ours = time.perf_counter() - start
    x, z, y = study["N"].max() / study["N"], study["R"].min() / study["R"], study["y"]

    def residual(values: Any) -> pd.Series:
        fitted = values["E"] + values["A"] * x ** values["alpha"] + values["B"] * z ** values["beta"]
        return 1 - fitted / y

    start = time.perf_counter()
    begin = lmfit.create_params(E=1400.0, A=200.0, alpha=0.5, B=150.0, beta=0.6)
    mini = lmfit.Minimizer(residual, begin)
    best = mini.minimize()
    found = lmfit.conf_interval(mini, best, p_names=["A", "B", "alpha", "beta"], sigmas=[LEVEL])
    theirs = time.perf_counter() - start
    print("\n### Profile intervals of four parameters, against lmfit from a start near the optimum\n")
    print("| parameter | lorascope | lmfit |\n| --- | --- | --- |")
    for name, ends in found.items():
        print(f"| {name} | {own.loc[name, 'low']:.6g} to {own.loc[name, 'high']:.6g} | ", end="")
        print(f"{ends[0][1]:.6g} to {ends[-1][1]:.6g} |")
    print(f"| seconds | {ours:.2f}, a grid of all exponents included | {theirs:.2f} |")
    assert math.isclose(best.params["alpha"].value, fit.params["alpha"], rel_tol=1e-4)


if __name__ == "__main__":
    for name in sys.argv[1:] or ("coverage", "report", "engine"):
        {"coverage": coverage, "report": report, "engine": engine}[name]()
