"""MIUB during trainings in several processes, and captures of what they saved."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.capture import CaptureConfig, capture
from lorascope.stores import open_run

from ...tiny import save_model
from .trained_ranks import train


@pytest.mark.slow
def test_miub_of_a_sharded_and_of_a_split_training_is_that_of_one_process(
    launch: Any, tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, text: Path, tmp_path: Path
) -> None:
    save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    done = launch(2, str(Path(__file__).with_name("trained_ranks.py")), str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    logs = json.loads((tmp_path / "logs.json").read_text())
    for step, expected in enumerate(train(tmp_path)):
        for way in ("measured", "tensor"):
            entry = logs[way][step]
            assert entry.keys() == expected.keys()
            for name in expected.keys() - ({"loss"} if way == "measured" else {}):  # of a part of the batch there
                assert entry[name] == pytest.approx(expected[name], rel=1e-6, abs=1e-6), name
    # The measurements change nothing.
    assert [entry["loss"] for entry in logs["measured"]] == [entry["loss"] for entry in logs["bare"]]
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("measured", "bare")]
    assert weights[0] == weights[1]
    # What two processes trained under FSDP2 is captured by one, and by two that split every layer.
    names = {"model": str(tmp_path / "model"), "adapter": (str(tmp_path / "measured"),), "data": (str(text),)}
    run = capture(CaptureConfig(**names, out=str(tmp_path / "alone.zarr"), window_tokens=200, device="cpu"))
    js, split_js = (each.js().values for each in (run, open_run(tmp_path / "tensor.zarr")))
    assert np.nanmax(js) > 1e-4
    np.testing.assert_allclose(split_js, js, rtol=1e-4, atol=1e-9)
