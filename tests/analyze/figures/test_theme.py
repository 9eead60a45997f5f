import plotly.graph_objects as go

from lorascope.analyze.figures.theme import LINES, apply_theme, legend_below, line_styles


def test_lines_without_order_are_told_apart() -> None:
    styles = line_styles(20, "kind")
    assert [style["color"] for style in styles[:8]] == list(LINES)
    assert len({(style["color"], style["dash"]) for style in styles}) == 20


def test_a_legend_gets_room_by_its_names() -> None:
    heights = []
    for names in (["a"], ["a", "b"], ["a long name of something"] * 6):
        figure = go.Figure()
        apply_theme(figure, height=300)
        legend_below(figure, title="kind", names=names)
        assert figure.layout.showlegend is (len(names) > 1)
        heights.append(figure.layout.height)
    assert 300 == heights[0] < heights[1] < heights[2]
