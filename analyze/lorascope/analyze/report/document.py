"""HTML pages that are complete in themselves: head, style, and the only scripts that they may run."""

import base64
import hashlib
from importlib.metadata import version
from importlib.resources import files

from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]  # plotly ships no types

from .markup import escape
from .pictures import with_pictures


def document(title: str, subtitle: str, body: str) -> str:
    """A page with these titles (text), whose content is `body` (HTML) and a line on what made it.

    Figures are drawn by the page's script; where kaleido and a Chrome are installed, each has a picture as well.
    """
    # A closing tag inside of a string would end the script; this spelling means the same in JavaScript.
    scripts = [code.replace("</script", "<\\/script") for code in (get_plotlyjs(), _resource("figures.js"))]
    header = f'<header><h1>{escape(title)}</h1><p class="subtitle">{escape(subtitle)}</p></header>'
    footer = f"<footer>lorascope {escape(version('lorascope'))} · nothing here is fetched from elsewhere</footer>"
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_resource('style.css')}</style></head><body>{header}{with_pictures(body)}{footer}"
        f"{''.join(f'<script>{code}</script>' for code in scripts)}</body></html>\n"
    )


def _resource(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _policy(scripts: list[str]) -> str:
    """What the browser may load and run: these scripts, styles in the page, images that it makes itself."""
    hashes = (base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"
