"""Processes that share a capture."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lorascope.capture.ranks import ALONE, joined, split_evenly

THREE = r"""
import os, sys
from lorascope.capture.ranks import joined
with joined("cpu") as ranks:
    assert ranks.gather(ranks.rank * 10) == [0, 10, 20]
    assert ranks.of_leader(f"from {ranks.rank}") == "from 0"
    assert ranks.leads == (ranks.rank == 0)
    ranks.wait()
    sys.stdout.write(f"share {ranks.share(7)}\n")  # in one piece: the processes share a pipe
"""


@pytest.mark.parametrize(("n", "parts"), [(0, 3), (1, 3), (7, 3), (9, 3), (5, 1), (2, 5)])
def test_parts_cover_everything_once(n: int, parts: int) -> None:
    slices = split_evenly(n, parts)
    assert len(slices) == parts
    assert [i for part in slices for i in range(n)[part]] == list(range(n))
    lengths = [part.stop - part.start for part in slices]
    assert max(lengths) - min(lengths) <= 1


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as ranks:
        assert ranks == ALONE
        assert ranks.gather(3) == [3]
        assert ranks.of_leader("x") == "x"
        assert ranks.share(4) == slice(0, 4)
        ranks.wait()


@pytest.mark.parametrize(
    ("device", "words"), [("cudax", "allowed are 'auto', 'cpu', 'cuda'"), ("cuda", "torch finds 2 of that kind here")]
)
def test_device_that_a_rank_can_not_have(monkeypatch: pytest.MonkeyPatch, device: str, words: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=words), joined(device):
        pass


def test_three_processes(tmp_path: Path) -> None:
    script = tmp_path / "three.py"
    script.write_text(THREE)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    done = subprocess.run([*torchrun, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("share")) == [
        "share slice(0, 3, None)",
        "share slice(3, 5, None)",
        "share slice(5, 7, None)",
    ]
