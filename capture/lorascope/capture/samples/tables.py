"""The run's tables, filled from the samples, their scores and the token plan."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .answers import Answer
from .encode import EncodedSample
from .scoring import Scores
from .selection import TokenPlan

__all__ = ["make_tables"]

_SAMPLE_SCORES = ("prediction", "prediction_per_token", "correct", "correct_per_token", "ce")
_CHOICE_SCORES = ("loglik", "loglik_per_token")


def make_tables(
    samples: Sequence[EncodedSample],
    plan: TokenPlan,
    texts: Sequence[str],
    scores: Scores | None,
    base_scores: Scores | None,
    answers: Sequence[Answer] | None = None,
    base_answers: Sequence[Answer] | None = None,
) -> dict[str, dict[str, Any]]:
    """Columns of `samples`, `choices` and `tokens`; scores that weren't asked for are -1 or NaN.

    Parameters
    ----------
    samples
        In the order of the run, as they are captured.
    plan
        Their token plan.
    texts
        Text of each captured token (token,).
    scores, base_scores
        With and without the adapter.
    answers, base_answers
        What the model wrote with and without it, of each sample that has choices; None where it wasn't asked to.
    """
    choices = [(index, choice) for index, sample in enumerate(samples) for choice in sample.choices]
    return {
        "samples": {
            "id": [sample.id for sample in samples],
            "dataset": [sample.dataset for sample in samples],
            "split": [sample.split for sample in samples],
            "prompt": [sample.prompt for sample in samples],
            "length": [len(sample.token_ids) for sample in samples],
            "answer": [sample.answer for sample in samples],
            "token_start": plan.starts[:-1],
            "token_stop": plan.starts[1:],
            **_scores(scores, "", _SAMPLE_SCORES, len(samples)),
            **_scores(base_scores, "base_", _SAMPLE_SCORES, len(samples)),
            **_answers(answers, "", samples),
            **_answers(base_answers, "base_", samples),
        },
        "choices": {
            "sample": [index for index, _ in choices],
            "text": [choice.text for _, choice in choices],
            "n_tokens": [len(choice.token_ids) for _, choice in choices],
            **_scores(scores, "", _CHOICE_SCORES, len(choices)),
            **_scores(base_scores, "base_", _CHOICE_SCORES, len(choices)),
        },
        "tokens": {
            "sample": np.repeat(np.arange(len(samples)), np.diff(plan.starts)),
            "position": np.concatenate(plan.positions),
            "token_id": _gather([sample.token_ids for sample in samples], plan),
            "role": _gather([sample.roles for sample in samples], plan),
            "text": list(texts),
            "weight": plan.weights,
        },
    }


def _gather(columns: Sequence[np.ndarray], plan: TokenPlan) -> np.ndarray:
    return np.concatenate([column[chosen] for column, chosen in zip(columns, plan.positions, strict=True)])


def _scores(scores: Scores | None, prefix: str, names: Sequence[str], n: int) -> Mapping[str, Any]:
    if scores is not None:
        return {prefix + name: getattr(scores, name) for name in names}
    if prefix:
        return {}  # the format leaves out what wasn't asked for
    return {name: np.full(n, np.nan if name.startswith(("ce", "loglik")) else -1) for name in names}


def _answers(answers: Sequence[Answer] | None, prefix: str, samples: Sequence[EncodedSample]) -> Mapping[str, Any]:
    if answers is None:
        return {}
    left = iter(answers)
    found = [next(left) if sample.choices else Answer("", -1) for sample in samples]
    return {
        f"{prefix}written": [one.written for one in found],
        f"{prefix}written_prediction": [one.prediction for one in found],
        f"{prefix}written_correct": [
            one.prediction == sample.answer if sample.choices else -1
            for one, sample in zip(found, samples, strict=True)
        ],
    }
