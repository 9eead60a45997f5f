"""What a pattern fits, and which name somebody may have meant."""

import re
from typing import Any

import numpy as np
import pytest

from lorascope.stores import StoreError
from lorascope.stores.names import close_names, matching_indices, require_choice

NAMES = [
    f"model.layers.{layer}.{kind}"
    for layer in (3, 13)
    for kind in ("mlp.up_proj", "mlp.down_proj", "self_attn.q_proj", "self_attn.k_proj")
]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("model.layers.3.q_proj", ["model.layers.3.self_attn.q_proj"]),
        ("layers.13.q_proj", ["model.layers.13.self_attn.q_proj"]),
        ("q_proj", ["model.layers.3.self_attn.q_proj", "model.layers.13.self_attn.q_proj"]),
        ("model.layers.7.self_attn.k_proj", ["model.layers.3.self_attn.k_proj", "model.layers.13.self_attn.k_proj"]),
        ("*.3.q_proj", ["model.layers.3.self_attn.q_proj"]),
        ("model.layers.3.mlp.up_prj", ["model.layers.3.mlp.up_proj"]),
        ("q_prj", ["model.layers.3.self_attn.q_proj", "model.layers.13.self_attn.q_proj"]),
        ("model.layer.3.mlp", ["model.layers.3.mlp.up_proj"]),
    ],
)
def test_the_name_that_a_person_means_comes_first(name: str, meant: list[str]) -> None:
    assert close_names(name, NAMES)[: len(meant)] == meant


def test_nothing_is_like_nothing() -> None:
    assert close_names("x", NAMES) == []
    assert close_names("x", []) == []


def test_patterns_fit_whole_names_in_the_order_of_the_names() -> None:
    assert matching_indices(NAMES, None, of="here") == list(range(8))
    assert matching_indices(NAMES, ["*.13.*.q_proj", "model.layers.3.mlp.up_proj"], of="here") == [0, 6]
    assert matching_indices(NAMES, "*.q_proj", of="here") == [2, 6]
    assert matching_indices(NAMES, np.array(NAMES)[[7, 1]], of="here") == [1, 7]


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (["*.up_proj", "model.layers.3.q_proj"], "'model.layers.3.q_proj' fits none of the 8 "
         "here; did you mean 'model.layers.3.self_attn.q_proj'\\?"),
        (["*.qproj"], r"fits none of the 8 here; did you mean '\*.q_proj'\?"),
        (["x"], "fits none of the 8 here; the first is 'model.layers.3.mlp.up_proj'"),
        ("q_proj", r"'q_proj' fits none of the 8 here; did you mean '\*.q_proj'\?"),
        ("*.qproj", r"'\*.qproj' fits none of the 8 here; did you mean '\*.q_proj'\?"),
        ([], r"`component` is \[\]; give a name or pattern of here, several, or nothing for all"),
        ("", "`component` is ''; give a name or pattern of here"),
        (("",), r"`component` is \('',\); give a name or pattern of here"),
        (3, "`component` is 3; give a name or pattern of here"),
        ([3], r"`component` is \[3\]; give a name or pattern of here"),
    ],
)  # fmt: skip
def test_a_pattern_that_fits_nothing_is_one_line(patterns: Any, said: str) -> None:
    with pytest.raises(StoreError, match=said):
        matching_indices(NAMES, patterns, of="here")


@pytest.mark.parametrize("value", ["bta", "gamma", 3, None, ["beta"]])
def test_what_is_no_choice_is_one_line_with_a_suggestion(value: Any) -> None:
    close = "; did you mean 'beta'?" if value in ("bta", ["beta"]) else ""
    words = re.escape(f"`letter` is {value!r}; allowed are 'alpha', 'beta'{close}")
    with pytest.raises(ValueError, match=f"^{words}$"):
        require_choice("letter", value, ("alpha", "beta"))
    require_choice("letter", "beta", {"alpha": 1, "beta": 2})
