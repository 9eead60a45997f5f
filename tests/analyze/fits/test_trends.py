"""Page's test on the paper's table, against counting and scipy, and its permutation where responses are tied."""

import doctest
import itertools
import json
import math
import re
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorascope.analyze.fits import trends as module
from lorascope.analyze.fits.trends import TrendResult, trend_tests
from lorascope.study.paper_tables import paper_study, paper_table

SWEEPS = {"N": ("share8", "share4", "share2", "share1"), "R": ("r32", "r128", "r512")}


def of_paper(along: str, response: str = "MIUB", **options: Any) -> TrendResult:
    study = paper_study()
    rows = study[study["sweep"] == {"N": "size", "R": "rank"}[along]]
    return trend_tests(rows, response, along, groups=["dataset", "model"], **options)


def printed(along: str) -> np.ndarray:
    """The paper's MIUB (group, level), taken from its table 1 and not from the study."""
    table = paper_table(1)
    wide = table[(table["metric"] == "MIUB") & (table["dataset"] != "AVG")].pivot(
        index=["dataset", "model"], columns="setting", values="value"
    )
    return wide[list(SWEEPS[along])].to_numpy()


def score(order: Any) -> int:
    """Sum of level times rank, ranks counted from the largest."""
    return sum((j + 1) * sum(other >= value for other in order) for j, value in enumerate(order))


def counts_of(n_groups: int, values: tuple[int, ...]) -> Counter[int]:
    """How many of all orders of these values in each group have which summed score, in whole numbers."""
    group = Counter(score(order) for order in itertools.permutations(values))
    total = Counter({0: 1})
    for _ in range(n_groups):
        added: Counter[int] = Counter()
        for (a, n), (b, m) in itertools.product(total.items(), group.items()):
            added[a + b] += n * m
        total = added
    return total


@pytest.mark.parametrize(("along", "k"), [("N", 4), ("R", 3)])
def test_paper_against_counting_in_whole_numbers(along: str, k: int) -> None:
    values, found = printed(along), of_paper(along)
    assert values.shape == (10, k)
    total = sum(score(row.tolist()) for row in values)
    counts = counts_of(10, tuple(range(k)))
    n_orders = math.factorial(k) ** 10
    p_value = Fraction(sum(n for value, n in counts.items() if value >= total), n_orders)
    p_opposite = Fraction(sum(n for value, n in counts.items() if value <= total), n_orders)
    assert total == found.L
    assert found.p_value == pytest.approx(float(p_value), rel=1e-9)
    assert found.p_opposite == pytest.approx(float(p_opposite), rel=1e-9)
    assert (found.n_groups, found.n_levels, found.method) == (10, k, "exact")


def test_paper_falls_with_size_at_every_step() -> None:
    found = of_paper("N")
    assert (found.L, found.n_steps, len(found.violations)) == (300, 30, 0)
    assert [str(one) for one in found.verdicts] == [
        "supported: MIUB falls along N overall (Page's L = 300 over 10 groups of 4 levels, exact p = 1.58·10⁻¹⁴, of "
        "the opposite 1.00)",
        "supported: MIUB falls along N in every group (0 of 30 steps between neighbouring levels go the other way)",
    ]
    assert any("groups differ in their levels of N" in note for note in found.notes)


def test_paper_falls_with_rank_but_for_four_steps() -> None:
    found = of_paper("R")
    assert (found.L, found.n_steps) == (136, 20)
    assert found.violations.to_dict(orient="list") == {
        "group": ["ARCE/Phi3", "ARCE/LLaMA3", "ARCC/LLaMA3", "Win/Phi3"],
        "lower": [128] * 4,
        "upper": [512] * 4,
        "at_lower": [1566.6, 3397.5, 3435.1, 1530.5],
        "at_upper": [1567.7, 3398.8, 3439.3, 1531.4],
        "step": ["rises"] * 4,
    }
    overall, every = found.verdicts
    assert (overall.word, every.word) == ("supported", "contradicted")
    assert every.because == "4 of 20 steps between neighbouring levels go the other way, in 4 groups"
    assert not found.notes


def test_the_opposite_claim_is_contradicted() -> None:
    found = of_paper("N", increasing=True)
    assert [one.word for one in found.verdicts] == ["contradicted", "contradicted"]
    assert found.p_opposite == pytest.approx(24.0**-10, rel=1e-9)
    assert set(found.violations["step"]) == {"falls"}


