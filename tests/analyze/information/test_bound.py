import doctest
import math
import re
from collections.abc import Callable
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lorascope.analyze.information import bound
from lorascope.analyze.information.bound import js_lower_bound, js_upper_bound

from ...dependence import by_definition, dependence, normals

LN2 = math.log(2)
PAGE = (Path(__file__).parents[3] / "docs" / "mi-and-js.md").read_text()


def exact_js(x: mpmath.mpf) -> mpmath.mpf:
    """J(x) as the notes have it; it has the digits of mpmath's context except the cancelled ones."""
    a = mpmath.exp(-x)
    return mpmath.log(2) - ((1 + a) * mpmath.log(1 + a) + a * x) / 2


def exact_xi(js: float) -> mpmath.mpf:
    with mpmath.workdps(50 - int(math.log10(js))):
        x = mpmath.mpf(js) * 2
        for _ in range(100):  # Newton's method on a concave function, from below
            x += (mpmath.mpf(js) - exact_js(x)) * 2 * mpmath.exp(x) / mpmath.log(1 + mpmath.exp(x))
        return x


def relative(found: float, exact: mpmath.mpf) -> float:
    return float(abs(mpmath.mpf(found) / exact - 1))


@st.composite
def joints(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    weights = draw(arrays(np.float64, shape, elements=st.one_of(st.just(0.0), st.floats(1e-9, 1.0))))
    weights[draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))] += 0.1
    return weights / weights.sum()


LAST = float(np.nextafter(LN2, 0))


@pytest.mark.parametrize(
    "js", [1e-300, 1e-100, 1e-20, 1e-9, 1e-3, 0.1, 0.3465, 0.3466, 0.5, 0.69, 0.6931471, LN2 - 1e-12, LN2 - 1e-15, LAST]
)
def test_lower_bound_to_its_last_digits(js: float) -> None:
    assert relative(js_lower_bound(js), exact_xi(js)) < 1e-15


def test_steps_are_enough_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    js = np.concatenate(
        [rng.uniform(0, LN2, 5000), LN2 - 10 ** rng.uniform(-15.9, -1, 5000), 10 ** rng.uniform(-300, -1, 99)]
    )
    found = js_lower_bound(js)
    monkeypatch.setattr(bound, "NEWTON_STEPS", 20)
    np.testing.assert_allclose(found, js_lower_bound(js), rtol=2e-15)


@given(st.floats(-300, math.log10(34)))
def test_bounds_are_inverse(log10_mi: float) -> None:
    mi = 10**log10_mi
    js = js_upper_bound(mi)
    spread = 2 * np.spacing(js) * 2 * math.exp(mi) / (mi + math.exp(-mi))  # what two roundings of js become
    assert js_lower_bound(js) == pytest.approx(mi, rel=4e-15, abs=spread)
    assert js_upper_bound(js_lower_bound(js)) == pytest.approx(js, rel=4e-15, abs=0)


@pytest.mark.parametrize("mi", [1e-300, 1e-50, 1e-8, 0.01, 0.7, 3.0, 20.0, 60.0])
def test_upper_bound_of_js_to_its_last_digits(mi: float) -> None:
    with mpmath.workdps(400):
        assert relative(js_upper_bound(mi), exact_js(mpmath.mpf(mi))) < 1e-15


def test_ends_and_shapes() -> None:
    assert js_lower_bound(0.0) == js_upper_bound(0.0) == 0
    assert js_upper_bound(np.inf) == js_upper_bound(1000.0) == LN2
    assert js_lower_bound(LN2 + 1e-13) == np.inf
    assert js_lower_bound(-1e-13) == js_upper_bound(-1e-13) == 0
    for function in (js_lower_bound, js_upper_bound):
        assert type(function(0.1)) is float
        table = function(np.full((2, 3), 0.1, np.float32))
        assert table.shape == (2, 3)
        assert table.dtype == np.float64
        assert function(np.empty(0)).shape == (0,)


@pytest.mark.parametrize("n", [2, 3, 10, 128, 1000])
def test_uniform_identity_is_tight(n: int) -> None:
    found = dependence(np.eye(n) / n)
    assert found.mutual_information == pytest.approx(math.log(n), rel=1e-13)
    assert js_lower_bound(found.js) == pytest.approx(math.log(n), rel=1e-11)
    assert js_upper_bound(found.mutual_information) == pytest.approx(found.js, rel=1e-13)


@pytest.mark.parametrize("concentration", [0.02, 0.3, 1.0, 30.0])
@pytest.mark.parametrize("n", [2, 3, 8])
def test_no_pair_lies_below_the_lower_bound(n: int, concentration: float) -> None:
    rng = np.random.default_rng(n)
    p, q = rng.dirichlet(np.full(n, concentration), (2, 4000))
    p, q = p[(q > 1e-200).all(-1)], q[(q > 1e-200).all(-1)]
    found = by_definition(p, q)
    least = js_lower_bound(np.minimum(found.js, LN2 - 1e-9))
    rounding = np.maximum(1e-12, 1e-15 * np.exp(least))  # which near ln 2 grows by 2 exp(Xi)/Xi
    assert (found.mutual_information - least >= -rounding).all()
    assert (js_upper_bound(found.mutual_information) - found.js >= -1e-12).all()
    assert (found.js <= found.mutual_information / 2 + 1e-15).all()


@given(joints())
def test_dependence_lies_above_the_bound(joint: np.ndarray) -> None:
    found = dependence(joint)
    assert js_lower_bound(found.js) - 1e-12 <= found.mutual_information
    if found.mutual_information > 1e-12:  # theorem 3 of the paper, refuted by every dependent pair
        assert found.mutual_information > 2 * found.js > LN2 * found.js


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9, 0.99, 0.9999])
def test_normal_pairs_keep_the_identity(rho: float) -> None:
    found = dependence(normals(rho))
    assert found.mutual_information == pytest.approx(-math.log((1 - rho) * (1 + rho)) / 2, abs=1e-9)
    assert found.js == pytest.approx(found.mutual_information / 2 - found.kl_mixture, abs=1e-9)
    assert js_lower_bound(found.js) < found.mutual_information


JS_ALLOWED = "allowed are 0 to ln 2 = 0.693147... nats; multiply bits by it"
MI_ALLOWED = "allowed are 0 nats and above, infinity too"


@pytest.mark.parametrize(
    ("call", "name", "wrong", "allowed"),
    [
        (js_lower_bound, "js", [-1e-6, 0.6932, np.nan, np.inf], JS_ALLOWED),
        (lambda js: js_lower_bound(np.array([[0.1, js]])), "js", [-1e-6, np.nan], JS_ALLOWED),
        (js_upper_bound, "mi", [-1e-6, np.nan, -np.inf], MI_ALLOWED),
    ],
)
def test_numbers_out_of_range(call: Callable[[float], object], name: str, wrong: list[float], allowed: str) -> None:
    for value in wrong:
        with pytest.raises(ValueError, match=re.escape(f"`{name}` is {value!r}; {allowed}")):
            call(value)


def test_examples_of_the_module_run() -> None:
    assert doctest.testmod(bound) == (0, 1)


def test_examples_of_the_page_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    examples = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "mi-and-js.md", None, 0)
    assert len(examples.examples) > 5
    assert doctest.DocTestRunner().run(examples).failed == 0
