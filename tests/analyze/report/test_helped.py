"""Whether an adapter helps and where it acts most: a branch of words for each case of numbers."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.report.helped import choices_each, helped
from lorascope.analyze.report.main_places import main_places, than_shuffled
from lorascope.analyze.results.scores import Estimate, Score
from lorascope.stores import Run


def score(measure: str = "ACC", *, dataset: str = "facts/test", n: int = 100, **values: tuple[float, float]) -> Score:
    estimates = {"base": (33.0, 4.7), "adapted": (66.0, 4.7), "change": (33.0, 7.0)} | values
    return Score(dataset, measure, "%", n, **{name: Estimate(*pair) for name, pair in estimates.items()})


def measured(
    js: Any, *, layers: Sequence[int] | None = None, kinds: Sequence[str] | None = None, null: Any = None
) -> xr.DataTree:
    """The part of what `qualify` returns that sentences are made of; layers count up where they aren't given."""
    values = np.asarray(js, float)
    labels = {
        "layer": list(range(len(values)) if layers is None else layers),
        "kind": list(kinds or ["q_proj"] * len(values)),
    }
    table = {"js": ("component", values), "miub": ((), values.sum())}
    if null is not None:
        table["js_permuted"] = ("component", np.asarray(null, float))
    dataset = xr.Dataset(table, coords={name: ("component", label) for name, label in labels.items()})
    return xr.DataTree(dataset)


UNKNOWN = (math.nan, math.nan)
WORDS = {
    "nothing scored": ([], "Can't tell, since nothing was scored."),
    "better": (
        [score()],
        "With the adapter, accuracy rises (from 33.0 ± 4.7 to 66.0 ± 4.7 %). Measured on 100 samples of facts/test; ± "
        "is one standard error.",
    ),
    "worse": (
        [score(base=(66.0, 4.7), adapted=(33.0, 4.7), change=(-33.0, 7.0))],
        "accuracy falls (from 66.0 ± 4.7 to 33.0 ± 4.7 %).",
    ),
    "within the error": (
        [score(adapted=(40.0, 4.9), change=(7.0, 4.0))],
        "accuracy doesn't change significantly (from 33.0 ± 4.7 to 40.0 ± 4.9 %, by less than twice the error of the "
        "change).",
    ),
    "just above it": ([score(adapted=(40.0, 4.9), change=(7.0, 3.4))], "accuracy rises (from "),
    "no error": (
        [score("CE", n=1, base=(2.0, math.nan), adapted=(1.0, math.nan), change=(-1.0, math.nan))],
        "the loss goes from 2.00 to 1.00 nat per token (of one sample, without an error). Measured on 1 sample (few: "
        "errors are rough below 30) of facts/test",
    ),
    "no change": ([score(adapted=(33.0, 4.7), change=(0.0, 0.0))], "accuracy stays at 33.0 ± 4.7 %."),
    "unknown without it": (
        [score(base=UNKNOWN, change=UNKNOWN)],
        "accuracy is 66.0 ± 4.7 % (not measured without it).",
    ),
    "both": (
        [score(), score("CE", base=(2.0, 0.1), adapted=(1.0, 0.1), change=(-1.0, 0.1)), score("PPL")],
        "accuracy rises (from 33.0 ± 4.7 to 66.0 ± 4.7 %); the loss falls (from 2.00 ± 0.10 to 1.00 ± 0.10 nat per "
        "token).",
    ),
    "few": ([score(n=29)], "Measured on 29 samples (few: errors are rough below 30) of facts/test;"),
    "enough": ([score(n=30)], "Measured on 30 samples of facts/test;"),
    "several data sets": (
        [score(), score(dataset="other", n=50, base=(53.0, 4.7), adapted=(56.0, 4.7), change=(3.0, 7.0))],
        "accuracy rises (from 43.0 ± 4.7 to 61.0 ± 4.7 %). Measured on 150 samples of 2 data sets or "
        "prompts (means over them);",
    ),
}


@pytest.mark.parametrize("name", WORDS)
def test_whether_it_helped(name: str) -> None:
    scores, words = WORDS[name]
    assert words in helped(scores)


def test_what_guessing_would_give() -> None:
    assert helped([score()], 4).endswith("; ± is one standard error. Guessing among 4 choices would give 25.0 %.")
    assert "Guessing" not in helped([score("CE")], 4)
    owners = np.array([0, 0, 1, 1, 1])
    for sample, n in ((owners, 0), (owners[:2], 2), (owners[:0], 0)):
        run = SimpleNamespace(choices=xr.Dataset({"sample": ("choice", sample)}))
        assert choices_each(cast(Run, run)) == n


PLACES = {
    "one layer": (
        measured([1, 8, 1]),
        "The adapter acts most in layer 1 (80.0 % of its effect; 33.3 % if all layers were equal).",
    ),
    "several": (measured([3, 1, 4, 1, 1]), "in layers 0 and 2 (70.0 % of its effect; 40.0 % if"),
    "neighbours": (measured([1, 4, 4, 4, 1, 3]), "in layers 1-3 (70.6 % of its effect; 50.0 % if"),
    "many": (measured([3, 1] * 8), "in 6 of 16 layers (56.2 % of its effect; 37.5 % if"),
    "outside": (measured([1, 9], layers=[0, -1]), "in modules outside of the layers (90.0 %"),
    "inside and outside": (measured([2, 5, 5], layers=[0, 1, -1]), "in layer 1 and modules outside of the layers (83"),
    "kinds": (
        measured([8, 1, 1, 2], layers=[0, 0, 1, 1], kinds=["q", "v", "q", "v"]),
        "in layer 0 (75.0 % of its effect; 50.0 % if all layers were equal). By kind, it acts most in modules named q "
        "(75.0 %; 50.0 % if all kinds were equal).",
    ),
    "kinds of one layer": (
        measured([1, 3], layers=[4, 4], kinds=["q", "v"]),
        "The adapter acts most in modules named v (75.0 % of its effect; 50.0 % if all kinds were equal).",
    ),
    "many kinds": (measured([1] * 12, layers=[0] * 12, kinds=list("abcdefghijkl")), "in 7 of 12 kinds of modules (58"),
    "one component": (measured([2.0]), "The adapter acts in a single module."),
}


@pytest.mark.parametrize("name", PLACES)
def test_where_it_acts(name: str) -> None:
    qualified, words = PLACES[name]
    assert words in main_places(qualified)


@pytest.mark.parametrize(
    ("null", "words"),
    [
        (None, "Whether that is much isn't known, since a comparison needs the states of all tokens."),
        ([0, 0], "Whether that is much isn't known, since the same change on shuffled features has no known effect."),
        ([1, math.nan], "Whether that is much isn't known, since the same change on shuffled features has no known"),
        ([1, 1], "smaller effect (real / scrambled = 2.00). So the effect also depends on which features of an output"),
        (
            [2, 1],
            "about as large an effect (real / scrambled = 1.33). So the effect says how much outputs change, hardly",
        ),
        (
            [4, 4],
            "a larger effect (real / scrambled = 0.500). So the effect also depends on which features of an output",
        ),
    ],
)
def test_whether_that_is_much(null: Any, words: str) -> None:
    assert words in than_shuffled(measured([2, 2], null=null))
