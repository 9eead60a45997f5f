from typing import get_args

import numpy as np
import pytest

from lorascope.analyze.fits.laws import BOUNDS, LAWS, LawName

LOGS = {"N": np.array([0.0, 0.5, 1.0]), "R": np.array([0.0, -1.0, -2.0]), "D": np.array([0.3, 0.2, 0.0])}
SHARE = np.array([0.0, 1.0, 3.0])
FULL = LOGS
SHARED = {"share": SHARE, "R": LOGS["R"]}
Logs = dict[str, np.ndarray]


def less(logs: Logs, *names: str) -> Logs:
    return {name: column for name, column in logs.items() if name not in names}


def value(law: LawName, axes: Logs, numbers: dict[str, float]) -> np.ndarray:
    """(n,) the law's terms, of numbers by name."""
    columns, exponents = LAWS[law].terms(axes)
    at = np.array([numbers[name] for name in exponents])
    return np.sum([numbers[column.amplitude] * column.printed(at) for column in columns], axis=0)


NUMBERS = {
    "A": 1.1, "B": 0.7, "C": -0.4, "alpha": 0.6, "beta": 0.3, "gamma": 1.4, "slope_N": 2.0, "slope_R": 3.0,
    "slope_D": -1.0, "slope_share": 0.2,
}  # fmt: skip
n, r, d = LOGS.values()
TERMS: dict[LawName, tuple[Logs, np.ndarray]] = {
    "additive": (FULL, 1.1 * np.exp(0.6 * n) + 0.7 * np.exp(0.3 * r) - 0.4 * np.exp(1.4 * d)),
    "log": (FULL, 2.0 * n + 3.0 * r - 1.0 * d),
    "log-log": (FULL, 0.6 * n + 0.3 * r + 1.4 * d),
    "multiplicative": (FULL, 1.1 * np.exp(0.6 * n + 0.3 * r + 1.4 * d)),
    "share": (SHARED, 0.2 * SHARE + 0.7 * np.exp(0.3 * r)),
}


@pytest.mark.parametrize("law", get_args(LawName))
def test_terms_are_those_of_the_equation(law: LawName) -> None:
    axes, expected = TERMS[law]
    np.testing.assert_allclose(value(law, axes, NUMBERS), expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("law", "axes", "places", "exponents"),
    [
        ("additive", FULL, [(0,), (1,), (2,)], ("alpha", "beta", "gamma")),
        ("additive", less(FULL, "N"), [(0,), (1,)], ("beta", "gamma")),
        ("log", FULL, [(), (), ()], ()),
        ("log-log", FULL, [(), (), ()], ()),
        ("multiplicative", FULL, [(0, 1, 2)], ("alpha", "beta", "gamma")),
        ("multiplicative", less(FULL, "R"), [(0, 1)], ("alpha", "gamma")),
        ("multiplicative", {}, [], ()),
        ("share", SHARED, [(), (0,)], ("beta",)),
        ("share", less(SHARED, "share"), [(0,)], ("beta",)),
        ("share", less(SHARED, "R"), [()], ()),
    ],
)
def test_exponents_of_terms(
    law: LawName, axes: Logs, places: list[tuple[int, ...]], exponents: tuple[str, ...]
) -> None:
    columns, names = LAWS[law].terms(axes)
    assert [column.exponents for column in columns] == places
    assert names == exponents


def test_only_one_law_is_of_the_logarithm() -> None:
    assert [name for name, law in LAWS.items() if law.logarithmic] == ["log-log"]


def test_laws_have_their_names() -> None:
    assert tuple(LAWS) == get_args(LawName)


def test_every_exponent_has_bounds() -> None:
    assert set(BOUNDS) == {name for law in LAWS.values() for name in law.terms({**LOGS, "share": SHARE})[1]}
