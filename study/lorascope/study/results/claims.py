"""The paper's seven claims, the statistic of a study that decides each, and the verdict that it gives.

A statistic takes metric -> means (setting, draw), where draws are bootstrap samples of the items. MIUB is the
Jensen-Shannon divergence of base and adapted outputs, summed over layers.
"""

import math
from typing import NamedTuple

import numpy as np

from lorascope.analyze.fits.verdicts import Word
from lorascope.analyze.results.format import format_number

from .items import Estimate, Means, Statistic

CLAIMS = {
    0: "Fine-tuning changes what the model answers (no claim of the paper, but what all others stand on)",
    1: "MIUB falls as rank grows, a little, and as the model grows, much (section 4.5)",
    2: "MIUB falls steadily, and ever less, along model size, and far less than CE does (4.5)",
    3: "CE rises with rank although accuracy does too; MIUB follows accuracy more closely (4.5)",
    4: "On texts MIUB falls with model size, and more evenly than PPL (4.5, figure 2)",
    5: "With the items' length accuracy rises and MIUB falls (4.6, figure 3)",
    6: "MIUB lies above mutual information, nearly coincides with it, and both fall (4.7, table 3)",
    7: "Under every prompt MIUB falls; it is highest under prompt1, then main, prompt3, prompt2 (4.8, table 2)",
}
"""Number -> the paper's claim, as `paper_claims` numbers them."""
PROMPTS = ("prompt1", "main", "prompt3", "prompt2")
"""The paper's order of prompts by MIUB, the largest first."""


def percent_change(means: Means) -> np.ndarray:
    """Return by how many percent MIUB changes from the first setting to the last, per draw; NaN if it was 0."""
    first, last = means["MIUB"][0], means["MIUB"][-1]
    return np.asarray(100 * (np.divide(last, first, out=np.full_like(last, np.nan), where=first != 0) - 1))


def log_ratio(values: np.ndarray) -> np.ndarray:
    """Return |ln(last / first)| of `values` (setting, draw), per draw; NaN unless both are above 0."""
    known = np.where(values > 0, values, np.nan)
    return np.asarray(np.abs(np.log(known[-1] / known[0])))


def _gain_by_tuning(metric: str, scale: float = 1.0) -> Statistic:
    """Return a statistic: how much adapters raise `metric` on average, times `scale` (100 for percentage points)."""
    return lambda means: np.asarray(scale * (means[metric] - means[f"base_{metric}"]).mean(axis=0))


def _last_minus_first(metric: str, scale: float = 1.0) -> Statistic:
    """Return a statistic: `scale` times the difference of `metric` between the last setting and the first."""
    return lambda means: np.asarray(scale * (means[metric][-1] - means[metric][0]))


def _flattening(means: Means) -> np.ndarray:
    """Return how much less MIUB falls at the last step between settings than at the first, per bootstrap draw."""
    a, b, c, d = means["MIUB"][[0, 1, -2, -1]]
    return np.asarray((a - b) - (c - d))


def _unevenness(values: np.ndarray) -> np.ndarray:
    """Return the standard deviation of steps between settings over their mean size, per draw; 0 for one step."""
    steps = np.diff(values, axis=0)
    mean_size = np.abs(steps).mean(axis=0)
    spread = steps.std(axis=0, ddof=min(len(steps) - 1, 1))
    return np.asarray(np.divide(spread, mean_size, out=np.zeros_like(mean_size), where=mean_size > 0))


def _unevenness_gap(means: Means) -> np.ndarray:
    """Return how much more unequal the steps of CE (= ln PPL) are than those of ln MIUB, per bootstrap draw."""
    log_miub = np.log(np.maximum(means["MIUB"], np.finfo(float).tiny))
    return np.asarray(_unevenness(means["CE"]) - _unevenness(log_miub))


