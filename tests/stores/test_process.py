"""Freed memory is used again while a capture runs, and goes back to the system afterwards."""

import subprocess
import sys

import pytest

from lorascope.stores import process
from lorascope.stores.process import keeping_freed_memory

glibc = pytest.mark.skipif(process._find_glibc() is None, reason="another C library")

SCRIPT = """
import resource
from lorascope.stores.process import keeping_freed_memory

N_BYTES = 48 * 2**20  # more than glibc ever keeps by itself
PAGES = N_BYTES // 4096

def new_pages(n_times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n_times):
        b"x" * N_BYTES  # no array: NumPy asks for huge pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1])
"""


def run_alone(body: str) -> None:
    """In a process of its own: in this one others may have left as much free memory."""
    subprocess.run([sys.executable, "-c", SCRIPT + body], check=True)


@glibc
def test_memory_is_mapped_once() -> None:
    pytest.importorskip("resource")
    run_alone(
        """
assert new_pages(10) > 9 * PAGES
with keeping_freed_memory():
    assert new_pages(10) < 2 * PAGES
assert new_pages(10) > 9 * PAGES
"""
    )


@glibc
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_goes_back_to_the_system() -> None:
    run_alone(
        """
with keeping_freed_memory():
    before = resident()
    new_pages(1)
    assert resident() > before + PAGES // 2
assert resident() < before + PAGES // 2
"""
    )


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_find_glibc", lambda: None)
    with keeping_freed_memory():
        pass


@pytest.mark.parametrize(("most", "thresholds"), [(2**30, [2**30]), (2**25, [2**30, 2**25]), (0, [2**30, 2**25])])
def test_older_versions_refuse_much(monkeypatch: pytest.MonkeyPatch, most: int, thresholds: list[int]) -> None:
    """Without the threshold for mapped memory, setting the other one would switch off what glibc does by itself."""

    class Older:
        def __init__(self) -> None:
            self.asked: list[tuple[int, int]] = []

        def mallopt(self, name: int, value: int) -> int:
            self.asked.append((name, value))
            return int(name == process._TRIM_THRESHOLD or value <= most)

        def malloc_trim(self, _: int) -> int:
            return 1

    older = Older()
    monkeypatch.setattr(process, "_find_glibc", lambda: older)
    with keeping_freed_memory():
        assert [value for name, value in older.asked if name == process._MMAP_THRESHOLD] == thresholds
        assert ((process._TRIM_THRESHOLD, 2**30) in older.asked) == (most > 0)
    if not most:
        assert all(name == process._MMAP_THRESHOLD for name, _ in older.asked)
