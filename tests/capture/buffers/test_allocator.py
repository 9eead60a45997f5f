"""Freed memory is used again while a capture runs, and goes back to the system afterwards."""

import sys

import pytest
import torch

from lorascope.capture.buffers import allocator
from lorascope.capture.buffers.allocator import freed_memory_kept

N_BYTES = 48 * 2**20
"""More than glibc ever keeps by itself."""
PAGES = N_BYTES // 4096

glibc = pytest.mark.skipif(allocator._glibc() is None, reason="another C library")


def new_pages(n_times: int) -> int:
    """How many pages the system maps while a tensor is made, filled and freed again and again."""
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n_times):
        torch.empty(N_BYTES, dtype=torch.uint8).fill_(1)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@glibc
def test_memory_is_mapped_once() -> None:
    assert new_pages(10) > 9 * PAGES
    with freed_memory_kept():
        assert new_pages(10) < 2 * PAGES
    assert new_pages(10) > 9 * PAGES


@glibc
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_goes_back_to_the_system() -> None:
    def resident() -> int:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1])

    with freed_memory_kept():
        before = resident()
        new_pages(1)
        assert resident() > before + PAGES // 2
    assert resident() < before + PAGES // 2


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_glibc", lambda: None)
    with freed_memory_kept():
        pass
