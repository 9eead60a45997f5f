"""Every column with values that it may not have, under right digests: refused in one line, and named by `verify`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.stores import StoreError, open_run, verify
from lorascope.stores.format.stored_array import StoredArray
from lorascope.stores.format.tables import find_column

from ..conftest import SmallRun
from ..on_disk import forge_column

N = 1100


def whole_run(make_run: Callable[..., SmallRun]) -> Path:
    """A run with every column of the format."""
    answers = {
        f"{prefix}written{name}": values
        for prefix in ("", "base_")
        for name, values in (("", ["yes", "no"]), ("_prediction", [1, 1]), ("_correct", [1, 0]))
    }
    scores = {f"base_{name}": [1, 1] for name in ("prediction", "prediction_per_token", "correct", "correct_per_token")}
    run = make_run(
        n_tokens=N,
        states="sample",
        state_rows=(True, False),
        weight=[2.0] * N,
        base_ce=[1.0, 2.0],
        columns={"n_targets": [1, 1], **answers, **scores},
        n_replies=8,
        importance=(6, 9),
    )
    return run.path


def ranged_columns(path: Path) -> Iterator[tuple[str, StoredArray]]:
    """Every column of a run whose values are limited."""
    for name, array in open_run(path).arrays.items():
        if array.limits is not None:
            yield name, array


def values_outside(array: StoredArray) -> list[float]:
    """Values that the column's type can have and the column can't."""
    assert array.limits is not None
    low, high = array.limits
    if array.dtype.kind == "f":
        return [np.nan, np.inf, -np.inf, *([0.0, -1.0] if low > 0 else [])]
    ends = np.iinfo(array.dtype)
    candidates = {int(low) - 1, ends.min, ends.max, *([] if np.isinf(high) else [int(high) + 1])}
    return [value for value in sorted(candidates) if not low <= value <= high and ends.min <= value <= ends.max]


def read_whole(path: Path) -> None:
    run = open_run(path)
    for table in (
        run.samples,
        run.choices,
        run.tokens,
        run.components,
        run.adapter(),
        run.replies(),
        run.importance(),
    ):
        assert table.sizes
    assert run.state_rows.any()
    assert run.token_labels


def test_every_limited_column_is_in_the_run(make_run: Any) -> None:
    names = {name for name, _ in ranged_columns(whole_run(make_run))}
    assert len(names) == 42
    for name in ("samples/id", "samples/ce", "tokens/nll", "tokens/text", f"states/x/{N}", "adapters/a/factor", "x"):
        assert name not in names
    assert find_column("adapters/default/rank") is not None
    assert find_column("adapters/default/factor/rank") is None
    assert find_column("adapters/default/js") is None
    assert find_column("adapters/default/changes/gain_token") is not None
    assert find_column("adapters/changes/gain_token") is None  # of an adapter of that name


def test_every_column_with_values_outside_of_its_range(make_run: Any) -> None:
    path = whole_run(make_run)
    assert verify(path).ok
    for name, array in list(ranged_columns(path)):
        content, root = (path / array.key(0)).read_bytes(), (path / "zarr.json").read_bytes()
        outside = values_outside(array)
        assert outside, name
        for value in outside:
            forge_column(path, name, 0, value)
            for level in ("decode", "statistics"):
                problems = verify(path, level=level).problems
                words = f"entry 0 of '{name}' is {np.asarray(value, array.dtype)}; allowed are "
                assert any(words in problem.message for problem in problems), (name, value, problems)
                assert not [problem for problem in problems if problem.kind == "digest"]
            with pytest.raises(StoreError, match=f"entry 0 of '{name}' is .*; allowed are .*; run `lorascope verify`"):
                read_whole(path)
            (path / array.key(0)).write_bytes(content)
            (path / "zarr.json").write_bytes(root)
    read_whole(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scaling_is_finite_where_the_adapter_has_a_rank(make_run: Any, value: float) -> None:
    path = whole_run(make_run)
    forge_column(path, "adapters/default/scaling", 1, value)
    words = "'adapters/default/scaling' is .*; it must be finite where `rank` is above 0"
    with pytest.raises(StoreError, match=words):
        open_run(path)
    assert [problem.kind for problem in verify(path).problems] == ["impossible"]


@pytest.mark.parametrize(
    ("name", "place", "value", "words"),
    [
        ("samples/token_start", 1, 549, r"1100 tokens: sample 1 has the tokens 549 to 1100"),
        ("samples/token_start", 0, 1, r"1100 tokens: sample 0 has the tokens 1 to 550"),
        ("samples/token_stop", 0, 549, r"1100 tokens: sample 1 has the tokens 550 to 1100"),
        ("samples/token_stop", 1, 1099, r"1100 tokens: sample 1 has the tokens 550 to 1099"),
        ("samples/token_stop", 1, 2**62, r"1100 tokens: sample 1 has the tokens 550 to 4611686018427387904"),
        ("tokens/sample", 3, 1, "entry 3 of 'tokens/sample' is 1, but the token is one of sample 0"),
        ("tokens/position", 3, 551, "entry 3 of 'tokens/position' is 551, .* sample 0, which has 551 positions"),
        ("samples/length", 0, 550, "entry 549 of 'tokens/position' is 550, .* sample 0, which has 550 positions"),
    ],
)
def test_columns_that_contradict_each_other(make_run: Any, name: str, place: int, value: int, words: str) -> None:
    path = whole_run(make_run)
    forge_column(path, name, place, value)
    with pytest.raises(StoreError, match=words):
        read_whole(path)
    (problem,) = verify(path).problems
    assert problem.kind == "range"
    assert problem.place in ("samples/token_start", "tokens/sample", "tokens/position")
