import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.measuring.run import measure_run
from lorascope.analyze.miub import reduce as module
from lorascope.analyze.miub.miub import miub, reduce_js
from lorascope.analyze.miub.reduce import reduce_tokens, usable_samples
from lorascope.stores import StoreError

LN2 = np.log(2)


def sums(values: np.ndarray, weights: np.ndarray, starts: list[int]) -> np.ndarray:
    """Weighted sums over samples of values (token, component) that begin at `starts`."""
    stops = [*starts[1:], len(values)]
    table = xr.Dataset({"token_start": ("sample", starts), "token_stop": ("sample", stops)})
    coords = {"weight": ("token", weights), "counted": ("token", weights > 0)}
    measured = xr.Dataset({"x": (("token", "component"), values)}, coords=coords)
    return reduce_tokens(measured, "x", SimpleNamespace(samples=table), "sum")  # type: ignore[arg-type]


def test_values_without_weight_dont_count_and_nan_is_never_dropped() -> None:
    values = np.float32([[1, 2], [np.nan, np.inf], [3, np.nan]])
    np.testing.assert_array_equal(sums(values, np.array([2.0, 0.0, 2.0]), [0]), [[8, np.nan]])


@pytest.mark.parametrize("block", [1, 2, 5, 11, 19, 20])
@pytest.mark.parametrize("reduction", ["mean", "sum", "last"])
def test_reductions_dont_depend_on_how_tokens_are_read(
    make_small: Any, monkeypatch: pytest.MonkeyPatch, block: int, reduction: Any
) -> None:
    run = make_small().run
    expected = miub(run, reduction=reduction)
    monkeypatch.setattr(module, "CHUNK_TOKENS", block)
    xr.testing.assert_allclose(miub(run, reduction=reduction), expected, rtol=1e-14)


@pytest.mark.parametrize("unit", ["nat", "bit", "sqrt"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "last", "answer"])
def test_each_cell_is_its_definition(make_small: Any, reduction: Any, unit: Any) -> None:
    small = make_small(is_weighted=True)
    js = small.js()
    js = {"nat": js, "bit": js / LN2, "sqrt": np.sqrt(js)}[unit]
    expected = []
    for start, stop in zip(small.starts, small.run.samples["token_stop"].values, strict=True):
        w, part = small.weight[start:stop, None], js[start:stop]
        answer = slice(stop - start - 2, None)  # the last two tokens of every sample
        expected.append(
            {
                "mean": (w * part).sum(0) / w.sum(),
                "sum": (w * part).sum(0),
                "last": part[-1],
                "answer": (w * part)[answer].sum(0) / w[answer].sum(),
            }[reduction]
        )
    result = miub(small.run, reduction=reduction, unit=unit)
    np.testing.assert_allclose(result["samples/js"].values, expected, rtol=2e-6)
    assert result["miub"].attrs["units"] == {"nat": "nat", "bit": "bit", "sqrt": "nat^0.5"}[unit]
    assert result["tokens/js"].attrs["units"] == "nat"


def test_samples_without_an_answer_are_left_out(make_small: Any) -> None:
    text = make_small(is_text=True)
    with pytest.raises(StoreError, match="no whole sample of .* has tokens of an answer; take another reduction"):
        miub(text.run, reduction="answer")


def test_a_sample_half_of_which_is_missing_isnt_usable(unfinished: Path) -> None:
    from lorascope.stores import open_run

    run = open_run(unfinished)
    measured = measure_run(run, ("js",))
    used = usable_samples(measured, run, "mean")
    assert used.tolist() == [True, False, False, False, False] or (used.any() and not used.all())
    values = reduce_tokens(measured, "js", run)
    assert np.isfinite(values[used]).all()
    assert np.isnan(reduce_js(measured, run)["samples/js"].values[~used]).all()


@pytest.mark.parametrize(
    ("reduction", "unit", "words"),
    [
        ("median", "nat", "`reduction` is 'median'; allowed are 'mean', 'sum', 'last', 'answer'; did you mean 'mean'?"),
        ("mean", "nats", "`unit` is 'nats'; allowed are 'nat', 'bit', 'sqrt'; did you mean 'nat'?"),
    ],
)
def test_unknown_names_are_refused(make_small: Any, reduction: Any, unit: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        miub(make_small().run, reduction=reduction, unit=unit)


@pytest.mark.parametrize("reduction", ["mean", "sum", "last"])
@pytest.mark.parametrize("empty", [0, 1, 3])
def test_a_sample_of_which_no_token_was_captured_has_no_value(reduction: Any, empty: int) -> None:
    lengths = [2, 1, 3]
    lengths.insert(empty, 0)
    stops = np.cumsum(lengths)
    table = xr.Dataset({"token_start": ("sample", stops - lengths), "token_stop": ("sample", stops)})
    run: Any = SimpleNamespace(samples=table, committed=xr.DataArray(np.ones(6, bool), dims="token"))
    js = np.arange(6, dtype=np.float32)[:, None]
    coords = {
        "weight": ("token", np.ones(6)),
        "counted": ("token", np.ones(6, bool)),
        "role": ("token", ["prompt"] * 6),
    }
    measured = xr.Dataset({"js": (("token", "component"), js)}, coords=coords)
    found = reduce_tokens(measured, "js", run, reduction)[:, 0]
    whole = {"mean": [0.5, 2, 4], "sum": [1, 2, 12], "last": [1, 2, 5]}[reduction]
    assert np.isnan(found[empty])
    np.testing.assert_allclose(np.delete(found, empty), whole)
    assert np.flatnonzero(~usable_samples(measured, run, reduction)).tolist() == [empty]


def test_the_root_of_what_rounding_made_negative_is_zero() -> None:
    convert = module.UNITS["sqrt"].convert
    np.testing.assert_array_equal(convert(np.array([-1e-12, 0, 4, np.nan])), [0, 0, 2, np.nan])
