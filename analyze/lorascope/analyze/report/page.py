"""The page about a run: its sections in order."""

import xarray as xr

from lorascope.analyze.summary import sizes
from lorascope.stores import Run

from . import record, sections, tokens
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
        )
    )
    return document(TITLE, body)
