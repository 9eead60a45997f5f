"""Processes that share a capture."""

import pytest
import torch

from lorascope.capture.recording.ranks import ALONE, joined, split_evenly


@pytest.mark.parametrize(("n", "parts"), [(0, 3), (1, 3), (7, 3), (9, 3), (5, 1), (2, 5)])
def test_parts_cover_everything_once(n: int, parts: int) -> None:
    slices = split_evenly(n, parts)
    assert len(slices) == parts
    assert [i for part in slices for i in range(n)[part]] == list(range(n))
    lengths = [part.stop - part.start for part in slices]
    assert max(lengths) - min(lengths) <= 1


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(torch.device("cpu")) as ranks:
        assert ranks == ALONE
        assert ranks.gather(3) == [3]
        assert ranks.of_leader("x") == "x"
        assert ranks.share(4) == slice(0, 4)
        ranks.wait()


def test_a_rank_needs_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="torch finds 2 of that kind here"), joined(torch.device("cuda")):
        pass
