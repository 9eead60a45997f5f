import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.fits.design import LARGEST_POWER, Design, apply_design, is_determined
from lorascope.analyze.fits.laws import BOUNDS

from .simulated import simulate_study

DesignOf = Callable[..., Design]
PaperCells = Callable[[str], pd.DataFrame]
TRUTH = {"A": 1.0, "alpha": 0.4, "B": 0.8, "beta": 0.5, "C": 0.3, "gamma": 0.9, "slope_N": 0.5, "slope_R": 0.2}


def study(**options: Any) -> pd.DataFrame:
    defaults = {
        "N": (1e9, 3e9, 1e10, 3e10), "R": (8.0, 32.0, 128.0), "groups": {"a": 2.0, "b": 3.0}, "noise": 0.01,
        "random": np.random.default_rng(0),
    }  # fmt: skip
    return simulate_study(TRUTH, **{**defaults, **options})


def assert_refused(design_of: DesignOf, frame: pd.DataFrame, words: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        design_of(frame, **options)


def edited(column: str, row: int, value: object) -> pd.DataFrame:
    frame = study()
    frame[column] = frame[column].astype(object)
    frame.loc[row, column] = value
    return frame


def test_arrays_of_a_study(design_of: DesignOf) -> None:
    frame = study()
    design = design_of(frame)
    assert design.names == ("E[a]", "E[b]", "A", "B", "alpha", "beta")
    assert design.equation == "E + A (N0/N)^alpha + B (R0/R)^beta"
    np.testing.assert_array_equal(design.levels, np.column_stack([frame["group"] == "a", frame["group"] == "b"]))
    np.testing.assert_array_equal(design.y, frame["y"])
    np.testing.assert_array_equal(design.weights, 1 / frame["y"])
    assert design.references == {"N": 3e10, "R": 8.0}
    np.testing.assert_allclose(design.logs["N"], np.log(3e10 / frame["N"]))
    np.testing.assert_allclose(design.logs["R"], np.log(8 / frame["R"]))
    assert list(design.settings[:2]) == ["N=1e+09 R=8", "N=1e+09 R=32"]
    assert len(set(design.settings)) == 12
    assert design.notes == ()
    np.testing.assert_array_equal(design.bounds, [BOUNDS["alpha"], BOUNDS["beta"]])


@pytest.mark.parametrize(
    ("residuals", "law", "kind", "weighted"),
    [
        ("relative", "additive", "relative", True),
        ("absolute", "additive", "absolute", False),
        ("relative", "log-log", "absolute", False),
        ("absolute", "log-log", "absolute", False),
    ],
)
def test_residuals_and_weights(design_of: DesignOf, residuals: str, law: str, kind: str, weighted: bool) -> None:
    frame = study()
    design = design_of(frame, residuals=residuals, law=law)
    assert design.residual == kind
    np.testing.assert_allclose(design.weights, 1 / frame["y"] if weighted else 1.0)
    np.testing.assert_allclose(design.y, np.log(frame["y"]) if law == "log-log" else frame["y"])
    np.testing.assert_array_equal(design.problem.weights, design.weights)


SIZES = {"N": (1e9, 3e9, 1e10, 3e10), "R": (8.0, 32.0, 128.0), "D": (1e3, 1e4, 1e5)}


@pytest.mark.parametrize(
    ("law", "axes", "equation"),
    [
        ("additive", "NRD", "E + A (N0/N)^alpha + B (R0/R)^beta + C (D0/D)^gamma"),
        ("additive", "R", "E + B (R0/R)^beta"),
        ("log", "NR", "E + slope_N ln(N0/N) + slope_R ln(R0/R)"),
        ("log-log", "DN", "ln y = E + alpha ln(N0/N) + gamma ln(D0/D)"),
        ("multiplicative", "NRD", "E + A (N0/N)^alpha (R0/R)^beta (D0/D)^gamma"),
        ("multiplicative", "NR", "E + A (N0/N)^alpha (R0/R)^beta"),
    ],
)
def test_equation_has_the_terms_in_use(design_of: DesignOf, law: str, axes: str, equation: str) -> None:
    frame = study(**{axis: sizes if axis in axes else () for axis, sizes in SIZES.items()})
    assert design_of(frame, law=law).equation == equation


def test_the_papers_designs(design_of: DesignOf, paper_cells: PaperCells) -> None:
    phi = paper_cells("Phi3")
    options: dict[str, Any] = {"response": "MIUB", "groups": ["dataset"], "offsets": ["sweep"]}
    design = design_of(phi, **options)
    assert design.names[:6] == ("E[ARCE]", "E[ARCC]", "E[Hel]", "E[PIQA]", "E[Win]", "offset[sweep=size]")
    assert design.n_groups == 5
    np.testing.assert_array_equal(design.levels[:, -1], phi["sweep"] == "size")
    assert len(set(design.settings)) == 7
    shared = design_of(phi, **options, law="share", share="share")
    assert shared.names[6:] == ("slope_share", "B", "beta")
    assert shared.equation == "E + slope_share (share - 1) + B (R0/R)^beta"
    assert shared.sizes == {"R": "R", "share": "share"}
    np.testing.assert_array_equal(shared.logs["share"], phi["share"] - 1)
    alone = design_of(phi[phi["sweep"] == "size"], **{**options, "offsets": []}, law="share", share="share")
    assert alone.names[5:] == ("slope_share",)  # the rank doesn't vary
    assert alone.notes == ("'R' is 32 in every row: B (R0/R)^beta is part of the level",)


def test_exponents_are_held_where_powers_stay_finite(design_of: DesignOf) -> None:
    frame = study(N=(1.0, 1e10, 1e20, 1e30))
    bounds = design_of(frame).bounds
    np.testing.assert_allclose(bounds[0], [0.02, LARGEST_POWER / math.log(1e30)])
    np.testing.assert_array_equal(bounds[1], BOUNDS["beta"])
    product = design_of(frame, law="multiplicative").bounds
    np.testing.assert_allclose(product[:, 1], LARGEST_POWER / math.log(1e30))


def test_some_rows_keep_names_and_levels(design_of: DesignOf) -> None:
    frame = study()
    rows = np.flatnonzero(frame["group"] == "b")[::-1]
    some = design_of(frame).select_rows(rows)
    assert some.names == design_of(frame).names
    np.testing.assert_array_equal(some.y, frame["y"][rows])
    np.testing.assert_array_equal(some.levels, np.tile([0.0, 1.0], (12, 1)))
    np.testing.assert_allclose(some.columns[0].printed(np.array([1.0, 0.0])), 3e10 / frame["N"][rows])
    np.testing.assert_allclose(some.logs["R"], np.log(8 / frame["R"][rows]))
    assert (set(some.groups), len(some.settings)) == ({"b"}, 12)


# Excluded rows, and their notes.


def test_constant_columns_drop_out_with_a_note(design_of: DesignOf) -> None:
    design = design_of(study().assign(D=1000.0))
    assert design.exponents == ("alpha", "beta")
    assert design.notes == ("'D' is 1000 in every row: C (D0/D)^gamma is part of the level",)
    assert "D" not in design.references


def test_a_constant_column_of_shared_layers_drops_out_with_a_note(design_of: DesignOf) -> None:
    frame = study(N=()).assign(share=4)
    design = design_of(frame, law="share", share="share")
    assert (design.names, design.equation) == (design_of(frame).names, "E + B (R0/R)^beta")
    assert design.notes == ("'share' is 4 in every row: slope_share (share - 1) is part of the level",)


def test_cells_without_a_response_drop_out_with_a_note(design_of: DesignOf) -> None:
    frame = study()
    frame.loc[[3, 7], "y"] = np.nan
    design = design_of(frame)
    assert len(design.frame) == len(frame) - 2
    assert design.notes[0] == "2 of 24 rows without a value in 'y' are excluded"
    assert design.notes[1] == ("settings that other groups have are missing in 1 of 2 groups")


# What is refused.


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("N", "1e9", "column 'N' holds '1e9' in row 4, where a number belongs"),
        ("y", "low", "column 'y' holds 'low' in row 4, where a number belongs"),
        ("R", True, "column 'R' holds True in row 4, where a number belongs"),
        ("N", -1e9, "column 'N' is -1e+09 in row 4; it must be above zero"),
        ("R", 0.0, "column 'R' is 0 in row 4; it must be above zero"),
        ("y", 0.0, "column 'y' is 0 in row 4; it must be above zero"),
        ("y", math.inf, "column 'y' is inf in row 4; numbers must be finite"),
        ("R", math.nan, "column 'R' is empty in row 4; fill it in or drop the row"),
        ("group", None, "column 'group' is empty in row 4; fill it in"),
    ],
)
def test_values_that_are_no_sizes(design_of: DesignOf, column: str, value: object, words: str) -> None:
    assert_refused(design_of, edited(column, 4, value), words)


