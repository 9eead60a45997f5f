"""A claim on a study: a number, its interval over items and trainings, and the word that it decides."""

import math
from typing import NamedTuple

from lorascope.analyze.fits.verdicts import Word
from lorascope.analyze.results.format import format_number

from .trainings import Spread


class Estimate(NamedTuple):
    """A number with its 95 % interval over items, and how it varies between trainings."""

    value: float
    low: float
    """Ends of the interval over items; NaN where they are too few."""
    high: float
    n_items: int
    spread: Spread = Spread()

    @property
    def ends(self) -> tuple[float, float]:
        """The 95 % interval over items and trainings, as far as these are known: what a word rests on.

        Both reaches, to either side, are joined as the root of the sum of their squares (Zou and Donner 2008,
        Statistics in Medicine 27, 1693), as items and trainings vary independently.
        """
        value, reach = self.value, self.spread.reach
        if not math.isfinite(reach):
            return self.low, self.high
        return value - math.hypot(value - self.low, reach), value + math.hypot(self.high - value, reach)


class Finding(NamedTuple):
    """A claim, what this study says of it, and the number behind that."""

    number: int
    """Number of the paper's claim, 0 for what isn't one of them."""
    claim: str
    verdict: Word
    because: str
    value: float = math.nan
    low: float = math.nan
    """Ends of the 95 % interval that the word rests on; NaN where there is none."""
    high: float = math.nan
    unit: str = ""
    n_items: int = 0
    n_seeds: int = 0
    """Fewest seeds of a setting; 0 where seeds have no part in it."""
    seed_sd: float = math.nan
    """Standard deviation of the number between trainings; NaN where no setting has several seeds."""


def decided(number: int, claim: str, found: Estimate, unit: str, what: str, *, falls: bool = True) -> Finding:
    """A claim that a number, which `what` names, lies below 0, or above unless `falls`: its interval decides."""
    low, high = found.ends
    word: Word = "not identified"
    if high < 0 or low > 0:
        word = "supported" if (high < 0) == falls else "contradicted"
    in_unit, fewest, most = f" {unit}" if unit else "", found.spread.n_seeds, found.spread.most_seeds
    is_known, has_spread = math.isfinite(low), math.isfinite(found.spread.sd)
    because = f"{what} {format_number(found.value)}{_between(low, high) if is_known else ''}{in_unit}, "
    items = f"{found.n_items} items"
    because += f"95 % over {items}{' and trainings' * has_spread}; " if is_known else f"no interval of {items}; "
    if has_spread:
        because += f"over items alone{_between(found.low, found.high)}; " if is_known else ""
        seeds = f"{fewest if fewest == most else f'{fewest} to {most}'} seed{'s' * (most > 1)} a setting"
        seeds += "; one is taken to vary as those of a setting with several do, in percent" if fewest == 1 else ""
        because += f"trainings differ by {format_number(found.spread.sd)}{in_unit} (sd, {seeds})"
    else:
        because += "one seed a setting, whose spread is unknown"
    return Finding(number, claim, word, because, found.value, low, high, unit, found.n_items, fewest, found.spread.sd)


def lacking(number: int, claim: str, why: str) -> Finding:
    """A claim on which this study has no number."""
    return Finding(number, claim, "not identified", why)


def plural(n: int) -> str:
    """`1 setting`, `2 settings`."""
    return f"{n} setting{'' if n == 1 else 's'}"


def _between(low: float, high: float) -> str:
    return f" [{format_number(low)}, {format_number(high)}]"
