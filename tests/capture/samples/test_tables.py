from typing import Any

import numpy as np
import pytest

from lorascope.capture.samples.batches import plan_batches
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.encoded import EncodedSample
from lorascope.capture.samples.generate import Answer, generate
from lorascope.capture.samples.items import ChoiceItem, TextItem
from lorascope.capture.samples.scoring import score
from lorascope.capture.samples.selection import TokenPlan, plan_tokens
from lorascope.capture.samples.tables import make_tables
from lorascope.stores.format.tables import ROLES


@pytest.fixture
def samples(tiny_tokenizer: Any, tiny_items: list[ChoiceItem]) -> list[EncodedSample]:
    text = TextItem(id="t", dataset="d", split="", text="The four questions.")
    return encode_items([*tiny_items, text], tiny_tokenizer, max_length=256, window_tokens=16)


def plan_of(samples: list[EncodedSample], selection: str) -> TokenPlan:
    batches = plan_batches([len(sample.token_ids) for sample in samples], batch_tokens=300)
    return plan_tokens(samples, batches, selection, js_share=1.0, seed=0)


def texts_of(samples: list[EncodedSample], plan: TokenPlan, tokenizer: Any) -> list[str]:
    ids = [sample.token_ids[chosen] for sample, chosen in zip(samples, plan.positions, strict=True)]
    return list(tokenizer.batch_decode([[int(token)] for one in ids for token in one]))


@pytest.mark.parametrize("selection", ["all", "share:0.2"])
def test_tokens_are_the_plans(samples: list[EncodedSample], tiny_tokenizer: Any, selection: str) -> None:
    plan = plan_of(samples, selection)
    texts = texts_of(samples, plan, tiny_tokenizer)
    tokens = make_tables(samples, plan, texts, None, None)["tokens"]
    for index, sample in enumerate(samples):
        mine = tokens["sample"] == index
        np.testing.assert_array_equal(tokens["position"][mine], plan.positions[index])
        np.testing.assert_array_equal(tokens["token_id"][mine], sample.token_ids[plan.positions[index]])
        np.testing.assert_array_equal(tokens["role"][mine], sample.roles[plan.positions[index]])
        if selection.startswith(("every", "share")):
            assert tokens["weight"][mine].sum() == pytest.approx(len(sample.token_ids), rel=1e-6)
    assert tokens["text"] == texts
    assert tokens["weight"] is plan.weights


def test_scores_are_of_the_samples_and_tokens_of_what_is_captured(
    samples: list[EncodedSample], tiny_model: Any
) -> None:
    scores = score(tiny_model, samples, batch_tokens=1000)
    written = generate(tiny_model, samples, n=4, batch_tokens=1000)
    plan = plan_of(written, "all")
    tables = make_tables(written, plan, [""] * plan.n_tokens, scores, scores)
    assert tables["samples"]["length"] == [len(sample.token_ids) for sample in written]
    assert tables["samples"]["answer"] == [sample.answer for sample in samples]
    assert tables["samples"]["ce"] is scores.ce
    assert tables["samples"]["base_correct"] is scores.correct
    assert tables["choices"]["base_loglik"] is scores.loglik
    assert tables["choices"]["text"] == [choice.text for sample in samples for choice in sample.choices]
    found = {ROLES[role] for role in tables["tokens"]["role"]}
    assert {"prompt", "choice", "generated"} <= found
    assert "answer" not in found


def test_scores_that_werent_asked_for_are_told_from_scores(samples: list[EncodedSample]) -> None:
    plan = plan_of(samples, "all")
    tables = make_tables(samples, plan, [""] * plan.n_tokens, None, None)
    assert set(tables["samples"]["correct"].tolist()) == {-1}
    assert np.isnan(tables["samples"]["ce"]).all()
    assert np.isnan(tables["choices"]["loglik_per_token"]).all()
    assert not [name for table in tables.values() for name in table if name.startswith("base_")]


def test_answers_stand_with_the_samples_that_have_choices(samples: list[EncodedSample]) -> None:
    mixed = [samples[-1], *samples[:-1]]  # a text first
    plan = plan_of(mixed, "all")
    answers = [Answer(f"answer {index}", sample.answer - index % 2) for index, sample in enumerate(samples[:-1])]
    table = make_tables(mixed, plan, [""] * plan.n_tokens, None, None, answers, None)["samples"]
    assert table["written"] == ["", *(f"answer {index}" for index in range(6))]
    assert table["written_prediction"] == [-1, *(answer.prediction for answer in answers)]
    assert table["written_correct"] == [-1, 1, 0, 1, 0, 1, 0]
    assert not [name for name in table if name.startswith("base_")]
