import pytest

from lorascope.analyze.figures.theme import small_multiples


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
