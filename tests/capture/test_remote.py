"""A capture into an object store behind a real HTTP server, and back out of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze import miub
from lorascope.stores import open_place, open_run, pull, run_state, verify


def rows_of(path: Any) -> dict[str, bytes]:
    """Every chunk of a run's rows and tables."""
    place = open_place(path)
    return {key: place.read(key, at_most=2**31) for key in sorted(place.keys()) if not key.endswith("zarr.json")}


def test_lost_bucket_then_the_same_again(go: Any, s3: Any) -> None:
    url = f"{s3.prefix}/run.zarr"

    def lost_at_the_second_row(index: int, method: str) -> str | None:
        digests = [request for request in s3.requests if request.startswith("PUT") and "/rows/commit/c." in request]
        return "500" if len(digests) > 1 else None

    s3.counted_from_now(lost_at_the_second_row)
    with pytest.raises(OSError, match="s3://"):
        go(url)
    s3.counted_from_now(lambda index, method: None)
    assert run_state(url) == "unfinished"
    begun = open_run(url)
    before = {row: begun.digest(row).tobytes() for row in np.flatnonzero(begun.committed_rows)}
    assert len(before) == 1
    s3.counted_from_now(lambda index, method: "500" if index % 9 == 1 else None)
    run = go(url)
    assert run.finished
    assert all(run.digest(row).tobytes() == digest for row, digest in before.items())
    local = go("local.zarr")
    assert rows_of(url) == rows_of(local.path)
    assert verify(url).ok


def test_analysed_and_pulled_from_the_bucket(go: Any, s3: Any, tmp_path: Path) -> None:
    url = f"{s3.prefix}/run.zarr"
    remote, local = go(url, score=False), go("local.zarr", score=False)
    assert miub(remote).equals(miub(local))
    component = remote.component_paths[0]
    small = pull(url, tmp_path / "small.zarr", component=[component])
    np.testing.assert_array_equal(small.lora(component).values, local.lora(component).values)
    assert verify(small.path).ok
    assert "a-secret" not in str(remote.attributes) + str(small.attributes)
