"""The paper's seven claims, and which number of a study decides each."""

from typing import NamedTuple

import numpy as np

from .trainings import Means, Statistic

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
"""Number -> the paper's claim, as `paper_claims` counts them."""
PROMPTS = ("prompt1", "main", "prompt3", "prompt2")
"""Prompts by MIUB, the largest first, as the paper has it."""


def percent_change(means: Means) -> np.ndarray:
    """Change of MIUB from the first setting to the last, in percent of the first; NaN where that is 0."""
    first, last = means["MIUB"][0], means["MIUB"][-1]
    return np.asarray(100 * (np.divide(last, first, out=np.full_like(last, np.nan), where=first != 0) - 1))


def log_ratio(values: np.ndarray) -> np.ndarray:
    """Size of the logarithm of the last setting over the first; NaN where one of them isn't above 0."""
    known = np.where(values > 0, values, np.nan)
    return np.asarray(np.abs(np.log(known[-1] / known[0])))


def _gain(metric: str, scale: float = 1.0) -> Statistic:
    return lambda means: np.asarray(scale * (means[metric] - means[f"base_{metric}"]).mean(axis=0))


def _difference(metric: str, scale: float = 1.0) -> Statistic:
    return lambda means: np.asarray(scale * (means[metric][-1] - means[metric][0]))


def _flattening(means: Means) -> np.ndarray:
    a, b, c, d = means["MIUB"][[0, 1, -2, -1]]
    return np.asarray((a - b) - (c - d))


def _unevenness(values: np.ndarray) -> np.ndarray:
    """Spread of the steps from setting to setting over their mean size; a single step is as even as any."""
    steps = np.diff(values, axis=0)
    size = np.abs(steps).mean(axis=0)
    spread = steps.std(axis=0, ddof=min(len(steps) - 1, 1))
    return np.asarray(np.divide(spread, size, out=np.zeros_like(size), where=size > 0))


def _unevenness_gap(means: Means) -> np.ndarray:
    """Unevenness of ln PPL, which is CE, less that of ln MIUB."""
    of_miub = _unevenness(np.log(np.maximum(means["MIUB"], np.finfo(float).tiny)))
    return np.asarray(_unevenness(means["CE"]) - of_miub)


def _milder(means: Means) -> np.ndarray:
    return np.asarray(log_ratio(means["MIUB"]) - log_ratio(means["CE"]))


class Claim(NamedTuple):
    """A sentence that one number decides, made of means over items that several settings share."""

    number: int
    sentence: str
    """With {of} for the model, {along} for the sweep and {name} for the text or prompt."""
    statistic: Statistic
    unit: str
    what: str
    """Description of the number, with names of settings; {settings} and {sets} are their numbers."""
    falls: bool = True
    """Whether the claim is that the number lies below 0, or above."""


GAIN, LESS, CHANGE = "with less without adapter, {settings}:", "{last} less {first}:", "{last} against {first}, {sets}:"
FALLS = "fall of {first} to {second} less that of {last_but_one} to {last}:"
WINDOWS = "{last} against {first}, windows of a text, which aren't as independent as items:"
STEPS = "spread of steps over their mean size, PPL's less MIUB's:"
TUNING = (
    Claim(0, "ACC{of} rises with fine-tuning, mean over all settings", _gain("ACC", 100), "points", GAIN, False),
    Claim(0, "CE{of} falls with fine-tuning, mean over all settings", _gain("CE"), "nat/token", GAIN),
)
"""Whether adapters answer better than the model without them, which no claim of the paper says, and all suppose."""
RANK = (
    Claim(1, "MIUB{of} falls as rank grows", percent_change, "%", CHANGE),
    Claim(3, "CE{of} rises with rank", _difference("CE"), "nat/token", LESS, False),
    Claim(3, "ACC{of} rises with rank", _difference("ACC", 100), "points", LESS, False),
)
SIZE = (
    Claim(1, "MIUB{of} falls as model size grows", percent_change, "%", CHANGE),
    Claim(2, "MIUB{of} falls less at the last step of model size than at the first", _flattening, "nat", FALLS, False),
    Claim(
        2,
        "over the model sizes{of}, ln MIUB changes less than ln CE",
        _milder,
        "",
        "|ln| of {last} over {first}, MIUB's less CE's:",
    ),
)
TEXT = (
    Claim(4, "MIUB{of} of the text {name} falls as the model grows", percent_change, "%", WINDOWS),
    Claim(
        4,
        "along model size{of}, steps of ln PPL of the text {name} differ more than those of ln MIUB",
        _unevenness_gap,
        "",
        STEPS,
        False,
    ),
)
PROMPT = Claim(7, "under {name} MIUB{of} falls with {along}", percent_change, "%", "{last} against {first}:")
