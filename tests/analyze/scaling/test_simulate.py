import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.scaling.design import Design
from lorascope.analyze.scaling.estimate import estimated
from lorascope.analyze.scaling.simulate import expected, laid_out, simulate_study

DesignOf = Callable[..., Design]
TRUTH = {
    "E": 2.0, "A": 1.0, "alpha": 0.37, "B": 0.8, "beta": 0.61, "C": 0.5, "gamma": 0.9, "slope_N": 0.3, "slope_R": 0.2,
    "slope_D": 0.1,
}  # fmt: skip
SIZES: dict[str, Any] = {"N": (1e8, 5e8, 2e9, 1e10), "R": (4.0, 16.0, 64.0, 256.0), "D": (1e3, 1e4, 1e5, 1e6)}
GROUPS = {"a": 1.5, "b": 2.5}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("law", ["additive", "as printed", "log", "log-log", "multiplicative"])
@pytest.mark.parametrize("layout", ["factorial", "cross"])
def test_a_study_without_noise_gives_its_parameters_back(design_of: DesignOf, law: str, layout: Any) -> None:
    truth = {**TRUTH, "C": 0.02 if law == "as printed" else 0.5}
    frame = simulate_study(truth, **SIZES, law=law, groups=GROUPS, layout=layout, noise=0, random=rng())
    np.testing.assert_array_equal(frame["y"], frame["expected"])
    found = estimated(design_of(frame, law=law)).values
    for name, value in {**truth, "E[a]": 1.5, "E[b]": 2.5}.items():
        if name in found:
            assert found[name] == pytest.approx(value, rel=1e-6), name
    assert len(found) == len([name for name in found if name in truth]) + 2


@pytest.mark.parametrize("axes", ["N", "R", "D", "NR", "RD"])
def test_some_of_the_sizes(design_of: DesignOf, axes: str) -> None:
    frame = simulate_study(TRUTH, **{axis: SIZES[axis] for axis in axes}, noise=0, random=rng())
    assert list(frame.columns) == ["group", *axes, "repeat", "expected", "y"]
    found = estimated(design_of(frame)).values
    for name, value in found.items():
        assert value == pytest.approx(TRUTH["E" if name.startswith("E") else name], rel=1e-6), name


def test_values_of_each_law_by_hand() -> None:
    settings = pd.DataFrame({"N": [10.0, 5.0], "R": [2.0, 8.0], "D": [6.0, 3.0]})
    n, r, d = 2.0, 0.25, 2.0  # ratios of the second row; those of the first are 1
    law = TRUTH
    second = {
        "additive": 2 + n**0.37 + 0.8 * r**0.61 + 0.5 * d**0.9,
        "as printed": 2 + n**0.37 + 0.8 * r**0.61 + 0.5 * (3 / 8) ** 0.37,
        "log": 2 + 0.3 * math.log(n) + 0.2 * math.log(r) + 0.1 * math.log(d),
        "log-log": math.exp(2) * n**0.37 * r**0.61 * d**0.9,
        "multiplicative": 2 + n**0.37 * r**0.61 * d**0.9,
    }
    first = {"additive": 4.3, "as printed": 3.8 + 0.5 * 3**0.37, "log": 2, "log-log": math.exp(2), "multiplicative": 3}
    for name, value in second.items():
        np.testing.assert_allclose(expected(settings, law, name), [first[name], value], rtol=1e-12)
    moved = expected(settings, law, "additive", {"N": 20.0, "R": 2.0, "D": 6.0})
    np.testing.assert_allclose(moved, [3.3 + 2**0.37, 2 + 4**0.37 + 0.8 * r**0.61 + 0.5 * d**0.9], rtol=1e-12)


def test_layouts() -> None:
    sizes = {"N": (1.0, 2.0, 4.0), "R": (8.0, 4.0), "D": (5.0,)}
    whole = laid_out(sizes, "factorial")
    assert len(whole) == len(whole.drop_duplicates()) == 6
    cross = laid_out(sizes, "cross")
    assert sorted(map(tuple, cross.to_numpy())) == [(1, 4, 5), (2, 4, 5), (4, 4, 5), (4, 8, 5)]
    assert (cross.dtypes == np.float64).all()


