from typing import Any

import numpy as np
import pytest

from lorascope.capture.samples.encoded import EncodedSample
from lorascope.capture.samples.selection import TokenPlan, plan_tokens

ROLES = np.array([0, 0, 1, 1, 0, 2, 2], dtype=np.uint8)
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
    plan = plan_of([sample(ROLES), sample(ROLES[3:])], "last:5")
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
    many = [sample(ROLES)] * 100
    first, again, other = (plan_of(many, "all", js_share=0.1, seed=seed).measured for seed in (1, 1, 2))
    assert first.sum() == 70
    assert (first == again).all()
    assert not (first == other).all()


def test_sample_without_such_a_role_is_named() -> None:
    text = sample(np.full(4, 4, dtype=np.uint8))
    words = r"`tokens` = 'answer' takes nothing of sample 'x' of 'd' under prompt '.*', .* roles \(text\)"
    with pytest.raises(ValueError, match=words):
        plan_of([sample(ROLES), text], "answer")
    with pytest.raises(
        ValueError,
        match=r"other roles \(prompt, choice, generated\); give 'prompt' or 'choice' or 'generated' or 'all'",
    ):
        plan_of([sample(GENERATED)], "answer")


def test_every_batch_has_a_measured_token() -> None:
    many = [sample(ROLES)] * 50
    batches = [slice(i, i + 5) for i in range(0, 50, 5)]
    plan = plan_tokens(many, batches, "all", js_share=1e-9, seed=0)
    assert all(plan.measured[plan.starts[b.start] : plan.starts[b.stop]].any() for b in batches)
    assert plan.measured.sum() in {10, 11}


@pytest.mark.parametrize(("share", "n"), [(0.0, 0), (1e-9, 1), (0.1, 2), (0.25, 5), (1.0, 20)])
def test_batches_for_kl_and_ablation_are_seeded_shares(share: float, n: int) -> None:
    many, batches = samples_of(ROLES, 20), [slice(i, i + 1) for i in range(20)]
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
