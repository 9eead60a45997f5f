import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from lorascope.analyze.fits.design import Design
from lorascope.analyze.fits.estimate import Estimate, estimate
from lorascope.analyze.fits.refits import cross_validate, held_out

from .simulated import simulate_study

DesignOf = Callable[..., Design]
PaperCells = Callable[[str], pd.DataFrame]
TRUTH = {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6, "slope_N": 0.3, "slope_R": 0.2}


def study(law: str = "additive", **options: Any) -> pd.DataFrame:
    defaults: dict[str, Any] = {
        "N": (1e8, 5e8, 2e9, 1e10),
        "R": (4.0, 16.0, 64.0),
        "groups": {"a": 1.5, "b": 2.5, "c": 2.0},
    }
    return simulate_study(TRUTH, law=law, **{**defaults, **options}, noise=0.02, random=np.random.default_rng(0))


def split(errors: pd.DataFrame, kind: str) -> pd.DataFrame:
    return (
        errors[errors["split"] == kind].assign(row=lambda rows: rows["row"].astype(int)).set_index("row").sort_index()
    )


def law_of(fitted: Estimate, rows: pd.DataFrame, *, level: str | None = None) -> np.ndarray:
    """(n,) what the printed parameters of an additive law say of rows; `level` in place of the groups'."""
    values = fitted.values
    levels = rows["group"].map(lambda group: values[level or f"E[{group}]"]).to_numpy(np.float64)
    sizes = fitted.design.references
    n, r = (sizes["N"] / rows["N"]) ** values["alpha"], (sizes["R"] / rows["R"]) ** values["beta"]
    return np.asarray(levels + values["A"] * n + values["B"] * r)


