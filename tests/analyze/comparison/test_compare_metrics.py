import doctest
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorascope.analyze.comparison import compare_metrics as module
from lorascope.analyze.comparison.compare_metrics import compare_metrics
from lorascope.analyze.comparison.comparison import MetricComparison

from .conftest import make_study

PARTS = ("metrics", "pairs", "decisions", "beyond_setting", "noise", "blocks")
Make = Callable[..., pd.DataFrame]


def equal(one: MetricComparison, other: MetricComparison, parts: tuple[str, ...] = PARTS) -> None:
    for part in parts:
        pd.testing.assert_frame_equal(getattr(one, part), getattr(other, part))


def test_paper_verdicts(paper: pd.DataFrame) -> None:
    """Each word is that of its rule, applied to the tables here."""
    found = compare_metrics(paper, collapsed_below=0.25)
    words = {verdict.claim: verdict.word for verdict in found.verdicts}
    for other in ("CE", "ln CE"):
        rows = found.pairs[(found.pairs["first"] == "ln MIUB") & (found.pairs["second"] == other)]
        sure = rows["williams_p_effective"] <= 0.05
        better, worse = (sure & (rows["low"] > 0)).all(), (sure & (rows["high"] < 0)).all()
        word = "supported" if better else "contradicted" if worse else "not identified"
        assert words[f"ln MIUB follows accuracy more closely than {other}"] == word
    assert len(words) == 3 + 2 + 3 + 2


def test_sets_of_cells_are_those_of_their_own_tables(paper: pd.DataFrame) -> None:
    both = compare_metrics(paper, collapsed_below=0.25)
    for name, frame in (("all", paper), ("ACC >= 0.25", paper[paper["ACC"] >= 0.25])):
        alone = compare_metrics(frame)
        for part in PARTS:
            mine = getattr(both, part)
            mine = mine[mine["cells"] == name].drop(columns="cells").reset_index(drop=True)
            pd.testing.assert_frame_equal(mine, getattr(alone, part).drop(columns="cells"))
    assert both.metrics["cells"].tolist() == ["all"] * 3 + ["ACC >= 0.25"] * 3


def test_runs_printed_twice_are_said(paper: pd.DataFrame) -> None:
    from lorascope.study.paper_tables import paper_study

    assert not [note for note in compare_metrics(paper).notes if "equal" in note]
    (said,) = [note for note in compare_metrics(paper_study()).notes if "equal" in note]
    assert said.startswith("all values used are equal in 'ARCE/LLaMA3' at r32, share1, 'ARCC/LLaMA3' at r32, share1")
    assert "and 2 more" in said


@settings(max_examples=15)
@given(st.integers(0, 1000), st.integers(0, 4), st.permutations(range(20)))
def test_order_of_rows_and_names_of_blocks_change_nothing(seed: int, n_dropped: int, order: list[int]) -> None:
    frame = make_study(seed, n_dropped=n_dropped)
    found = compare_metrics(frame, blocks="block")
    moved = frame.loc[[k for k in order if k < len(frame)]]
    equal(found, compare_metrics(moved, blocks=["block"]))
    renamed = compare_metrics(frame.assign(block=frame["block"].map(lambda name: f"z{name}")), blocks="block")
    equal(found, renamed, PARTS[:-1])


@settings(max_examples=15)
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_units_change_nothing(seed: int, scale: float) -> None:
    frame = make_study(seed)
    equal(compare_metrics(frame, blocks="block"), compare_metrics(frame.assign(CE=scale * frame["CE"]), blocks="block"))


def test_reference_comes_first(make_study: Make) -> None:
    found = compare_metrics(make_study(), metrics=["MIUB", "CE"], reference="CE", blocks="block")
    assert found.reference == "CE"
    assert found.pairs[["first", "second"]].values.tolist() == [["CE", "MIUB"]]
    claims = [verdict.claim for verdict in found.verdicts]
    assert "CE follows accuracy more closely than MIUB" in claims


