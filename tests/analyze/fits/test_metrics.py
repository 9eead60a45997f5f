"""Metrics compared: the paper's numbers, properties, null simulations and hostile options."""

import doctest
import itertools
import json
import math
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]

from lorascope.analyze.fits import metrics as module
from lorascope.analyze.fits.metrics import MetricComparison, compare_metrics
from lorascope.analyze.fits.verdicts import Verdict

from .conftest import make_study

PARTS = ("metrics", "pairs")


def equal(first: MetricComparison, second: MetricComparison, parts: tuple[str, ...] = PARTS) -> None:
    for part in parts:
        pd.testing.assert_frame_equal(getattr(first, part), getattr(second, part))


def test_papers_numbers(paper: pd.DataFrame) -> None:
    """Which `docs/paper-audit.md` quotes, and an independent computation has confirmed."""
    comparison = compare_metrics(paper)
    row = comparison.metrics.set_index("metric").loc
    assert row["ln MIUB", "pearson"] == pytest.approx(-0.290298, abs=1e-6)
    assert row["CE", "pearson"] == pytest.approx(-0.0977121, abs=1e-7)
    assert row["CE", "partial_r"] == pytest.approx(0.5795, abs=5e-5)
    assert row["CE", "strict_by"] == "model"
    assert row["ln MIUB", "permutation_p"] == pytest.approx(48 / 5040)
    first = comparison.pairs.iloc[0]
    assert (first["williams_t"], first["williams_p"]) == pytest.approx((3.75523, 0.000431962), rel=1e-5)
    assert first["permutation_p"] == pytest.approx(88 / 5040)
    words = {verdict.claim: verdict.word for verdict in comparison.verdicts}
    assert words["ln MIUB follows accuracy within groups"] == "supported"
    assert words["CE follows accuracy within groups"] == "not identified"
    assert words["ln MIUB follows accuracy more closely than CE"] == "supported"
    assert words["ln MIUB adds to knowing the setting, with the sign it promises"] == "not identified"
    assert words["CE adds to knowing the setting, with the sign it promises"] == "contradicted"
    assert len(words) == 3 + 2 + 3
    both = {verdict.claim: verdict.word for verdict in compare_metrics(paper, collapsed_below=0.25).verdicts}
    assert both["ln MIUB follows accuracy more closely than CE"] == "not identified"


def test_intervals_are_those_of_drawn_tables(paper: pd.DataFrame) -> None:
    """Groups drawn row by row, the plain way."""
    rng, names = np.random.default_rng(5), paper["block"].unique()
    parts = {
        name: np.stack([values - values.mean() for values in (np.log(part["MIUB"]), part["ACC"])])
        for name, part in paper.groupby("block")
    }
    drawn = []
    for _ in range(4000):
        x, y = np.hstack([parts[name] for name in rng.choice(names, len(names))])
        drawn.append(x @ y / math.sqrt((x @ x) * (y @ y)))
    low, high = compare_metrics(paper, metrics=["ln MIUB"]).metrics[["low", "high"]].to_numpy()[0]
    assert (low, high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.015)


def test_sets_of_cells_are_those_of_their_own_tables(paper: pd.DataFrame) -> None:
    both = compare_metrics(paper, collapsed_below=0.25, n_draws=500)
    for name, frame in (("all", paper), ("ACC >= 0.25", paper[paper["ACC"] >= 0.25])):
        alone = compare_metrics(frame, n_draws=500)
        for part in PARTS:
            mine = getattr(both, part)
            mine = mine[mine["cells"] == name].drop(columns="cells").reset_index(drop=True)
            pd.testing.assert_frame_equal(mine, getattr(alone, part).drop(columns="cells"))
    assert both.metrics["cells"].tolist() == ["all"] * 3 + ["ACC >= 0.25"] * 3


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 4), st.permutations(range(20)), st.floats(0.01, 100))
def test_order_of_rows_names_and_units_change_nothing(
    seed: int, n_dropped: int, order: list[int], scale: float
) -> None:
    frame = make_study(seed, n_dropped=n_dropped)
    comparison = compare_metrics(frame, groups="group", n_draws=300)
    moved = frame.loc[[k for k in order if k < len(frame)]]
    equal(comparison, compare_metrics(moved, groups=["group"], n_draws=300))
    renamed = frame.assign(group=frame["group"].map(lambda name: f"z{name}"), CE=scale * frame["CE"])
    equal(comparison, compare_metrics(renamed, groups="group", n_draws=300), ("metrics", "pairs"))


