from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.encoded import pad, pad_tokens, plan_batches


@given(lengths=st.lists(st.integers(1, 50)), batch_tokens=st.integers(1, 200))
def test_batches_cover_all_samples_within_the_budget(lengths: list[int], batch_tokens: int) -> None:
    plan = plan_batches(lengths, batch_tokens=batch_tokens)
    assert [index for batch in plan for index in range(batch.start, batch.stop)] == list(range(len(lengths)))
    for batch in plan:
        held = lengths[batch]
        assert len(held) == 1 or len(held) * max(held) <= batch_tokens
        # The next sample would not have fitted.
        more = lengths[batch.start : batch.stop + 1]
        assert more == held or len(more) * max(more) > batch_tokens


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([], []), ([100], [(0, 1)]), ([1, 100, 1], [(0, 1), (1, 2), (2, 3)]), ([5, 5, 5], [(0, 2), (2, 3)])],
)
def test_plans_by_padded_size(lengths: list[int], expected: list[tuple[int, int]]) -> None:
    assert plan_batches(lengths, batch_tokens=10) == [slice(*bounds) for bounds in expected]


def test_refuses_senseless_sizes() -> None:
    with pytest.raises(ValueError, match="`batch_tokens` is 0; give at least 1"):
        plan_batches([1], batch_tokens=0)
    with pytest.raises(ValueError, match=r"`lengths\[1\]` is 0; a sample has at least 1 token"):
        plan_batches([1, 0], batch_tokens=8)


def test_pads_on_the_right(tiny_tokenizer: Any, tiny_items: Any) -> None:
    samples = encode_items(tiny_items, tiny_tokenizer, max_length=256, window_tokens=8)
    input_ids, attention_mask = pad(samples)
    assert input_ids.shape == attention_mask.shape == (6, max(len(sample.token_ids) for sample in samples))
    assert input_ids.dtype == attention_mask.dtype == torch.int64
    for ids, mask, sample in zip(input_ids, attention_mask, samples, strict=True):
        n = len(sample.token_ids)
        np.testing.assert_array_equal(ids[:n].numpy(), sample.token_ids)
        assert mask.tolist() == [1] * n + [0] * (len(mask) - n)


def test_pads_on_the_left() -> None:
    input_ids, attention_mask = pad_tokens([np.array([5, 6]), np.array([], dtype=np.int64)], left=True)
    assert input_ids.tolist() == [[5, 6], [0, 0]]
    assert attention_mask.tolist() == [[1, 1], [0, 0]]
    input_ids, attention_mask = pad_tokens([np.array([5]), np.array([7, 8, 9])], left=True)
    assert input_ids.tolist() == [[0, 0, 5], [7, 8, 9]]
    assert attention_mask.tolist() == [[0, 0, 1], [1, 1, 1]]