def test_noise_is_relative_to_the_expected_value() -> None:
    frame = simulate_study(TRUTH, **SIZES, groups=GROUPS, noise=0.05, n_repeats=40, random=rng())
    rest = frame["y"] / frame["expected"] - 1
    assert rest.std() == pytest.approx(0.05, rel=0.05)
    assert rest.mean() == pytest.approx(0, abs=4 * 0.05 / math.sqrt(len(rest)))
    assert np.corrcoef(rest.abs(), frame["expected"])[0, 1] == pytest.approx(0, abs=4 / math.sqrt(len(rest)))
    logs = simulate_study(TRUTH, **SIZES, law="log-log", noise=0.5, n_repeats=40, random=rng())
    assert (logs["y"] > 0).all()
    assert np.log(logs["y"] / logs["expected"]).std() == pytest.approx(0.5, rel=0.05)


def test_groups_and_repeats() -> None:
    frame = simulate_study(TRUTH, N=SIZES["N"], groups=GROUPS, noise=0.1, n_repeats=3, random=rng())
    assert frame.groupby(["group", "repeat"]).size().to_dict() == {(g, k): 4 for g in "ab" for k in range(3)}
    assert frame.loc[frame["group"] == "b", "expected"].min() == pytest.approx(3.5)  # E + A
    alone = simulate_study(TRUTH, N=SIZES["N"], noise=0, random=rng())
    assert set(alone["group"]) == {"all"}
    assert alone["y"].min() == pytest.approx(3.0)
    one, again = (simulate_study(TRUTH, N=SIZES["N"], noise=0.1, random=rng())["y"] for _ in range(2))
    np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"noise": -0.1}, "`noise` is -0.1; a standard deviation must be finite and not negative"),
        ({"noise": math.nan}, "`noise` is nan; a standard deviation must be finite and not negative"),
        ({"noise": math.inf}, "`noise` is inf; a standard deviation must be finite and not negative"),
        ({"n_repeats": 0}, "`n_repeats` is 0; a setting needs at least one cell"),
        ({"law": "cubic"}, "`law` is 'cubic'; it is one of"),
        ({"law": "share"}, "the law 'share' isn't simulated; it is about layers that share weights, not about sizes"),
        ({"layout": "star"}, "`layout` is 'star'; it is one of ['factorial', 'cross']"),
        ({"N": (), "R": (), "D": ()}, "a study needs sizes of at least one of `N`, `R` and `D`"),
        ({"N": (1e8, 0.0)}, "`N` holds 0.0; sizes must be finite and above zero"),
        ({"R": (math.inf, 4.0)}, "`R` holds inf; sizes must be finite and above zero"),
        ({"D": (math.nan, 4.0)}, "`D` holds nan; sizes must be finite and above zero"),
        ({"N": (1e8, 1e9, 1e8)}, "`N` is [100000000.0, 1000000000.0, 100000000.0]; give each size once"),
        ({"groups": {"a": -9.0}}, "the law's value is -8.875 in group 'a'; it must be positive and finite"),
        ({"groups": {"a": math.nan}}, "`parameters` has E = nan; it must be finite"),
    ],
)
def test_studies_that_are_none(changed: dict[str, Any], words: str) -> None:
    given = {**SIZES, "groups": None, "noise": 0.1, **changed}
    if "groups" in changed:
        given |= {"N": (), "D": (), "R": (4.0, 4 * 6.4 ** (1 / 0.61))}
    with pytest.raises(ValueError, match=re.escape(words)):
        simulate_study(TRUTH, **given, random=rng())


@pytest.mark.parametrize(
    ("law", "name", "equation"),
    [
        ("additive", "beta", "E + A (N0/N)^alpha + B (R0/R)^beta + C (D0/D)^gamma"),
        ("additive", "C", "E + A (N0/N)^alpha"),
        ("additive", "E", "E + A (N0/N)^alpha"),
        ("log", "slope_D", "E + slope_N ln(N0/N)"),
        ("log-log", "alpha", "ln y = E + alpha ln(N0/N)"),
    ],
)
def test_parameters_that_are_missing(law: str, name: str, equation: str) -> None:
    parameters = {key: value for key, value in TRUTH.items() if key != name}
    with pytest.raises(ValueError, match=re.escape(f"`parameters` lacks {name!r}; the law is {equation}")):
        simulate_study(parameters, **SIZES, law=law, noise=0.1, random=rng())
