"""Where an adapter acts most, and whether that is much: a branch of words for each case of numbers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.report.where_it_acts import answer_where_it_acts, main_places


def measured(
    js: Any, *, layers: Sequence[int] | None = None, kinds: Sequence[str] | None = None, null: Any = None
) -> xr.DataTree:
    """The part of what `qualify` returns that sentences are made of; layers count up where they aren't given."""
    values = np.asarray(js, float)
    labels = {
        "layer": list(range(len(values)) if layers is None else layers),
        "kind": list(kinds or ["q_proj"] * len(values)),
    }
    table = {"js": ("component", values), "miub": ((), values.sum()), "miub_se": ((), 0.5)}
    if null is not None:
        table["js_permuted"] = ("component", np.asarray(null, float))
    dataset = xr.Dataset(table, coords={name: ("component", label) for name, label in labels.items()})
    return xr.DataTree(dataset.assign_attrs(n_samples=7))


PLACES = {
    "one layer": (
        measured([1, 8, 1]),
        "The adapter's effect is largest in layer 1 (80.0 % of all; 33.3 % if all layers were equal).",
    ),
    "several": (measured([3, 1, 4, 1, 1]), "in layers 0 and 2 (70.0 % of all; 40.0 % if"),
    "neighbours": (measured([1, 4, 4, 4, 1, 3]), "in layers 1-3 (70.6 % of all; 50.0 % if"),
    "many": (measured([3, 1] * 10), "in 7 of 20 layers (52.5 % of all; 35.0 % if"),
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
    "one component": (measured([2.0]), "The run has a single module."),
}


@pytest.mark.parametrize("name", PLACES)
def test_where_it_acts(name: str) -> None:
    qualified, words = PLACES[name]
    assert words in main_places(qualified)


@pytest.mark.parametrize(
    ("null", "claim", "test"),
    [
        (
            None,
            "Can't tell whether the outputs of modules move much",
            "a comparison needs the stored outputs of all tok",
        ),
        (
            [0, 0],
            "Can't tell whether the outputs of modules move much",
            "the same changes shuffled have no known effect",
        ),
        (
            [1, math.nan],
            "Can't tell whether the outputs of modules move much",
            "the same changes shuffled have no known",
        ),
        ([1, 1], "Outputs of modules move more than by the same changes shuffled", "ratio 2.00"),
        ([2, 1], "Outputs of modules move about as much as by the same changes shuffled", "ratio 1.33"),
        ([4, 4], "Outputs of modules move less than by the same changes shuffled", "ratio 0.500"),
    ],
)
def test_whether_it_is_large(null: Any, claim: str, test: str) -> None:
    answer = answer_where_it_acts(measured([2, 2], null=null), with_places=False)
    assert answer.startswith(f"{claim} ({test}")
    assert answer.endswith("; MIUB, their summed Jensen-Shannon divergence: 4.00 ± 0.50 nat; 7 samples).")
    assert answer_where_it_acts(measured([2, 2], null=null)).startswith(f"{answer} The adapter's effect is largest in")
