"""What the numbers of docs/mutual-information.md are held to."""

import inspect
import math
import re
from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import digamma

from lorascope.analyze import measure_information, mutual_information
from lorascope.analyze.information import gaussian_dependence
from lorascope.analyze.information.estimators import PANEL, ceilings
from lorascope.analyze.information.evidence import (
    AGREEMENT,
    DRIFT,
    GROWTH,
    LEVEL,
    MEANINGS,
    NEAR_CEILING,
    SHARES,
    panel_verdicts,
    verdict,
)
from lorascope.analyze.information.gaussian import MOST_ROWS, most_checked
from lorascope.analyze.information.held_out import N_JOINT
from lorascope.analyze.information.pairs import Settings, check_pairs
from lorascope.analyze.information.projections import halves, principal_axes

from .page import ROOT, Saying, count, equation, part, said, table

NOTHING = gaussian_dependence(0.0).mutual_information
PARTS = {2: "halves", 4: "quarters", 8: "eighths"}
BENCHMARKS = "docs/benchmarks.md"


def sayings() -> Iterator[Saying]:
    yield said("in nats: {:.0f} if they are independent", NOTHING)
    yield equation("3 ln(2) / 2 = 1.04")
    options = inspect.signature(measure_information).parameters
    yield said("keep {:.0f} % of a side's variance", 100 * options["share"].default)
    yield said("but at most {} (`--axes`)", options["n_axes"].default)
    yield from estimators()
    yield from columns()
    yield from verdicts()
    yield from accuracy()


def estimators() -> Iterator[Saying]:
    passes: list[int] = []

    def sides() -> list[list[np.ndarray]]:
        passes.append(1)
        return [[np.eye(4, dtype=np.float32)]]

    principal_axes(sides, 1, names=["x"])
    yield said("finds them in {} passes", count(len(passes)))
    yield said("the first {} pairs by neighbours", count(N_JOINT))
    yield said("held out; {} pairs by neighbours", count(N_JOINT))
    pairs = check_pairs(*np.random.default_rng(0).normal(size=(2, 64, 1)))
    names = {"psi": digamma, "N": 64, "k": 3}
    yield equation("psi(N/2) - psi(k)", **names, value=ceilings(pairs, ["cca_ksg"], Settings(k=3)).item())
    yield said("are found on one {} of the samples", part(halves(np.arange(100), seed=0).mean()))
    n = count(len(PANEL))
    yield said("all {} are shown", n)
    yield said("All {} use only ranks", n)
    yield said("The largest of {} is above {:.0f} by chance", n, NOTHING)
    yield said("of at most {} rows", MOST_ROWS)
    yield said("the number of their pairs ({:.1f} nats)", most_checked(2 * MOST_ROWS))


def columns() -> Iterator[Saying]:
    yield said("standard error and {:.0f} % interval", 100 * LEVEL)
    yield said("of estimates on {}, {} and {} of the samples", *(PARTS[n] for n in SHARES))
    n_shuffles = inspect.signature(mutual_information).parameters["n_shuffles"].default
    yield said("p = {}", MEANINGS["p"])
    yield said("with {} shuffles p is at least {:.3f}", n_shuffles, 1 / (1 + n_shuffles))


def turn(says: Callable[[float], str], low: float, high: float) -> float:
    """Where a verdict turns into another one between two values."""
    first = says(low)
    assert first != says(high)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if says(middle) == first else (low, middle)
    return high


def verdicts() -> Iterator[Saying]:
    still = {"half": 1.0, "quarter": 1.0, "eighth": 1.0, "ceiling": 100.0, "value": 1.0, "se": 0.0}

    def of(**fields: float) -> str:
        return verdict("ok", **{**still, **fields})

    ceiling = turn(lambda ceiling: of(ceiling=ceiling), 1.0, 9.0)
    half = turn(lambda ceiling: of(ceiling=ceiling, quarter=1.0 - GROWTH * math.log(4) - 1e-6), 1.0, 9.0)
    yield said("or at {:g} of the ceiling", 1 / ceiling)
    yield said("or at {} of it while it grows at least {} as fast as ln N", part(round(1 / half, 6)), part(GROWTH))
    assert math.isclose(1 / ceiling, NEAR_CEILING)
    yield said("from a {} of the samples to all of them", part(1 / SHARES[1]))
    errors = count(round(turn(lambda moved: of(quarter=1.0 + moved, se=1.0), 0.0, 9.0) - DRIFT))
    yield said("moved by more than {} nat plus {} standard errors", DRIFT, errors)
    yield said("where the truth is {:.0f}, don't give {:.0f}, or the value is below {:.0f}", *3 * (NOTHING,))
    spreads = turn(lambda mean: of(null_mean=mean, null_sd=1.0), 0.0, 9.0) - DRIFT
    yield said("by more than {} nat plus {} the scatter", DRIFT, {2: "twice"}[round(spreads)])
    yield said("higher by more than {} nat plus", AGREEMENT)

    def of_panel(other: float, n: int = 2) -> str:
        members = {"a": (9.0, 1.0), "b": (other, 1.0), "c": (0.0, 1.0)}
        return panel_verdicts(dict(list(members.items())[:n]), dict.fromkeys(members, "ok"))["panel"]

    yield said("nat plus {} of its standard errors", count(round(9.0 - AGREEMENT - turn(of_panel, 0.0, 9.0))))
    yield said("for the panel, {} members agree", count(min(n for n in (1, 2, 3) if of_panel(9.0, n) == "ok")))


def accuracy() -> Iterator[Saying]:
    tasks = table(BENCHMARKS, "| task | truth | `ksg1`")
    (most,) = (row for name, row in tasks.items() if name.startswith("**largest excess**"))
    yield said("none of them was above the truth by more than {} nat", max(most[f"`{name}`"] for name in PANEL))
    errors = {name: row["`panel`"] for name, row in tasks.items()}
    worst = min(errors, key=lambda name: float(errors[name].rstrip("gsu")) if name[0] != "*" else 0.0)
    sizes = {int(size) for name in tasks if not name.startswith("extra") for size in re.findall(r"-(\d+)(?=-|$)", name)}
    text = (ROOT / BENCHMARKS).read_text()
    n_tasks, n_pairs = re.search(r"on (\d+) tasks of benchmark-mi", text), re.search(r"with (\d+) pairs each", text)
    assert n_tasks is not None
    assert n_pairs is not None
    yield said("runs {} tasks of Czyz et al. 2023", n_tasks[1])
    yield said("({} pairs, {} to {} dimensions a side)", n_pairs[1], min(sizes), max(sizes))
    mean, excess = (errors[f"**{name}**, {n_tasks[1]} tasks"] for name in ("mean absolute error", "largest excess"))
    yield said("mean absolute error is {} nat. It is never more than {} above the truth", mean, excess)
    yield said("and at most {} below it: on a spiral", errors[worst].strip("-u"))
    (size,) = re.findall(r"spiral.*-(\d+)$", worst)
    yield said("on a spiral in {} dimensions, with the verdict `undersampled`", size)