def study(values: dict[str, dict[int, list[float]]]) -> pd.DataFrame:
    """Rows of groups: response by level, several a level where there are seeds."""
    rows = [(g, x, y) for g, levels in values.items() for x, some in levels.items() for y in some]
    return pd.DataFrame(rows, columns=["group", "x", "y"])


def test_ties_are_permuted() -> None:
    """Against all orders of both groups."""
    rows = {"a": (3, 2, 2), "b": (3, 3, 1)}
    cells = study({name: dict(zip((1, 2, 3), ([y] for y in row), strict=True)) for name, row in rows.items()})
    found = trend_tests(cells, "y", "x", groups=["group"], n_draws=20_000)
    ranks = {name: [sum(b > a for b in row) + (1 + row.count(a)) / 2 for a in row] for name, row in rows.items()}
    sums = [
        sum((j + 1) * r for order in orders for j, r in enumerate(order))
        for orders in itertools.product(*(itertools.permutations(one) for one in ranks.values()))
    ]
    actual = sum((j + 1) * r for one in ranks.values() for j, r in enumerate(one))
    assert (found.L, found.method) == (actual, "permutation")
    assert found.p_value == pytest.approx(np.mean([one >= actual for one in sums]), abs=0.01)
    assert found.p_opposite == pytest.approx(np.mean([one <= actual for one in sums]), abs=0.01)
    again = trend_tests(cells, "y", "x", groups=["group"], n_draws=20_000, seed=1)
    assert again.p_value == pytest.approx(found.p_value, abs=0.01)
    assert found.p_value == trend_tests(cells, "y", "x", groups=["group"], n_draws=20_000).p_value


def test_p_of_ties_on_the_paper() -> None:
    """Three accuracies are level; an exact count of all orders given the ties gave these p-values."""
    for along, p_value in (("N", 7.28981e-06), ("R", 0.348531)):
        found = of_paper(along, "ACC", increasing=True)
        assert found.method == "permutation"
        assert found.p_value == pytest.approx(p_value, abs=2e-4 if along == "N" else 0.015)


def test_level_of_the_permutation() -> None:
    """Whole numbers without a trend, which are often tied."""
    rng = np.random.default_rng(0)
    p = [module._page(rng.integers(4, size=(5, 4)).astype(float), 200, rng)[1] for _ in range(400)]
    assert np.mean(np.array(p) <= 0.05) < 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 400)


def test_one_series_of_three_points_tells_nothing() -> None:
    cells = pd.DataFrame({"R": [32, 128, 512], "loss": [3.0, 2.0, 1.0]})
    found = trend_tests(cells, "loss", "R", groups=[])
    assert [one.word for one in found.verdicts] == ["not identified", "supported"]
    assert found.p_value == pytest.approx(1 / 6, abs=0.015)
    assert trend_tests(cells, "loss", "R", groups=[], level=0.8).verdicts[0].word == "supported"


def test_many_levels_have_an_asymptotic_p() -> None:
    rng = np.random.default_rng(0)
    cells = study({f"g{g}": {x: [x + 20 * rng.normal()] for x in range(9)} for g in range(3)})
    found = trend_tests(cells, "y", "x", groups=["group"], increasing=True)
    assert found.method == "asymptotic"
    variance = 3 * 81 * 10 * 80 / 144
    assert found.p_value == pytest.approx(math.erfc((found.L - 3 * 9 * 100 / 4) / math.sqrt(2 * variance)) / 2)


def test_seeds_are_averaged() -> None:
    cells = study({"a": {1: [3, 5], 2: [2, 3], 3: [1]}, "b": {1: [9], 2: [8], 3: [7, 7, 7]}})
    found = trend_tests(cells, "y", "x", groups=["group"])
    assert (found.L, found.n_groups, found.n_levels) == (28, 2, 3)
    assert found.p_value == pytest.approx(1 / 36)
    assert found.notes[0] == "4 cells share group and level with another and are averaged with it"


