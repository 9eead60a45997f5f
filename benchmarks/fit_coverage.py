"""How often 95 % intervals of scaling laws contain the truth, in simulated studies; `fit_coverage.json` has the counts.

python benchmarks/fit_coverage.py [--studies 500] [PART ...]   measures the parts whose name has one of these words
python benchmarks/fit_coverage.py --tables                     prints the tables of docs/benchmarks.md
"""

import argparse
import json
import math
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from scipy import stats

from lorascope.analyze import fit_scaling_law
from lorascope.analyze.fits.laws import LawName
from lorascope.analyze.fits.profile import Interval, largest_ssr, profile
from lorascope.analyze.fits.result import ScalingFit
from lorascope.analyze.fits.solve import least_squares

COUNTS = Path(__file__).parent / "fit_coverage.json"
LEVEL = 0.95
N_DRAWS = 300
"""Draws of a bootstrap; of five groups there are 126 in all."""
PHI3 = [2_235_546_624.0, 2_462_051_328.0, 2_915_060_736.0, 3_821_079_552.0]
"""Parameters of the paper's Phi-3-mini, its last 16 layers shared by 8, 4, 2 and not at all."""
RANKS = [32.0, 128.0, 512.0]
"""The paper's ranks."""
OF_PHI3 = {"A": 2.7, "alpha": 8.8, "B": 16.6, "beta": 1.4}
"""Eq. 8 on the paper's cells of Phi3, rounded; its residuals are 0.9 %."""
INTERVALS = ("F", "chi-square", "Wald")
OVER_GROUPS = ("F", "bootstrap")
N_GROUPS: dict[LawName, tuple[int, ...]] = {"log-log": (5, 10), "additive": (5, 10)}
"""Law of a single size -> how many groups a study has."""
Row = dict[str, Any]


class Design(NamedTuple):
    """A study to be simulated, and what is known of it."""

    name: str
    parameters: dict[str, float]
    sizes: dict[str, list[float]]
    n_groups: int
    noise: float
    is_cross: bool = False
    """Whether one size varies at a time, the others at their reference; else all combinations are there."""


DESIGNS = (
    Design(
        "8 sizes x 6 ranks, over 2 and 3 decades, 1 group, 0.9 %",
        {"A": 300.0, "alpha": 0.4, "B": 200.0, "beta": 0.5},
        {"N": list(np.geomspace(1e8, 1e10, 8)), "R": [2.0, 8.0, 32.0, 128.0, 512.0, 2048.0]},
        n_groups=1,
        noise=0.009,
    ),
    Design(
        "as the paper's Phi3: 4 sizes in 0.23 decades, 3 ranks, 5 groups, 0.9 %",
        OF_PHI3,
        {"N": PHI3, "R": RANKS},
        n_groups=5,
        noise=0.009,
        is_cross=True,
    ),
    Design("as the paper's Phi3, 2 groups", OF_PHI3, {"N": PHI3, "R": RANKS}, n_groups=2, noise=0.009, is_cross=True),
    Design(
        "4 sizes in 0.1 decades, 5 groups, 2 %",
        {"A": 300.0, "alpha": 0.4},
        {"N": [8e9, 8.6e9, 9.3e9, 1e10]},
        n_groups=5,
        noise=0.02,
    ),
)


def levels(n_groups: int) -> dict[str, float]:
    """A level for each group."""
    return {f"set {k}": 1500.0 + 20 * (k % 5) for k in range(n_groups)}


def simulated(design: Design, seed: int) -> pd.DataFrame:
    """A study of eq. 8, with relative normal noise; `expected` is what the law says."""
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
    parts = [settings.assign(group=name, expected=level + terms) for name, level in levels(design.n_groups).items()]
    study = pd.concat(parts, ignore_index=True)
    noise = design.noise * np.random.default_rng(seed).standard_normal(len(study))
    return study.assign(y=study["expected"] * (1 + noise))


def of_design(design: Design, n_studies: int) -> list[Row]:
    """A row for each exponent: its estimates' median, how many intervals hold the truth, how many of F are open."""
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(n_studies):
        study = simulated(design, seed)
        axes: dict[str, Any] = {axis: axis for axis in design.sizes}
        fit = fit_scaling_law(study, "y", **axes, groups=["group"], level=LEVEL)
        for name in fit.design.exponents:
            found.setdefault(name, []).append(coverage_of(fit, name, design.parameters[name]))
        band, first = fit.predict().iloc[0], study["expected"].iloc[0]
        held = {"estimate": band["mean"], "Wald": band["low"] <= first <= band["high"]}
        found.setdefault("mean of the first cell", []).append(held)
    rows = []
    for name, each in found.items():
        table = pd.DataFrame(each)
        median = float(table.pop("estimate").median())
        start = {"df": fit.df_resid, "parameter": name, "truth": design.parameters.get(name), "n": n_studies}
        rows.append(start | {"median": median} | {key: int(n) for key, n in table.sum().items()})
    return rows


