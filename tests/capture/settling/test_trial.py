"""A trial is a capture of a few samples: what it measures adds up, and nothing of it stays."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lorascope.capture.config import CaptureConfig
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.encoded import EncodedSample
from lorascope.capture.settling import trial
from lorascope.stores import Component, RunSpec, open_place

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
    tried = trial.run_trial(CaptureConfig(**settings, **options), samples, torch.device("cpu"), ["raw"])
    assert [*tried] == (["raw"] if "states" in options else ["raw", "none"])
    found = tried["raw"]
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
    assert measured["bare_tokens"] == found.tokens  # of the same batches
    assert found.costs.limit in found.costs.rates
    assert found.seconds == measured["seconds"] / found.tokens
    assert found.costs.forward / found.seconds == pytest.approx(
        measured["bare_seconds"] / measured["seconds"]
    )  # of as many tokens


def test_a_longer_trial_takes_more_samples(settings: dict[str, Any], samples: list[EncodedSample]) -> None:
    config = CaptureConfig(**settings, states="none")
    longer = trial.run_trial(config, samples, torch.device("cpu"), ["default"], seconds=60.0)["default"]
    assert longer.tokens >= sum(len(sample.token_ids) for sample in samples)


@pytest.mark.parametrize(("device", "states", "n"), [("cpu", "all", 1), ("cpu", "none", 2), ("cuda", "all", 2)])
def test_compilation_is_no_part_of_what_is_measured(
    settings: dict[str, Any],
    samples: list[EncodedSample],
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    states: Any,
    n: int,
) -> None:
    """Where something may compile, rows are filled once more before what writes nothing is timed."""
    fills: list[bool] = []
    fill, time_codecs = trial.fill_rows, trial.time_codecs

    def count(layout: Any, model: Any, device: Any, writer: Any, rows: np.ndarray) -> Any:
        fills.append(isinstance(writer, trial._DiscardingWriter))
        return fill(layout, model, torch.device("cpu"), writer, rows)

    monkeypatch.setattr(trial, "fill_rows", count)
    monkeypatch.setattr(
        trial,
        "time_codecs",
        lambda layout, model, _, *inputs: time_codecs(layout, model, torch.device(device), *inputs),
    )
    config = CaptureConfig(**settings, states=states)
    trial.run_trial(config, samples, torch.device("cpu"), ["zstd", "raw"])
    assert fills[: n + 2] == [True] * n + [False, False]


def test_no_more_samples_are_tried_than_needed(
    settings: dict[str, Any], samples: list[EncodedSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "TRIAL_TOKENS", len(samples[0].token_ids) + 1)
    found = trial.run_trial(CaptureConfig(**settings), samples, torch.device("cpu"), ["zstd"])["zstd"]
    assert found.tokens == 2 * max(len(sample.token_ids) for sample in samples[:2])


def test_a_slow_machine_tries_fewer_tokens(
    settings: dict[str, Any], samples: list[EncodedSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a second a token there is time for one sample; its stages are reported."""
    seconds = trial.forward_seconds

    def slow(model: Any, batch: Any, device: Any) -> float:
        seconds(model, batch, device)
        return float(len(batch) * max(len(sample.token_ids) for sample in batch))

    monkeypatch.setattr(trial, "forward_seconds", slow)
    stages: list[tuple[str, int]] = []
    config = CaptureConfig(**settings, states="none")
    found = trial.run_trial(
        config, samples, torch.device("cpu"), ["zstd"], progress=lambda now: stages.append((now.stage, now.done))
    )
    assert found["zstd"].tokens == len(samples[0].token_ids)
    names = ("load model", "try a capture", "time passes", "time scores", "time changes")
    assert stages == [(stage, done) for stage in names for done in (0, 1)]


def test_a_trial_leaves_nothing_in_an_object_store(
    settings: dict[str, Any], samples: list[EncodedSample], s3: Any
) -> None:
    open_place(s3.prefix).write("other/run.zarr/zarr.json", b"{}")
    config = CaptureConfig(**{**settings, "out": f"{s3.prefix}/other/run.zarr"})
    found = trial.run_trial(config, samples, torch.device("cpu"), ["raw", "default"])
    assert found["raw"].measured["stored_bytes"] > found["default"].measured["stored_bytes"] > 0
    assert list(open_place(s3.prefix).keys()) == ["other/run.zarr/zarr.json"]


@pytest.mark.parametrize(
    ("options", "free_bytes", "codecs"),
    [
        ({}, None, ("raw", "default")),
        ({"codec": "auto"}, 10**12, ("raw", "default")),
        ({"codec": "zstd"}, None, ("raw", "zstd")),
        ({"codec": "raw"}, 0, ("raw", "default")),
        ({"codec": "auto"}, 1000, ("default",)),
        ({"codec": "auto", "budget": "1 GB"}, None, ("default",)),
        ({"codec": "lz4", "states": "none"}, None, ("lz4",)),
    ],
    ids=str,
)
def test_raw_is_tried_where_it_may_be_taken(
    settings: dict[str, Any], options: dict[str, Any], free_bytes: int | None, codecs: tuple[str, ...]
) -> None:
    config = CaptureConfig(**settings, **options)
    part = Component(path="a", kind="a", layer=0, d_in=9, d_out=9, dtype="float32", stored_dtype="float32")
    codec: Any = "default" if config.codec == "auto" else config.codec
    spec = RunSpec(stream="base", components=(part,), adapters=(), n_tokens=9, n_samples=1, n_choices=0, codec=codec)
    assert trial.codecs_to_try(config, spec, free_bytes) == codecs
