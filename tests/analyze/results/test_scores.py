"""Accuracies, cross-entropies and perplexities, and prompts apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.results.scores import (
    Estimate,
    Score,
    format_perplexity,
    sample_scores,
    scores,
    scores_table,
    shared_scores,
)
from lorascope.stores import Run, open_run

from ..conftest import Small


def a_run(choices: list[list[tuple[str, float, float]]], **columns: Any) -> Run:
    """Samples with the text, loglik and base_loglik of each choice."""
    n = len(choices)
    flat = [(index, *choice) for index, some in enumerate(choices) for choice in some]
    unknown = np.full(n, -1)
    samples = {
        "dataset": np.full(n, "d", object),
        "split": np.full(n, "", object),
        "prompt": np.full(n, "main", object),
        "answer": np.zeros(n, int),
        "length": np.full(n, 9),
        "correct": unknown,
        "correct_per_token": unknown,
        "ce": np.full(n, np.nan),
        **{name: np.asarray(values) for name, values in columns.items()},
    }
    names = ("sample", "text", "loglik", "base_loglik")
    table = {name: ("choice", list(values)) for name, values in zip(names, zip(*flat, strict=True), strict=True)}
    run = object.__new__(Run)  # only its tables are used
    run.samples = xr.Dataset({name: ("sample", values) for name, values in samples.items()})
    run.choices = xr.Dataset(table)
    return run


def by_measure(run: Run, dataset: str = "d") -> dict[str, Score]:
    return {score.measure: score for score in scores(run) if score.dataset == dataset}


def test_log_likelihood_per_character() -> None:
    nan = float("nan")
    run = a_run(
        [
            [("é" * 4, -4.0, -9.0), ("a", -2.0, -1.0)],  # -1 beats -2, though -4 doesn't; characters, not bytes
            [("ab", -2.0, -2.0), ("abcd", -3.0, -8.0)],
            [("ab", -2.0, -2.0), ("abcd", -4.0, -4.0)],  # the first of equals
            [("ab", nan, nan), ("b", nan, nan)],  # not scored
        ]
    )
    (found,) = scores(run)
    assert (found.measure, found.unit, found.n) == ("ACC per character", "%", 3)
    assert found.adapted.value == pytest.approx(100 * 2 / 3)
    assert found.base.value == pytest.approx(100 * 2 / 3)
    assert found.change == pytest.approx((0.0, 100 / np.sqrt(3)))  # +1, -1, 0


def test_log_likelihood_per_character_of_a_run(small: Small) -> None:
    run = small.run
    answers, texts = run.samples["answer"].values, run.choices["text"].values
    for name, side in (("loglik", "adapted"), ("base_loglik", "base")):
        if name not in run.choices:
            continue
        rates = [value / len(text) for value, text in zip(run.choices[name].values, texts, strict=True)]
        hits = [np.argmax(rates[2 * i : 2 * i + 2]) == answers[i] for i in range(12)]
        found = next(score for score in scores(run) if score.measure == "ACC per character")
        assert getattr(found, side).value == pytest.approx(100 * np.mean(hits))


ITEM = [("a", -1.0, -1.0), ("b", -2.0, -2.0)]


def test_accuracy_by_generation_and_what_could_not_be_read() -> None:
    run = a_run(
        [ITEM] * 4,
        answer=[0, 0, 0, -1],
        written_prediction=[0, 1, -1, -1],
        written_correct=[1, 0, 0, -1],
        base_written_prediction=[-1, 0, -1, -1],
        base_written_correct=[0, 1, 0, -1],
    )
    found = by_measure(run)
    accuracy, unread = found["ACC by generation"], found["not read"]
    assert (accuracy.n, accuracy.unit, unread.n, unread.unit) == (3, "%", 3, "%")
    assert (accuracy.base.value, accuracy.adapted.value) == pytest.approx((100 / 3, 100 / 3))
    assert (unread.base.value, unread.adapted.value) == pytest.approx((200 / 3, 100 / 3))
    assert unread.change == pytest.approx((-100 / 3, 100 / 3))  # -1, 0, 0
    assert [row[1] for row in scores_table(run)[1]] == [
        "ACC per character (%)",
        "ACC by generation (%)",
        "not read (%)",
    ]


@pytest.mark.parametrize("absent", ["written_prediction", "written_correct"])
def test_columns_of_answers_may_be_absent_each_by_itself(absent: str) -> None:
    columns = {"written_prediction": [0, -1], "written_correct": [1, 0]}
    del columns[absent]
    found = by_measure(a_run([ITEM] * 2, **columns))
    assert "not read" not in found
    assert ("ACC by generation" in found) == (absent == "written_prediction")


def test_scores_of_shared_samples_are_paired() -> None:
    first = a_run([ITEM] * 4, id=np.array(list("abcd"), object), correct=[1, 0, 1, -1], ce=[1.0, 2.0, 3.0, 4.0])
    second = a_run([ITEM] * 4, id=np.array(list("dcbx"), object), correct=[1, 0, 0, 1], ce=[1.0, 2.0, 6.0, 9.0])
    accuracy, ce = shared_scores(first, second)
    assert [(one.measure, one.n) for one in (accuracy, ce)] == [("ACC", 2), ("CE", 3)]  # d has no accuracy in the first
    assert (accuracy.base.value, accuracy.adapted.value) == (50.0, 0.0)
    assert accuracy.change == pytest.approx((-50.0, 50.0))  # c: -100, b: 0
    assert (ce.base.value, ce.adapted.value) == (3.0, 3.0)
    assert ce.change == pytest.approx((0.0, np.std([-3, -1, 4], ddof=1) / 3**0.5))
    assert shared_scores(first, a_run([ITEM] * 2, id=np.array(["a", "a"], object), correct=[1, 1])) == []


@pytest.mark.parametrize(
    ("error", "text"), [(47.0, "47.0 (17.3 to 128)"), (0.47, "47.0 (46.5 to 47.5)"), (np.nan, "47.0"), (0.0, "47.0")]
)
def test_perplexity_has_the_interval_of_its_cross_entropy(error: float, text: str) -> None:
    assert format_perplexity(Estimate(47.0, error)) == text


def test_prompts_of_a_data_set_are_apart() -> None:
    run = a_run(
        [ITEM] * 5,
        dataset=np.array(["d", "d", "d", "e", "text"], object),
        prompt=np.array(["main", "prompt1", "prompt1", "main", "text"], object),
        correct=[1, 0, 1, 1, -1],
    )
    found = [(score.dataset, score.n, score.adapted.value) for score in scores(run) if score.measure == "ACC"]
    assert found == [("d, main", 1, 100.0), ("d, prompt1", 2, 50.0), ("e", 1, 100.0)]
    # Of some samples alone there is nothing per character: their choices aren't there.
    assert [score.measure for score in sample_scores("x", run.samples)] == ["ACC"]


def test_scores_of_choices(small: Small) -> None:
    table, found = small.run.samples, scores(small.run)
    assert [(s.dataset, s.measure, s.unit, s.n) for s in found] == [
        ("facts/test", "ACC", "%", 12),
        ("facts/test", "ACC per token", "%", 12),
        ("facts/test", "ACC per character", "%", 12),
        ("facts/test", "CE", "nat/token", 12),
    ]
    p, q = table["correct"].values.mean(), table["base_correct"].values.mean()
    assert found[0].adapted == pytest.approx((100 * p, 100 * (p * (1 - p) / 12) ** 0.5))
    assert found[0].base == pytest.approx((100 * q, 100 * (q * (1 - q) / 12) ** 0.5))
    ce = table["ce"].values - table["base_ce"].values
    assert found[3].change == pytest.approx((ce.mean(), ce.std(ddof=1) / 12**0.5))
    assert found[3].adapted.value == pytest.approx(table["ce"].values.mean())


def test_scores_of_text_weigh_windows_by_tokens(make_small: Callable[..., Small]) -> None:
    run = make_small(is_text=True).run
    found = {score.measure: score for score in scores(run)}
    weights = run.samples["length"].values - 1
    ce = np.average(run.samples["ce"].values, weights=weights)
    assert set(found) == {"CE", "PPL"}
    assert found["CE"].adapted.value == pytest.approx(ce)
    assert found["PPL"].adapted.value == pytest.approx(np.exp(ce))
    assert found["PPL"].base.value == pytest.approx(np.exp(np.average(run.samples["base_ce"].values, weights=weights)))
    assert scores_table(run)[1][1][1::4] == ("PPL", "")  # there is no change
    assert found["PPL"].adapted.error == pytest.approx(np.exp(ce) * found["CE"].adapted.error)


def test_unscored_runs_have_no_scores(make_small: Callable[..., Small]) -> None:
    for is_text in (True, False):
        run = make_small(is_scored=False, is_text=is_text).run
        assert scores(run) == []
        assert scores_table(run)[1] == []


def test_scores_without_the_base_model(many_rows: Path) -> None:
    for score in scores(open_run(many_rows)):
        assert np.isfinite(score.adapted.value)
        assert np.isnan([score.base.value, score.change.value]).all()


def test_scores_table_gives_units_and_signs(small: Small) -> None:
    columns, rows = scores_table(small.run)
    assert columns == ("data set", "measure", "n", "without adapter", "with adapter", "change")
    assert [row[:3] for row in rows][3] == ("facts/test", "CE (nat/token)", "12")
    gained = [score.change.value > 0 for score in scores(small.run)]
    assert [row[5].startswith("+") for row in rows] == gained
    assert "±" in rows[0][4]
