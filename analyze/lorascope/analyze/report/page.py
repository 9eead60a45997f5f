"""The page about a run: its sections in order."""

import xarray as xr

from lorascope.analyze.sizes import sizes
from lorascope.stores import Run

from . import about_run, sections, tokens
from .document import document

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
    parts = sizes(run)
    body = "".join(
        (
            f"<header><h1>{TITLE}</h1>{about_run.subtitle(run, qualified)}</header>",
            about_run.notices(run, qualified),
            "<noscript><p>Without JavaScript the figures stay empty; text and tables don't need it.</p></noscript>",
            sections.headline(run, qualified, parts[-1].stored_bytes),
            sections.components(qualified),
            sections.qualifiers(qualified),
            tokens.across_samples(qualified),
            tokens.across_tokens(run, qualified),
            tokens.token_texts(run, qualified),
            sections.task_scores(run),
            about_run.store(run, parts),
            about_run.fidelity(run, qualified),
            about_run.provenance(run),
        )
    )
    return document(TITLE, body)