def test_a_metric_that_follows_is_told_from_one_that_does_not() -> None:
    frame = make_study(1, n_groups=12, n_settings=8, follows=3)
    comparison = compare_metrics(frame, metrics=["ln MIUB", "CE"], groups="group", n_draws=1000)
    words = {verdict.claim: verdict.word for verdict in comparison.verdicts}
    assert words["ln MIUB follows accuracy within groups"] == "supported"
    assert words["ln MIUB follows accuracy more closely than CE"] == "supported"
    assert words["ln MIUB adds to knowing the setting, with the sign it promises"] == "supported"
    assert words["CE follows accuracy within groups"] == "not identified"
    turned = compare_metrics(frame, metrics=["CE", "ln MIUB"], groups="group", n_draws=1000)
    assert turned.pairs[["first", "second"]].values.tolist() == [["CE", "ln MIUB"]]
    assert "CE follows accuracy more closely than ln MIUB" in [
        verdict.claim for verdict in turned.verdicts if verdict.word == "contradicted"
    ]


def by_dummies(frame: pd.DataFrame, column: str, *effects: list[str]) -> tuple[np.ndarray, int]:
    """What is left of a column after these effects, and how many of them the cells tell."""
    dummies = [pd.get_dummies(frame[effect].agg("/".join, axis=1)) for effect in effects]
    design = np.hstack([indicators.to_numpy(float) for indicators in dummies])
    values = frame[column].to_numpy()
    return values - design @ np.linalg.pinv(design) @ values, int(np.linalg.matrix_rank(design))


@pytest.mark.parametrize(("beginning", "setting"), [("partial", ["setting"]), ("strict", ["model", "setting"])])
def test_partial_correlations_are_those_of_dummies(paper: pd.DataFrame, beginning: str, setting: list[str]) -> None:
    row = compare_metrics(paper, metrics=["CE"], n_draws=100).metrics.iloc[0]
    (x, n_effects), (y, _) = (by_dummies(paper, name, ["dataset", "model"], setting) for name in ("CE", "ACC"))
    r, freedom = np.corrcoef(x, y)[0, 1], len(paper) - n_effects - 1
    assert row[f"{beginning}_r"] == pytest.approx(r)
    p_value = 2 * stats.t.sf(abs(r) * math.sqrt(freedom / (1 - r**2)), freedom)
    assert row["partial_t_p" if beginning == "partial" else "strict_p"] == pytest.approx(p_value)


def test_settings_that_harm_one_model_alone_are_no_relation() -> None:
    """All data sets of model b lose accuracy and gain M in three of six settings; else both are noise."""
    words = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        frame = pd.DataFrame(itertools.product("ab", "xyz", range(6)), columns=["model", "dataset", "setting"])
        harmed = (frame["model"] == "b") & (frame["setting"] < 3)
        frame = frame.assign(
            ACC=0.5 - 0.1 * harmed + 0.01 * rng.normal(size=36), M=1.0 * harmed + 0.1 * rng.normal(size=36)
        )
        comparison = compare_metrics(frame, metrics=["M"], n_draws=720)
        assert comparison.metrics["partial_r"].iloc[0] < -0.8
        assert comparison.metrics["partial_t_p"].iloc[0] < 1e-6
        words.append(comparison.verdicts[1].word == "supported")
    assert sum(words) <= 2


def with_effects(seed: int, relation: float, n_settings: int) -> pd.DataFrame:
    """Accuracy, M and CE with effects of settings that all groups share; M's is `relation` times accuracy's, turned."""
    rng = np.random.default_rng(seed)
    accuracy, own, other = rng.normal(size=(3, n_settings))
    place = list(itertools.product(range(7), range(n_settings)))
    setting = np.array([s for _, s in place])
    noise = 0.5 * rng.normal(size=(3, len(place)))
    return pd.DataFrame(place, columns=["group", "setting"]).assign(
        ACC=0.5 + 0.03 * (accuracy[setting] + noise[0]),
        M=(own - relation * accuracy)[setting] + noise[1],
        CE=other[setting] + noise[2],
    )


