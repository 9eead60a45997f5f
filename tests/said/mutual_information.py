"""What the numbers of docs/mutual-information.md are held to."""

import inspect
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lorascope.analyze import measure_information, mutual_information
from lorascope.analyze.information.estimators import ESTIMATORS, PANEL
from lorascope.analyze.information.evidence import (
    AGREEMENT,
    DRIFT,
    GROWTH,
    LEAST_EFFECTIVE,
    LEVEL,
    MEANINGS,
    N_PARTS,
    NEAR_CEILING,
    RESOLUTION,
    WIDEST_INTERVAL,
    panel_verdicts,
    verdict,
)
from lorascope.analyze.information.gaussian import HEAVY_TAILS, MOST_ROWS, most_checkable
from lorascope.analyze.information.held_out import N_JOINT
from lorascope.analyze.information.ksg import SIGNIFICANT_SE
from lorascope.analyze.information.pairs import Settings
from lorascope.analyze.information.projections import first_half, principal_axes

from ..dependence import dependence
from .page import ROOT, Saying, count, equation, part, said, table

NOTHING = dependence(np.full((2, 2), 0.25)).mutual_information
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
    yield said("held out; {} pairs by neighbours", count(N_JOINT))
    yield said("more than k by {} standard errors", count(SIGNIFICANT_SE))
    yield said("are found on one {} of the samples", part(first_half(np.arange(100), seed=0).mean()))
    n = count(len(PANEL))
    yield said("all {} are shown", n)
    by_ranks = sum(ESTIMATORS[name].sees == "scores" for name in PANEL)
    yield said("{} of them use only ranks", count(by_ranks).capitalize())
    yield said("(mean fourth power above {:.0f})", HEAVY_TAILS)
    yield said("The largest of {} is too high by chance", n)
    yield said("of at most {} rows", MOST_ROWS)
    yield said("the number of their pairs ({:.1f} nats)", most_checkable(2 * MOST_ROWS))


def columns() -> Iterator[Saying]:
    yield said("standard error and {:.0f} % interval", 100 * LEVEL)
    yield said("of estimates on {}, {} and {} of the samples", *(PARTS[n] for n in N_PARTS))
    yield said("On the side to which the value moved from a {} of the samples to all", part(1 / N_PARTS[1]))
    n_shuffles = inspect.signature(mutual_information).parameters["n_shuffles"].default
    yield said("p = {}", MEANINGS["p"])
    yield said("with {} shuffles p is at least {:g}", n_shuffles, 1 / (1 + n_shuffles))


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
    yield said("from a {} of the samples to all of them", part(1 / N_PARTS[1]))
    errors = count(round(turn(lambda moved: of(quarter=1.0 + moved, se=1.0), 0.0, 9.0) - DRIFT))
    yield said("moved by more than {} nat plus {} standard errors", DRIFT, errors)
    yield said("where the truth is {:.0f}, don't give {:.0f}, or the value is below {:.0f}", *3 * (NOTHING,))
    spreads = turn(lambda mean: of(null_mean=mean, null_sd=1.0), 0.0, 9.0) - DRIFT
    yield said("by more than {} nat plus {} the scatter", DRIFT, {2: "twice"}[round(spreads)])
    yield said("higher by more than {} nat plus", AGREEMENT)

    def of_panel(other: float) -> str:
        members = {"a": (9.0, 1.0), "b": (other, 1.0)}
        return panel_verdicts(members, {"a": "lower bound only", "b": "ok"})["panel"]

    yield said("nat plus {} of its standard errors", count(round(9.0 - AGREEMENT - turn(of_panel, 0.0, 9.0))))

    def farthest(value: float) -> float:
        same = dict.fromkeys(("value", "half", "quarter", "eighth"), value)
        return turn(lambda distance: of(**same, low=value, high=value + distance), 0.0, 9.0)

    assert np.allclose([farthest(0.0), farthest(10.0)], [WIDEST_INTERVAL[0], 10 * WIDEST_INTERVAL[1]])
    yield said(
        "farther from the value than {:g} nat and than a {} of the value", farthest(0.0), part(WIDEST_INTERVAL[1])
    )
    yield said("fewer than {} of them count as independent", LEAST_EFFECTIVE)
    most = {n: max(d for d in range(2, 20) if (Settings().k / n) ** (1 / d) <= RESOLUTION) for n in (5000, 1000)}
    numbers = (number for pair in most.items() for number in pair)
    yield said("k of them lie within {} of the ranks", RESOLUTION)
    yield said("(with {} rows up to {} coordinates in all, with {} up to {})", *numbers)


