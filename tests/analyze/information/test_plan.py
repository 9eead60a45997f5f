import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze.information.estimators import Settings
from lorascope.analyze.information.plan import Plan, chosen_sources, make_plan
from lorascope.analyze.information.states import choose_tokens
from lorascope.stores import Run, StoreError, open_run

from ...stored import store_states


@pytest.fixture(scope="module")
def run(many_rows: Path) -> Run:
    return open_run(many_rows)


def plan_of(run: Run, **options: Any) -> Plan:
    defaults: dict[str, Any] = {
        "estimator": "panel", "against": "lora", "n_tokens": 50, "projection": "pca", "n_axes": 4, "share": 0.9,
        "n_blocks": 1, "settings": Settings(seed=3), "unit": "nat", "n_shuffles": 2,
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
        ({"projection": "umap"}, "`projection` is 'umap'; allowed are 'pca', 'random', 'canonical'"),
        ({"n_axes": 0}, "`n_axes` is 0; give a whole number of at least 1"),
        ({"n_blocks": 0}, "`n_blocks` is 0; give a whole number of at least 1"),
        ({"n_tokens": 0}, "`n_tokens` is 0; give a whole number of at least 1"),
        ({"n_tokens": 1.5}, "`n_tokens` is 1.5; give a whole number of at least 1"),
        ({"share": 0.0}, "`share` is 0.0; it must be above 0 and at most 1"),
        ({"share": 1.1}, "`share` is 1.1; it must be above 0 and at most 1"),
        ({"settings": Settings(k=0)}, "`k` is 0; give a whole number of at least 1"),
        ({"unit": "dit"}, "`unit` is 'dit'; allowed are 'nat' and 'bit'"),
        ({"n_shuffles": -1}, "`n_shuffles` is -1; give "),
        ({"n_tokens": True}, "`n_tokens` is True; give a whole number of at least 1"),
        (
            {"n_tokens": 3},
            "`n_tokens` is 3, and so many tokens are of 3 samples; halves, shuffles and errors need at least 4: choose "
            "more tokens",
        ),
        ({"n_tokens": 1}, "`n_tokens` is 1, and so many tokens are of 1 sample;"),
    ],
)
def test_mistakes(run: Run, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        plan_of(run, **options)


def test_whole_numbers_of_any_type(run: Run) -> None:
    options = {"n_tokens": np.int64(50), "n_axes": np.int32(4), "n_blocks": np.uint8(1)}
    plan, expected = plan_of(run, **options), plan_of(run)
    np.testing.assert_array_equal(plan.tokens, expected.tokens)
    assert [type(value) for value in (plan.n_axes, plan.n_blocks)] == [int, int]


@pytest.mark.parametrize(("lengths", "words"), [([40], "1 sample"), ([20, 10, 10], "3 samples")], ids=str)
def test_a_run_of_few_samples(tmp_path: Path, lengths: list[int], words: str) -> None:
    states = {"m.a": (np.ones((40, 3)), np.ones((40, 3)))}
    words = f"the 40 tokens that '.*run.zarr' has are of {words}; halves, shuffles and errors need at least 4: capture"
    with pytest.raises(ValueError, match=words):
        plan_of(store_states(tmp_path / "run.zarr", states, lengths=lengths))


def test_four_samples_are_enough(tmp_path: Path) -> None:
    run = store_states(tmp_path / "run.zarr", {"m.a": (np.ones((40, 3)), np.ones((40, 3)))}, lengths=[10] * 4)
    assert plan_of(run, n_tokens=4).samples.tolist() == [0, 1, 2, 3]


def test_repeated_prefixes_are_counted(run: Run) -> None:
    assert plan_of(run).n_prefix_repeats == choose_tokens(run, 50, seed=3).n_repeats


def test_runs_without_states(make_small: Any, nothing_committed: Path) -> None:
    for run in (make_small(states="none").run, open_run(nothing_committed)):
        with pytest.raises(StoreError, match=r"no committed row of '.*run.zarr' keeps states; there are no tokens"):
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
    sources = chosen_sources(run, None, components, 1)
    assert [source.component for source in sources] == [run.component_paths[place] for place in found]


@pytest.mark.parametrize(
    ("components", "n_blocks", "words"),
    [
        (
            ["model.layers.0.mlp.upproj"],
            1,
            "`components` names 'model.layers.0.mlp.upproj', which fits none of the 4 that the adapter touches; close "
            "to it are ['model.layers.0.mlp.up_proj', ",
        ),
        (["zzz*"], 1, "close to it are ['model.layers.0.mlp.up_proj']"),
        ([], 1, "`components` is []; it must be a list of paths or patterns, or left out for all"),
        ("*.up_proj", 1, "`components` is '*.up_proj'; it must be a list of paths or patterns"),
        (
            None,
            5,
            "model.layers.0.mlp.down_proj: `n_blocks` is 5; it must divide the 24 features; near it are [4, 6]; or "
            "name components that fit",
        ),
    ],
)
def test_components_that_cant_be(run: Run, components: Any, n_blocks: int, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        chosen_sources(run, None, components, n_blocks)


def test_the_adapter_is_named_where_there_are_two(two_adapters: Path) -> None:
    run = open_run(two_adapters)
    assert len(chosen_sources(run, "b", None, 1)) == 4
    with pytest.raises(StoreError, match="`adapter` isn't given, and this run holds several; name one of"):
        chosen_sources(run, None, None, 1)
