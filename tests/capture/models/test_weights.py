"""Fingerprints of tensors."""

import threading
from collections.abc import Iterator

import pytest
import torch

from lorascope.capture.models.weights import Hashed, hash_at_once, hash_tensors, hashing_in_thread


def test_tensor_hash_is_by_name_not_by_order() -> None:
    a, b = torch.arange(6.0).reshape(2, 3), torch.ones(2)
    assert hash_tensors({"a": a, "b": b}) == hash_tensors({"b": b, "a": a})
    assert hash_tensors({"a": a, "b": b}) != hash_tensors({"a": b, "b": a})


def test_tensor_hash_sees_shape_dtype_and_every_bit() -> None:
    tensor = torch.arange(6.0)
    variants = [tensor, tensor.reshape(2, 3), tensor.double(), tensor.bfloat16(), -tensor * 0 + tensor, tensor + 1e-6]
    hashes = [hash_tensors({"a": variant}) for variant in variants]
    assert hashes[4] == hashes[0]
    assert len(set(hashes)) == 5


def test_tensor_hash_can_widen_first() -> None:
    tensor = torch.tensor([0.5, 1 / 3]).bfloat16()
    assert hash_tensors({"a": tensor}, dtype=torch.float32) == hash_tensors({"a": tensor.float()})


def test_tensor_hash_takes_scalars_views_and_gradients() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    assert hash_tensors({"a": tensor.T}) == hash_tensors({"a": tensor.T.contiguous()})
    assert hash_tensors({"a": torch.tensor(1.0, requires_grad=True)}) == hash_tensors({"a": torch.tensor(1.0)})
    assert hash_tensors({"a": torch.empty(0)}) != hash_tensors({})


def test_tensor_without_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tensor 'a' is on the meta device \(offloaded\?\)"):
        hash_tensors({"a": torch.empty(2, device="meta")})


def test_a_hash_beside_is_that_at_once() -> None:
    tensors = {"a": torch.arange(6.0)}
    with hashing_in_thread() as begin:
        assert begin(tensors)() == hash_at_once(tensors)() == hash_tensors(tensors)


def test_what_is_wrong_beside_is_raised_where_the_hash_is_waited_for() -> None:
    with hashing_in_thread() as begin:
        wait = begin({"a": torch.empty(2, device="meta")})
        with pytest.raises(ValueError, match="tensor 'a' is on the meta device"):
            wait()


def test_no_thread_outlives_a_block_that_fails() -> None:
    """Nor is the rest of the weights hashed, which may take long."""
    begun, may_go_on = threading.Event(), threading.Event()
    asked: list[str] = []

    class Slow(dict[str, torch.Tensor]):
        def __iter__(self) -> Iterator[str]:
            return iter("abc")

        def __getitem__(self, name: str) -> torch.Tensor:
            asked.append(name)
            begun.set()
            assert may_go_on.wait(60)
            return torch.ones(1)

    before = {*threading.enumerate()}
    with pytest.raises(KeyboardInterrupt), hashing_in_thread() as begin:  # noqa: PT012 (the thread must have begun)
        begin(Slow())
        assert begun.wait(60)
        threading.Timer(0.2, may_go_on.set).start()  # once the block has ended
        raise KeyboardInterrupt
    assert asked == ["a"]
    assert {thread for thread in {*threading.enumerate()} - before if not isinstance(thread, threading.Timer)} == set()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_numbers_that_are_not_finite_are_counted(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    tensors = {
        "a": torch.full((999,), largest, dtype=dtype),
        "b": torch.tensor([-largest, largest], dtype=dtype),
        "d": torch.zeros(0, dtype=dtype),
        "e": torch.arange(300),
    }
    sound = hash_tensors(tensors)
    assert sound.not_finite == ()
    tensors["c"] = torch.ones(40, 30, dtype=dtype)
    tensors["c"][3, 4], tensors["c"][5] = float("nan"), float("-inf")
    tensors["f"] = torch.tensor(float("inf"), dtype=dtype)
    assert hash_tensors(tensors).not_finite == (("c", 31), ("f", 1))
    with hashing_in_thread() as begin:
        assert begin(tensors)() == hash_tensors(tensors)


def test_types_of_eight_bits_are_hashed_all_the_same() -> None:
    tensor = torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)
    assert hash_tensors({"a": tensor}) == Hashed(hash_tensors({"a": tensor}).sha256, ())