def tasks_of(name_of_set: str) -> dict[str, Any]:
    """Results on one set of our own tasks."""
    rows = json.loads((ROOT / "benchmarks" / "information_tasks.json").read_text())
    return {name: row for name, row in rows.items() if row["set"] == name_of_set}


def accuracy() -> Iterator[Saying]:
    unseen, choosing = tasks_of("unseen"), tasks_of("choosing")
    errors = {name: row["value"] - row["truth"] for name, row in unseen.items()}
    worst, best = min(errors, key=errors.__getitem__), max(errors, key=errors.__getitem__)
    ok = {name: row for name, row in unseen.items() if row["verdict"] == "ok"}
    text = (ROOT / BENCHMARKS).read_text()
    n_tasks, n_pairs = re.search(r"on (\d+) tasks of benchmark-mi", text), re.search(r"with (\d+) pairs each", text)
    assert n_tasks is not None
    assert n_pairs is not None
    yield said("({} pairs, {} to {} dimensions a side)", n_pairs[1], *dimensions(unseen))
    yield said("On {} tasks of our own that were looked at once", len(unseen))
    yield said("its mean absolute error is {:.3f} nat", mean_error(unseen))
    yield said("at worst it is {:.3f} too low (`{}`, {})", -errors[worst], worst, unseen[worst]["verdict"])
    yield said("and {:.3f} too high (`{}`, {})", errors[best], best, unseen[best]["verdict"])
    rest = {name: row for name, row in unseen.items() if name != worst}
    yield said("Without the worst, its error is {:.3f}", mean_error(rest))
    yield said("Of the {} values that are `ok` the interval holds the truth in {}", len(ok), held(ok))
    yield said("none of these is off by more than {:.3f}", max(abs(errors[name]) for name in ok))
    yield said("of all {} in {}", len(unseen), held(unseen))
    compared = {name: row for name, row in unseen.items() if "peers" in row}
    of_peers = {
        peer: [abs(row["peers"][peer] - row["truth"]) for row in compared.values() if row["peers"][peer] is not None]
        for peer in ("KSG", "CCA", "InfoNCE", "MINE")
    }
    ksg, *others = (np.mean(errors) for errors in of_peers.values())
    yield said("On {} of these, drawn at random, the panel's is {:.3f}", len(compared), mean_error(compared))
    words = "that of benchmark-mi's estimators {:.3f} (KSG, on the {} that it gives a number for), {:.3f} (CCA), "
    yield said(words + "{:.3f} (InfoNCE) and {:.3f} (MINE)", ksg, len(of_peers["KSG"]), *others)
    yield said("On the {} that it was chosen by, the panel's is {:.3f}", len(choosing), mean_error(choosing))
    tasks = table(BENCHMARKS, "| task | truth | `ksg1`")
    titles = [f"**{name}**, {n_tasks[1]} tasks" for name in ("mean absolute error", "worst", "largest excess")]
    mean, least, excess = (tasks[title]["`panel`"].strip("-") for title in titles)
    words = (
        "On {} known tasks (of Czyz et al. 2023; they were looked at while the panel was made, so this is no test) it "
        "is {}, at worst {} too low and {} too high"
    )
    yield said(words, n_tasks[1], mean, least, excess)


def mean_error(rows: dict[str, Any]) -> float:
    return float(np.mean([abs(row["value"] - row["truth"]) for row in rows.values()]))


def held(rows: dict[str, Any]) -> int:
    return sum(row["low"] <= row["truth"] <= row["high"] for row in rows.values())


def dimensions(rows: dict[str, Any]) -> tuple[int, int]:
    sizes = [size for row in rows.values() for size in row["dimensions"]]
    return min(sizes), max(sizes)