def test_response_below_zero_needs_absolute_residuals(design_of: DesignOf) -> None:
    frame = edited("y", 4, -0.5)
    assert design_of(frame, residuals="absolute").y[4] == -0.5
    for options in ({}, {"law": "log-log"}, {"law": "log-log", "residuals": "absolute"}):
        assert_refused(design_of, frame, "column 'y' is -0.5 in row 4; it must be above zero", **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"law": "cubic"}, "`law` is 'cubic'; allowed are 'additive', 'log', 'log-log',"),
        ({"residuals": "squared"}, "`residuals` is 'squared'; allowed are 'relative', 'absolute'"),
        ({"groups": "group"}, "`groups` is 'group'; give a sequence of columns, which"),
        ({"offsets": "sweep"}, "`offsets` is 'sweep'; give a sequence of columns, which"),
        ({"N": None, "R": None}, "a law needs at least one of `N`, `R` and `D`: the column of each size"),
        ({"law": "share"}, "the law 'share' needs `share`: the column of how many layers share their weights"),
        ({"N": "R"}, "column 'R' is given two roles; each column has one"),
        ({"groups": ["N"]}, "column 'N' is given two roles; each column has one"),
        ({"repeat": "y"}, "column 'y' is given two roles; each column has one"),
        ({"groups": ["group", "group"]}, "column 'group' is given two roles; each column has one"),
    ],
)
def test_settings_that_are_not_allowed(design_of: DesignOf, options: dict[str, Any], words: str) -> None:
    assert_refused(design_of, study(), words, **options)


