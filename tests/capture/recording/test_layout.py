from typing import Any

import numpy as np
import pytest

from lorascope.capture.recording.layout import TokenPlan, make_tables, plan_tokens
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.encoded import EncodedSample, plan_batches
from lorascope.capture.samples.generate import Answer, generate
from lorascope.capture.samples.items import ChoiceItem, TextItem
from lorascope.capture.samples.scoring import score
from lorascope.stores.format.tables import ROLES

MIXED = np.array([0, 0, 1, 1, 0, 2, 2], dtype=np.uint8)
GENERATED = np.array([0, 1, 0, 3, 3, 3], dtype=np.uint8)


def sample(roles: np.ndarray, **names: str) -> EncodedSample:
    return EncodedSample(
        **{"id": "x", "dataset": "d", "split": "", "prompt": "main", **names},
        token_ids=np.arange(len(roles)),
        roles=roles,
        choices=(),
        answer=-1,
    )


def samples_of(roles: np.ndarray, n: int) -> list[EncodedSample]:
    return [sample(roles, id=str(index)) for index in range(n)]


def plan_of(samples: list[EncodedSample], selection: str, **options: Any) -> TokenPlan:
    return plan_tokens(samples, [slice(0, len(samples))], selection, **{"js_share": 1.0, "seed": 0, **options})


def test_plan_is_a_flat_axis() -> None:
    plan = plan_of([sample(np.zeros(n, np.uint8), id=str(n)) for n in (1, 7, 30)], "share:0.2")
    np.testing.assert_array_equal(plan.weights, np.float32([1, 7, *[5] * 6]))
    plan = plan_of([sample(MIXED), sample(MIXED[3:])], "last:5")
    assert plan.starts.tolist() == [0, 5, 9]
    assert plan.n_tokens == 9
    assert [p.tolist() for p in plan.positions] == [[2, 3, 4, 5, 6], [0, 1, 2, 3]]
    assert plan.measured.all()
    assert plan.weights.tolist() == [1.0] * 9
    assert plan.kl_batches.tolist() == [False]


@pytest.mark.parametrize("selection", ["every:3", "share:0.4"])
def test_a_samples_tokens_depend_on_the_sample_and_the_seed_alone(selection: str) -> None:
    many = samples_of(np.zeros(20, np.uint8), 40)
    whole, part = plan_of(many, selection), plan_of(many[::-1][:7], selection)
    assert [p.tolist() for p in part.positions] == [p.tolist() for p in whole.positions[::-1][:7]]
    assert len({tuple(p) for p in whole.positions}) > 2
    other = plan_of(many, selection, seed=1)
    assert [p.tolist() for p in other.positions] != [p.tolist() for p in whole.positions]
    assert plan_of(many, selection, js_share=0.5).weights.tolist() == whole.weights.tolist()
    renamed = {
        tuple(plan_of([sample(np.zeros(50, np.uint8), **names)], selection).positions[0])
        for names in ({}, {"id": "y"}, {"dataset": "e"}, {"split": "test"}, {"prompt": "other"})
    }
    assert len(renamed) > 1


def test_share_is_exact_and_depends_on_the_seed_alone() -> None:
    many = [sample(MIXED)] * 100
    first, again, other = (plan_of(many, "all", js_share=0.1, seed=seed).measured for seed in (1, 1, 2))
    assert first.sum() == 70
    assert (first == again).all()
    assert not (first == other).all()


def test_sample_without_such_a_role_is_named() -> None:
    text = sample(np.full(4, 4, dtype=np.uint8))
    words = r"`tokens` = 'answer' takes nothing of sample 'x' of 'd' under prompt '.*', .* roles \(text\)"
    with pytest.raises(ValueError, match=words):
        plan_of([sample(MIXED), text], "answer")
    with pytest.raises(
        ValueError,
        match=r"other roles \(prompt, choice, generated\); give 'prompt' or 'choice' or 'generated' or 'all'",
    ):
        plan_of([sample(GENERATED)], "answer")