@pytest.mark.parametrize("law", ["log", "log-log"])
def test_single_cells_of_a_straight_law_are_press(design_of: DesignOf, law: str) -> None:
    frame = study(law)
    fitted = estimate(design_of(frame, law=law, residuals="absolute"))
    cells = split(held_out(fitted), "cell")
    for design, column in (
        (fitted.design, "error"),
        (fitted.design.without_sizes(["N", "R"]), "error_plain"),
    ):
        x = np.column_stack([design.levels, *(column.printed(np.zeros(0)) for column in design.columns)])
        peer = sm.OLS(design.y, x).fit()
        press = peer.resid / (1 - peer.get_influence().hat_matrix_diag)
        np.testing.assert_allclose(cells[column], press, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(cells["observed"] - cells["predicted"], cells["error"], rtol=1e-12)
    np.testing.assert_array_equal(cells["observed"], fitted.design.y)


@pytest.mark.parametrize("residuals", ["relative", "absolute"])
def test_settings_held_out_are_those_of_refits(design_of: DesignOf, residuals: str) -> None:
    frame = study()
    errors = held_out(estimate(design_of(frame, residuals=residuals)))
    settings = split(errors, "setting")
    assert len(settings) == 36
    for (n, r), rows in frame.groupby(["N", "R"]):
        again = estimate(design_of(frame.drop(index=rows.index), residuals=residuals))
        predicted = law_of(again, rows)
        np.testing.assert_allclose(settings.loc[rows.index, "predicted"], predicted, rtol=1e-5)
        rest = (rows["y"] - predicted) / (rows["y"] if residuals == "relative" else 1.0)
        np.testing.assert_allclose(settings.loc[rows.index, "error"], rest, rtol=1e-3, atol=1e-6)
        assert set(settings.loc[rows.index, "held_out"]) == {f"N={n:.6g} R={r:.6g}"}


def test_a_group_held_out_gets_its_level_from_its_other_cells(design_of: DesignOf) -> None:
    frame = study()
    groups = split(held_out(estimate(design_of(frame))), "group")
    assert len(groups) == 36
    for name, rows in frame.groupby("group"):
        again = estimate(design_of(frame.drop(index=rows.index)))
        terms = law_of(again, rows, level=next(iter(again.values))) - next(iter(again.values.values()))
        for k, label in enumerate(rows.index):
            rest, weights = (rows["y"] - terms).drop(label), (rows["y"] ** -2.0).drop(label)
            predicted = terms[k] + np.average(rest, weights=weights)
            assert groups.loc[label, "predicted"] == pytest.approx(predicted, rel=1e-6)
            own, weights = rows["y"].drop(label), (rows["y"] ** -2.0).drop(label)
            level = np.average(own, weights=weights)
            assert groups.loc[label, "error_plain"] == pytest.approx(1 - level / rows["y"][label], rel=1e-9)
        assert set(groups.loc[rows.index, "held_out"]) == {name}


def test_larger_sizes_are_predicted_from_smaller_ones(design_of: DesignOf) -> None:
    frame = study(N=(1e8, 3e8, 1e9, 3e9, 1e10), R=(4.0, 16.0, 64.0))
    errors = held_out(estimate(design_of(frame)))
    ordered = split(errors, "ordered N")
    assert set(ordered["held_out"]) == {"1e+09", "3e+09", "1e+10"}
    for size in (1e9, 3e9, 1e10):
        rows, smaller = frame[frame["N"] == size], frame[frame["N"] < size]
        if size == 1e9:  # two sizes don't tell an exponent
            assert ordered.loc[rows.index, ["predicted", "error", "error_plain"]].isna().all(axis=None)
            continue
        predicted = law_of(estimate(design_of(smaller)), rows)
        np.testing.assert_allclose(ordered.loc[rows.index, "predicted"], predicted, rtol=1e-4)
    ranks = split(errors, "ordered R")
    assert set(ranks["held_out"]) == {"64"}
    assert ranks["error"].isna().all()


def test_smaller_sizes_that_do_not_vary_otherwise(design_of: DesignOf) -> None:
    """In a cross, ranks vary at the largest N only: smaller ones tell of N alone, and predict cells of that rank."""
    frame = study(N=(1e8, 3e8, 1e9, 3e9, 1e10), layout="cross")
    ordered = split(held_out(estimate(design_of(frame))), "ordered N")
    largest = frame[frame["N"] == 1e10]
    same = largest.index[largest["R"] == 4]
    assert ordered.loc[same, "error"].notna().all()
    assert ordered.loc[largest.index.difference(same), "error"].isna().all()
    smaller = frame[frame["N"] < 1e10]
    again = estimate(design_of(smaller, R=None))
    values = again.values
    term = values["A"] * (again.design.references["N"] / 1e10) ** values["alpha"]
    predicted = [values[f"E[{group}]"] + term for group in frame.loc[same, "group"]]
    np.testing.assert_allclose(ordered.loc[same, "predicted"], predicted, rtol=1e-5)


def test_the_papers_splits(design_of: DesignOf, paper_cells: PaperCells) -> None:
    fitted = estimate(design_of(paper_cells("Phi3"), response="MIUB", groups=["dataset"], offsets=["sweep"]))
    errors = held_out(fitted)
    table = cross_validate(errors).set_index("split")
    assert list(table.index) == ["cell", "setting", "group", "ordered N", "ordered R"]
    assert table.loc["cell", ["n", "n_undetermined"]].tolist() == [35, 0]
    assert table.loc["setting", ["n", "n_undetermined"]].tolist() == [20, 15]  # each rank is needed
    assert table.loc["group", ["n", "n_undetermined"]].tolist() == [35, 0]
    assert table.loc["ordered R", ["n", "n_undetermined"]].tolist() == [0, 5]
    assert table.loc["ordered R", ["rmse", "rmse_plain"]].isna().all()
    undetermined = errors[errors["error"].isna()]
    assert undetermined[["predicted", "error_plain"]].isna().all(axis=None)


def test_summary_of_errors_by_hand() -> None:
    errors = pd.DataFrame(
        {
            "split": ["setting", "setting", "setting", "cell", "cell"],
            "error": [3.0, -4.0, math.nan, math.nan, math.nan],
            "error_plain": [1.0, 1.0, 7.0, 1.0, 1.0],
        }
    )
    table = cross_validate(errors).set_index("split")
    assert list(table.index) == ["setting", "cell"]
    assert table.loc["setting"].tolist() == pytest.approx([2, 1, math.sqrt(12.5), 1.0])
    assert table.loc["cell", ["n", "n_undetermined"]].tolist() == [0, 2]
    assert table.loc["cell", ["rmse", "rmse_plain"]].isna().all()
