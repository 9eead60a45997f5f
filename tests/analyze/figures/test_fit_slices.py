import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.figures.fit_slices import N_POINTS, Curve, Series, slice_along
from lorascope.analyze.scaling.fit import fit_scaling_law
from lorascope.analyze.scaling.result import ScalingFit

from .conftest import ROLES


def test_cells_of_other_sizes_are_elsewhere(phi_fit: ScalingFit, phi: pd.DataFrame) -> None:
    along_n = slice_along(phi_fit, None)
    assert (along_n.column, along_n.n_cells, along_n.n_elsewhere) == ("N", 25, 10)
    assert along_n.held == {"R": (32,)}
    along_r = slice_along(phi_fit, "R")
    assert (along_r.n_cells, along_r.n_elsewhere, along_r.held) == (20, 15, {"N": (phi["N"].max(),)})
    shown = np.concatenate([one.places for one in along_r.series])
    assert (phi_fit.design.frame["N"].to_numpy()[shown] == phi["N"].max()).all()


def test_groups_without_the_reference_are_held_nearest_to_it(study: pd.DataFrame) -> None:
    fit = fit_scaling_law(study, "MIUB", N="N", R="R", groups=["dataset", "model"], n_starts=0)
    view = slice_along(fit, "R")
    assert view.held == {"N": tuple(study.groupby("model")["N"].max().sort_values())}
    assert (len(view.series), view.n_cells) == (10, 35)


def test_the_other_size_is_held_where_this_one_varies() -> None:
    rank = np.array([2.0, 4, 8, 16, 8, 8])  # sizes at rank 8, while the reference is rank 2
    size = np.array([4e8, 4e8, 4e8, 4e8, 2e8, 1e8])
    cells = pd.concat(
        pd.DataFrame({"dataset": name, "N": size, "R": rank, "MIUB": 1 + k + 4e8 / size + (2 / rank) ** 0.5})
        for k, name in enumerate("ab")
    ).reset_index(drop=True)
    fit = fit_scaling_law(cells, "MIUB", N="N", R="R", groups=["dataset"], n_starts=0)
    assert fit.design.references["R"] == 2
    view = slice_along(fit, "N")
    assert view.held == {"R": (8.0,)}
    assert [one.x.tolist() for one in view.series] == [[4e8, 2e8, 1e8]] * 2
    assert slice_along(fit, "R").held == {"N": (4e8,)}


def test_series_are_groups_and_offsets(phi_fit: ScalingFit, phi: pd.DataFrame) -> None:
    series = slice_along(phi_fit, "N").series
    assert [one.offset for one in series] == ["sweep=size"] * 5 + ["sweep=rank"] * 5
    assert [one.group for one in series[:5]] == list(dict.fromkeys(phi["dataset"]))
    for one in series[:5]:
        cells = phi[(phi["dataset"] == one.group) & (phi["sweep"] == "size")]
        np.testing.assert_array_equal(one.x, cells["N"])
        np.testing.assert_array_equal(one.y, cells["MIUB"])
    assert all(one.curve is None and len(one.y) == 1 for one in series[5:])


def test_curves_are_predictions(phi_fit: ScalingFit) -> None:
    one = slice_along(phi_fit, "N").series[0]
    assert one.curve is not None
    assert len(one.curve.x) == N_POINTS
    at_ends = phi_fit.predict().iloc[one.places].iloc[[one.x.argmin(), one.x.argmax()]]
    for name, values in (("mean", one.curve.mean), ("mean_low", one.curve.low), ("mean_high", one.curve.high)):
        np.testing.assert_allclose(values[[0, -1]], at_ends[name], rtol=1e-9)


def test_local_exponents_of_a_power_law_are_its_exponent(phi: pd.DataFrame) -> None:
    fit = fit_scaling_law(phi, "MIUB", **ROLES, law="log-log", n_starts=0)
    one = slice_along(fit, "N").series[0]
    assert one.curve is not None
    np.testing.assert_allclose(one.curve.slopes(True), -fit.params["alpha"], rtol=1e-6)


def test_local_exponents_of_cells() -> None:
    x = np.array([4.0, 1, 2, 2])
    one = Series("", "", np.arange(4), x, np.exp(np.array([1.0, 3, 1, 3])), None)
    steps = one.steps(True)
    np.testing.assert_array_equal(steps.low, [1, 2])
    np.testing.assert_array_equal(steps.high, [2, 4])
    np.testing.assert_allclose(steps.slope, [-1 / np.log(2)] * 2)  # ln y averaged at 2
    np.testing.assert_allclose(steps.middle, [2**0.5, 8**0.5])


def test_a_curve_below_zero_has_no_logarithm() -> None:
    x, y = np.geomspace(1, 4, 5), np.array([-1.0, 1, 2, 3, 4])
    curve = Curve(x, y, y, y)
    assert np.isnan(curve.slopes(True)[0])
    assert np.isfinite(curve.slopes(True)[-1])
    assert np.isfinite(curve.slopes(False)).all()


def test_other_laws_go_along_what_they_are_of(phi: pd.DataFrame) -> None:
    fit = fit_scaling_law(phi, "MIUB", **ROLES, law="share", share="share", n_starts=0)
    view = slice_along(fit, None)
    assert (view.column, view.held, view.n_cells) == ("share", {"R": (32,)}, 25)
    assert slice_along(fit, "R").held == {"share": (1,)}


def test_sizes_that_arent_there_are_refused(phi_fit: ScalingFit) -> None:
    with pytest.raises(ValueError, match=r"`along` is 'D'; the sizes of this fit are \['N', 'R'\]"):
        slice_along(phi_fit, "D")


def test_a_size_that_doesnt_vary_is_refused(many: pd.DataFrame) -> None:
    more = pd.concat([many, many.assign(r=many["r"] * 2, y=many["y"] * 0.9)]).assign(d=1e6)
    fit = fit_scaling_law(more, "y", "n", "r", "d", groups=["g"], law="as printed", n_starts=0)
    with pytest.raises(ValueError, match=r"'d' is 1e\+06 in every cell; there is nothing to draw along it"):
        slice_along(fit, "D")
