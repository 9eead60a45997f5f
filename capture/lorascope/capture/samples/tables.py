"""The run's tables, filled from the samples, their scores and the token plan."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .encoded import EncodedSample
from .generate import Answer
from .scoring import Scores
from .selection import TokenPlan

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
    *,
    scored: Sequence[EncodedSample] | None = None,
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
    scored
        The samples as they were scored, where that was before tokens were generated.
    answers, base_answers
        What the model wrote with and without it, of each sample that has choices; None where it wasn't asked to.
    """
    owners = [(index, choice) for index, sample in enumerate(samples) for choice in sample.choices]
    table: dict[str, Any] = {
        **{
            name: [getattr(sample, name) for sample in samples]
            for name in ("id", "dataset", "split", "prompt", "answer")
        },
        "length": [len(sample.token_ids) for sample in samples],
        "n_targets": [int(sample.is_target.sum()) for sample in scored or samples],
        "token_start": plan.starts[:-1],
        "token_stop": plan.starts[1:],
    }
    choices: dict[str, Any] = {
        "sample": [index for index, _ in owners],
        "text": [choice.text for _, choice in owners],
        "n_tokens": [len(choice.token_ids) for _, choice in owners],
    }
    blank = (np.full((4, len(samples)), -1), np.full((1, len(samples)), np.nan), np.full((2, len(owners)), np.nan))
    unscored = Scores(*(column for columns in blank for column in columns))
    # The format leaves out what wasn't asked for without the adapter.
    for prefix, sample_scores, written in (("", scores or unscored, answers), ("base_", base_scores, base_answers)):
        if sample_scores is not None:
            table |= {prefix + name: getattr(sample_scores, name) for name in _SAMPLE_SCORES}
            choices |= {prefix + name: getattr(sample_scores, name) for name in _CHOICE_SCORES}
        if written is not None:
            left = iter(written)
            each = [next(left) if sample.choices else None for sample in samples]
            table |= {
                f"{prefix}written": [answer.written if answer else "" for answer in each],
                f"{prefix}written_prediction": [answer.prediction if answer else -1 for answer in each],
                f"{prefix}written_correct": [
                    answer.prediction == sample.answer if answer else -1
                    for answer, sample in zip(each, samples, strict=True)
                ],
            }
    captured = [*zip(samples, plan.positions, strict=True)]
    tokens = {
        "sample": np.repeat(np.arange(len(samples)), np.diff(plan.starts)),
        "position": np.concatenate(plan.positions),
        "token_id": np.concatenate([sample.token_ids[positions] for sample, positions in captured]),
        "role": np.concatenate([sample.roles[positions] for sample, positions in captured]),
        "text": list(texts),
        "weight": plan.weights,
    }
    return {"samples": table, "choices": choices, "tokens": tokens}
