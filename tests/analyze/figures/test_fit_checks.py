import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lorascope.analyze.figures.fit_checks import residual_unit, setting_residuals_figure
from lorascope.analyze.scaling.fit import fit_scaling_law
from lorascope.analyze.scaling.result import ScalingFit

from .conftest import DATASETS, ROLES, legend_of, points_of, title_of


def test_residuals_in_percent_by_setting(phi_fit: ScalingFit) -> None:
    figure = setting_residuals_figure(phi_fit)
    *groups, means = points_of(figure)
    assert sorted(np.concatenate([trace.x for trace in groups])) == pytest.approx(sorted(100 * phi_fit.resid))
    assert len(groups) == 5
    table = phi_fit.residuals_by_setting().set_index("setting")
    order = [text.split("</b>")[0].removeprefix("<b>") for text in means.text]
    assert set(order) == set(table.index)
    np.testing.assert_allclose(means.x, 100 * table.loc[order, "mean"])
    t = stats.t.ppf(0.975, table.loc[order, "n"] - 1)
    np.testing.assert_allclose(means.error_x.array, 100 * t * table.loc[order, "se"])
    off = (np.abs(table["t"]) > stats.t.ppf(0.975, table["n"] - 1)).sum()
    for words in (
        "Residuals of MIUB by setting",
        "Law: E + A (N0/N)^alpha + B (R0/R)^beta; n = 35 cells.",
        f"bars: 95 % intervals of Student's t, {off} of 7 without zero.",
    ):
        assert words in title_of(figure)
    assert figure.layout.xaxis.title.text == "MIUB: (y - f) / y, in %"
    assert legend_of(figure) == DATASETS


def test_units_are_those_of_the_fit(phi: pd.DataFrame) -> None:
    kinds = {
        "relative": (fit_scaling_law(phi, "MIUB", **ROLES, n_starts=0), "(y - f) / y, in %"),
        "log": (fit_scaling_law(phi, "MIUB", **ROLES, residuals="log", n_starts=0), "ln(y / f), in %"),
        "log-log": (fit_scaling_law(phi, "MIUB", **ROLES, law="log-log", n_starts=0), "ln(y / f), in %"),
        "absolute": (
            fit_scaling_law(phi, "MIUB", **ROLES, residuals="absolute", n_starts=0),
            "y - f, in units of MIUB",
        ),
    }
    for name, (fit, what) in kinds.items():
        unit = residual_unit(fit)
        assert unit.what == what
        assert unit.text(0.0123) == ("0.0123" if name == "absolute" else "1.23\u00a0%")
        shown = np.concatenate([trace.x for trace in points_of(setting_residuals_figure(fit))[:-1]])
        assert math.isclose(np.abs(shown).max(), unit.factor * fit.resid.abs().max())


def test_many_groups_with_hostile_names(many: pd.DataFrame) -> None:
    odd = many.rename(columns={"y": "<y>", "r": "<r>"})
    fit = fit_scaling_law(odd, "<y>", "n", "<r>", groups=["g"], law="log-log", n_starts=0)
    figure = setting_residuals_figure(fit)
    assert len(legend_of(figure)) == 12
    shown = [*figure.layout.yaxis.ticktext, figure.layout.xaxis.title.text, *legend_of(figure)]
    shown += [text for trace in points_of(figure) for text in trace.text]
    assert not any("<y>" in text or "<r>" in text or "<b>%" in text for text in shown)
    assert "n = 108 cells." in title_of(figure)
