"""Every plot is in the gallery, drawn by the code next to it; that the code runs is in tests/test_docs.py."""

import re
from pathlib import Path

from lorascope.analyze import figures

PAGE = Path(__file__).parents[3] / "docs/gallery.md"
DRAWN = re.compile(r"^```python\n(.*?)^```\n\n!\[[^\]]+\]\(([^)]+)\)", re.DOTALL | re.MULTILINE)
"""A block of code and the picture that follows it."""
LARGEST_PICTURE = 40_000
"""Bytes; the page shows a dozen at once."""


def test_every_plot_has_its_code_and_its_picture() -> None:
    parts = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE))
    assert sorted(parts) == sorted(figures.__all__)
    for name, part in parts.items():
        ((code, picture),) = DRAWN.findall(part)
        assert f"figures.{name}(" in code.splitlines()[-1]
        assert picture == f"gallery/{name.removesuffix('_figure')}.webp"
        assert 1000 < (PAGE.parent / picture).stat().st_size < LARGEST_PICTURE


def test_no_picture_is_left_over() -> None:
    names = {path.stem for path in (PAGE.parent / "gallery").iterdir()}
    assert names == {name.removesuffix("_figure") for name in figures.__all__}


def test_plots_have_one_naming_scheme_and_say_what_they_show() -> None:
    for name in figures.__all__:
        text = getattr(figures, name).__doc__ or ""
        assert name.endswith("_figure")
        assert "\n    Parameters\n" in text, name
        assert "\n    Returns\n    -------\n    plotly.graph_objects.Figure\n" in text, name
