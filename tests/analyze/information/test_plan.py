import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze.information.pairs import Settings
from lorascope.analyze.information.plan import Plan, chosen_sources, make_plan
from lorascope.analyze.information.states import choose_tokens
from lorascope.stores import Run, StoreError, open_run

from ...stored import store_states


@pytest.fixture(scope="module")
def run(many_rows: Path) -> Run:
    return open_run(many_rows)


def plan_of(run: Run, **options: Any) -> Plan:
    defaults: dict[str, Any] = {
        "estimator": "panel", "against": "lora", "n_tokens": 50, "n_axes": 4, "share": 0.9,
        "settings": Settings(seed=3), "unit": "nat", "n_shuffles": 2,
    }  # fmt: skip
    return make_plan(run, **{**defaults, **options})


def test_tokens_are_those_of_the_seed(run: Run) -> None:
    plan = plan_of(run)
    np.testing.assert_array_equal(plan.tokens, choose_tokens(run, 50, seed=3).tokens)
    np.testing.assert_array_equal(plan.samples, run.tokens["sample"].values[plan.tokens])
    assert plan.names[-1] == "panel"
    assert len(plan_of(run, n_tokens=10**6).tokens) == run.n_tokens


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"estimator": "ksg9"}, "`estimator` names 'ksg9'; allowed are panel, noise, ksg1"),
        ({"against": "base"}, "`against` is 'base'; allowed are 'lora', 'delta'"),
        ({"n_axes": 0}, "`n_axes` is 0; give a whole number of at least 1"),
        ({"n_tokens": 1.5}, "`n_tokens` is 1.5; give a whole number of at least 1"),
        ({"share": 0.0}, "`share` is 0.0; it must be above 0 and at most 1"),
        ({"share": float("nan")}, "`share` is nan; it must be above 0 and at most 1"),
        ({"unit": "dit"}, "`unit` is 'dit'; allowed are 'nat' and 'bit'"),
        ({"settings": Settings(k=0)}, "`k` is 0; give a whole number of at least 1"),
        (
            {"n_tokens": 3},
            "could be chosen, of 3 samples; halves, shuffles and errors need at least 4: choose more tokens",
        ),
    ],
)
def test_options_that_cant_be(run: Run, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        plan_of(run, **options)


def test_few_samples(tmp_path: Path) -> None:
    states = np.random.default_rng(0).normal(size=(2, 90, 4))
    run = store_states(tmp_path / "run.zarr", {"m.a": (states[0], states[1])}, lengths=[30] * 3)
    with pytest.raises(ValueError, match=r"of 3 samples; .* choose more tokens, or capture more samples"):
        plan_of(run)


@pytest.mark.parametrize(
    ("components", "found"),
    [
        (None, [0, 1, 2, 3]),
        (["model.layers.1.mlp.down_proj"], [3]),
        (["model.layers.1.mlp.*", "model.layers.0.mlp.up_proj"], [0, 2, 3]),
        (("*.up_proj", "*.up_proj"), [0, 2]),
    ],
)
def test_components_by_path_and_pattern(run: Run, components: Any, found: list[int]) -> None:
    sources = chosen_sources(run, None, components)
    assert [source.component for source in sources] == [run.component_paths[place] for place in found]


@pytest.mark.parametrize(
    ("components", "words"),
    [
        (
            ["model.layers.0.mlp.upproj"],
            "`components` names 'model.layers.0.mlp.upproj', which fits none of the 4 that the adapter touches; close "
            "to it are ['model.layers.0.mlp.up_proj', ",
        ),
        (["zzz*"], "close to it are ['model.layers.0.mlp.up_proj']"),
        ([], "`components` is []; it must be a list of paths or patterns, or left out for all"),
        ("*.up_proj", "`components` is '*.up_proj'; it must be a list of paths or patterns"),
    ],
)
def test_components_that_cant_be(run: Run, components: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        chosen_sources(run, None, components)


def test_the_adapter_is_named_where_there_are_two(two_adapters: Path) -> None:
    run = open_run(two_adapters)
    assert len(chosen_sources(run, "b", None)) == 4
    with pytest.raises(StoreError, match="`adapter` isn't given, and this run holds several; name one of"):
        chosen_sources(run, None, None)
