"""What a report opens with: a branch of words for each case of numbers."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.report.sentence import compared, sentence
from lorascope.analyze.results.scores import Estimate, Score

from ..conftest import Small
from .test_report import page_of

MIUB = "MIUB, the size of its push on the layers' outputs"


def score(measure: str = "ACC", *, dataset: str = "facts/test", n: int = 100, **values: tuple[float, float]) -> Score:
    found = {"base": (33.0, 4.7), "adapted": (66.0, 4.7), "change": (33.0, 7.0)} | values
    return Score(dataset, measure, "%", n, **{name: Estimate(*pair) for name, pair in found.items()})


def measured(
    js: Any, *, layers: Sequence[int] | None = None, kinds: Sequence[str] | None = None, null: Any = None
) -> xr.DataTree:
    """The part of what `qualify` returns that the sentence is made of; layers count up where they aren't given."""
    values = np.asarray(js, float)
    labels = {
        "layer": list(range(len(values)) if layers is None else layers),
        "kind": list(kinds or ["q_proj"] * len(values)),
    }
    found = {"js": ("component", values), "miub": ((), values.sum())}
    if null is not None:
        found["js_permuted"] = ("component", np.asarray(null, float))
    table = xr.Dataset(found, coords={name: ("component", label) for name, label in labels.items()})
    return xr.DataTree(table)


WORDS = {
    "nothing scored": ([], "Nothing was scored, so whether the adapter helps isn't known; "),
    "better": ([score()], "On 100 samples of facts/test the adapter raises accuracy from 33.0 ± 4.7 to 66.0 ± 4.7 %; "),
    "worse": (
        [score(base=(66.0, 4.7), adapted=(33.0, 4.7), change=(-33.0, 7.0))],
        "the adapter lowers accuracy from 66.0 ± 4.7 to 33.0 ± 4.7 %; ",
    ),
    "within the error": (
        [score(adapted=(40.0, 4.9), change=(7.0, 4.0))],
        "takes accuracy from 33.0 ± 4.7 to 40.0 ± 4.9 % (less than twice the error of the change); ",
    ),
    "just above it": ([score(adapted=(40.0, 4.9), change=(7.0, 3.4))], "the adapter raises accuracy from "),
    "no error": (
        [score("CE", n=1, base=(2.0, math.nan), adapted=(1.0, math.nan), change=(-1.0, math.nan))],
        "On 1 sample (few: errors are rough below 30) of facts/test the adapter takes the loss from 2.00 to 1.00 nat",
    ),
    "no change": (
        [score(adapted=(33.0, 4.7), change=(0.0, 0.0))],
        "the adapter leaves accuracy at 33.0 ± 4.7 %; ",
    ),
    "unknown without it": (
        [score(base=(math.nan, math.nan), change=(math.nan, math.nan))],
        "the adapter has accuracy 66.0 ± 4.7 % (unknown without it); ",
    ),
    "both": (
        [score(), score("CE", base=(2.0, 0.1), adapted=(1.0, 0.1), change=(-1.0, 0.1)), score("PPL")],
        "raises accuracy from 33.0 ± 4.7 to 66.0 ± 4.7 % and lowers the loss from 2.00 ± 0.10 to 1.00 ± 0.10 nat/tok",
    ),
    "few": ([score(n=29)], "On 29 samples (few: errors are rough below 30) of facts/test the adapter"),
    "enough": ([score(n=30)], "On 30 samples of facts/test the adapter"),
    "several data sets": (
        [score(), score(dataset="other", n=50, base=(53.0, 4.7), adapted=(56.0, 4.7), change=(3.0, 7.0))],
        "On 150 samples of 2 data sets or prompts (means over them) the adapter raises accuracy from 43.0 ± 4.7 to "
        "61.0 ± 4.7 %; ",
    ),
}


@pytest.mark.parametrize("name", WORDS)
def test_whether_it_helped(name: str) -> None:
    found, words = WORDS[name]
    assert words in sentence(measured([1.0, 1.0]), found)


