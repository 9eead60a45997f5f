import math

import numpy as np
import pytest

from lorascope.analyze import js_lower_bound
from lorascope.analyze.figures import xi_figure


def test_known_pairs_lie_above_the_claimed_bound_and_none_below_xi() -> None:
    figure = xi_figure()
    claimed, twice_js, xi, normals, symbols = figure.data
    np.testing.assert_allclose(claimed.y, math.log(2) * np.asarray(claimed.x))
    np.testing.assert_allclose(twice_js.y, 2 * np.asarray(twice_js.x))
    np.testing.assert_allclose(js_lower_bound(np.asarray(xi.x)), xi.y, rtol=1e-9)
    for trace in (normals, symbols):
        js, mi = np.asarray(trace.x), np.asarray(trace.y)
        assert (mi > math.log(2) * js).all()
        assert (mi > 2 * js).all()
        assert (mi >= js_lower_bound(js) * (1 - 1e-12)).all()
    np.testing.assert_allclose(symbols.y, js_lower_bound(np.asarray(symbols.x)))
    assert (normals.x[2], normals.y[2]) == (pytest.approx(0.4414, abs=1e-4), pytest.approx(1.9585, abs=1e-4))
    assert normals.text[2] == "ρ\u00a00.99"  # noqa: RUF001
    assert max(normals.x[-1], symbols.x[-1]) < figure.layout.xaxis.range[1]
    assert max(normals.y[-1], symbols.y[-1]) < figure.layout.yaxis.range[1]
    title = figure.layout.title.text.replace("<br>", " ").replace("\u00a0", " ")
    assert "9 of 9 pairs with known values lie above the shaded part" in title
