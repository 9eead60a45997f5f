import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.figures.fit_slices import slice_along
from lorascope.analyze.figures.fits import scaling_figure
from lorascope.analyze.format import format_number
from lorascope.analyze.scaling.fit import fit_scaling_law
from lorascope.analyze.scaling.result import ScalingFit

from .conftest import ROLES, legend_of, points_of, title_of


def test_cells_law_and_exponents(phi_fit: ScalingFit, phi: pd.DataFrame) -> None:
    figure = scaling_figure(phi_fit)
    cells = [trace for trace in points_of(figure) if trace.yaxis == "y"]
    assert sum(len(trace.x) for trace in cells) == 25
    shown = {(x, y) for trace in cells for x, y in zip(trace.x, trace.y, strict=True)}
    assert shown == set(phi[phi["R"] == 32][["N", "MIUB"]].itertuples(index=False, name=None))
    slopes = [trace for trace in points_of(figure) if trace.yaxis == "y2"]
    first = slice_along(phi_fit, "N").series[0]
    np.testing.assert_allclose(slopes[0].y, first.steps(True).slope)
    np.testing.assert_allclose(slopes[0].x - slopes[0].error_x.arrayminus, np.unique(first.x)[:-1])
    np.testing.assert_allclose(slopes[0].x + slopes[0].error_x.array, np.unique(first.x)[1:])
    lines = [trace for trace in figure.data if trace.mode == "lines" and trace.line.width == 1.5]
    assert first.curve is not None
    np.testing.assert_array_equal(lines[0].y, first.curve.mean)
    np.testing.assert_array_equal(lines[1].y, first.curve.slopes(True))
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type, figure.layout.yaxis2.type) == ("log", "log", None)
    assert figure.layout.yaxis2.title.text == "d ln MIUB / d ln N"
    assert legend_of(figure) == list(dict.fromkeys(phi["dataset"]))


def test_the_caption_counts(phi_fit: ScalingFit) -> None:
    said = title_of(scaling_figure(phi_fit))
    for words in (
        "MIUB along N, and its local exponent",
        "n = 25 cells in 5 groups, with R = 32. 10 cells of other sizes are not shown.",
        "Lines: E + A (N0/N)^alpha + B (R0/R)^beta; bands: 95 % intervals of its mean by linear theory.",
        "Hollow: sweep=rank. 5 cells of a single size have no line.",
        "a pure power law would be flat.",
    ):
        assert words in said
    along_r = title_of(scaling_figure(phi_fit, along="R"))
    assert "n = 20 cells in 5 groups, with N = 3.82·10⁹. 15 cells of other sizes are not shown." in along_r
    assert "Hollow: sweep=size." in along_r


def test_cells_tell_what_the_law_says_of_them(phi_fit: ScalingFit, phi: pd.DataFrame) -> None:
    first = next(trace for trace in points_of(scaling_figure(phi_fit)) if trace.yaxis == "y")
    place = slice_along(phi_fit, "N").series[0].places[0]
    assert first.text[0] == (
        f"<b>ARCE</b><br>{phi_fit.design.settings[place]}<br>MIUB: {phi['MIUB'].iloc[place]:.1f}<br>law: "
        f"{phi_fit.fittedvalues.iloc[place]:.1f}<br>residual: {format_number(100 * phi_fit.resid.iloc[place])}\u00a0%"
    )


def test_bands_are_those_of_the_mean_cut_at_the_edge(phi_fit: ScalingFit) -> None:
    figure = scaling_figure(phi_fit)
    band = next(trace for trace in figure.data if trace.fill == "toself")
    curve = slice_along(phi_fit, "N").series[0].curve
    assert curve is not None
    low, high = 10 ** np.array(figure.layout.yaxis.range)
    np.testing.assert_allclose(band.y, np.clip([*curve.high, *curve.low[::-1]], low, high))
    assert low < phi_fit.design.y.min()


