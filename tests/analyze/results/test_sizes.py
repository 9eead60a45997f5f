import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lorascope.analyze.results.sizes import sizes
from lorascope.stores import open_run

from ..conftest import Small

GOLDEN = Path(__file__).parents[2] / "stores/golden"


def test_sizes_are_those_of_the_files(small: Small) -> None:
    found = {size.part: size for size in sizes(small.run)}
    n = small.run.n_tokens
    files = [f for f in small.run.path.rglob("*") if f.is_file()]
    assert found["base"].raw_bytes == n * 2 * (24 + 40 + 16) * 4
    assert found["factor"].raw_bytes == n * 12 * 4
    assert found["lora_B"].raw_bytes == 2 * (24 + 40 + 16) * 2 * 4
    assert found["js"].raw_bytes == found["reductions"].raw_bytes == n * 6 * 4  # js, and the share that was swallowed
    assert found["whole run"].stored_bytes == sum(f.stat().st_size for f in files)
    assert found["base"].stored_bytes == sum(
        f.stat().st_size for f in files if "states" in f.parts and "base" in f.parts
    )
    parts = [size for part, size in found.items() if part != "whole run"]
    assert sum(size.raw_bytes for size in parts) == found["whole run"].raw_bytes
    assert sum(size.stored_bytes for size in parts) == found["whole run"].stored_bytes


def test_sizes_count_committed_rows(unfinished: Path, many_rows: Path) -> None:
    part, whole = ({s.part: s.raw_bytes for s in sizes(open_run(path))} for path in (unfinished, many_rows))
    assert part["base"] == pytest.approx(whole["base"] * (2500 - 1024) / 2500)
    assert whole["delta"] == 2500 * 64 * 4


def test_sizes_count_states_where_they_are(make_small: Callable[..., Small]) -> None:
    widths = 2 * (24 + 40 + 16)
    some = make_small(states="sample", state_rows=(False, True), n_tokens=120, kl_share=0.5).run
    found = {size.part: size.raw_bytes for size in sizes(some)}
    assert found["base"] == (1440 - 1024) * widths * 4
    assert found["factor"] == (1440 - 1024) * 12 * 4
    assert found["reductions"] == 1440 * (4 * 6 + 1) * 4
    none = {size.part: size.raw_bytes for size in sizes(make_small(states="none").run)}
    assert not {"base", "factor", "lora_B", "delta"} & set(none)
    pair = make_small(stream="pair").run
    found = {size.part: size.raw_bytes for size in sizes(pair)}
    assert found["adapted"] == found["base"] == pair.n_tokens * widths * 4


def test_large_arrays_are_parts_of_their_own(make_small: Callable[..., Small], tmp_path: Path) -> None:
    graded = {size.part: size for size in sizes(make_small(importance=True).run)}
    assert 0 < graded["importance"].stored_bytes < graded["whole run"].stored_bytes
    folder = shutil.copytree(GOLDEN / "v3.zarr", tmp_path / "v3.zarr")
    (folder / "unembedding").mkdir()
    (folder / "unembedding/weight").write_bytes(bytes(1000))  # as in runs of earlier versions
    found = {size.part: size.stored_bytes for size in sizes(open_run(folder))}
    assert found["unembedding"] == 1000
    assert found.pop("whole run") == sum(found.values())
