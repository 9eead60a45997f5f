"""A claim on a study with its number, the interval over items and trainings, and the word that this decides."""

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
        """The 95 % interval over items and, if they are known, trainings, which decides the word.

        Both reaches, to either side, are joined as the root of the sum of their squares (Zou and Donner 2008,
        Statistics in Medicine 27, 1693), as items and trainings vary independently.
        """
        value, reach = self.value, self.spread.reach
        if not math.isfinite(reach):
            return self.low, self.high
        return value - math.hypot(value - self.low, reach), value + math.hypot(self.high - value, reach)


class Finding(NamedTuple):
    """A claim with the word that a study gives it, and the number behind the word."""

    number: int
    """Number of the paper's claim; 0 for fine-tuning, which isn't one of them."""
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


def decided(number: int, claim: str, estimate: Estimate, unit: str, what: str, *, falls: bool = True) -> Finding:
    """Decide a claim that a number, which `what` names, lies below 0, or above it unless `falls`, by its interval."""
    low, high = estimate.ends
    word: Word = "not identified"
    if high < 0 or low > 0:
        word = "supported" if (high < 0) == falls else "contradicted"
    value, spread = format_number(estimate.value), estimate.spread
    rests = f"{estimate.n_items} items{' and trainings' if math.isfinite(spread.sd) else ', one seed a setting'}"
    interval = f" [{format_number(low)}, {format_number(high)}]" if math.isfinite(low) else ""
    because = (
        f"{what} {value}{interval}{f' {unit}' if unit else ''}, {'95 % over' if interval else 'no interval of'} {rests}"
    )
    return Finding(
        number, claim, word, because, estimate.value, low, high, unit, estimate.n_items, spread.n_seeds, spread.sd
    )


def lacking(number: int, claim: str, why: str) -> Finding:
    """A claim for which the study has no number."""
    return Finding(number, claim, "not identified", why)


def plural(n: int) -> str:
    """`1 setting`, `2 settings`."""
    return f"{n} setting{'' if n == 1 else 's'}"