def test_groups_that_lack_levels() -> None:
    groups = {"a": {1: [3], 2: [2], 3: [1]}, "b": {1: [3], 2: [math.nan], 3: [4]}, "c": {2: [5]}}
    found = trend_tests(study(groups | {"d": {1: [9], 2: [8], 3: [7]}}), "y", "x", groups=["group"])  # type: ignore[arg-type]
    assert (found.n_groups, found.n_levels, found.n_steps, found.provenance["n_rows"]) == (2, 3, 5, 9)
    assert found.notes == (
        "1 of 10 rows without a value in 'y' are left out",
        "'c': one level of x only, left out",
        "'b': fewer than 3 levels, left out of Page's test, but not of the steps",
    )
    assert found.violations["group"].tolist() == ["b"]


def test_series_and_their_ties() -> None:
    levels = {"b": {4: [5], 1: [3], 2: [1, 2]}, "a": {1: [7], 2.5: [7]}, "c": {3: [0]}}
    found = trend_tests(study(levels), "y", "x", groups=["group"]).series  # type: ignore[arg-type]
    assert found["group"].tolist() == ["b"] * 3 + ["a"] * 2
    assert found["level"].tolist() == [1, 2, 4, 1, 2.5]
    assert found["mean"].tolist() == [3, 1.5, 5, 7, 7]
    assert found["n_cells"].tolist() == [1, 2, 1, 1, 1]
    found = trend_tests(study({"a": {1: [0.1, 0.2, 0.3], 2: [0.3, 0.2, 0.1]}}), "y", "x", groups=[]).series
    assert found["mean"].nunique() == 1  # equal sums stay ties whatever the order of cells


def test_steps_between_equal_values_speak_neither_way() -> None:
    found = trend_tests(study({"a": {1: [2], 2: [2], 3: [1]}}), "y", "x", groups=["group"])
    assert found.verdicts[1].word == "not identified"
    assert found.verdicts[1].because.endswith("go the other way; 1 between equal values")


@settings(max_examples=15, deadline=None)
@given(st.lists(st.permutations(range(4)), min_size=2, max_size=4), st.integers(0, 99))
def test_only_the_order_within_groups_matters(values: list[list[int]], seed: int) -> None:
    cells = study({f"g{k}": {x: [float(y)] for x, y in enumerate(row, start=1)} for k, row in enumerate(values)})
    found = trend_tests(cells, "y", "x", groups=["group"])
    moved = cells.assign(y=np.exp(cells["y"]) + 10.0 * cells["group"].str[1:].astype(int), x=10.0 ** cells["x"])
    again = trend_tests(moved.sample(frac=1, random_state=seed), "y", "x", groups=["group"])
    rising = trend_tests(cells.assign(y=-cells["y"]), "y", "x", groups=["group"], increasing=True)
    for other in (again, rising):
        assert (other.L, other.p_value, other.p_opposite) == (found.L, found.p_value, found.p_opposite)
        assert [one.word for one in other.verdicts] == [one.word for one in found.verdicts]
        assert sorted(other.violations["group"]) == sorted(found.violations["group"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"level": 0.0}, "`level` is 0.0; it must lie between 0 and 1, such as 0.95"),
        ({"n_draws": 0}, "`n_draws` is 0; it must be a whole number of at least 100"),
        (
            {"frame": study({"a": {1: [1]}, "b": {2: [1]}})},
            "no group of ['group'] has two levels of 'x', which a trend",
        ),
    ],
)
def test_what_is_refused(options: dict[str, Any], words: str) -> None:
    usual: dict[str, Any] = {
        "frame": study({"a": {1: [2], 2: [1]}}), "response": "y", "along": "x", "groups": ["group"]
    }  # fmt: skip
    with pytest.raises(ValueError, match=re.escape(words)):
        trend_tests(**(usual | options))


def test_what_is_recorded_and_printed() -> None:
    found = of_paper("R")
    record = found.to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["provenance"]["settings"] == {
        "response": "MIUB", "along": "R", "groups": ["dataset", "model"], "increasing": False, "level": 0.95,
        "n_draws": 10_000, "seed": 0, "source": paper_study().attrs["source"],
    }  # fmt: skip
    assert record["provenance"]["n_rows"] == 30
    text = found.summary().text()
    assert text.startswith(
        "Trend of MIUB along R\nsupported     MIUB falls along R overall: Page's L = 136 over 10 groups"
    )
    assert "Steps that don't go as claimed (4 of 20)" in text
    assert not of_paper("N").summary().tables


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0
