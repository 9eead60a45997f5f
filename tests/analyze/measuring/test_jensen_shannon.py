import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lorascope.analyze import jensen_shannon
from lorascope.stores import open_run

LN2 = np.log(2)


def reference(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """The definition in float64, with x log x = 0 at 0."""

    def softmax(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def divergence(p, m):
        return np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / np.where(m > 0, m, 1)), 0).sum(-1)

    p, q = softmax(np.float64(base)), softmax(np.float64(base) + delta)
    m = (p + q) / 2
    return (divergence(p, m) + divergence(q, m)) / 2


@st.composite
def grid_rows(draw) -> tuple[np.ndarray, np.ndarray]:
    """Base and delta on a grid so coarse that float32 adds and subtracts them exactly."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 70)))
    reach = draw(st.sampled_from([4, 64, 1024]))
    values = hnp.arrays(np.int32, shape, elements=st.integers(-reach, reach))
    scale = draw(st.sampled_from([1, 1 / 8, 1 / 64]))
    return np.float32(draw(values) / 8), np.float32(draw(values) * scale)


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    # below 1e-26 the kernel may leave out what has next to no weight
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-26)


@given(grid_rows())
def test_bounds(rows):
    js = jensen_shannon(*rows)
    assert np.all((js >= 0) & (js <= LN2 * (1 + 1e-6)))


@given(grid_rows())
def test_symmetry(rows):
    base, delta = rows
    close(jensen_shannon(base, delta), jensen_shannon(base + delta, -delta))


@given(grid_rows(), st.integers(-1024, 1024))
def test_a_constant_added_to_base_or_delta_changes_nothing(rows, shift):
    base, delta = rows
    close(jensen_shannon(base + np.float32(shift / 8), delta), jensen_shannon(base, delta))
    close(jensen_shannon(base, delta + np.float32(shift / 8)), jensen_shannon(base, delta))


@given(grid_rows(), st.randoms(use_true_random=False))
def test_an_order_of_features_changes_nothing(rows, random):
    order = list(range(rows[0].shape[-1]))
    random.shuffle(order)
    close(jensen_shannon(rows[0][..., order], rows[1][..., order]), jensen_shannon(*rows))


@pytest.mark.parametrize("width", [2, 64, 577, 1536, 4099])
@pytest.mark.parametrize("spread", [0.3, 1.0, 30.0])
def test_against_the_definition_in_float64(width, spread):
    rng = np.random.default_rng(0)
    base, delta = 2 * rng.standard_normal((5, width)), spread * rng.standard_normal((5, width))
    np.testing.assert_allclose(jensen_shannon(base, delta), reference(base, delta), rtol=1e-11)
    base, delta = np.float32(base), np.float32(delta)
    np.testing.assert_allclose(jensen_shannon(base, delta), reference(base, delta), rtol=1e-6)


@pytest.mark.parametrize(
    ("base", "delta", "result"),
    [
        (np.float32, np.float32, np.float32),
        (np.float16, np.float16, np.float32),
        (np.float16, np.float32, np.float32),
        (np.float64, np.float32, np.float64),
        (np.float16, np.float64, np.float64),
        (">f4", "<f4", np.float32),
        (">f8", ">f8", np.float64),
    ],
)
def test_dtypes(base, delta, result):
    rng = np.random.default_rng(1)
    base, delta = rng.standard_normal((4, 40)).astype(base), rng.standard_normal((4, 40)).astype(delta)
    js = jensen_shannon(base, delta)
    assert js.dtype == result
    assert js.dtype.isnative
    np.testing.assert_allclose(js, reference(base, delta), rtol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (0, 7), (2, 0, 7)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shapes(shape, dtype):
    base, delta = np.random.default_rng(2).standard_normal((2, *shape)).astype(dtype)
    js = jensen_shannon(base, delta)
    assert isinstance(js, np.ndarray)
    assert js.shape == shape[:-1]
    np.testing.assert_allclose(js, reference(base, delta), rtol=1e-6)


def test_arrays_that_are_not_contiguous_or_not_writeable():
    base, delta = np.random.default_rng(3).standard_normal((2, 12, 50)).astype(np.float32)
    expected = jensen_shannon(base, delta)
    np.testing.assert_array_equal(jensen_shannon(np.asfortranarray(base), delta), expected)
    np.testing.assert_array_equal(jensen_shannon(base[::2], delta[::2]), expected[::2])
    np.testing.assert_array_equal(jensen_shannon(base[::-1], delta[::-1]), expected[::-1])
    wide = np.repeat(base, 2, axis=-1)
    np.testing.assert_array_equal(jensen_shannon(wide[:, ::2], delta), expected)
    constant = np.broadcast_to(base[0], base.shape)
    np.testing.assert_array_equal(jensen_shannon(constant, delta)[0], expected[0])
    base.flags.writeable = False
    np.testing.assert_array_equal(jensen_shannon(base, delta), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_names_the_rows_that_are_not_finite(dtype, value):
    base, delta = np.random.default_rng(4).standard_normal((2, 2, 3, 11)).astype(dtype)
    base[0, 1, 10] = value
    delta[1, 2, 0] = value
    assert np.argwhere(np.isnan(jensen_shannon(base, delta))).tolist() == [[0, 1], [1, 2]]


def test_a_tiny_delta_isnt_lost_in_float16():
    base = np.array([1000, 999], np.float16)
    assert 0 < jensen_shannon(base, np.array([1e-3, 0], np.float16)) < 1e-6


@pytest.mark.parametrize("name", ["base", "delta"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0, 2.0], "is a list; pass two numpy arrays"),
        (np.array([1, 2]), "has dtype 'int64'; allowed are float16, float32 and float64: widen it to float32 first"),
        (np.array([1, 2], np.uint16), "has dtype 'uint16'; allowed are"),
        (np.array([1j, 2]), "has dtype 'complex128'; allowed are"),
    ],
    ids=["list", "int64", "uint16", "complex"],
)
def test_wrong_types_are_refused(name, value, message):
    arguments = {"base": np.ones(2), "delta": np.ones(2), name: value}
    with pytest.raises(TypeError, match=f"^`{name}` {message}"):
        jensen_shannon(**arguments)


@pytest.mark.parametrize(("base", "delta"), [((2, 3), (2, 4)), ((2, 3), (3,)), ((1, 3), (2, 3))], ids=str)
def test_shapes_that_differ_are_refused(base, delta):
    message = f"`base` and `delta` have shapes {base} and {delta}; they must be equal: broadcast or select before"
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(").replace(")", r"\)")):
        jensen_shannon(np.ones(base), np.ones(delta))


@pytest.mark.parametrize("shape", [(), (0,), (4, 0)], ids=str)
def test_arrays_without_a_feature_are_refused(shape):
    with pytest.raises(ValueError, match=r"^`base` has shape \(.*\); its last axis must hold at least one feature"):
        jensen_shannon(np.ones(shape), np.ones(shape))


def test_examples_run():
    # the package's attribute of that name is the function
    module = importlib.import_module("lorascope.analyze.measuring.jensen_shannon")
    assert doctest.testmod(module) == (0, 3)


def test_labelled_arrays_come_back_labelled_and_lazy(many_rows: Path) -> None:
    run = open_run(many_rows)
    path = run.component_paths[0]
    base, delta = run.base(path), run.delta(path)
    found = jensen_shannon(base, delta)
    assert found.dims == ("token",)
    assert found.chunks is not None
    assert found.attrs["units"] == "nat"
    np.testing.assert_array_equal(found.values, jensen_shannon(base.values, delta.values))
    assert jensen_shannon(base.astype(np.float64), delta).dtype == np.float64
    sample = xr.DataArray(np.arange(run.n_tokens), dims="token", coords={"token": np.arange(run.n_tokens)})
    labelled = jensen_shannon(base.assign_coords(token=sample.token), delta.assign_coords(token=sample.token))
    assert labelled["token"].values[-1] == run.n_tokens - 1


def test_labelled_arrays_must_fit() -> None:
    one = xr.DataArray(np.zeros((2, 3), np.float32), dims=("token", "feature"))
    with pytest.raises(ValueError, match="the last dimensions of `base` and `delta` are"):
        jensen_shannon(one, one.rename(feature="unit"))
    with pytest.raises(TypeError, match="pass two numpy arrays, or two xarray.DataArrays"):
        jensen_shannon(one, one.values)