@pytest.mark.parametrize(("factor", "shown"), [(1e300, "e+300"), (1e-300, "e-300")])
@pytest.mark.parametrize("residuals", ["absolute", "relative"])
def test_a_response_whose_squares_are_not_finite(
    design_of: DesignOf, residuals: str, factor: float, shown: str
) -> None:
    frame = study().assign(y=lambda rows: factor * rows["y"])
    assert_refused(
        design_of, frame, f"{shown}, whose square can't be computed; give it in another unit", residuals=residuals
    )
    assert len(design_of(study().assign(y=lambda rows: factor**0.3 * rows["y"]), residuals=residuals).frame) == 24


def test_a_run_that_stands_twice(design_of: DesignOf) -> None:
    frame = study()
    again = pd.concat([frame, frame.iloc[[5]]], ignore_index=True)
    words = f"rows 5, 24 are the same, 'y' = {frame['y'][5]:g} included: one run twice? drop one"
    assert_refused(design_of, again, words)
    again.loc[24, "repeat"] = 1  # a column that distinguishes them must be named
    assert_refused(design_of, again, "name the column that distinguishes repeats as `repeat`")
    assert len(design_of(again, repeat="repeat").frame) == 25


def test_many_groups_that_lack_settings_are_counted(design_of: DesignOf) -> None:
    frame = study(groups=dict.fromkeys("abcdef", 2.0))
    holes = frame.drop(index=[0, 13, 26, 39, 52])
    assert design_of(holes).notes == ("settings that other groups have are missing in 5 of 6 groups",)


def test_no_size_varies(design_of: DesignOf) -> None:
    frame = study().assign(N=1e9, R=8.0, repeat=range(24))
    words = "no size varies ('N' = 1e+09, 'R' = 8); a law needs a column with at least three levels"
    assert_refused(design_of, frame, words, repeat="repeat")


def test_fewer_cells_than_parameters(design_of: DesignOf) -> None:
    frame = study(groups={"a": 2.0}, N=(1e9, 3e9, 1e10), R=())
    words = (
        "3 cells can't determine 3 parameters (1 levels, A, alpha) and their error; measure more cells, or take fewer"
    )
    assert_refused(design_of, frame, words)
    assert len(design_of(frame, law="log").names) == 2


@pytest.mark.parametrize("law", ["additive", "multiplicative"])
def test_fewer_levels_than_parameters(design_of: DesignOf, law: str) -> None:
    frame = study(N=(1e9, 3e9), R=())
    frame = pd.concat([frame, study(N=(1e9, 3e9), R=(), random=np.random.default_rng(1)).assign(repeat=1)])
    assert_refused(
        design_of, frame, "('N' has 2 levels): exponents need three levels of their", law=law, repeat="repeat"
    )
    assert design_of(frame, law="log", repeat="repeat").exponents == ()


def test_offsets_that_are_groups(design_of: DesignOf) -> None:
    frame = study().assign(sweep=lambda rows: rows["group"] + "!")
    words = "sizes and `offsets` must vary apart from each other and from the groups"
    assert_refused(design_of, frame, words, offsets=["sweep"])


