"""Fingerprints of tensors."""

import pytest
import torch

from lorascope.capture.hashes import hash_tensors


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
