"""Devices, and processes that share a capture."""

import pytest
import torch

from lorascope.capture.models.device import parse_device, require_device
from lorascope.capture.models.ranks import ALONE, Ranks, join_ranks


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "meta", "mps", ""])
def test_what_is_no_device_for_a_capture(name: str) -> None:
    with pytest.raises(ValueError, match=rf"`device` is '{name}'; allowed are 'auto', 'cpu', 'cuda'"):
        parse_device(name)


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
    assert parse_device("auto", local_rank=3) == torch.device("cuda:3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert parse_device("auto", local_rank=3) == torch.device("cpu")


@pytest.mark.parametrize(("n", "parts"), [(0, 3), (1, 3), (7, 3), (9, 3), (5, 1), (2, 5)])
def test_parts_cover_everything_once(n: int, parts: int) -> None:
    slices = [Ranks(rank, parts).own_slice(n) for rank in range(parts)]
    assert [i for part in slices for i in range(n)[part]] == list(range(n))
    lengths = [part.stop - part.start for part in slices]
    assert max(lengths) - min(lengths) <= 1


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_ranks(torch.device("cpu")) as ranks:
        assert ranks == ALONE
        assert ranks.gather(3) == [3]
        assert ranks.from_leader("x") == "x"
        assert ranks.own_slice(4) == slice(0, 4)
        ranks.wait()


def test_a_rank_needs_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with (
        pytest.raises(ValueError, match="`WORLD_SIZE` is 4 .* `MASTER_PORT` isn't set"),
        join_ranks(torch.device("cuda")),
    ):
        pass
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(ValueError, match="torch finds 2 of that kind here"), join_ranks(torch.device("cuda")):
        pass
