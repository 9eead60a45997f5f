import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.figures import position_figure, share_curve
from lorascope.analyze.qualify import qualify

from ..conftest import Small


@pytest.fixture(scope="module")
def qualified(small: Small) -> xr.Dataset:
    return qualify(small.run)


def test_share_curve_ends_at_one(qualified: xr.Dataset) -> None:
    even, line, mark = share_curve(qualified).data
    shares = np.sort(qualified["share"].values)[::-1]
    np.testing.assert_allclose(line.y, np.cumsum(shares))
    assert (mark.x[0], mark.y[0]) == (5, pytest.approx(shares[:5].sum()))
    assert even.y[-1] == 1


def test_position_figure_shows_quantiles_and_counts(small: Small, qualified: xr.Dataset) -> None:
    position, total = qualified["position"].values, small.js().sum(axis=1)
    origin = np.where(np.arange(len(position)) % 2, 2.0, np.nan)
    for start in (None, origin):
        figure = position_figure(qualified, origin=start, label="<b>place")
        median = next(trace for trace in figure.data if trace.name == "median")
        places = position if start is None else position - start
        assert list(median.x) == sorted(set(places[np.isfinite(places)].tolist()))
        for x, y, n in zip(median.x, median.y, figure.data[-1].y, strict=True):
            assert y == pytest.approx(np.median(total[places == x]), rel=1e-5)
            assert n == (places == x).sum()
        assert figure.layout.xaxis2.title.text == "&lt;b&gt;place"
