import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.figures.fits import profile_figure, scaling_figure
from lorascope.analyze.fits.fit import fit_scaling_law
from lorascope.analyze.fits.result import ScalingFit
from lorascope.analyze.results.format import format_number

from .conftest import ROLES, legend_of, points_of, title_of


def test_cells_law_and_exponents(phi_fit: ScalingFit, phi: pd.DataFrame) -> None:
    figure = scaling_figure(phi_fit)
    cells = [trace for trace in points_of(figure) if trace.yaxis == "y"]
    shown = {(x, y) for trace in cells for x, y in zip(trace.x, trace.y, strict=True)}
    assert sum(len(trace.x) for trace in cells) == 25
    assert shown == set(phi[phi["R"] == 32][["N", "MIUB"]].itertuples(index=False, name=None))
    first = phi[(phi["dataset"] == "ARCE") & (phi["sweep"] == "size")].sort_values("N")
    slopes = next(trace for trace in points_of(figure) if trace.yaxis == "y2")
    np.testing.assert_allclose(slopes.y, np.diff(np.log(first["MIUB"])) / np.diff(np.log(first["N"])))
    np.testing.assert_allclose(slopes.x - slopes.error_x.arrayminus, first["N"].iloc[:-1])
    np.testing.assert_allclose(slopes.x + slopes.error_x.array, first["N"].iloc[1:])
    line, exponents = [trace for trace in figure.data if trace.mode == "lines" and trace.line.width == 1.5][:2]
    asked = pd.DataFrame({"N": line.x, "R": 32.0, "dataset": "ARCE", "sweep": "size"})
    np.testing.assert_allclose(line.y, phi_fit.predict(asked)["mean"])
    np.testing.assert_allclose(exponents.y[1:-1], np.gradient(np.log(line.y), np.log(line.x))[1:-1], rtol=1e-9)
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type, figure.layout.yaxis2.type) == ("log", "log", None)
    assert figure.layout.yaxis2.title.text == "d ln MIUB / d ln N"
    assert legend_of(figure) == list(dict.fromkeys(phi["dataset"]))
    place = int(np.flatnonzero((phi_fit.design.groups == "ARCE") & (phi["sweep"] == "size").to_numpy())[0])
    assert cells[0].text[0] == (
        f"<b>ARCE</b><br>{phi_fit.design.settings[place]}<br>MIUB: {phi['MIUB'].iloc[place]:.1f}<br>law: "
        f"{phi_fit.fittedvalues.iloc[place]:.1f}<br>residual: {format_number(100 * phi_fit.resid.iloc[place])}\u00a0%"
    )


