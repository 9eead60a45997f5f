import doctest
import re
from importlib.resources import files

import numpy as np
import plotly.graph_objects as go
import pytest

from lorascope.analyze.figures import captions
from lorascope.analyze.figures.captions import headline, run_name, shortened
from lorascope.analyze.figures.theme import (
    BLUES,
    COLORS,
    DIVERGING,
    LINES,
    MISSING,
    add_legend,
    apply_theme,
    looks,
    small_multiples,
    unique_labels,
)

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


def test_headline_wraps_escapes_and_makes_room() -> None:
    figure = go.Figure()
    apply_theme(figure, height=300)
    headline(figure, "a <b>title</b>", "word " * 48, "", "n\u00a0=\u00a012 samples")
    lines = figure.layout.title.text.split("<br>")
    assert lines[0] == "a &lt;b&gt;title&lt;/b&gt;"
    assert len(lines) == 4
    assert all(len(line) <= 100 for line in lines[2:-1])
    assert "n\u00a0=\u00a012" in figure.layout.title.text
    assert figure.layout.height - 300 == figure.layout.margin.t - 30 == 3 * 16 + 6


def test_names_are_cut_in_their_middle_and_escaped() -> None:
    assert shortened("x" * 24) == "x" * 24
    assert shortened("a" * 20 + "b" * 20) == "a" * 12 + "…" + "b" * 11
    assert shortened("/" + "a" * 20 + "/" + "b" * 10) == "…" + "a" * 12 + "/" + "b" * 10
    assert shortened("<b>") == "&lt;b&gt;"
    assert run_name({"run": "run.zarr", "adapter": "default"}) == "run.zarr (default)"
    assert len(run_name({"run": "r" * 90, "adapter": "a" * 90})) == 36 + 24 + 3


def test_examples() -> None:
    assert doctest.testmod(captions).failed == 0


def test_looks_differ() -> None:
    made = looks(3 * len(LINES))
    assert len(set(made)) == len(made)
    assert [made[k].color for k in (0, 8)] == [LINES[0]] * 2
    assert [made[k].symbol for k in (0, 8, 16)] == ["circle", "square", "diamond"]
    assert made[8].marker(5, hollow=True) == {"color": LINES[0], "symbol": "square-open", "size": 5}
    assert looks(0) == looks(0, "rank") == []
    assert len({look.color for look in looks(9, "rank")}) == 9


def test_names_are_as_long_as_it_takes() -> None:
    assert unique_labels(["<a>", "b"]) == ["&lt;a&gt;", "b"]
    assert unique_labels([f"{'d' * 30}{k}" for k in range(2)]) == [f"{'d' * 12}…{'d' * 10}{k}" for k in range(2)]
    blocks = [f"{'d' * 20}{k}{'d' * 20}/{'m' * 20}" for k in range(2)]
    assert unique_labels(blocks) == [f"…{'d' * 11}{k}{'d' * 20}/{'m' * 20}" for k in range(2)]
    alike = [f"{'x' * 90}<{k}>{'x' * 90}" for k in range(2)]
    assert unique_labels(alike) == [name.replace("<", "&lt;").replace(">", "&gt;") for name in alike]
    assert unique_labels(["same", "same"]) == ["same", "same"]


def test_a_legend_of_several_groups() -> None:
    figure = go.Figure()
    apply_theme(figure, height=300)
    add_legend(figure, "<key>", ["<b>", "c"], looks(2))
    assert [trace.name for trace in figure.data] == ["&lt;b&gt;", "c"]
    assert [trace.legendgroup for trace in figure.data] == ["&lt;b&gt;", "c"]
    assert figure.layout.legend.title.text.startswith("&lt;key&gt;")
    assert (figure.layout.legend.tracegroupgap, figure.layout.legend.title.side) == (0, "top")
    assert figure.layout.height - 300 == figure.layout.margin.b - 10
    assert figure.layout.height > 300


def test_a_legend_gets_room_by_its_names() -> None:
    heights = []
    for names in (["a"], ["a", "b"], ["a long name of something"] * 6):
        figure = go.Figure()
        apply_theme(figure, height=300)
        add_legend(figure, "kind", names, looks(len(names)))
        assert figure.layout.showlegend is (len(names) > 1)
        heights.append(figure.layout.height)
    assert 300 == heights[0] < heights[1] < heights[2]
