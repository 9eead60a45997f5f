import dataclasses

import numpy as np
import pandas as pd

from lorascope.analyze.figures.rival_laws import laws_figure
from lorascope.analyze.scaling.fit import fit_scaling_law
from lorascope.analyze.scaling.report import FitReport

from .conftest import ROLES, legend_of, points_of, title_of


def test_laws_by_aicc_and_errors(phi_report: FitReport) -> None:
    figure, laws = laws_figure(phi_report), phi_report.laws
    gaps, *errors = points_of(figure)
    np.testing.assert_allclose(gaps.x, laws["d_AICc"])
    assert list(gaps.y) == list(range(5))
    for trace, column in zip(errors, ("rmse_cell", "rmse_setting", "rmse_group"), strict=True):
        np.testing.assert_allclose(trace.x, 100 * laws[column])
        assert [round(y) for y in trace.y] == list(range(5))
    assert list(figure.layout.yaxis.ticktext) == list(figure.layout.yaxis2.ticktext)
    assert figure.layout.yaxis.ticktext[0] == f"share ({laws['n_parameters'][0]})"
    assert f"<b>additive</b> ({len(phi_report.fit.design.names)})" in figure.layout.yaxis.ticktext
    assert legend_of(figure) == ["each cell", "each setting", "each group"]
    for words in (
        "Laws of MIUB on the same cells",
        "n = 35 cells; in brackets: parameters; bold: this report's law.",
        "Not determined by these cells: 'as printed'.",
    ):
        assert words in title_of(figure)
    assert gaps.text[0].startswith(
        f"<b>share</b><br>AICc {laws['AICc'][0]:.2f}, BIC {laws['BIC'][0]:.2f}<br>9\u00a0parameters"
    )


def test_errors_of_another_unit_arent_shown(phi_report: FitReport, phi: pd.DataFrame) -> None:
    fit = fit_scaling_law(phi, "MIUB", **ROLES, residuals="absolute", n_starts=0)
    figure = laws_figure(dataclasses.replace(phi_report, fit=fit))
    place = int(np.flatnonzero(phi_report.laws["law"] == "log-log")[0])
    assert all(list(np.flatnonzero(np.isnan(trace.x))) == [place] for trace in points_of(figure)[1:])
    assert "y - f, in units of MIUB" in figure.layout.xaxis2.title.text
    log = fit_scaling_law(phi, "MIUB", **ROLES, law="log-log", residuals="absolute", n_starts=0)
    other = laws_figure(dataclasses.replace(phi_report, fit=log))
    assert all(np.isnan(trace.x).sum() == 4 for trace in points_of(other)[1:])
