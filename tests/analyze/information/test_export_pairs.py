import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze.information.components import ComponentPairs
from lorascope.analyze.information.measure_information import _write_pairs
from lorascope.analyze.information.pairs import Pairs


def some(n: int = 5, *, seed: int = 0) -> ComponentPairs:
    rng = np.random.default_rng(seed)
    samples = np.arange(n) // 2
    pairs = Pairs(rng.normal(size=(n, 3)), rng.normal(size=(n, 2)), samples, samples)
    return ComponentPairs(pairs, np.arange(n) * 7, np.zeros((n, 2), np.float32), (0.9, 0.8), 0, 0)


def test_pairs_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "new" / "p.npz"
    found: dict[str, Any] = {"m.a": some(5), "m.b": some()._replace(why="nothing varies"), "m.c": some(4, seed=1)}
    assert _write_pairs(path, found, {"against": "lora"}) == {"m.b": "nothing varies"}
    assert [entry.name for entry in path.parent.iterdir()] == ["p.npz"]
    with np.load(path, allow_pickle=False) as file:
        assert file["components"].tolist() == ["m.a", "m.c"]
        assert json.loads(str(file["about"])) == {"against": "lora", "left_out": {"m.b": "nothing varies"}}
        for name in ("m.a", "m.c"):
            np.testing.assert_array_equal(file[f"{name}/x"], found[name].pairs.x)
            np.testing.assert_array_equal(file[f"{name}/y"], found[name].pairs.y)
            np.testing.assert_array_equal(file[f"{name}/sample"], found[name].pairs.groups_x)
            np.testing.assert_array_equal(file[f"{name}/token"], found[name].tokens)


def test_nothing_to_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no states can be projected; the first are those of m\.a: too few"):
        _write_pairs(tmp_path / "p.npz", {"m.a": some()._replace(why="too few")}, {})
    assert list(tmp_path.iterdir()) == []
