"""What happened, in a sentence or two made from numbers: did the adapter help, where does it act, and is that large."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.results.format import format_error, format_number, format_percent
from lorascope.analyze.results.scores import Estimate, Score

FEW = 30
"""Samples below which the sentence warns that its errors are rough."""
MOST_NAMED = 5
"""Most layers or ranges of them, and kinds of modules, that the sentence names; more are counted."""
LARGE = 1.5
"""Times the null from which on MIUB is called more than it; below the inverse it is called less."""
_MIUB = "MIUB, the size of its push on the layers' outputs"
_MEASURES = {"ACC": ("accuracy", " %"), "CE": ("the loss", " nat/token")}


def sentence(qualified: xr.DataTree, found: Sequence[Score]) -> str:
    """What the adapter did, as plain text.

    Parameters
    ----------
    qualified
        What `qualify` returns.
    found
        What `scores` returns of the same run.
    """
    return f"{_helped(found)}; {where(qualified)}{large(qualified)}."


def _helped(found: Sequence[Score]) -> str:
    """Accuracy and loss, without and with the adapter."""
    measures = {name: [score for score in found if score.measure == name] for name in _MEASURES}
    known = {name: own for name, own in measures.items() if own}
    if not known:
        return "Nothing was scored, so whether the adapter helps isn't known"
    counts = {score.dataset: score.n for own in known.values() for score in own}
    n = sum(counts.values())
    names = next(iter(counts)) if len(counts) == 1 else f"{len(counts)} data sets or prompts (means over them)"
    few = f" (few: errors are rough below {FEW})" if n < FEW else ""
    parts = [_change(*_MEASURES[name], own) for name, own in known.items()]
    return f"On {n} sample{'' if n == 1 else 's'}{few} of {names} the adapter {' and '.join(parts)}"


def compared(names: tuple[str, str], found: Sequence[Score]) -> str:
    """Which of two adapters answers better, as plain text, by what `shared_scores` returns of their runs."""
    parts: list[str] = []
    for measure, sign in (("ACC", 1), ("CE", -1)):
        if own := [score for score in found if score.measure == measure]:
            what, unit = _MEASURES[measure]
            one, other, change = map(_mean, zip(*((s.base, s.adapted, s.change) for s in own), strict=True))
            name, best, worst = (names[0], one, other) if sign * change.value < 0 else (names[1], other, one)
            which = f"the {'higher' if sign > 0 else 'lower'} {what.removeprefix('the ')}"
            which = which if parts and parts[0].startswith(f"{name} has ") else f"{name} has {which}"
            size = "more" if abs(change.value) > 2 * change.error else "less"
            doubt = "" if math.isnan(change.error) else f", apart by {size} than twice the error of their difference"
            ends = f" ({format_error(*best)} against {format_error(*worst)}{unit}{doubt})"
            parts.append(which + ends if change.value else f"{what} is {format_error(*one)}{unit} in both")
    counts = {score.dataset: score.n for score in found}
    where = next(iter(counts), "") if len(counts) < 2 else f"{len(counts)} data sets or prompts (means over them)"
    shared = f"On the {sum(counts.values())} samples of {where} that {names[0]} and {names[1]} share"
    return f"{shared}, {' and '.join(parts)}." if parts else f"{names[0]} and {names[1]} share no scored samples."


def _change(what: str, unit: str, own: Sequence[Score]) -> str:
    base, adapted, change = (_mean([getattr(score, key) for score in own]) for key in ("base", "adapted", "change"))
    if math.isnan(base.value):
        return f"has {what} {format_error(*adapted)}{unit} (unknown without it)"
    ends = f"from {format_error(*base)} to {format_error(*adapted)}{unit}"
    if change.value == 0 and not change.error > 0:
        return f"leaves {what} at {format_error(*adapted)}{unit}"
    if math.isnan(change.error):
        return f"takes {what} {ends}"
    if abs(change.value) <= 2 * change.error:
        return f"takes {what} {ends} (less than twice the error of the change)"
    return f"{'raises' if change.value > 0 else 'lowers'} {what} {ends}"


def _mean(some: Sequence[Estimate]) -> Estimate:
    """Mean over data sets; its error is at most the mean of theirs, however they depend on each other."""
    return Estimate(*(float(np.mean(values)) for values in zip(*some, strict=True)))


def where(qualified: xr.DataTree) -> str:
    """Which layers and kinds of modules hold half of MIUB."""
    miub, js = float(qualified["miub"]), qualified.dataset["js"].values
    if not math.isfinite(miub):
        return "where it acts isn't known, because some values aren't finite"
    if miub == 0:
        return f"it moves no layer at all ({_MIUB}, is 0)"
    parts: list[str] = []
    for key in ("layer", "kind"):
        values = qualified.dataset[key].values
        shares = {name: float(js[values == name].sum() / js.sum()) for name in dict.fromkeys(values.tolist())}
        if len(shares) > 1:
            share, names = _half(shares, "layers" if key == "layer" else "kinds of modules")
            parts.append(f"in {names} ({format_percent(share)}{'' if parts else f' of {_MIUB}'})")
    return f"it acts most {' and '.join(parts)}" if parts else f"a single component holds all of {_MIUB}"


def _half(shares: Mapping[int | str, float], plural: str) -> tuple[float, str]:
    """What the fewest that together hold half hold, and their names; their number, where they are many."""
    ranked = sorted(shares, key=lambda name: -shares[name])
    n = int(np.searchsorted(np.cumsum([shares[name] for name in ranked]), 0.5)) + 1
    held = sum(shares[name] for name in ranked[:n])
    if plural == "layers":
        inside = sorted(int(name) for name in ranked[:n] if int(name) >= 0)
        names = [f"layer{'s' if len(inside) > 1 else ''} {_listed(_ranges(inside))}"] if inside else []
        names += ["what is outside of the layers"] if -1 in ranked[:n] else []
        is_long = len(_ranges(inside)) > MOST_NAMED
    else:
        names = [str(name) for name in shares if name in ranked[:n]]
        is_long = n > MOST_NAMED
    return held, f"{n} of {len(shares)} {plural}" if is_long else _listed(names)


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


def large(qualified: xr.DataTree) -> str:
    """MIUB beside its null: the same deltas on permuted features."""
    miub = float(qualified["miub"])
    if not miub > 0:
        return ""
    if "js_permuted" not in qualified:
        return "; whether that is large isn't known, because the null needs the states of all tokens"
    js, null = float(qualified["js"].sum()), float(qualified["js_permuted"].sum(skipna=False))
    if not null > 0:
        return "; the null, the same change on shuffled features, isn't known"
    ratio = js / null
    word = "more than" if ratio >= LARGE else "less than" if ratio <= 1 / LARGE else "about as much as"
    return (
        f". In all, it pushes {word} the same change would on shuffled features ({format_number(ratio)} times as much)"
    )
