"""Sentences on the layers and kinds of modules in which an adapter acts most, and on whether that is much."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.results.format import format_error, format_number, format_percent

MOST_NAMED = 5
"""Most layers or ranges of them, and kinds of modules, that a sentence names; more are counted."""
LARGE = 1.5
"""Times the null from which on the effect is called larger than it; below the inverse it is called smaller."""


def effect(qualified: xr.DataTree) -> str:
    """The answer on where an adapter acts: what a module and its effect are, the places, and how it is measured."""
    miub, error, n = float(qualified["miub"]), float(qualified["miub_se"]), qualified.attrs["n_samples"]
    places = where_it_acts(qualified)
    if not miub > 0:
        return places
    samples = "one sample, which gives no error" if n == 1 else f"{n} samples"
    return (
        "A module is one weight matrix that the adapter changes; the effect on it is how far this moves its output. "
        f"{places} The effect is the Jensen-Shannon divergence of the output's softmax with and without the change "
        f"(JS, 0 to 0.693 nat). Its sum over modules, MIUB, is {format_error(miub, error)} nat over {samples}."
    )


def where_it_acts(qualified: xr.DataTree) -> str:
    """Layers and kinds of modules that hold half of MIUB, and whether shuffled deltas would have as much."""
    miub, n = float(qualified["miub"]), qualified.attrs["n_samples"]
    if not np.isfinite(miub):
        return f"Can't tell, since {qualified.attrs['n_not_finite']} values of base or delta aren't finite."
    if not miub:
        return f"Nowhere: it changes no module's output, in any of {n} sample{'' if n == 1 else 's'}."
    return f"{main_places(qualified)} {than_shuffled(qualified)}"


def main_places(qualified: xr.DataTree) -> str:
    """Layers and kinds of modules that hold half of MIUB, from what `qualify` returns; MIUB is above 0."""
    js, sentences = qualified.dataset["js"].values, list[str]()
    for key, plural in (("layer", "layers"), ("kind", "kinds of modules")):
        values = qualified.dataset[key].values
        shares = {name: float(js[values == name].sum() / js.sum()) for name in dict.fromkeys(values.tolist())}
        if len(shares) > 1:
            n, names = _half(shares, plural)
            share = sum(sorted(shares.values())[-n:])
            start, of_what = ("By kind, it", "") if sentences else ("The adapter", " of its effect")
            equal = f"{format_percent(n / len(shares))} if all {plural.split()[0]} were equal"
            sentences.append(f"{start} acts most in {names} ({format_percent(share)}{of_what}; {equal}).")
    return " ".join(sentences) or "The adapter acts in a single module."


def _half(shares: Mapping[int | str, float], plural: str) -> tuple[int, str]:
    """The number of the fewest that together hold half, and their names; their number where they are many."""
    ranked = sorted(shares, key=lambda name: -shares[name])
    n = int(np.searchsorted(np.cumsum([shares[name] for name in ranked]), 0.5)) + 1
    if plural == "layers":
        inside = _ranges(sorted(int(name) for name in ranked[:n] if int(name) >= 0))
        names = [f"layer{'s' if len(inside) > 1 or '-' in inside[0] else ''} {listed(inside)}"] if inside else []
        names += ["modules outside of the layers"] if -1 in ranked[:n] else []
        n_named, text = len(inside), listed(names)
    else:
        n_named, text = n, f"modules named {listed([str(name) for name in shares if name in ranked[:n]])}"
    return n, text if n_named <= MOST_NAMED else f"{n} of {len(shares)} {plural}"


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


def listed(names: Sequence[str]) -> str:
    """Names as one says them, with an "and" before the last."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def than_shuffled(qualified: xr.DataTree) -> str:
    """MIUB compared with that of the same deltas on permuted features; MIUB is above 0."""
    if "js_permuted" not in qualified:
        return "Whether that is much isn't known, since a comparison needs the states of all tokens."
    js, null = float(qualified["js"].sum()), float(qualified["js_permuted"].sum(skipna=False))
    if not null > 0:
        return "Whether that is much isn't known, since the same change on shuffled features has no known effect."
    ratio = js / null
    size = "about as large an"
    meaning = "says how much outputs change, hardly in which features; this is no sign of randomness"
    if not 1 / LARGE < ratio < LARGE:
        size, meaning = "a smaller" if ratio > 1 else "a larger", "also depends on which features of an output change"
    return (
        f"The same changes in scrambled order would have {size} effect (real / scrambled = {format_number(ratio)}). So "
        f"the effect {meaning}."
    )
