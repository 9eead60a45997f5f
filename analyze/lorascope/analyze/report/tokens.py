"""The sections of the page about samples and tokens: how js spreads over them, and samples as text."""

import numpy as np
import xarray as xr

from lorascope.analyze.figures import position_figure, sample_figure
from lorascope.analyze.miub.groups import group_by, to_dataframe
from lorascope.analyze.results.format import format_error, format_number
from lorascope.stores import Run
from lorascope.stores.format.tables import ROLES

from .markup import figure, section, table
from .token_data import as_script, token_data
from .token_texts import chosen_samples, legend, sample_block, strongest, token_strings


def across_samples(qualified: xr.DataTree) -> str:
    """How MIUB spreads over samples."""
    by_sample = qualified.children["samples"].dataset
    values = by_sample["miub"].values[by_sample["used"].values]
    low, median, high = np.quantile(values, [0.1, 0.5, 0.9])
    caption = (
        f"MIUB by sample in nats (n = {len(values)}): median {format_number(median)}, and 10 to 90 % of the samples "
        f"lie from {format_number(low)} to {format_number(high)}. Dashed: the mean; grey: one standard error on either "
        "side of it. Each point above is a sample."
    )
    return section(
        "samples", "Across samples", figure("sample-spread", sample_figure(qualified, titled=False), caption)
    )


def across_tokens(run: Run, qualified: xr.DataTree) -> str:
    """How the js of a token goes along the sequence and, where there is one, about the answer's start; and by role."""
    parts = [
        figure(
            "positions",
            position_figure(qualified),
            "JS of a token in nats, summed over components, by its position from the start of the sequence. Grey bars: "
            "captured tokens at that position, on which line and bands rest.",
        )
    ]
    by_token = qualified.children["tokens"].dataset
    what = "first generated token" if _is_generated(run) else "answer's first token"
    origin = _answer_starts(run)[by_token["sample_of_token"].values]
    if np.isfinite(origin).any():
        plot = position_figure(qualified, origin=origin, label=f"position from the {what}")
        caption = f"As before, counted from the {what}: the model predicts that token at -1 and reads it at 0."
        parts.append(figure("answer-positions", plot, caption))
    by_role = to_dataframe(group_by(qualified, "role"), "group")
    means = map(format_error, by_role["miub"], by_role["miub_se"])
    rows = zip(*(by_role[name] for name in ("role", "n_samples", "n_tokens")), means, strict=True)
    caption = "JS summed over components, mean over a sample's tokens of this role; ± standard error over samples."
    roles = table(("role of the token", "samples", "tokens", "mean JS (nat)"), rows, caption=caption)
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


def token_texts(run: Run, qualified: xr.DataTree, room: int) -> str:
    """A few samples as text, coloured, and all that fits into `room` bytes for the page's script to draw."""
    top, chosen, texts = strongest(qualified), chosen_samples(qualified), token_strings(run)
    blocks = "".join(sample_block(run, qualified, index, top, texts) for index in chosen)
    data = token_data(run, qualified, room - len(blocks.encode()))
    n, n_shown = data["n_samples"], len(data["samples"])
    n_by_component = sum(sample["carries"] for sample in data["samples"])
    if not n_shown:
        held = "A page of 8 MB has no room to search others."
    elif n_by_component == n:
        held = f"All {n} samples can be searched, sorted and looked at by component."
    else:
        held = (
            f"{n_shown} of {n} samples can be searched and sorted, {n_by_component} of them looked at by component: as "
            "many as fit into a page of 8 MB, at even steps of MIUB."
        )
    first = f"{len(chosen)} of {n} measured samples come first, at even steps from the most moved to the least. "
    about = (
        "<p>A token's colour is its JS, summed over components; the strongest is the 98th percentile over all captured "
        "tokens. Hover over a token, or tap it, for the number. A click on a cell of the map under “Where the adapter "
        f"acts” shows that component's JS instead.</p><p>{first if len(chosen) < n else ''}{held}</p>"
    )
    listed = f'<div id="texts-controls"></div><div id="texts-list" data-top="{top!r}">{blocks}</div>'
    return "".join((about, legend(run, top), listed, as_script(data) if n_shown else ""))
