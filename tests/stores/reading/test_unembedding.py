"""Final norm and output embedding of runs of earlier versions stay readable and checked; copies lack them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.stores import StoreError, open_run, pull, verify
from lorascope.stores.format.layout import ArraySpec, array_specs
from lorascope.stores.writing import create

N, WIDTH = 2500, 32
VALUES: dict[str, Any] = {
    "unembedding/weight": np.random.default_rng(0).integers(0, 2**15, (N, WIDTH), np.uint16),  # bits of bfloat16
    "unembedding/norm": np.ones(WIDTH, np.float32),
    "unembedding/text": np.array([f"t{token}" for token in range(N)], object),
}


@pytest.fixture
def earlier(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run as a writer of an earlier version made it."""
    fields: dict[str, Any] = {
        "weight": {"chunks": (1024, WIDTH), "dtype": "uint16", "fill": 0x7FC0, "dims": ("vocabulary", "feature")},
        "norm": {"chunks": (WIDTH,), "dtype": "float32", "fill": np.nan, "dims": ("feature",)},
        "text": {"chunks": (N,), "dtype": "string", "fill": "", "dims": ("vocabulary",)},
    }
    specs = [
        ArraySpec(path=f"unembedding/{name}", shape=VALUES[f"unembedding/{name}"].shape, **own)
        for name, own in fields.items()
    ]
    values = create._static_values
    with monkeypatch.context() as patch:
        patch.setattr(create, "array_specs", lambda spec: [*array_specs(spec), *specs])
        patch.setattr(create, "_static_values", lambda *given: {**values(*given), **VALUES})
        return Path(make_run("earlier.zarr").path)


def test_it_stays_readable_and_checked(earlier: Path) -> None:
    run = open_run(earlier)
    assert "optional_groups" not in run.attributes
    for path, values in VALUES.items():
        np.testing.assert_array_equal(run.read_static(path), values)
    assert verify(earlier, level="statistics").ok
    (earlier / "unembedding/weight/c.1.0").unlink()
    with pytest.raises(StoreError, match="'unembedding/weight' announces 2500 entries, but has 2 of 3 chunks"):
        open_run(earlier)
    assert not verify(earlier).ok


def test_copies_lack_it_and_say_so(earlier: Path, tmp_path: Path) -> None:
    copy = pull(earlier, tmp_path / "copy.zarr")
    (step,) = copy.attributes["provenance"]["copied"]
    assert (step["how"], step["omitted"]) == ("pull", sorted(VALUES))
    assert not (tmp_path / "copy.zarr/unembedding").exists()
    assert verify(copy.path, level="statistics").ok
