import re
from importlib.resources import files

import numpy as np
import pytest

from lorascope.analyze.figures.theme import BLUES, COLORS, DIVERGING, MISSING, small_multiples

# What CSS's hue-rotate(180deg) multiplies by.
HALF_TURN = np.array([[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]])


def luminance(color: str, *, dark: bool) -> float:
    """WCAG's, as the report shows a figure's colour: in the dark through the filter of its style."""
    shown = np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    if dark:
        style = (files("lorascope.analyze.report") / "style.css").read_text()
        share = float(re.findall(r"invert\((.*?)\) hue-rotate\(180deg\)", style)[0])
        shown = np.clip(HALF_TURN @ (share * (1 - shown) + (1 - share) * shown), 0, 1)
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("color", [COLORS[0], BLUES[0], DIVERGING[2]])
def test_the_palest_cells_are_told_from_page_and_missing(color: str, dark: bool) -> None:
    own, page, missing = (luminance(shade, dark=dark) + 0.05 for shade in (color, "#ffffff", MISSING))
    assert max(own / page, page / own) > 1.2
    assert max(own / missing, missing / own) > 2


@pytest.mark.parametrize(("n", "rows"), [(1, 1), (2, 1), (3, 2), (4, 2), (7, 4)])
def test_panels_go_two_across(n: int, rows: int) -> None:
    figure, panels = small_multiples([f"panel {k}" for k in range(n)], height=150)
    assert [tuple(panel.values()) for panel in panels] == [(k // 2 + 1, k % 2 + 1) for k in range(n)]
    assert [note.text for note in figure.layout.annotations] == [f"panel {k}" for k in range(n)]
    assert figure.layout.height > rows * 150
    first = figure.layout.yaxis.domain
    inside = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    assert (first[1] - first[0]) * (rows * 150 + (rows - 1) * 72) == pytest.approx(150)
    assert inside > rows * 150


def test_the_place_of_a_missing_panel_is_empty() -> None:
    figure, _ = small_multiples(["a", "b", "c"], height=150)
    assert (figure.layout.xaxis4.visible, figure.layout.yaxis4.visible) == (False, False)
    assert figure.layout.xaxis3.visible is None
