"""Self-contained HTML pages: head, style, scripts, and pictures of figures for viewers without JavaScript."""

import base64
import hashlib
import json
import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from .markup import NEEDS_SCRIPT, escape

WIDTH = 660
"""Width of pictures in pixels, which fits the lines of a title; their height is the figure's."""
MOST_BYTES = 300_000
"""Size above which a picture is skipped: thousands of points would take more room than the page's text."""
START_SECONDS, FIGURE_SECONDS = 60.0, 5.0
"""Time that Chrome's start and each figure may take: several times what they take on a busy machine."""
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
"""Script of another process, which draws figures and reports the ones that it can't draw."""
_logger = logging.getLogger(__name__)


def document(title: str, subtitle: str, body: str, pictures: Mapping[str, bytes] | None = None) -> str:
    """Return the HTML of a page: title and subtitle (plain text), `body` (HTML), and a footer with the version.

    The page's script draws its figures. If kaleido and a Chrome are installed, each figure has a picture as well.
    `pictures` are SVG by name of a figure; by default they are drawn now.
    """
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]  # half a second; plotly ships no types

    # A closing tag inside of a string would end the script; this spelling means the same in JavaScript.
    scripts = [code.replace("</script", "<\\/script") for code in (get_plotlyjs(), _read_resource("figures.js"))]
    header = f'<header><h1>{escape(title)}</h1><p class="subtitle">{escape(subtitle)}</p></header>'
    footer = f"<footer>lorascope {escape(version('lorascope'))} · nothing here is fetched from elsewhere</footer>"
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_content_policy(scripts)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_read_resource('style.css')}</style></head><body>{header}{with_pictures(body, pictures)}{footer}"
        f"{''.join(f'<script>{code}</script>' for code in scripts)}</body></html>\n"
    )


def _read_resource(name: str) -> str:
    """Return the text of a file of this folder, such as the style sheet."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def _content_policy(scripts: list[str]) -> str:
    """Return a content security policy that allows these scripts, and styles and images inside of the page."""
    hashes = (base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"


def figures_of(body: str) -> dict[str, Any]:
    """Return the figures (data and layout by name) in a page's body (HTML)."""
    return {match[2]: json.loads(match[4]) for match in _FIGURE.finditer(body)}


def with_pictures(body: str, pictures: Mapping[str, bytes] | None = None) -> str:
    """Return a page's body (HTML) with a picture of each figure, which viewers without scripts show.

    Without kaleido (plotly's exporter) or a Chrome, the body stays as it is. Figures that can't be drawn, or whose
    picture is too large, get none. `pictures` are SVG by name; by default `draw` makes them.
    """
    if pictures is None:
        figures = figures_of(body)
        pictures = draw(figures, kind="svg", width=WIDTH) if figures else {}

    def with_picture(match: re.Match[str]) -> str:
        """Return a figure's HTML with its picture, or unchanged without a picture or if that is too large."""
        if match[2] not in pictures or len(pictures[match[2]]) > MOST_BYTES:
            return match[0]
        source = f"data:image/svg+xml;base64,{base64.b64encode(pictures[match[2]]).decode()}"
        return f'{match[1]}<noscript><img src="{source}" alt="{escape(match[2])}"></noscript>{match[3]}'

    return _FIGURE.sub(with_picture, body)


def draw(figures: Mapping[str, Mapping[str, Any]], *, kind: Literal["svg", "webp"], width: int) -> dict[str, bytes]:
    """Draw figures (data and layout by name); return pictures by name, none without kaleido or Chrome.

    Another process draws all figures with one Chrome, because a browser that dies can leave kaleido waiting for ever.
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
