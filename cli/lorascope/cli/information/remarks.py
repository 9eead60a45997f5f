"""What values leave out, and what can't be read from them."""

import re
from collections.abc import Iterator

import numpy as np
import xarray as xr

from lorascope.analyze.format import format_percent
from lorascope.analyze.information.verdicts import VERDICTS
from lorascope.stores import Run

from ..screen import say
from .rows import chosen_estimator, columns_of, counted, is_of_states, names_of, number

__all__ = ["MOST_REASONS", "print_failed", "remarks"]

MEANINGS = {
    "lower bound only": " (blind to some dependence)",
    "saturated": " (there is much, not how much)",
    "undersampled": " (moves with the number of tokens, or they are too few to tell)",
    "biased": " (shuffles, or the value itself, are off 0 on the wrong side)",
    "assumes Gaussian": " (no bound, unless states are)",
}
EMBEDDING = re.compile(r"embed|^w[tp]e$")
"""In kinds of components that look up a token's id or position."""
MOST_REASONS = 3
"""That are listed where values are missing."""


def remarks(result: xr.Dataset, run: Run) -> Iterator[str]:
    """Lines, the first of which counts verdicts."""
    chosen, attrs = chosen_estimator(result), result.attrs
    verdicts = columns_of(result, chosen)["verdict"]
    counts = [(int((verdicts == word).sum()), word) for word in VERDICTS]
    said = ", ".join(f"{n} {word}{MEANINGS.get(word, '')}" for n, word in counts if n) or "none has a value"
    yield f"{chosen}, of {counted(result)}: {said}"
    if not attrs["n_shuffles"]:
        yield "no shuffles: no p, and the panel's and noise's bias isn't taken off"
    n_vague, n_singular = int(np.isin(verdicts, ["saturated", "undersampled"]).sum()), _n_infinite(result)
    if attrs["against"] == "lora" and n_singular and 2 * n_vague > len(verdicts):
        yield (
            "base and lora share nearly all directions, so that most estimates say that there is much and not how "
            "much; --against delta asks what the adapter's own change has to do with base"
        )
    if n_singular:
        yield (
            f"of whole states mutual information is infinite in {n_singular} of "
            f"{number(result.sizes['component'], 'component')}, where the layer's input varies continuously: base and "
            f"{attrs['against']} share directions exactly; {_less(result)}"
        )
    if not is_of_states(chosen):
        yield from _kept(result)
    yield from _left_out(result, run)


def _n_infinite(result: xr.Dataset) -> int:
    """Components that share directions, but for those whose states are functions of the token id, and so discrete."""
    repeats = result["n_repeats"].values.reshape(result.sizes["component"], -1).any(axis=1)
    embeds = np.array([bool(EMBEDDING.search(str(kind))) for kind in result["kind"].values], np.bool_)
    return int((result["singular"].values & ~repeats & ~embeds).sum())


def _less(result: xr.Dataset) -> str:
    if is_of_states(chosen_estimator(result)):
        return "values are of symbols made of them, and less than all"
    return f"values are of up to {result.attrs['n_axes']} axes a side ({result.attrs['projection']}), and less than all"


def _kept(result: xr.Dataset) -> Iterator[str]:
    kept = {
        side: shares[np.isfinite(shares)]
        for side, shares in (("base", result["share_x"].values), (result.attrs["against"], result["share_y"].values))
    }
    said = [
        f"{format_percent(float(np.median(shares)))} of {side}'s"
        + (f" ({format_percent(float(shares.min()))} at least)" if len(shares) > 1 else "")
        for side, shares in kept.items()
        if len(shares)
    ]
    if said:
        yield f"of the variance axes keep, in the median component, {' and '.join(said)}"


def _left_out(result: xr.Dataset, run: Run) -> Iterator[str]:
    chosen = result.attrs["n_tokens_chosen"]
    for name, what, why in (
        ("n_repeats", "repeated states", ": tokens of one id are alike wherever no attention came before"),
        ("n_not_finite", "tokens with NaN or infinity", ""),
    ):
        counts = result[name].values
        if counts.any():
            yield (
                f"{what} were left out in {(counts > 0).sum()} of {counted(result)}, at most {counts.max()} of "
                f"{chosen} tokens{why}"
            )
    if n := result.attrs["n_prefix_repeats"]:
        yield (
            f"{number(n, 'token')} of the run couldn't be chosen: an earlier one has the same id after the same ids, "
            "and so the same states"
        )
    there = int((run.committed_rows & run.state_rows).sum())
    if there < run.n_rows:
        yield f"tokens are of {there} of the run's {run.n_rows} rows; others aren't committed, or keep no states"


def print_failed(result: xr.Dataset) -> int:
    """Say which components have no values, and why; returns how many."""
    notes = zip(names_of(result), result["note"].values.ravel().tolist(), strict=True)
    found = {name: note for name, note in notes if note}
    if found:
        have = "has" if len(found) == 1 else "have"
        say(f"{len(found)} of {counted(result)} {have} no values, or not all of them:")
    firsts = {note: name for name, note in reversed(found.items())}  # of each reason the first
    for note, name in [*reversed(firsts.items())][:MOST_REASONS]:
        say(f"{name}: {note}")
    return len(found)