def shares(relation: float, n_runs: int, n_settings: int) -> pd.Series:
    """How often verdicts say that M follows accuracy, and more closely than CE; and how often tests of cells do."""
    rows = []
    for seed in range(n_runs):
        frame = with_effects(seed, relation, n_settings)
        comparison = compare_metrics(frame, metrics=["M", "CE"], groups="group", n_draws=120)
        words = [verdict.word == "supported" for verdict in comparison.verdicts]
        by_cells = comparison.metrics["p"].iloc[0] <= 0.05 and comparison.metrics["high"].iloc[0] < 0
        rows.append({"follows": words[0], "closer": words[2], "adds": words[3], "follows by cells": by_cells})
    return pd.DataFrame(rows).mean()


def test_effects_that_all_groups_share_are_no_relation() -> None:
    """Settings with effects of their own in each column, which groups repeat: cells and groups alone are taken in."""
    comparison = shares(0, 100, 5)
    assert comparison["follows by cells"] > 0.1
    assert comparison[["follows", "closer", "adds"]].max() < 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 100)


def test_a_relation_between_effects_is_seen() -> None:
    comparison = shares(3, 20, 7)
    assert comparison["follows"] > 0.7
    assert comparison["closer"] > 0.2


def test_a_column_that_is_called_a_logarithm() -> None:
    frame = make_study()
    alone = frame.assign(**{"ln CE": np.log(frame["CE"])}).drop(columns="CE")
    equal(
        *(compare_metrics(table, metrics=["ln MIUB", "ln CE"], groups="group", n_draws=100) for table in (frame, alone))
    )


def test_the_table_stays_as_it_was() -> None:
    frame = make_study()
    before = frame.copy()
    compare_metrics(frame, groups="group", collapsed_below=0.5, n_draws=100)
    pd.testing.assert_frame_equal(frame, before)


def test_one_metric_has_no_pairs() -> None:
    comparison = compare_metrics(make_study(), metrics="MIUB", groups="group", n_draws=100)
    assert comparison.pairs.empty
    assert len(comparison.verdicts) == 2


def test_a_metric_that_is_another_turned_around_has_no_test() -> None:
    frame = make_study()
    comparison = compare_metrics(frame.assign(up=-frame["CE"]), metrics=["CE", "up"], groups="group", n_draws=100)
    assert math.isnan(comparison.pairs["williams_t"].iloc[0])
    assert comparison.verdicts[2].word == "not identified"


def test_what_prints(paper: pd.DataFrame) -> None:
    comparison = compare_metrics(paper, collapsed_below=0.25, n_draws=200)
    summary = comparison.summary()
    assert str(summary).startswith("How well ln MIUB follows ACC within groups\n")
    assert all(verdict.claim in str(summary) for verdict in comparison.verdicts)
    brief, metrics, pairs = summary.tables.values()
    assert brief.columns.tolist() == ["cells", "metric", "pearson", "p", "permutation_p", "partial_r", "partial_p"]
    assert (metrics is comparison.metrics, pairs is comparison.pairs) == (True, True)
    assert len(compare_metrics(paper, metrics=["CE"], n_draws=100).summary().tables) == 2


