import pytest
import torch

from lorascope.capture.models.device import named_device, require_device


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "meta", "mps", ""])
def test_what_is_no_device_for_a_capture(name: str) -> None:
    with pytest.raises(ValueError, match=rf"`device` is '{name}'; allowed are 'auto', 'cpu', 'cuda'"):
        named_device(name)


def test_device_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"`device` is 'cuda:0', but torch finds no CUDA device here; use 'cpu'"):
        require_device(torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert require_device(torch.device("cuda:1")) == torch.device("cuda:1")
    with pytest.raises(ValueError, match=r"`device` is 'cuda:2', but torch finds 2 of that kind here"):
        require_device(torch.device("cuda:2"))


def test_auto_is_the_ranks_own_gpu_or_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert named_device("auto", local_rank=3) == torch.device("cuda:3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert named_device("auto", local_rank=3) == torch.device("cpu")
