"""Sentence and section on whether the adapter helps: how scores change with it."""

import math
from collections.abc import Sequence

import numpy as np

from lorascope.analyze.results.format import format_error, format_percent
from lorascope.analyze.results.scores import Estimate, Score, scores_table
from lorascope.stores import Run

from .markup import section, table

FEW = 30
"""Number of samples below which the sentence warns that its errors are rough."""
CAPTIONS = {
    "ACC": "ACC: items whose right choice has the highest log-likelihood, ± binomial standard error",
    "ACC per token": "ACC per token: the same with log-likelihoods divided by the number of tokens",
    "ACC per character": "ACC per character: the same, divided by the number of characters",
    "ACC by generation": "ACC by generation: items whose right choice is read in what the model wrote",
    "not read": "not read: items whose generated answer names no choice, which count as wrong",
    "CE": "CE: cross-entropy, the mean negative log-likelihood of {}, ± standard error over samples",
    "PPL": "PPL: perplexity exp(CE), in brackets exp(CE ± standard error)",
}
"""Measure -> its explanation in the caption of a table of scores."""
_MEASURES = {"ACC": ("accuracy", " %"), "CE": ("the loss", " nat per token")}
"""Measure that the sentence names -> its name and unit there."""


def choices_per_item(run: Run) -> int:
    """Return the number of answer choices per item; 0 if there are no choices, or their number differs."""
    numbers = np.unique(np.unique(run.choices["sample"].values, return_counts=True)[1])
    return int(numbers[0]) if len(numbers) == 1 else 0


def answer_whether_it_helps(scores: Sequence[Score], n_choices: int = 0) -> str:
    """Return sentences (plain text) on how accuracy and loss change with the adapter.

    `n_choices` is the number of choices of each item, 0 if unknown.
    """
    measures = {name: [score for score in scores if score.measure == name] for name in _MEASURES}
    names = _MEASURES | ({"CE": ("loss on right answers", " nat per token")} if measures["ACC"] else {})
    changes = [_describe_change(*names[name], own) for name, own in measures.items() if own]
    if not changes:
        return "Can't tell, since no sample was scored."
    counts = {score.dataset: score.n for own in measures.values() for score in own}
    n, text = sum(counts.values()), "; ".join(changes)
    datasets = next(iter(counts)) if len(counts) == 1 else f"{len(counts)} data sets or prompts, means over them"
    few = f"; errors are rough with fewer than {FEW}" if n < FEW else ""
    is_known = n_choices and measures["ACC"]
    guess = f"; guessing: {format_percent(1 / n_choices)}" if is_known else ""
    samples = f"{n} sample{'' if n == 1 else 's'} of {datasets}, ± standard error{few}{guess}"
    return f"{text[:1].upper()}{text[1:]} ({samples})."


def _describe_change(what: str, unit: str, scores: Sequence[Score]) -> str:
    """Return a clause on how the mean of scores over data sets changes with the adapter, with errors."""
    base, adapted, change = (
        _mean_estimate([getattr(score, key) for score in scores]) for key in ("base", "adapted", "change")
    )
    if math.isnan(base.value):
        return f"{what} is {format_error(*adapted)}{unit} (not measured without it)"
    ends = f"from {format_error(*base)} to {format_error(*adapted)}{unit}"
    apart = [score for score in scores if abs(score.change.value) > 2 * score.change.error]
    if {score.change.value > 0 for score in apart} == {True, False}:  # which a mean would hide
        sizes = ((score, format_error(abs(score.change.value), score.change.error)) for score in apart)
        verbs = {True: "rises", False: "falls"}
        return "; ".join(f"{what} {verbs[s.change.value > 0]} by {size}{unit} on {s.dataset}" for s, size in sizes)
    if change.value == 0 and not change.error > 0:
        return f"{what} stays at {format_error(*adapted)}{unit}"
    if math.isnan(change.error):
        return f"{what} goes {ends} (one sample gives no error)"
    if abs(change.value) <= 2 * change.error:
        return f"{what} doesn't change significantly ({ends}, by less than twice the error of the change)"
    by = f"{format_error(abs(change.value), change.error)}{' points' if unit == ' %' else ''}"
    return f"{what} {'rises' if change.value > 0 else 'falls'} by {by}, {ends}"


def scores_section(run: Run) -> str:
    """Return the HTML section on whether the adapter helps: the table of all scores of a run."""
    columns, rows = scores_table(run)
    content = "<p>This run wasn't scored.</p>"
    if rows:
        content = table(columns, rows, n_names=2, caption=scores_caption(rows))
    return section("scores", "Does it help?", content)


def scores_caption(rows: Sequence[Sequence[str]]) -> str:
    """Return the caption of a table of scores, which explains the measures that occur in its `rows`."""
    measures = [row[1].split(" (")[0] for row in rows]
    texts = ["an item's right answer"] * (measures.count("CE") > measures.count("PPL"))
    texts += ["a text's or chat's tokens that are to be predicted"] * ("PPL" in measures)
    sentences = [text.format(" or of ".join(texts)) for name, text in CAPTIONS.items() if name in measures]
    sentences += ["The change's error is that of paired differences"] * any("±" in row[-1] for row in rows)
    return f"{'. '.join(sentences)}."


def _mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of estimates over data sets; its error is the mean of their errors.

    That is the largest possible error, if they depend on each other.
    """
    return Estimate(*(float(np.mean(values)) for values in zip(*estimates, strict=True)))
