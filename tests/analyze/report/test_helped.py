"""Whether an adapter helps: a branch of words for each case of numbers."""

import math
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.report.helped import answer_whether_it_helps, choices_per_item
from lorascope.analyze.results.scores import Estimate, Score
from lorascope.stores import Run


def score(measure: str = "ACC", *, dataset: str = "facts/test", n: int = 100, **values: tuple[float, float]) -> Score:
    estimates = {"base": (33.0, 4.7), "adapted": (66.0, 4.7), "change": (33.0, 7.0)} | values
    return Score(dataset, measure, "%", n, **{name: Estimate(*pair) for name, pair in estimates.items()})


UNKNOWN = (math.nan, math.nan)
WORDS = {
    "nothing scored": ([], "Can't tell, since no sample was scored."),
    "better": (
        [score()],
        "Accuracy rises by 33.0 ± 7.0 points, from 33.0 ± 4.7 to 66.0 ± 4.7 % (100 samples of facts/test, ± standard "
        "error).",
    ),
    "worse": (
        [score(base=(66.0, 4.7), adapted=(33.0, 4.7), change=(-33.0, 7.0))],
        "Accuracy falls by 33.0 ± 7.0 points, from 66.0 ± 4.7 to 33.0 ± 4.7 % (",
    ),
    "within the error": (
        [score(adapted=(40.0, 4.9), change=(7.0, 4.0))],
        "Accuracy doesn't change significantly (from 33.0 ± 4.7 to 40.0 ± 4.9 %, by less than twice the error of the "
        "change) (",
    ),
    "just above it": ([score(adapted=(40.0, 4.9), change=(7.0, 3.4))], "Accuracy rises by 7.0 ± 3.4 points, from "),
    "no error": (
        [score("CE", n=1, base=(2.0, math.nan), adapted=(1.0, math.nan), change=(-1.0, math.nan))],
        "The loss goes from 2.00 to 1.00 nat per token (one sample gives no error) (1 sample of facts/test, ± standard "
        "error; errors are rough with fewer than 30).",
    ),
    "no change": ([score(adapted=(33.0, 4.7), change=(0.0, 0.0))], "Accuracy stays at 33.0 ± 4.7 % ("),
    "unknown without it": (
        [score(base=UNKNOWN, change=UNKNOWN)],
        "Accuracy is 66.0 ± 4.7 % (not measured without it) (",
    ),
    "both": (
        [score(), score("CE", base=(2.0, 0.1), adapted=(1.0, 0.1), change=(-1.0, 0.1)), score("PPL")],
        "Accuracy rises by 33.0 ± 7.0 points, from 33.0 ± 4.7 to 66.0 ± 4.7 %; loss on right answers falls by 1.00 ± "
        "0.10, from 2.00 ± 0.10 to 1.00 ± 0.10 nat per token (",
    ),
    "few": ([score(n=29)], "(29 samples of facts/test, ± standard error; errors are rough with fewer than 30)"),
    "enough": ([score(n=30)], "(30 samples of facts/test, ± standard error)"),
    "several data sets": (
        [score(), score(dataset="other", n=50, base=(53.0, 4.7), adapted=(56.0, 4.7), change=(3.0, 7.0))],
        "Accuracy rises by 18.0 ± 7.0 points, from 43.0 ± 4.7 to 61.0 ± 4.7 % (150 samples of 2 data sets or prompts, "
        "means over them, ",
    ),
    "data sets that differ": (
        [score(), score(dataset="other", n=50, base=(53.0, 4.7), adapted=(33.0, 4.7), change=(-20.0, 7.0))],
        "Accuracy rises by 33.0 ± 7.0 % on facts/test; accuracy falls by 20.0 ± 7.0 % on other (150 samples of ",
    ),
}


@pytest.mark.parametrize("name", WORDS)
def test_whether_it_answer_whether_it_helps(name: str) -> None:
    scores, words = WORDS[name]
    assert words in answer_whether_it_helps(scores)


def test_what_guessing_would_give() -> None:
    assert answer_whether_it_helps([score()], 4).endswith(", ± standard error; guessing: 25.0 %).")
    assert "guessing" not in answer_whether_it_helps([score("CE")], 4)
    owners = np.array([0, 0, 1, 1, 1])
    for sample, n in ((owners, 0), (owners[:2], 2), (owners[:0], 0)):
        run = SimpleNamespace(choices=xr.Dataset({"sample": ("choice", sample)}))
        assert choices_per_item(cast(Run, run)) == n
