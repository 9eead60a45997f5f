"""Pictures of figures for viewers without JavaScript, drawn where plotly's exporter and a Chrome are installed."""

import base64
import json
import logging
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .markup import NEEDS_SCRIPT, escape

WIDTH = 720
"""Pixels of a picture's width; its height is the figure's own."""
_FIGURE = re.compile(
    rf'(<div class="plot" id="([^"]+)"[^>]*>){re.escape(NEEDS_SCRIPT)}'
    r'(</div><script type="application/json" id="\2-data">(.*?)</script>)'
)
_logger = logging.getLogger(__name__)


def with_pictures(body: str) -> str:
    """The content of a page (HTML), each of its figures with a picture for viewers that run no scripts.

    Without kaleido (plotly's exporter) or a Chrome it stays as it is; so do figures that can't be drawn.
    """
    figures = {found[2]: json.loads(found[4]) for found in _FIGURE.finditer(body)}
    pictures = draw(figures) if figures else {}

    def shown(found: re.Match[str]) -> str:
        if found[2] not in pictures:
            return found[0]
        source = f"data:image/svg+xml;base64,{base64.b64encode(pictures[found[2]]).decode()}"
        return f'{found[1]}<noscript><img src="{source}" alt="{escape(found[2])}"></noscript>{found[3]}'

    return _FIGURE.sub(shown, body)


def draw(figures: Mapping[str, Mapping[str, Any]], kind: Literal["svg", "webp"] = "svg") -> dict[str, bytes]:
    """Picture of each figure (data and layout) by name; of none without kaleido or a Chrome, which is started once."""
    try:
        from kaleido import write_fig_from_object_sync  # type: ignore[import-untyped]
        from kaleido.errors import ChromeNotFoundError  # type: ignore[import-untyped]
    except ImportError:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{place}.{kind}" for place, name in enumerate(figures)}
        wanted = [
            {
                "fig": one,
                "path": paths[name],
                "opts": {"format": kind, "width": WIDTH, "height": one["layout"]["height"]},
            }
            for name, one in figures.items()
        ]
        try:
            # Without MathJax, which it would fetch.
            failed = write_fig_from_object_sync(wanted, kopts={"mathjax": False, "timeout": 30})
        except ChromeNotFoundError as error:
            _logger.info("no pictures of figures: %s", error)
            return {}
        except Exception:  # of a browser anything may come, and a page without pictures is better than none
            _logger.warning("no pictures of figures", exc_info=True)
            return {}
        for reason in failed:
            _logger.warning("a figure has no picture: %s", reason)
        return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
