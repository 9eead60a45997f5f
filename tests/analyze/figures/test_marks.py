import plotly.graph_objects as go

from lorascope.analyze.figures.marks import add_legend, looks, unique_labels
from lorascope.analyze.figures.theme import LINES, apply_theme


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
