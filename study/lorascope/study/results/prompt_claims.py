"""What fine-tuning did, and the paper's claims 5 and 7, about lengths and prompts."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from .cells import first_length
from .findings import SCALES, UNITS, Finding, finding, lacking
from .item_table import LEVEL, Estimate, ItemTable, Means, Statistic, item_table
from .size_claims import percent_change
from .sweeps import Sweeps, in_bucket, is_tested, plural, under_prompt

__all__ = ["length_claims", "prompt_claims", "tuning_claims"]

ORDER = ("prompt1", "main", "prompt3", "prompt2")
"""Prompts by MIUB, the largest first, as the paper has it."""


def tuning_claims(sweeps: Sweeps) -> Iterator[Finding]:
    """Whether adapters answer better than the model without them, which no claim of the paper says, and all suppose."""
    for metric, falls in (("ACC", False), ("CE", True)):
        claim = f"{metric}{sweeps.of} {'falls' if falls else 'rises'} with fine-tuning, mean over all settings"
        table = sweeps.items(sweeps.layout.settings, [metric, f"base_{metric}"], is_tested, least=1)
        n = 0 if table is None else len(table.settings)
        what = f"with less without adapter, {plural(n)}:"
        either = table or "no item was scored with and without adapter"
        yield sweeps.test(0, claim, either, _gain(metric), UNITS[metric], what, falls=falls)


def length_claims(sweeps: Sweeps) -> Iterator[Finding]:
    """Claim 5: from the shortest to the longest bucket, items of both being other ones."""
    units = [one for some in sweeps.units.values() for one in some]
    names = {name for unit in units for name in unit.samples["bucket"].values.tolist() if name}
    for metric, falls in (("ACC", False), ("MIUB", True)):
        claim = f"{metric}{sweeps.of} {'falls' if falls else 'rises'} with the items' length"
        found = {
            name: sweeps.items(sweeps.layout.settings, [metric], in_bucket(name), least=1)
            for name in sorted(names, key=first_length)
        }
        tables = {name: table for name, table in found.items() if table is not None}
        ends = list(tables)[:: max(len(tables) - 1, 1)]
        gap = _between(tables[ends[0]], tables[ends[1]], SCALES[metric]) if len(ends) == 2 else None
        if gap is None:
            yield lacking(5, claim, f"{len(tables)} buckets with items of one data set; a change takes two")
            continue
        what = f"items of {ends[1]} less those of {ends[0]}, all settings and shared data sets:"
        n_seeds = min(tables[name].n_seeds for name in ends)
        yield finding(5, claim, gap, UNITS[metric], what, n_seeds=n_seeds, falls=falls)


def prompt_claims(sweeps: Sweeps) -> Iterator[Finding]:
    """Claim 7, on the items that every prompt was put to."""
    cells = sweeps.layout.cells
    prompts = list(dict.fromkeys(cells[~cells["is_text"]]["prompt"]))
    if len(prompts) < 2:
        yield lacking(7, f"under every prompt MIUB{sweeps.of} falls with rank and model size", "there is one prompt")
        return
    for name in sweeps.along:
        for prompt in prompts:
            claim = f"under {prompt} MIUB{sweeps.of} falls with {name}"
            table = sweeps.along_one(name, ["MIUB"], under_prompt(prompt))
            yield sweeps.test(7, claim, table, percent_change, "%", "{last} against {first}:", falls=True)
    for higher, lower in pairwise(name for name in ORDER if name in prompts):
        yield _ordered(sweeps, higher, lower)


def _ordered(sweeps: Sweeps, higher: str, lower: str) -> Finding:
    """Two prompts that are neighbours in the paper's order, averaged over all settings that have both."""
    chosen = {name: under_prompt(name) for name in (higher, lower)}
    units = {
        (prompt, column): [one for one in sweeps.units[column] if chosen[prompt](one.samples).any()]
        for prompt in chosen
        for column in sweeps.layout.settings
    }
    known = [column for column in sweeps.layout.settings if all(units[prompt, column] for prompt in chosen)]
    keys = {f"{prompt} {column}": (prompt, column) for prompt in chosen for column in known}
    table = item_table(
        {name: units[key] for name, key in keys.items()}, ["MIUB"], {name: chosen[key[0]] for name, key in keys.items()}
    )
    claim = f"MIUB{sweeps.of} is higher under {higher} than under {lower}"
    either, what = table or "no item has a number under both", f"mean over {plural(len(known))}:"
    return sweeps.test(7, claim, either, _halves, "nat", what, falls=False)


def _halves(means: Means, names: Sequence[str]) -> np.ndarray:
    """Mean of MIUB over the first half of the settings less that over the second."""
    pairs = zip(names[: len(names) // 2], names[len(names) // 2 :], strict=True)
    return np.asarray(np.mean([means["MIUB", a] - means["MIUB", b] for a, b in pairs], axis=0))


def _gain(metric: str) -> Statistic:
    """Mean over settings of what is with less what is without adapter."""
    return lambda means, names: np.asarray(
        SCALES[metric] * np.mean([means[metric, name] - means[f"base_{metric}", name] for name in names], axis=0)
    )


def _between(first: ItemTable, last: ItemTable, scale: float) -> Estimate | None:
    """Last less first table, of the data sets of both, with the interval of independent items (Welch's t)."""
    shared = [name for name in first.values if name in last.values]
    if not shared:
        return None
    value, n, parts = 0.0, 0, []
    for sign, table in ((-scale, first), (scale, last)):
        for name in shared:
            items = table.values[name].mean(axis=1)
            value += sign * float(items.mean()) / len(shared)
            n += len(items)
            spread = float(items.var(ddof=1)) if len(items) > 1 else np.nan
            parts.append((scale**2 * spread / len(items) / len(shared) ** 2, len(items) - 1))
    variance = sum(part for part, _ in parts)
    if not np.isfinite(variance):
        return Estimate(value, np.nan, np.nan, n)
    # Welch and Satterthwaite's degrees of freedom.
    df = variance**2 / sum(part**2 / k for part, k in parts) if variance else n - len(parts)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, df) * np.sqrt(variance))
    return Estimate(value, value - reach, value + reach, n)
