"""Pictures of figures for viewers without JavaScript, drawn where plotly's exporter and a Chrome are installed."""

import base64
import json
import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from .markup import NEEDS_SCRIPT, escape

WIDTH = 660
"""Pixels of a picture's width, which follows no page: it holds the lines of a title. Its height is the figure's."""
MOST_BYTES = 300_000
"""Size from which on a picture is left out: thousands of points would take the room of the page's texts."""
START_SECONDS, FIGURE_SECONDS = 60.0, 5.0
"""Time that a Chrome and each figure may take, several times what they take on a busy machine."""
_FIGURE = re.compile(
    rf'(<div class="plot" id="([^"]+)"[^>]*>){re.escape(NEEDS_SCRIPT)}'
    r'(</div><script type="application/json" id="\2-data">(.*?)</script>)'
)
_DRAW = """
import json, sys
from pathlib import Path
from kaleido import write_fig_from_object_sync
jobs = json.loads(Path(sys.argv[1]).read_text())
for error in write_fig_from_object_sync(jobs, kopts={"mathjax": False}):  # which it would fetch
    sys.stderr.write(f"{error}\\n")
"""
"""Script that draws the figures it can, and reports the others."""
_logger = logging.getLogger(__name__)


def with_pictures(body: str) -> str:
    """The content of a page (HTML), each of its figures with a picture for viewers that run no scripts.

    Without kaleido (plotly's exporter) or a Chrome it stays as it is; so do figures that can't be drawn, or whose
    picture is too large.
    """
    figures = {match[2]: json.loads(match[4]) for match in _FIGURE.finditer(body)}
    pictures = draw(figures, kind="svg", width=WIDTH) if figures else {}

    def with_picture(match: re.Match[str]) -> str:
        if match[2] not in pictures or len(pictures[match[2]]) > MOST_BYTES:
            return match[0]
        source = f"data:image/svg+xml;base64,{base64.b64encode(pictures[match[2]]).decode()}"
        return f'{match[1]}<noscript><img src="{source}" alt="{escape(match[2])}"></noscript>{match[3]}'

    return _FIGURE.sub(with_picture, body)


def draw(figures: Mapping[str, Mapping[str, Any]], *, kind: Literal["svg", "webp"], width: int) -> dict[str, bytes]:
    """Picture of each figure (data and layout) by name; of none without kaleido or a Chrome, which is started once.

    All is done by another process, as a browser that dies can leave kaleido waiting for ever.
    """
    if find_spec("kaleido") is None:
        return {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = {name: folder / f"{place}.{kind}" for place, name in enumerate(figures)}
        jobs = [
            {
                "fig": figure,
                "path": str(paths[name]),
                "opts": {"format": kind, "width": width, "height": figure["layout"]["height"]},
            }
            for name, figure in figures.items()
        ]
        (folder / "figures.json").write_text(json.dumps(jobs))
        command = [sys.executable, "-P", "-c", _DRAW, str(folder / "figures.json")]
        seconds = START_SECONDS + FIGURE_SECONDS * len(figures)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)  # noqa: S603  # our own file
            reason = done.stderr.strip().rpartition("\n")[2]
        except subprocess.TimeoutExpired as error:
            reason = str(error)
        if reason:
            _logger.info("figures without pictures: %s", reason)
        return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