def test_record_is_json(paper: pd.DataFrame) -> None:
    record = compare_metrics(paper, n_draws=100).summary().to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert list(record) == ["title", "verdicts", "tables", "notes", "provenance"]
    assert record["provenance"]["settings"]["n_draws"] == 100


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_draws": 99}, "`n_draws` is 99; give a whole number of at least 100"),
        ({"seed": -1}, "`seed` is -1; give a whole number of at least 0"),
        ({"higher_is_better": ["MI"]}, "`higher_is_better` names 'MI', which isn't among the metrics ['ln MIUB',"),
        ({"level": 1.0}, "`level` is 1.0; it must lie between 0 and 1, such as 0.95"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        compare_metrics(make_study(), groups="group", **options)


ROWS: list[dict[str, Any]] = [
    {
        "metric": name, "better": better, "cells": "all", "pearson": -0.5, "low": -0.7, "high": -0.2, "p": 0.01,
        "n_effective": 20, "permutation_p": 0.03, "partial_r": -0.4, "partial_low": -0.6, "partial_high": -0.1,
        "partial_p": 0.04, "partial_t_p": 0.001, "strict_by": by, "strict_r": r, "strict_low": low,
        "strict_high": high, "strict_p": 0.02,
    }
    for name, better, by, r, low, high in (
        ("A", "lower", "model", -0.3, -0.5, -0.05), ("B", "higher", "", -0.4, -0.6, -0.1)
    )
]  # fmt: skip
PAIR: dict[str, Any] = {
    "cells": "all", "first": "A", "second": "B", "n_effective": 20, "agreement_first": 0.5, "agreement_second": 0.2,
    "difference": 0.3, "low": 0.1, "high": 0.4, "williams_p": 0.01, "permutation_p": 0.04,
}  # fmt: skip


def judged(metric: dict[str, Any] | None = None, pair: dict[str, Any] | None = None) -> list[Verdict]:
    """Verdicts on rows with these changes."""
    return list(module._verdicts([{**row, **(metric or {})} for row in ROWS], [{**PAIR, **(pair or {})}], 0.95))


def test_claims_and_reasons() -> None:
    assert [str(verdict) for verdict in judged()] == [
        "supported: A follows accuracy within groups (-0.500 [-0.700, -0.200], p = 0.0300, n = 20)",
        "contradicted: B follows accuracy within groups (-0.500 [-0.700, -0.200], p = 0.0300, n = 20)",
        "supported: A follows accuracy more closely than B (0.300 [0.100, 0.400], p = 0.0400, n = 20)",
        "supported: A adds to knowing the setting, with the sign it promises (-0.400 [-0.600, -0.100], p = 0.0400, and "
        "with effects of settings by model -0.300 [-0.500, -0.0500], p = 0.0200, n = 20)",
        "contradicted: B adds to knowing the setting, with the sign it promises (-0.400 [-0.600, -0.100], p = 0.0400, "
        "n = 20)",
    ]


@pytest.mark.parametrize(
    ("table", "change", "place", "word"),
    [
        ("metric", {"p": 0.06}, 0, "not identified"),
        ("metric", {"permutation_p": 0.051}, 0, "not identified"),
        ("metric", {"permutation_p": 0.05}, 0, "supported"),
        ("metric", {"high": 0.01}, 0, "not identified"),
        ("metric", {"low": 0.1, "high": 0.2}, 0, "contradicted"),
        ("pair", {"williams_p": 0.051}, 2, "not identified"),
        ("pair", {"williams_p": math.nan}, 2, "not identified"),
        ("pair", {"permutation_p": 0.051}, 2, "not identified"),
        ("pair", {"low": -0.01}, 2, "not identified"),
        ("pair", {"low": -0.4, "high": -0.1}, 2, "contradicted"),
        ("metric", {"partial_r": math.nan, "partial_low": math.nan, "partial_p": math.nan}, 3, "not identified"),
        ("metric", {"partial_high": 0.06}, 3, "not identified"),
        ("metric", {"strict_high": 0.06}, 3, "not identified"),
        ("metric", {"strict_p": 0.051}, 3, "not identified"),
    ],
)
def test_rules_of_verdicts(table: str, change: dict[str, float], place: int, word: str) -> None:
    assert judged(**{table: change})[place].word == word


def test_a_word_must_hold_in_every_set_of_cells() -> None:
    for p_value, word in ((0.2, "not identified"), (0.01, "supported")):
        comparison = list(module._verdicts(ROWS, [PAIR, {**PAIR, "cells": "some", "williams_p": p_value}], 0.95))[2]
        assert comparison.word == word
        assert comparison.because.startswith("all: 0.300 [0.100, 0.400], p = 0.0400")
        assert "; some: 0.300 [0.100, 0.400], p = " in comparison.because


def test_import_waits_for_no_distributions() -> None:
    code = "import sys; import lorascope.analyze.fits.metrics; assert 'scipy.stats' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0
