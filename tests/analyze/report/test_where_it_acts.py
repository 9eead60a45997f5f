"""Where an adapter acts most, and whether that is much: a branch of words for each case of numbers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.report.where_it_acts import compare_with_shuffled, main_places


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


PLACES = {
    "one layer": (
        measured([1, 8, 1]),
        "The adapter's effect is largest in layer 1 (80.0 % of all; 33.3 % if all layers were equal).",
    ),
    "several": (measured([3, 1, 4, 1, 1]), "in layers 0 and 2 (70.0 % of all; 40.0 % if"),
    "neighbours": (measured([1, 4, 4, 4, 1, 3]), "in layers 1-3 (70.6 % of all; 50.0 % if"),
    "many": (measured([3, 1] * 8), "in 6 of 16 layers (56.2 % of all; 37.5 % if"),
    "outside": (measured([1, 9], layers=[0, -1]), "in modules outside of the layers (90.0 %"),
    "inside and outside": (measured([2, 5, 5], layers=[0, 1, -1]), "in layer 1 and modules outside of the layers (83"),
    "kinds": (
        measured([8, 1, 1, 2], layers=[0, 0, 1, 1], kinds=["q", "v", "q", "v"]),
        "in layer 0 (75.0 % of all; 50.0 % if all layers were equal). By kind, it is largest in modules named q "
        "(75.0 %; 50.0 % if all kinds were equal).",
    ),
    "kinds of one layer": (
        measured([1, 3], layers=[4, 4], kinds=["q", "v"]),
        "The adapter's effect is largest in modules named v (75.0 % of all; 50.0 % if all kinds were equal).",
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
        (None, "Whether that is much isn't known, since a comparison needs the stored outputs of all tokens."),
        ([0, 0], "Whether that is much isn't known, since the same changes in random order have no known effect."),
        ([1, math.nan], "Whether that is much isn't known, since the same changes in random order have no known"),
        (
            [1, 1],
            "smaller (real / shuffled = 2.00): it depends on which numbers change, not only on how much",
        ),
        (
            [2, 1],
            "about as large (real / shuffled = 1.33): it shows how large they are, hardly what they do",
        ),
        (
            [4, 4],
            "larger (real / shuffled = 0.500): it depends on which numbers change, not only on how much",
        ),
    ],
)
def test_whether_that_is_much(null: Any, words: str) -> None:
    assert words in compare_with_shuffled(measured([2, 2], null=null))