def _log_ratio_gap(means: Means) -> np.ndarray:
    """Return |ln(last / first)| of MIUB over the settings minus the same of CE, per bootstrap draw."""
    return np.asarray(log_ratio(means["MIUB"]) - log_ratio(means["CE"]))


class Claim(NamedTuple):
    """A claim of the paper, with the statistic of means over items whose sign decides it."""

    number: int
    sentence: str
    """Sentence with {of} for the model, {along} for what varies (rank, model size), {name} for the text or prompt."""
    statistic: Statistic
    unit: str
    what: str
    """Description of the number; {first}, {last} ... are settings, {settings} and {sets} their counts."""
    falls: bool = True
    """Whether the claim is that the number is below 0, or above."""


# Descriptions of numbers.
GAIN, LESS, CHANGE = "with less without adapter, {settings}:", "{last} less {first}:", "{last} against {first}, {sets}:"
FALLS = "fall of {first} to {second} less that of {last_but_one} to {last}:"
WINDOWS = "{last} against {first}, windows of a text, which aren't as independent as items:"
LOGS = "|ln| of {last} over {first}, MIUB's less CE's:"
STEPS = "spread of steps over their mean size, PPL's less MIUB's:"
EVENNESS = "along model size{of}, steps of ln PPL of the text {name} differ more than those of ln MIUB"
TUNING = (
    Claim(
        0, "ACC{of} rises with fine-tuning, mean over all settings", _gain_by_tuning("ACC", 100), "points", GAIN, False
    ),
    Claim(0, "CE{of} falls with fine-tuning, mean over all settings", _gain_by_tuning("CE"), "nat/token", GAIN),
)
"""Claims that adapters answer better than the model without them, which the paper presupposes."""
RANK = (
    Claim(1, "MIUB{of} falls as rank grows", percent_change, "%", CHANGE),
    Claim(3, "CE{of} rises with rank", _last_minus_first("CE"), "nat/token", LESS, False),
    Claim(3, "ACC{of} rises with rank", _last_minus_first("ACC", 100), "points", LESS, False),
)
SIZE = (
    Claim(1, "MIUB{of} falls as model size grows", percent_change, "%", CHANGE),
    Claim(2, "MIUB{of} falls less at the last step of model size than at the first", _flattening, "nat", FALLS, False),
    Claim(2, "over the model sizes{of}, ln MIUB changes less than ln CE", _log_ratio_gap, "", LOGS),
)
TEXT = (
    Claim(4, "MIUB{of} of the text {name} falls as the model grows", percent_change, "%", WINDOWS),
    Claim(4, EVENNESS, _unevenness_gap, "", STEPS, False),
)
PROMPT = Claim(7, "under {name} MIUB{of} falls with {along}", percent_change, "%", "{last} against {first}:")


class Finding(NamedTuple):
    """The verdict on one of the paper's claims in a study, with the number and interval that decide it."""

    number: int
    """Number of the paper's claim; 0 for fine-tuning, which isn't one of them."""
    claim: str
    verdict: Word
    because: str
    value: float = math.nan
    low: float = math.nan
    """Ends of the 95 % interval that decides the word; NaN without an interval."""
    high: float = math.nan
    unit: str = ""
    n_items: int = 0
    n_seeds: int = 0
    """Fewest seeds of a setting; 0 if the number doesn't depend on seeds."""
    seed_sd: float = math.nan
    """Standard deviation of the number between trainings; NaN if no setting has several seeds."""


def decide_claim(number: int, claim: str, estimate: Estimate, unit: str, what: str, *, falls: bool = True) -> Finding:
    """Return a Finding on whether an estimate is below 0 (above 0 without `falls`), decided by its interval."""
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


def undecided_claim(number: int, claim: str, why: str) -> Finding:
    """Return a Finding with the verdict `not identified`, for a claim on which the study has no number."""
    return Finding(number, claim, "not identified", why)


def count_settings(n: int) -> str:
    """Return `1 setting` or `2 settings`."""
    return f"{n} setting{'' if n == 1 else 's'}"
