"""A trial is a capture of a few samples: what it measures adds up, and nothing of it stays."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lorascope.capture.config import CaptureConfig
from lorascope.capture.planning import trial
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.encoded import EncodedSample
from lorascope.stores import open_place

from ...tiny import save_model


@pytest.fixture
def settings(tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, tmp_path: Path) -> dict[str, Any]:
    model = save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    return {"model": str(model), "adapter": str(tiny_adapter), "data": "d.txt", "out": str(tmp_path / "no/run.zarr")}


@pytest.fixture
def samples(tiny_items: Any, tiny_tokenizer: Any) -> list[EncodedSample]:
    return encode_items(tiny_items, tiny_tokenizer, max_length=256, window_tokens=64)


@pytest.mark.parametrize(
    ("options", "row_bytes"), [({"codec": "raw"}, 2624), ({"states": "none"}, 232)], ids=["states", "no states"]
)
def test_a_trial_measures_and_leaves_nothing_behind(
    settings: dict[str, Any], samples: list[EncodedSample], tmp_path: Path, options: dict[str, Any], row_bytes: int
) -> None:
    before = sorted(tmp_path.rglob("*"))
    found = trial.run_trial(CaptureConfig(**settings, **options), samples, (), torch.device("cpu"))
    assert sorted(tmp_path.rglob("*")) == before
    lengths = [len(sample.token_ids) for sample in samples]
    n_tried = int(np.searchsorted(np.cumsum(lengths), sum(lengths) / 2)) + 1
    lengths = lengths[:n_tried]
    assert n_tried < len(samples)  # never more than the capture would forward
    assert sum(lengths) <= found.tokens <= len(lengths) * max(lengths)
    measured = found.measured
    assert measured["raw_bytes"] % sum(lengths) == 0
    assert measured["raw_bytes"] / sum(lengths) == pytest.approx(row_bytes, rel=0.5)
    assert all(measured[name] > 0 for name in ("stored_bytes", "seconds", "bare_seconds"))
    assert found.bottleneck in {"forward", "copy", "encode", "disk"}


def test_no_more_samples_are_tried_than_needed(
    settings: dict[str, Any], samples: list[EncodedSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "TRIAL_TOKENS", len(samples[0].token_ids) + 1)
    found = trial.run_trial(CaptureConfig(**settings), samples, (), torch.device("cpu"))
    assert found.tokens == 2 * max(len(sample.token_ids) for sample in samples[:2])


def test_a_trial_leaves_nothing_in_an_object_store(
    settings: dict[str, Any], samples: list[EncodedSample], s3: Any
) -> None:
    open_place(s3.prefix).write("other/run.zarr/zarr.json", b"{}")
    config = CaptureConfig(**{**settings, "out": f"{s3.prefix}/other/run.zarr"})
    assert trial.run_trial(config, samples, (), torch.device("cpu")).measured["stored_bytes"] > 0
    assert list(open_place(s3.prefix).keys()) == ["other/run.zarr/zarr.json"]