def test_bands_are_those_of_the_mean_cut_at_the_edge(phi_fit: ScalingFit) -> None:
    figure = scaling_figure(phi_fit)
    band = next(trace for trace in figure.data if trace.fill == "toself")
    x = band.x[: len(band.x) // 2]
    expected = phi_fit.predict(pd.DataFrame({"N": x, "R": 32.0, "dataset": "ARCE", "sweep": "size"}))
    low, high = 10 ** np.array(figure.layout.yaxis.range)
    np.testing.assert_allclose(band.y, np.clip([*expected["high"], *expected["low"][::-1]], low, high))


def test_a_response_below_zero_has_a_linear_axis(phi: pd.DataFrame) -> None:
    shifted = phi.assign(MIUB=phi["MIUB"] - 1700)
    figure = scaling_figure(fit_scaling_law(shifted, "MIUB", **ROLES, residuals="absolute"))
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", None)
    assert figure.layout.yaxis2.title.text == "d MIUB / d ln N"
    assert "slopes of MIUB itself, which isn't above zero everywhere" in title_of(figure)


def test_many_groups_with_hostile_names(many: pd.DataFrame) -> None:
    fit = fit_scaling_law(many.rename(columns={"y": "<i>"}), "<i>", "n", "r", groups=["g"], law="log-log")
    figure = scaling_figure(fit)
    assert legend_of(figure) == [f"&lt;b&gt;%{{x}}&lt;/b&gt; {k}" for k in range(12)]
    marks = {(trace.marker.color, trace.marker.symbol) for trace in points_of(figure) if trace.yaxis == "y"}
    assert len(marks) == 12
    for trace in points_of(figure):
        assert all(text.startswith("<b>&lt;b&gt;%{x}") and "<i>" not in text for text in trace.text)
    assert figure.layout.yaxis.title.text == "&lt;i&gt;"
    assert "n = 36 cells, r at 8; 72 elsewhere" in title_of(figure)


@pytest.mark.parametrize(("along", "title"), [("N", "parameters N"), ("R", "rank R")])
def test_axes_of_the_laws_say_what_they_are(phi_fit: ScalingFit, along: str, title: str) -> None:
    layout = scaling_figure(phi_fit, along=along).layout
    assert (layout.xaxis2.title.text, layout.yaxis.title.text) == (title, "MIUB (nat)")


def test_a_size_of_the_fit_is_needed(phi_fit: ScalingFit, phi: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="`along` is 'rank'; the sizes of this fit are"):
        scaling_figure(phi_fit, along="rank")
    frame = phi.assign(share=1.0)
    fit = fit_scaling_law(frame.assign(D=frame["N"] / 1e3 + 1), "MIUB", R="R", D="D", groups=["dataset"], law="log")
    fit.design.frame["R"] = 32.0
    with pytest.raises(ValueError, match="'R' is 32 in every cell; there is nothing to draw along it"):
        scaling_figure(fit, along="R")


def panel_of(figure: Any, place: int) -> list[Any]:
    """Profile, interval and estimate of one panel."""
    axis = "y" if place == 0 else f"y{place + 1}"
    return [trace for trace in figure.data if (trace.yaxis or "y") == axis]


@pytest.fixture(scope="module")
def figure(phi_fit: ScalingFit) -> Any:
    return profile_figure(phi_fit)


def test_profiles_touch_zero_at_the_estimate(phi_fit: ScalingFit, figure: Any) -> None:
    for place, (name, profile) in enumerate(phi_fit.profiles.items()):
        line, _, dot = panel_of(figure, place)
        assert (list(dot.x), list(dot.y)) == ([phi_fit.params[name]], [0])
        assert line.y[list(line.x).index(phi_fit.params[name])] == 0
        assert list(line.x) == sorted(line.x)
        known = dict(zip(profile.values, profile.ssr, strict=True))
        for x, y in zip(line.x, line.y, strict=True):
            if x in known and known[x] >= phi_fit.ssr:
                assert y == pytest.approx(math.sqrt((known[x] / phi_fit.ssr - 1) * phi_fit.df_resid), abs=1e-9)


def test_intervals_lie_on_their_lines(phi_fit: ScalingFit, figure: Any) -> None:
    from scipy import stats

    t = stats.t.ppf(0.975, phi_fit.df_resid)
    assert [shape.y0 for shape in figure.layout.shapes] == pytest.approx([t] * 4)
    for place, (name, profile) in enumerate(phi_fit.profiles.items()):
        trace = panel_of(figure, place)[1]
        assert trace.y == pytest.approx([t] * 2)
        if name in ("A", "alpha"):
            assert list(trace.x) == [profile.interval.low, profile.interval.high]
            assert list(trace.marker.symbol) == ["line-ns-open"] * 2
        else:
            assert list(trace.marker.symbol) == ["triangle-left", "triangle-right"]


def test_open_ends_are_said_and_drawn_where_the_profile_is_flat(figure: Any) -> None:
    titles = [note.text for note in figure.layout.annotations]
    assert titles[0] == "<b>A</b> = 2.70<br>0.984 to 6.34"
    assert titles[1] == "<b>B</b> = 16.6<br>(open) to (open)"
    line, bar, *_ = panel_of(figure, 1)
    assert bar.x[0] <= line.x[0] < 0 < line.x[-1] <= bar.x[1] < 1000  # looked at: 4 million to either side
    assert abs(line.y[0] - 0.785) < 0.06
    for words in (
        "How far the parameters of MIUB may go",
        "n = 35 cells, df = 25.",
        "Bars on the dotted line: 95 % intervals by F",
        "2 of 4 are open.",
    ):
        assert words in title_of(figure)


def test_a_fit_without_profiles_is_refused(phi_fit: ScalingFit, phi: pd.DataFrame) -> None:
    fit = fit_scaling_law(phi.assign(MIUB=phi_fit.fittedvalues), "MIUB", **ROLES)
    with pytest.raises(ValueError, match="no profile intervals: the law goes through every cell"):
        profile_figure(fit)
