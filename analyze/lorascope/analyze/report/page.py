"""The whole page: its head, its sections in order, and the only two scripts that it may run."""

import base64
import hashlib
from importlib.metadata import version
from importlib.resources import files

import xarray as xr
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]  # plotly ships no types

from lorascope.analyze.summary import sizes
from lorascope.stores import Run

from . import record, sections, tokens
from .markup import escape

__all__ = ["render_page"]

TITLE = "What the adapter changed, layer by layer"


def render_page(run: Run, qualified: xr.Dataset) -> str:
    """HTML of the page about a run, complete in itself.

    Parameters
    ----------
    run
        An open run.
    qualified
        What `qualify` returns for it.
    """
    # A closing tag inside of a string would end the script; this spelling means the same in JavaScript.
    scripts = [code.replace("</script", "<\\/script") for code in (get_plotlyjs(), _resource("figures.js"))]
    parts = sizes(run)
    body = "".join(
        (
            f"<header><h1>{TITLE}</h1>{record.subtitle(run, qualified)}</header>",
            record.notices(run, qualified),
            "<noscript><p>Without JavaScript the figures stay empty; text and tables don't need it.</p></noscript>",
            sections.headline(run, qualified, parts[-1].stored_bytes),
            sections.components(qualified),
            sections.qualifiers(qualified),
            tokens.across_samples(qualified),
            tokens.across_tokens(run, qualified),
            tokens.token_texts(run, qualified),
            sections.task_scores(run),
            record.store(run, parts),
            record.fidelity(run, qualified),
            record.provenance(run),
            f"<footer>lorascope {escape(version('lorascope'))} · nothing here is fetched from elsewhere</footer>",
        )
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{TITLE}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_resource('style.css')}</style></head><body>{body}"
        f"{''.join(f'<script>{code}</script>' for code in scripts)}</body></html>\n"
    )


def _resource(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _policy(scripts: list[str]) -> str:
    """What the browser may load and run: these scripts, styles in the page, images that it makes itself."""
    hashes = (base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"
