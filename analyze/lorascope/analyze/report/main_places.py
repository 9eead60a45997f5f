"""Sentences on the layers and kinds of modules in which an adapter acts most, and on whether that is much."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.results.format import format_number, format_percent

MOST_NAMED = 5
"""Most layers or ranges of them, and kinds of modules, that a sentence names; more are counted."""
LARGE = 1.5
"""Times the null from which on the effect is called larger than it; below the inverse it is called smaller."""


def main_places(qualified: xr.DataTree) -> str:
    """Layers and kinds of modules that hold half of MIUB, from what `qualify` returns; MIUB is above 0."""
    js, parts = qualified.dataset["js"].values, list[str]()
    for key in ("layer", "kind"):
        values = qualified.dataset[key].values
        shares = {name: float(js[values == name].sum() / js.sum()) for name in dict.fromkeys(values.tolist())}
        if len(shares) > 1:
            share, names = _half(shares, "layers" if key == "layer" else "kinds of modules")
            parts.append(f"in {names} ({format_percent(share)}{'' if parts else ' of its effect'})")
    return f"It acts most {' and '.join(parts)}." if parts else "It acts in a single module."


def _half(shares: Mapping[int | str, float], plural: str) -> tuple[float, str]:
    """The share of the fewest that together hold half, and their names; their number where they are many."""
    ranked = sorted(shares, key=lambda name: -shares[name])
    n = int(np.searchsorted(np.cumsum([shares[name] for name in ranked]), 0.5)) + 1
    share = sum(shares[name] for name in ranked[:n])
    if plural == "layers":
        inside = sorted(int(name) for name in ranked[:n] if int(name) >= 0)
        names = [f"layer{'s' if len(inside) > 1 else ''} {_listed(_ranges(inside))}"] if inside else []
        names += ["modules outside of the layers"] if -1 in ranked[:n] else []
        is_long = len(_ranges(inside)) > MOST_NAMED
    else:
        names = [str(name) for name in shares if name in ranked[:n]]
        is_long = n > MOST_NAMED
    if is_long:
        return share, f"{n} of {len(shares)} {plural}"
    return share, _listed(names) if plural == "layers" else f"modules named {_listed(names)}"


def _ranges(numbers: Sequence[int]) -> list[str]:
    """Ascending numbers, neighbours joined.

    Examples
    --------
    >>> _ranges([0, 3, 4, 5, 8, 9])
    ['0', '3-5', '8', '9']
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [text for run in runs for text in ([f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run))]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def than_shuffled(qualified: xr.DataTree) -> str:
    """MIUB compared with that of the same deltas on permuted features; MIUB is above 0."""
    if "js_permuted" not in qualified:
        return "Whether that is much isn't known, since a comparison needs the states of all tokens."
    js, null = float(qualified["js"].sum()), float(qualified["js_permuted"].sum(skipna=False))
    if not null > 0:
        return "Whether that is much isn't known, since the same change on shuffled features has no known effect."
    ratio = js / null
    size = "a smaller" if ratio >= LARGE else "a larger" if ratio <= 1 / LARGE else "about as large an"
    return (
        f"Shuffling what it adds among the features of each output would have {size} effect (the real one is "
        f"{format_number(ratio)} times as large)."
    )