PAIR = {
    "accuracy": (
        [score(change=(33.0, 8.0))],
        "that one and two share, two has the higher accuracy (66.0 ± 4.7 against 33.0 ± 4.7 %, apart by more than "
        "twice the error of their difference).",
    ),
    "loss": (
        [score("CE", base=(1.0, 0.1), adapted=(1.2, 0.1), change=(0.2, 0.15))],
        "one has the lower loss (1.00 ± 0.10 against 1.20 ± 0.10 nat/token, apart by less than twice the error",
    ),
    "both": (
        [score(change=(33.0, 8.0)), score("CE", base=(2.0, 0.1), adapted=(1.0, 0.1), change=(-1.0, 0.1))],
        "error of their difference) and the lower loss (1.00 ± 0.10 against 2.00 ± 0.10 nat/token, apart by more",
    ),
    "either": (
        [score(change=(33.0, 8.0)), score("CE", base=(1.0, 0.1), adapted=(2.0, 0.1), change=(1.0, 0.1))],
        "error of their difference) and one has the lower loss (1.00",
    ),
    "equal": ([score(adapted=(33.0, 4.7), change=(0.0, 0.0))], "share, accuracy is 33.0 ± 4.7 % in both."),
    "none": ([], "one and two share no scored samples."),
}


@pytest.mark.parametrize("name", PAIR)
def test_which_of_two_answers_better(name: str) -> None:
    found, words = PAIR[name]
    assert words in compared(("one", "two"), found)


PLACES = {
    "one layer": (measured([1, 8, 1]), f"it acts most in layer 1 (80.0 % of {MIUB})"),
    "several": (measured([3, 1, 4, 1, 1]), f"in layers 0 and 2 (70.0 % of {MIUB})"),
    "neighbours": (measured([1, 4, 4, 4, 1, 3]), f"in layers 1-3 (70.6 % of {MIUB})"),
    "many": (measured([3, 1] * 8), f"in 6 of 16 layers (56.2 % of {MIUB})"),
    "outside": (measured([1, 9], layers=[0, -1]), "in what is outside of the layers (90.0 %"),
    "inside and outside": (measured([2, 5, 5], layers=[0, 1, -1]), "in layer 1 and what is outside of the layers (83"),
    "kinds": (
        measured([8, 1, 1, 2], layers=[0, 0, 1, 1], kinds=["q", "v", "q", "v"]),
        f"in layer 0 (75.0 % of {MIUB}) and in q (75.0 %)",
    ),
    "kinds of one layer": (measured([1, 3], layers=[4, 4], kinds=["q", "v"]), f"it acts most in v (75.0 % of {MIUB})"),
    "one component": (measured([2.0]), f"a single component holds all of {MIUB}"),
    "not moved": (measured([0.0, 0.0], null=[0, 0]), f"it moves no layer at all ({MIUB}, is 0)."),
    "not finite": (measured([1.0, math.nan], null=[1, 1]), "it acts isn't known, because some values aren't finite."),
}


@pytest.mark.parametrize("name", PLACES)
def test_where_it_acts(name: str) -> None:
    result, words = PLACES[name]
    assert words in sentence(result, [])


@pytest.mark.parametrize(
    ("null", "words"),
    [
        (None, "; whether that is large isn't known, because the null needs the states of all tokens."),
        ([0, 0], "; the null, the same change on shuffled features, isn't known."),
        ([1, math.nan], "; the null, the same change on shuffled features, isn't known."),
        ([1, 1], ". In all, it pushes more than the same change would on shuffled features (2.00 times as much)."),
        ([2, 1], " about as much as the same change would on shuffled features (1.33 times as much)."),
        ([4, 4], " less than the same change would on shuffled features (0.500 times as much)."),
    ],
)
def test_whether_that_is_large(null: Any, words: str) -> None:
    assert sentence(measured([2, 2], null=null), []).endswith(words)


def test_a_page_opens_with_it(make_small: Callable[..., Small], tmp_path: Path) -> None:
    page = page_of(make_small(is_scored=False, word="<b>").run, tmp_path)
    opening = page.text.partition("stream adapted")[2]
    assert opening.startswith("Nothing was scored, so whether the adapter helps isn't known; it acts most in ")