def coverage_of(fit: ScalingFit, name: str, truth: float) -> dict[str, float]:
    """Return an exponent's estimate, which intervals contain its truth, and whether F's is open (`not identified`).

    Chi-square, which isn't among lorascope's intervals, takes n ln(SSR / least SSR) up to its quantile. A profile
    interval holds a value at which the sum of squares is within its limit; of others, only those between its parts, so
    that the whole interval, which takes a hundred times as long, is needed for these alone.
    """
    problem, place = fit.design.problem, fit.design.exponents.index(name)

    def at(value: float) -> float:
        return least_squares(problem.fix(place, value), [fit.estimate.solution.exponents], grid="coarse").ssr

    limits = {
        "F": largest_ssr(fit.ssr, fit.df_resid, LEVEL),
        "chi-square": fit.ssr * math.exp(stats.chi2.ppf(LEVEL, 1) / fit.nobs),
    }
    held = {kind: at(truth) <= limit or holds(profile(fit.estimate, name, limit).interval, truth)
            for kind, limit in limits.items()}  # fmt: skip
    reach = stats.t.ppf((1 + LEVEL) / 2, fit.df_resid) * fit.bse[name]
    is_open = any(at(float(end)) <= limits["F"] for end in problem.bounds[place])
    return {"estimate": fit.params[name], **held, "Wald": abs(fit.params[name] - truth) <= reach, "open": is_open}


def holds(interval: Interval, value: float) -> bool:
    low, high, low_open, high_open, _ = interval
    return (low_open or low <= value) and (high_open or value <= high)


def of_groups(law: LawName, n_groups: int, n_studies: int) -> list[Row]:
    """How many intervals of alpha contain the truth, with `n_groups` groups of five sizes and 0.7 % of noise.

    With 'log-log', the groups' alphas differ, by twice what noise does, so the cells of a group vary together. With
    'additive' they don't.
    """
    N, truth, counts = np.geomspace(1e8, 1e10, 5), 0.4, dict.fromkeys(OVER_GROUPS, 0)
    for seed in range(n_studies):
        random = np.random.default_rng([n_groups, seed])
        parts = []
        for name, level in levels(n_groups).items():
            if law == "log-log":
                y = level * (N[-1] / N) ** (truth + 0.004 * random.standard_normal())
            else:
                y = level + 300 * (N[-1] / N) ** truth
            parts.append(pd.DataFrame({"N": N, "y": y * np.exp(0.007 * random.standard_normal(len(N))), "group": name}))
        study = pd.concat(parts, ignore_index=True)
        fit = fit_scaling_law(study, "y", N="N", groups=["group"], law=law, level=LEVEL)
        drawn = fit.bootstrap(n_draws=N_DRAWS, seed=seed).intervals(LEVEL)
        for kind, intervals in (("F", fit.conf_int()), ("bootstrap", drawn)):
            counts[kind] += bool(intervals.loc["alpha", "low"] <= truth <= intervals.loc["alpha", "high"])
    return [{"n": n_studies, **counts}]


def parts() -> dict[str, Callable[[int], list[Row]]]:
    """Name -> what measures that many studies."""
    of_designs: dict[str, Callable[[int], list[Row]]] = {one.name: partial(of_design, one) for one in DESIGNS}
    return of_designs | {
        groups_name(law, n): partial(of_groups, law, n) for law, sizes in N_GROUPS.items() for n in sizes
    }


def groups_name(law: str, n_groups: int) -> str:
    return f"{law}, {n_groups} groups"


def share(row: Row, name: str) -> str:
    """A count as a share of the studies, with its binomial standard error."""
    if name not in row:
        return ""
    p = row[name] / row["n"]
    return f"{100 * p:.1f} ± {100 * math.sqrt(p * (1 - p) / row['n']):.1f} %"


def table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


def tables(counts: dict[str, list[Row]]) -> tuple[str, str]:
    """The tables of docs/benchmarks.md: of designs, and of numbers of groups."""
    of_designs, of_numbers = [], []
    for design in DESIGNS:
        for row in counts.get(design.name, []):
            truth = "" if row["truth"] is None else f"{row['truth']:g}"
            known = [f"{row['n']}", f"{row['df']}", row["parameter"], truth, f"{row['median']:.4g}"]
            of_designs.append([design.name, *known, *(share(row, one) for one in (*INTERVALS, "open"))])
    for law, sizes in N_GROUPS.items():
        for n_groups in sizes:
            rows = counts.get(groups_name(law, n_groups), [])
            of_numbers += [[law, f"{n_groups}", f"{r['n']}", *(share(r, one) for one in OVER_GROUPS)] for r in rows]
    header = ["design", "studies", "df", "parameter", "truth", "median", *INTERVALS, "open by F"]
    return table(header, of_designs), table(["law", "groups", "studies", *OVER_GROUPS], of_numbers)


def stored_counts() -> dict[str, list[Row]]:
    """Counts of each part, as stored."""
    return cast(dict[str, list[Row]], json.loads(COUNTS.read_text())) if COUNTS.is_file() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--tables", action="store_true")
    args = parser.parse_args()
    for name, measure in parts().items():
        if not args.tables and (not args.parts or any(word in name for word in args.parts)):
            found = measure(args.studies)
            counts = stored_counts() | {name: found}
            COUNTS.write_text(json.dumps({one: counts[one] for one in parts() if one in counts}, indent=1) + "\n")
    print(*tables(stored_counts()), sep="\n\n")


if __name__ == "__main__":
    main()