def test_hubers_loss_has_no_band(phi: pd.DataFrame) -> None:
    fit = fit_scaling_law(phi, "MIUB", **ROLES, huber="auto", n_starts=0)
    figure = scaling_figure(fit)
    assert not any(trace.fill for trace in figure.data)
    assert "no bands: Huber's loss has no linear theory here" in title_of(figure)


def test_a_response_below_zero_has_a_linear_axis(phi: pd.DataFrame) -> None:
    shifted = phi.assign(MIUB=phi["MIUB"] - 1700)
    fit = fit_scaling_law(shifted, "MIUB", **ROLES, residuals="absolute", n_starts=0)
    figure = scaling_figure(fit)
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", None)
    assert figure.layout.yaxis2.title.text == "d MIUB / d ln N"
    assert "MIUB isn't above zero everywhere and has no logarithm: its axis is linear" in title_of(figure)
    slopes = next(trace for trace in points_of(figure) if trace.yaxis == "y2")
    np.testing.assert_allclose(slopes.y, slice_along(fit, "N").series[0].steps(False).slope)


def test_many_groups_with_hostile_names(many: pd.DataFrame) -> None:
    fit = fit_scaling_law(many.rename(columns={"y": "<i>"}), "<i>", "n", "r", groups=["g"], law="log-log", n_starts=0)
    figure = scaling_figure(fit)
    assert legend_of(figure) == [f"&lt;b&gt;%{{x}}&lt;/b&gt; {k}" for k in range(12)]
    marks = {(trace.marker.color, trace.marker.symbol) for trace in points_of(figure) if trace.yaxis == "y"}
    assert len(marks) == 12
    for trace in points_of(figure):
        assert trace.hovertemplate == "%{text}<extra></extra>"
        assert all(text.startswith("<b>&lt;b&gt;%{x}") and "<i>" not in text for text in trace.text)
    assert figure.layout.yaxis.title.text == "&lt;i&gt;"
    assert figure.layout.yaxis2.title.text == "d ln &lt;i&gt; / d ln n"
    assert "&lt;i&gt; along n" in figure.layout.title.text
    assert "n = 36 cells in 12 groups, with r = 8. 72 cells" in title_of(figure)


def test_other_sizes_in_many_places_are_named_in_short(many: pd.DataFrame) -> None:
    apart = many.assign(r=many["r"] * (1 + many.index // 9))
    fit = fit_scaling_law(apart, "y", "n", "r", groups=["g"], law="log-log", n_starts=0)
    assert "with r at what each group has nearest to the reference" in title_of(scaling_figure(fit))


def test_one_group_needs_no_legend(phi: pd.DataFrame) -> None:
    one = phi[phi["dataset"] == "ARCE"]
    fit = fit_scaling_law(one, "MIUB", "N", "R", law="log-log", offsets=["sweep"], n_starts=0)
    figure = scaling_figure(fit, along="R")
    assert figure.layout.showlegend is False
    assert "n = 4 cells, with N = 3.82·10⁹. 3 cells of other sizes are not shown." in title_of(figure)
    assert "1 cell of a single size has no line." in title_of(figure)
    assert points_of(figure)[0].text[0].startswith("N=3.82108e+09 R=32")


def test_several_offsets_are_hollow_together(many: pd.DataFrame) -> None:
    three = pd.concat([many.assign(y=many["y"] * (1 + k / 100), o=k) for k in range(3)], ignore_index=True)
    fit = fit_scaling_law(three, "y", "n", "r", groups=["g"], offsets=["o"], law="log-log", n_starts=0)
    figure = scaling_figure(fit)
    assert "Hollow: other offsets." in title_of(figure)
    assert "no line" not in title_of(figure)
    symbols = [trace.marker.symbol for trace in points_of(figure) if trace.yaxis == "y"]
    assert sum(symbol.endswith("-open") for symbol in symbols) == 24


def test_a_size_of_the_fit_is_needed(phi_fit: ScalingFit) -> None:
    with pytest.raises(ValueError, match="`along` is 'rank'; the sizes of this fit are"):
        scaling_figure(phi_fit, along="rank")