def test_sample_without_such_a_position_is_named() -> None:
    words = "takes nothing of sample 'x' .*, whose tokens are at positions 0 to 4 of 5, counted from 0; give another"
    with pytest.raises(ValueError, match=words):
        plan_of([sample(np.full(5, 4, dtype=np.uint8))], "from:5")


def test_every_batch_has_a_measured_token() -> None:
    many = [sample(MIXED)] * 50
    batches = [slice(i, i + 5) for i in range(0, 50, 5)]
    plan = plan_tokens(many, batches, "all", js_share=1e-9, seed=0)
    assert all(plan.measured[plan.starts[b.start] : plan.starts[b.stop]].any() for b in batches)
    assert plan.measured.sum() in {10, 11}


@pytest.mark.parametrize(("share", "n"), [(0.0, 0), (1e-9, 1), (0.1, 2), (0.25, 5), (1.0, 20)])
def test_batches_for_kl_and_ablation_are_seeded_shares(share: float, n: int) -> None:
    many, batches = samples_of(MIXED, 20), [slice(i, i + 1) for i in range(20)]
    shares = {"js_share": 0.5, "kl_share": share, "ablate_share": share}
    plans = [plan_tokens(many, batches, "all", seed=seed, **shares) for seed in (0, 0, 1)]
    for masks in (
        [plan.kl_batches.tolist() for plan in plans],
        [plan.ablate_batches.tolist() for plan in plans],
    ):
        assert sum(masks[0]) == n
        assert masks[0] == masks[1]
        assert (masks[0] == masks[2]) is (n in {0, 20})
    same = plans[0].kl_batches.tolist() == plans[0].ablate_batches.tolist()
    assert same is (n in {0, 20})  # each is drawn for itself


@pytest.fixture
def samples(tiny_tokenizer: Any, tiny_items: list[ChoiceItem]) -> list[EncodedSample]:
    text = TextItem(id="t", dataset="d", split="", text="The four questions.")
    return encode_items([*tiny_items, text], tiny_tokenizer, max_length=256, window_tokens=16)


def batched_plan(samples: list[EncodedSample], selection: str) -> TokenPlan:
    batches = plan_batches([len(sample.token_ids) for sample in samples], batch_tokens=300)
    return plan_tokens(samples, batches, selection, js_share=1.0, seed=0)


def texts_of(samples: list[EncodedSample], plan: TokenPlan, tokenizer: Any) -> list[str]:
    ids = [sample.token_ids[chosen] for sample, chosen in zip(samples, plan.positions, strict=True)]
    return list(tokenizer.batch_decode([[int(token)] for one in ids for token in one]))


@pytest.mark.parametrize("selection", ["all", "share:0.2"])
def test_tokens_are_the_plans(samples: list[EncodedSample], tiny_tokenizer: Any, selection: str) -> None:
    plan = batched_plan(samples, selection)
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
    plan = batched_plan(written, "all")
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
    plan = batched_plan(samples, "all")
    tables = make_tables(samples, plan, [""] * plan.n_tokens, None, None)
    assert set(tables["samples"]["correct"].tolist()) == {-1}
    assert np.isnan(tables["samples"]["ce"]).all()
    assert np.isnan(tables["choices"]["loglik_per_token"]).all()
    assert not [name for table in tables.values() for name in table if name.startswith("base_")]


def test_answers_stand_with_the_samples_that_have_choices(samples: list[EncodedSample]) -> None:
    mixed = [samples[-1], *samples[:-1]]  # a text first
    plan = batched_plan(mixed, "all")
    answers = [Answer(f"answer {index}", sample.answer - index % 2) for index, sample in enumerate(samples[:-1])]
    table = make_tables(mixed, plan, [""] * plan.n_tokens, None, None, answers, None)["samples"]
    assert table["written"] == ["", *(f"answer {index}" for index in range(6))]
    assert table["written_prediction"] == [-1, *(answer.prediction for answer in answers)]
    assert table["written_correct"] == [-1, 1, 0, 1, 0, 1, 0]
    assert not [name for name in table if name.startswith("base_")]