def test_a_metric_that_follows_is_told_from_one_that_does_not() -> None:
    frame = make_study(1, n_blocks=12, n_settings=8, follows=3)
    found = compare_metrics(frame, metrics=["ln MIUB", "CE"], blocks="block")
    words = {verdict.claim: verdict.word for verdict in found.verdicts}
    assert words["ln MIUB follows accuracy within blocks"] == "supported"
    assert words["ln MIUB follows accuracy more closely than CE"] == "supported"
    assert words["ln MIUB adds to knowing the setting, with the sign it promises"] == "supported"
    assert words["CE follows accuracy within blocks"] == "not identified"
    turned = compare_metrics(frame, metrics=["CE", "ln MIUB"], blocks="block").verdicts
    assert "CE follows accuracy more closely than ln MIUB" in [
        one.claim for one in turned if one.word == "contradicted"
    ]


def test_claims_about_noise_are_rarely_supported() -> None:
    words = [
        verdict.word
        for seed in range(60)
        for verdict in compare_metrics(
            make_study(seed, n_blocks=8, n_settings=6, follows=0), metrics=["ln MIUB", "ln CE"], blocks="block"
        ).verdicts
    ]
    assert np.mean([word != "not identified" for word in words]) < 0.08


def test_level_decides(make_study: Make) -> None:
    frame = make_study(2, n_blocks=8)
    wide, narrow = (
        compare_metrics(frame, blocks="block", significance=significance).metrics for significance in (0.01, 0.5)
    )
    assert (wide["low"] <= narrow["low"]).all()
    assert (wide["high"] >= narrow["high"]).all()


def test_a_column_that_is_called_a_logarithm(make_study: Make) -> None:
    frame = make_study()
    alone = frame.assign(**{"ln CE": np.log(frame["CE"])}).drop(columns="CE")
    equal(*(compare_metrics(one, metrics=["ln MIUB", "ln CE"], blocks="block") for one in (frame, alone)))
    with pytest.raises(ValueError, match=r"metric 'ln CE' is a column of the table, and the logarithm of its column"):
        compare_metrics(alone.assign(CE=1.0), metrics=["ln CE"], blocks="block")


def test_progress_counts_to_its_total(make_study: Make) -> None:
    calls: list[tuple[int, int]] = []
    compare_metrics(make_study(), blocks="block", collapsed_below=0.4, progress=lambda *done: calls.append(done))
    assert calls == [(k + 1, 12) for k in range(12)]


def test_the_table_stays_as_it_was(make_study: Make) -> None:
    frame = make_study()
    before = frame.copy()
    compare_metrics(frame, blocks="block", collapsed_below=0.5, n_items=30)
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_resamples": 99}, "`n_resamples` is 99; it is a whole number from 100 on"),
        ({"n_resamples": 1000.0}, "`n_resamples` is 1000.0; it is a whole number from 100 on"),
        ({"seed": -1}, "`seed` is -1; it is a whole number from 0 on"),
        ({"seed": True}, "`seed` is True; it is a whole number from 0 on"),
        ({"significance": 0}, "`significance` is 0; allowed is what lies between 0 and 1, such as 0.05"),
        ({"significance": 1.0}, "`significance` is 1.0; allowed is what lies between 0 and 1, such as 0.05"),
        ({"significance": float("nan")}, "`significance` is nan; allowed is what lies between 0 and 1, such as 0.05"),
        ({"collapsed_below": 0.0}, "`collapsed_below` is 0.0; it is an accuracy above 0 and up to 1, or None"),
        ({"collapsed_below": 25}, "`collapsed_below` is 25; it is an accuracy above 0 and up to 1, or None"),
        ({"reference": "PPL"}, "`reference` names 'PPL', which isn't among the metrics ['ln MIUB', 'CE', 'ln CE']"),
        ({"metrics": ["PPL"]}, "the table has no column 'PPL'; it has 'block', 'setting', 'ACC', 'MIUB', 'CE'"),
        ({"n_items": "items"}, "the table has no column 'items'"),
        ({"n_items": 10**400}, "`n_items` gives a number above 2^53, 9,007,199,254,740,992; the number of test items"),
        ({"n_items": 0}, "`n_items` gives 0; the number of test items is a whole number from 1 on"),
        ({"collapsed_below": 1.0}, "0 blocks of the cells 'ACC >= 1' with two cells or more"),
    ],
    ids=str,
)
def test_options_that_are_none(make_study: Make, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        compare_metrics(make_study(), **{"blocks": "block", **options})


def test_importing_it_is_light() -> None:
    code = (
        "import sys, lorascope.analyze.comparison.compare_metrics\n"
        "print([name for name in ('scipy.stats', 'statsmodels', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_examples_of_the_module_run() -> None:
    assert doctest.testmod(module) == (0, 3)
