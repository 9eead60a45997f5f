import numpy as np
import pytest

from lorascope.capture.encode import EncodedSample
from lorascope.capture.selection import check_selection, plan_tokens, select_tokens

ROLES = np.array([0, 0, 1, 1, 0, 2, 2], dtype=np.uint8)


def sample(roles: np.ndarray) -> EncodedSample:
    return EncodedSample(
        id="x",
        dataset="d",
        split="",
        prompt="main",
        token_ids=np.arange(len(roles)),
        roles=roles,
        choices=(),
        answer=-1,
    )


@pytest.mark.parametrize(
    ("selection", "positions"),
    [("all", [0, 1, 2, 3, 4, 5, 6]), ("answer", [5, 6]), ("last:3", [4, 5, 6]), ("last:99", [0, 1, 2, 3, 4, 5, 6])],
)
def test_selection(selection: str, positions: list[int]) -> None:
    assert select_tokens(ROLES, selection).tolist() == positions


@pytest.mark.parametrize("selection", ["some", "last", "last:0", "last:-1", "last:x", ""])
def test_unknown_selection_is_refused(selection: str) -> None:
    with pytest.raises(ValueError, match=f"`tokens` is {selection!r}; allowed are 'all', 'answer', or 'last:N'"):
        check_selection(selection)


def test_plan_is_a_flat_axis() -> None:
    plan = plan_tokens([sample(ROLES), sample(ROLES[3:])], [slice(0, 2)], "last:5", js_share=1.0, seed=0)
    assert plan.starts.tolist() == [0, 5, 9]
    assert plan.n_tokens == 9
    assert [p.tolist() for p in plan.positions] == [[2, 3, 4, 5, 6], [0, 1, 2, 3]]
    assert plan.measured.all()


def test_share_is_exact_and_depends_on_the_seed_alone() -> None:
    many = [sample(ROLES)] * 100
    first, again, other = (
        plan_tokens(many, [slice(0, 100)], "all", js_share=0.1, seed=seed).measured for seed in (1, 1, 2)
    )
    assert first.sum() == 70
    assert (first == again).all()
    assert not (first == other).all()


def test_share_never_measures_nothing() -> None:
    assert plan_tokens([sample(ROLES)], [slice(0, 1)], "answer", js_share=1e-9, seed=0).measured.sum() == 1


def test_sample_without_such_a_role_is_named() -> None:
    text = sample(np.full(4, 4, dtype=np.uint8))
    with pytest.raises(ValueError, match="`tokens` = 'answer' takes nothing of sample 'x' of 'd'"):
        plan_tokens([sample(ROLES), text], [slice(0, 2)], "answer", js_share=1.0, seed=0)


def test_every_batch_has_a_measured_token() -> None:
    many = [sample(ROLES)] * 50
    batches = [slice(i, i + 5) for i in range(0, 50, 5)]
    plan = plan_tokens(many, batches, "all", js_share=1e-9, seed=0)
    assert all(plan.measured[plan.starts[b.start] : plan.starts[b.stop]].any() for b in batches)
    assert plan.measured.sum() in {10, 11}
