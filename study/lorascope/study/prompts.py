"""The paper's claims 5 and 7: lengths and prompts; and what fine-tuning did."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from .cells import first_length
from .changes import SCALES, UNITS, Finding, change, finding, lacking
from .items import LEAST_ITEMS, LEVEL, Estimate, ItemTable, Means, item_table
from .sweeps import Sweeps, of_bucket, of_choices, of_prompt, plural, too_few

__all__ = ["length_claims", "prompt_claims", "tuning_claims"]

ORDER = ("prompt1", "main", "prompt3", "prompt2")
"""Of MIUB by prompt, the largest first, as the paper has it."""


def tuning_claims(sweeps: Sweeps) -> Iterator[Finding]:
    """Whether adapters answer better than the model without them, which no claim of the paper says, and all suppose."""
    for metric, falls in (("ACC", False), ("CE", True)):
        claim = f"{metric}{sweeps.of} {'falls' if falls else 'rises'} with fine-tuning, mean over all settings"
        table = sweeps.items(sweeps.layout.settings, [metric, f"base_{metric}"], of_choices, least=1)
        if table is None:
            yield lacking(0, claim, "no item was scored with and without adapter")
            continue
        found = table.estimate(_gain(metric, table.settings))
        what = f"with less without adapter, {plural(len(table.settings))}:"
        yield finding(0, claim, found, UNITS[metric], what, n_seeds=table.n_seeds(), falls=falls)


def length_claims(sweeps: Sweeps) -> Iterator[Finding]:
    """Claim 5: from the shortest to the longest bucket, items of both being other ones."""
    units = [one for some in sweeps.units.values() for one in some]
    found = {name for unit in units for name in unit.samples["bucket"].values.tolist() if name}
    names = sorted(found, key=first_length)
    for metric, falls in (("ACC", False), ("MIUB", True)):
        claim = f"{metric}{sweeps.of} {'falls' if falls else 'rises'} with the items' length"
        tables = {
            name: table
            for name in names
            if (table := sweeps.items(sweeps.layout.settings, [metric], of_bucket(name), least=1)) is not None
        }
        gap = _between(list(tables.values()), SCALES[metric])
        if gap is None:
            yield lacking(5, claim, f"{len(tables)} buckets with items of one data set; a change takes two")
            continue
        ends = list(tables)
        n_seeds = min(tables[ends[0]].n_seeds(), tables[ends[-1]].n_seeds())
        what = f"items of {ends[-1]} less those of {ends[0]}, all settings and shared data sets:"
        yield finding(5, claim, gap, UNITS[metric], what, n_seeds=n_seeds, falls=falls)


def prompt_claims(sweeps: Sweeps, prompts: Sequence[str]) -> Iterator[Finding]:
    """Claim 7, on the items that every prompt was put to."""
    if len(prompts) < 2:
        yield lacking(7, f"under every prompt MIUB{sweeps.of} falls with rank and model size", "there is one prompt")
        return
    for name, columns in sweeps.along.items():
        for prompt in prompts:
            claim = f"under {prompt} MIUB{sweeps.of} falls with {name}"
            table = sweeps.items(columns, ["MIUB"], of_prompt(prompt))
            if table is None:
                yield lacking(7, claim, too_few(columns, name))
                continue
            first, last = table.ends
            found, what = change(table, "MIUB", first, last), f"{last} against {first}:"
            yield finding(7, claim, found, "%", what, n_seeds=table.n_seeds(first, last), falls=True)
    yield from _order(sweeps, [name for name in ORDER if name in prompts])


def _order(sweeps: Sweeps, order: Sequence[str]) -> Iterator[Finding]:
    """Each of the paper's neighbouring prompts, averaged over all settings."""
    for higher, lower in pairwise(order):
        claim = f"MIUB{sweeps.of} is higher under {higher} than under {lower}"
        both = [(prompt, column) for prompt in (higher, lower) for column in sweeps.layout.settings]
        units = {
            f"{prompt} {column}": [one for one in sweeps.units[column] if of_prompt(prompt)(one.samples).any()]
            for prompt, column in both
        }
        chosen = {f"{prompt} {column}": of_prompt(prompt) for prompt, column in both}
        table = item_table({name: some for name, some in units.items() if some}, ["MIUB"], chosen)
        known = table.settings if table else ()
        pairs = [(f"{higher} {one}", f"{lower} {one}") for one in sweeps.layout.settings]
        pairs = [pair for pair in pairs if pair[0] in known and pair[1] in known]
        if table is None or not pairs:
            yield lacking(7, claim, "no item has a number under both")
            continue
        what = f"mean over {plural(len(pairs))}:"
        yield finding(7, claim, table.estimate(_gap(pairs)), "nat", what, n_seeds=table.n_seeds(), falls=False)


def _gain(metric: str, columns: Sequence[str]) -> Callable[[Means], np.ndarray]:
    """Mean over settings of what is with less what is without adapter."""
    return lambda means: np.asarray(
        SCALES[metric] * np.mean([means[metric, name] - means[f"base_{metric}", name] for name in columns], axis=0)
    )


def _gap(pairs: Sequence[tuple[str, str]]) -> Callable[[Means], np.ndarray]:
    """Mean difference of MIUB between the first and the second of each pair."""
    return lambda means: np.asarray(np.mean([means["MIUB", a] - means["MIUB", b] for a, b in pairs], axis=0))


def _between(tables: Sequence[ItemTable], scale: float) -> Estimate | None:
    """Last less first table, of the data sets of both, with the interval of independent items (Welch's t)."""
    if len(tables) < 2:
        return None
    first, last = tables[0], tables[-1]
    shared = [name for name in first.datasets if name in last.datasets]
    if not shared:
        return None
    value, n, parts = 0.0, 0, []
    for sign, table in ((-scale, first), (scale, last)):
        for name in shared:
            items = table.values[table.datasets.index(name)].mean(axis=1)
            value += sign * float(items.mean()) / len(shared)
            n += len(items)
            spread = float(items.var(ddof=1)) if len(items) > 1 else np.nan
            parts.append((scale**2 * spread / len(items) / len(shared) ** 2, len(items) - 1))
    variance = sum(part for part, _ in parts)
    if n < LEAST_ITEMS or not np.isfinite(variance):
        return Estimate(value, np.nan, np.nan, n)
    # Welch and Satterthwaite's degrees of freedom.
    df = variance**2 / sum(part**2 / k for part, k in parts) if variance else n - len(parts)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, df) * np.sqrt(variance))
    return Estimate(value, value - reach, value + reach, n)
