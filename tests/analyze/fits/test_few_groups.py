"""Every interval that rests on groups says so in one sentence if they are few, and only then."""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze import compare_metrics, fit_report

Notes = Callable[[pd.DataFrame], Iterable[str]]


def study(n_groups: int) -> pd.DataFrame:
    """Four sizes per group, a response that is a noisy power of them, accuracy and cross-entropy."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"N": np.tile([1e8, 1e9, 1e10, 1e11], n_groups), "group": np.repeat(range(n_groups), 4)})
    y, accuracy, ce = rng.normal(size=(3, len(frame)))
    return frame.assign(setting=frame["N"], y=frame["N"] ** 0.1 * np.exp(0.01 * y), ACC=0.5 + 0.01 * accuracy, CE=ce)


def reported(frame: pd.DataFrame) -> Iterable[str]:
    return fit_report(frame, "y", N="N", groups=["group"], law="log-log", n_draws=3).summary().notes


def compared(frame: pd.DataFrame) -> Iterable[str]:
    return compare_metrics(frame, metrics=["CE"], groups=["group"], n_draws=100).notes


@pytest.mark.parametrize(
    "notes_of",
    [reported, compared],
    ids=["bootstrap", "comparison of metrics"],
)
def test_few_groups_have_a_note(notes_of: Notes) -> None:
    words = "the bootstrap rests on 19 groups: with fewer than 20, its intervals can be too narrow"
    assert [note for note in notes_of(study(19)) if "rests on" in note] == [words]
    assert [note for note in notes_of(study(20)) if "rests on" in note] == []
