"""The sections of the page about samples and tokens: how js spreads over them, and a few of them as text."""

import numpy as np
import xarray as xr

from lorascope.analyze.figures import position_figure, sample_figure
from lorascope.analyze.format import format_number
from lorascope.analyze.highlights import role_means
from lorascope.stores import Run
from lorascope.stores.format.tables import ROLES

from .markup import figure, section, table
from .samples import chosen_samples, sample_block, scale_legend, scale_top

__all__ = ["across_samples", "across_tokens", "token_texts"]


def across_samples(qualified: xr.Dataset) -> str:
    """How miub_sample spreads."""
    values = qualified["miub_sample"].values[qualified["used"].values]
    low, median, high = np.quantile(values, [0.1, 0.5, 0.9])
    caption = (
        f"MIUB by sample in nats (n = {len(values)}): median {format_number(median)}, and 10 to 90 % of the samples "
        f"lie from {format_number(low)} to {format_number(high)}. Each point above is a sample."
    )
    return section("samples", "Across samples", figure("sample-spread", sample_figure(qualified), caption))


def across_tokens(run: Run, qualified: xr.Dataset) -> str:
    """How js_token goes along the sequence and, where there is one, about the answer's start; and by role."""
    parts = [
        figure(
            "positions",
            position_figure(qualified),
            "JS of a token in nats, summed over components, by its position from the start of the sequence. Grey bars: "
            "captured tokens at that position, on which line and bands rest.",
        )
    ]
    what = "first generated token" if _is_generated(run) else "answer's first token"
    origin = _answer_starts(run)[qualified["sample_of_token"].values]
    if np.isfinite(origin).any():
        plot = position_figure(qualified, origin=origin, label=f"position from the {what}")
        caption = f"As before, counted from the {what}: the model predicts that token at -1 and reads it at 0."
        parts.append(figure("answer-positions", plot, caption))
    rows = [(role.role, role.n_tokens, format_number(role.mean)) for role in role_means(qualified)]
    roles = table(
        ("role of the token", "tokens", "mean JS (nat)"), rows, caption="JS summed over components, mean over tokens."
    )
    return section("tokens", "Across tokens", f'<div class="pair">{"".join(parts)}</div>', roles)


def _is_generated(run: Run) -> bool:
    """Whether what follows the prompts is the model's own text instead of the right answers."""
    return bool(run.attributes.get("provenance", {}).get("settings", {}).get("generate"))


def _answer_starts(run: Run) -> np.ndarray:
    """Position of the first token after the prompt, float64 (sample,); NaN where there is none or it isn't known."""
    answers = run.samples["answer"].values
    start = np.full(len(answers), np.nan)
    if not _is_generated(run):
        for index in np.flatnonzero(answers >= 0):
            n_tokens = run.choices["n_tokens"].values[run.choices["sample"].values == index]
            start[index] = run.samples["length"].values[index] - n_tokens[answers[index]]
    elif run.attributes["provenance"]["settings"].get("tokens") in {"all", "generated"}:  # all of them were captured
        generated = run.tokens["role"].values == ROLES.index("generated")
        np.fmin.at(start, run.tokens["sample"].values[generated], run.tokens["position"].values[generated])
    return start


def token_texts(run: Run, qualified: xr.Dataset) -> str:
    """A few samples as text, coloured."""
    top, chosen = scale_top(qualified), chosen_samples(qualified)
    text = (
        f"<p>{len(chosen)} of {qualified.attrs['n_samples']} samples, at even steps from the most moved to the "
        "least. A token's colour is its JS summed over components; hover over it for the number. The dark end is "
        "the 98th percentile over all captured tokens.</p>"
    )
    blocks = "".join(sample_block(run, qualified, index, top) for index in chosen)
    return section("texts", "Token by token", text, scale_legend(top), blocks)
