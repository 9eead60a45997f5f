import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze.information.pairs import Settings
from lorascope.analyze.information.plan import Plan, choose_tokens, make_plan
from lorascope.stores import Run, open_run


@pytest.fixture(scope="module")
def run(many_rows: Path) -> Run:
    return open_run(many_rows)


def plan_of(run: Run, **options: Any) -> Plan:
    defaults: dict[str, Any] = {
        "estimator": "panel", "against": "lora", "n_tokens": 10**6, "n_axes": 4, "share": 1.0,
        "settings": Settings(seed=3), "unit": "nat", "n_shuffles": 2,
    }  # fmt: skip
    return make_plan(run, **{**defaults, **options})


def test_tokens_are_those_of_the_seed(run: Run) -> None:
    plan = plan_of(run, n_tokens=50)
    np.testing.assert_array_equal(plan.tokens, choose_tokens(run, 50, seed=3)[0])
    np.testing.assert_array_equal(plan.samples, run.tokens["sample"].values[plan.tokens])
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
        ({"n_tokens": 3}, "of 3 samples; halves, shuffles and errors need at least 4: choose more tokens, or capture"),
    ],
)
def test_options_that_cant_be(run: Run, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        plan_of(run, **options)