def test_a_size_that_varies_between_groups_only(design_of: DesignOf) -> None:
    groups = {"a": 2.0, "b": 3.0, "c": 1.5, "d": 2.5}
    frame = study(N=(), R=(8.0, 32.0, 128.0, 512.0), groups=groups)
    frame["N"] = frame["group"].map({"a": 1e9, "b": 2e9, "c": 4e9, "d": 8e9})
    words = "the settings don't determine A, B, alpha, beta apart ('N' has 4 levels, 'R' has 4"
    assert_refused(design_of, frame, words)
    assert_refused(design_of, frame, "the settings don't determine slope_N, slope_R apart", law="log")


def test_sizes_that_go_along_with_each_other(design_of: DesignOf) -> None:
    frame = study(R=())
    frame["R"] = frame["N"] ** 0.7
    words = (
        "the settings don't determine A, B, alpha, beta apart ('N' has 4 levels, 'R' has 4 levels): exponents need "
        "three levels of their size, and sizes and `offsets` must vary apart from each other and from the groups; "
        "measure more settings, leave one out, or take the law 'log' or 'log-log'"
    )
    assert_refused(design_of, frame, words)
    assert_refused(design_of, frame, "the settings don't determine slope_N, slope_R apart", law="log")


# Rows that a fit is applied to.


def test_applied_to_its_own_rows_is_the_same(design_of: DesignOf, paper_cells: PaperCells) -> None:
    cells = paper_cells("Phi3")
    for options in ({"law": "additive"}, {"law": "share", "share": "share"}):
        design = design_of(cells, response="MIUB", groups=["dataset"], offsets=["sweep"], **options)
        again = apply_design(design, cells)
        np.testing.assert_array_equal(again.levels, design.levels)
        at = np.linspace(0.3, 0.5, len(design.exponents))
        for column, other in zip(design.columns, again.columns, strict=True):
            np.testing.assert_array_equal(column.printed(at), other.printed(at))
        assert list(again.settings) == list(design.settings)


def test_applied_to_other_rows_keeps_references_and_offsets(design_of: DesignOf, paper_cells: PaperCells) -> None:
    cells = paper_cells("Phi3")
    design = design_of(cells, response="MIUB", groups=["dataset"], offsets=["sweep"])
    rows = pd.DataFrame(
        {"dataset": ["Win"], "sweep": ["size"], "N": [2 * cells["N"].max()], "R": [16.0]}, index=["new"]
    )
    new = apply_design(design, rows)  # without a response, and with an offset that isn't the first
    np.testing.assert_array_equal(new.levels, [[0, 0, 0, 0, 1, 1]])
    np.testing.assert_allclose([new.logs["N"][0], new.logs["R"][0]], np.log([0.5, 2.0]))
    assert list(new.frame.index) == ["new"]


def test_rows_that_a_fit_knows_nothing_of(design_of: DesignOf, paper_cells: PaperCells) -> None:
    cells = paper_cells("Phi3")
    design = design_of(cells, response="MIUB", groups=["dataset"], offsets=["sweep"])
    row = {"dataset": ["Win"], "sweep": ["size"], "N": [1e9], "R": [16.0]}
    for changed, words in (
        (
            {"dataset": ["Obqa"]},
            "E[Obqa] isn't among the fit's levels: E[ARCE], E[ARCC], E[Hel], E[PIQA], E[Win], offset",
        ),
        ({"sweep": ["both"]}, "offset[sweep=both] isn't among the fit's levels"),
        ({"N": [0.0]}, "column 'N' is 0 in row 0; it must be above zero"),
        ({"R": ["32"]}, "column 'R' holds '32' in row 0, where a number belongs"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            apply_design(design, pd.DataFrame({**row, **changed}))
    with pytest.raises(ValueError, match="the table has no column 'R'"):
        apply_design(design, pd.DataFrame(row).drop(columns="R"))
    with pytest.raises(TypeError, match="`frame` is a list"):
        apply_design(design, [row])


def test_determined_by_some_of_the_rows(design_of: DesignOf) -> None:
    design = design_of(study())
    assert is_determined(design)
    one_group = np.flatnonzero(design.groups == "a")
    assert is_determined(design.select_rows(one_group))  # the level of the other group isn't asked for
    two_sizes = np.flatnonzero(design.frame["N"] < 5e9)
    assert not is_determined(design.select_rows(two_sizes))
    cross = np.flatnonzero((design.groups == "a") & ((design.frame["N"] == 3e10) | (design.frame["R"] == 8)))
    assert len(cross) == 6
    five = cross[1:]
    assert is_determined(design.select_rows(cross))  # six cells, five parameters
    assert is_determined(design.select_rows(five), spare=0)
    assert not is_determined(design.select_rows(five))
