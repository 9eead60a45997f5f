from typing import Any

import numpy as np
import pytest

from lorascope.capture.samples.encoded import EncodedSample
from lorascope.capture.samples.selection import TokenPlan, check_selection, plan_tokens, population, select_tokens

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


@pytest.mark.parametrize(
    ("selection", "positions"),
    [
        ("all", [0, 1, 2, 3, 4, 5, 6]),
        ("prompt", [0, 1, 2, 3, 4]),
        ("choice", [2, 3]),
        ("answer", [5, 6]),
        ("generated", []),
        ("last:3", [4, 5, 6]),
        ("last:99999999999999999999", [0, 1, 2, 3, 4, 5, 6]),
        ("share:1", [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_selections_that_draw_nothing_weigh_one(selection: str, positions: list[int]) -> None:
    found = select_tokens(ROLES, selection, np.random.default_rng(0))
    assert found.positions.tolist() == positions
    assert found.weights.tolist() == [1.0] * len(positions)
    assert found.weights.dtype == np.float32


def test_generated_tokens_are_a_role() -> None:
    found = [select_tokens(GENERATED, name, np.random.default_rng(0)).positions for name in ("generated", "prompt")]
    assert [positions.tolist() for positions in found] == [[3, 4, 5], [0, 1, 2]]


@pytest.mark.parametrize(
    "selection",
    [
        *("some", "", "all ", "last", "last:0", "last:-1", "every:1.5"),
        *("share:", "share:0", "share:1.1", "share:nan", "share:x"),
    ],
)
def test_unknown_selection_is_refused(selection: str) -> None:
    for check in (check_selection, population, lambda name: select_tokens(ROLES, name, np.random.default_rng(0))):
        with pytest.raises(ValueError, match=f"`tokens` is {selection!r}; allowed are 'all', 'prompt', .*'share:P'"):
            check(selection)


def test_a_selection_that_was_meant_is_named() -> None:
    with pytest.raises(ValueError, match=r"; did you mean 'assistant'\?"):
        check_selection("assistint")


@pytest.mark.parametrize(
    ("selection", "n", "counts"), [("every:4", 14, {3, 4}), ("every:4", 3, {1}), ("every:4", 8, {2})]
)
def test_every_takes_a_stride_from_a_drawn_start(selection: str, n: int, counts: set[int]) -> None:
    roles = np.zeros(n, np.uint8)
    starts = set()
    for seed in range(50):
        positions, weights = select_tokens(roles, selection, np.random.default_rng(seed))
        assert set(np.diff(positions)) <= {4}
        assert positions[0] < 4
        assert positions[-1] >= n - 4
        assert weights.tolist() == [np.float32(n / len(positions))] * len(positions)
        assert len(positions) in counts
        starts.add(int(positions[0]))
    assert starts == set(range(min(n, 4)))


@pytest.mark.parametrize(
    ("share", "n", "m"),
    [("0.1", 44, 4), ("0.1", 46, 5), ("0.5", 5, 2), ("0.01", 7, 1), ("0.999", 7, 7)],
)
def test_share_is_exact_and_has_at_least_one(share: str, n: int, m: int) -> None:
    positions, weights = select_tokens(np.zeros(n, np.uint8), f"share:{share}", np.random.default_rng(3))
    assert len(set(positions.tolist())) == len(positions) == m
    assert (np.diff(positions) > 0).all()
    assert weights.tolist() == [np.float32(n / m)] * m


def test_strides_have_the_exact_expectation() -> None:
    # Every start with its chance m / n, and K doesn't divide n: weighted means and sums are unbiased.
    values = np.random.default_rng(0).normal(size=14)
    means, sums = 0.0, 0.0
    for anchor in range(14):
        generator = type("G", (), {"integers": lambda self, n, anchor=anchor: anchor})()
        positions, weights = select_tokens(np.zeros(14, np.uint8), "every:4", generator)  # type: ignore[arg-type]
        sums += float((weights * values[positions]).sum()) / 14
        means += float((weights * values[positions]).sum() / weights.sum()) / 14
    assert (means, sums) == (pytest.approx(values.mean(), rel=1e-6), pytest.approx(values.sum(), rel=1e-6))


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


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ("every:3", "all tokens"),
        ("prompt", "the tokens of the prompt, its choices included"),
        ("last:5", "the last 5 tokens of each sequence"),
    ],
)
def test_selections_state_what_they_are_about(selection: str, words: str) -> None:
    assert population(selection) == words
