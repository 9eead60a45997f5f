"""A page of figures, each under its name."""

from collections.abc import Iterable
from typing import Any

from .document import document
from .markup import escape, figure, section

__all__ = ["render_figures"]


def render_figures(title: str, subtitle: str, figures: Iterable[tuple[str, Any]]) -> str:
    """HTML of a page with figures, complete in itself.

    Parameters
    ----------
    title, subtitle
        Texts at its head.
    figures
        Their names, each with a plotly figure, or with words where there is none.
    """
    parts = []
    for place, (name, one) in enumerate(figures):
        part = f"<p>{escape(one)}</p>" if isinstance(one, str) else figure(f"figure-{place}", one, "")
        parts.append(section(f"section-{place}", name, part))
    body = (
        f'<header><h1>{escape(title)}</h1><p class="subtitle">{escape(subtitle)}</p></header>'
        f"<noscript><p>Without JavaScript the figures stay empty.</p></noscript>{''.join(parts)}"
    )
    return document(title, body)
