import doctest

import plotly.graph_objects as go

from lorascope.analyze.figures import captions
from lorascope.analyze.figures.captions import (
    headline,
    run_name,
    shortened,
)
from lorascope.analyze.figures.theme import apply_theme


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
