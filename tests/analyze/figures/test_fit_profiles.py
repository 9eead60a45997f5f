import math
from typing import Any

import pandas as pd
import pytest

from lorascope.analyze.figures.fit_profiles import profile_figure
from lorascope.analyze.fits.fit import fit_scaling_law
from lorascope.analyze.fits.result import ScalingFit

from .conftest import ROLES, title_of


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
    assert titles[0] == "<b>A</b> = 2.698<br>0.9842 to 6.339"
    assert titles[1] == "<b>B</b> = 16.57<br>(open) to (open)"
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


@pytest.mark.parametrize("options", [{"huber": 0.01}, {"residuals": "log"}])
def test_a_fit_without_profiles_is_refused(phi: pd.DataFrame, options: dict[str, Any]) -> None:
    fit = fit_scaling_law(phi, "MIUB", **ROLES, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="this fit has no profiles: they need least squares of relative or absolute"):
        profile_figure(fit)
