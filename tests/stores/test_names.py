"""What a pattern fits, and which name somebody may have meant."""

import pytest

from lorascope.stores import StoreError
from lorascope.stores.names import close_names, matching_indices

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


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (["*.up_proj", "model.layers.3.q_proj"], "'model.layers.3.q_proj' fits none of the 8 "
         "here; did you mean 'model.layers.3.self_attn.q_proj'\\?"),
        (["*.qproj"], r"fits none of the 8 here; did you mean '\*.q_proj'\?"),
        (["x"], "fits none of the 8 here; the first is 'model.layers.3.mlp.up_proj'"),
        ([], r"`components` is \[\]; give a list of names or patterns of here, or nothing for all"),
        ("*.up_proj", r"`components` is '\*.up_proj'; give a list"),
    ],
)  # fmt: skip
def test_a_pattern_that_fits_nothing_is_one_line(patterns: list[str], said: str) -> None:
    with pytest.raises(StoreError, match=said):
        matching_indices(NAMES, patterns, of="here")
