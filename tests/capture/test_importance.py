"""Captures that measure what predictions need of the adapter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import BertForMaskedLM

from lorascope.capture import CaptureConfig, CaptureProgress, capture
from lorascope.stores import Run, StoreError, open_run, run_state, verify

from .recorded import adapt
from .recording.test_importance import state_of
from .recording.test_models import OTHERS


def information(run: Run, adapter: str | None = None) -> np.ndarray:
    """Squared gradient of each component's scale per place, mean over passes."""
    found = run.importance(adapter)
    whole = [
        found["gradient"].values[:, found["component"].values == c].sum(1) for c in range(len(run.component_paths))
    ]
    return np.array([(values.astype(np.float64) ** 2 / found["n_tokens"].values).mean() for values in whole])


def test_gradients_of_every_sample_draw_and_direction_are_in_the_run(make: Any, adapted: Any) -> None:
    before, stages = state_of(adapted), []
    run = make(model=adapted, importance=3, states="none", batch_tokens=80, progress=lambda now: stages.append(now[:4]))
    assert state_of(adapted) == before
    assert verify(run.path).ok
    found = run.importance()
    assert dict(found.sizes) == {"pass": 18, "direction": 4 * len(run.component_paths)}
    assert found["sample"].values.tolist() == np.arange(6).repeat(3).tolist()
    assert found["draw"].values.tolist() == [0, 1, 2] * 6
    assert found["n_tokens"].values.tolist() == run.samples["length"].values.repeat(3).tolist()
    assert found["component"].values.tolist() == np.arange(len(run.component_paths)).repeat(4).tolist()
    assert found["direction"].values.tolist() == [0, 1, 2, 3] * len(run.component_paths)
    assert (information(run) > 0).all()
    n_batches = len([stage for stage in stages if stage[0] == "importance"])
    assert stages[0] == ("importance", 1, n_batches, "batch") or n_batches > 1
    assert n_batches > 1
    again = make("other.zarr", importance=3, batch_tokens=80)
    np.testing.assert_allclose(again.importance()["gradient"], found["gradient"], rtol=1e-6)


def test_more_samples_than_are_read_are_chosen_by_the_seed(go: Any, tmp_path: Path) -> None:
    found = [
        go(f"{seed}.zarr", importance=1, seed=seed, window_tokens=50, tokens="last:1").importance() for seed in (0, 1)
    ]
    samples = [run["sample"].values.tolist() for run in found]
    assert [len(own) for own in samples] == [32, 32]
    assert samples[0] == sorted(set(samples[0])) != samples[1]
    assert max(samples[0]) > 32


def test_a_run_without_it_is_as_it_was(make: Any, content: Any, tmp_path: Path) -> None:
    run, plain = make(importance=2), make("plain.zarr")
    ours = content(run.path)
    for name, held in content(plain.path).items():
        assert name == "zarr.json" or ours[name] == held, name
    assert set(ours) - set(content(plain.path)) == {
        name for name in ours if name.startswith("adapters/default/importance/")
    }
    assert run.attributes["fingerprint"] == plain.attributes["fingerprint"]
    assert "importance" not in plain.attributes["provenance"]["settings"]
    assert run.attributes["provenance"]["settings"]["importance"] == 2


def test_every_adapter_of_a_base_stream_is_measured_alone(make: Any, adapted: Any) -> None:
    alone = make("alone.zarr", importance=2)
    other = LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        adapted.add_adapter("other", other)
    run = make(model=adapted, stream="base", importance=2, component=("*.q_proj", "*.up_proj"))
    assert verify(run.path).ok
    q, up = (np.array([path.endswith(name) for path in run.component_paths]) for name in ("q_proj", "up_proj"))
    of_all = np.array([path in run.component_paths for path in alone.component_paths])
    np.testing.assert_allclose(information(run, "default"), information(alone)[of_all], rtol=1e-5)
    assert (information(run, "other")[q] > 0).all()
    assert (information(run, "other")[up] == 0).all()
    assert set(run.importance("other")["component"].values) == set(np.flatnonzero(q))


def test_an_interrupted_capture_goes_on_without_measuring_again(go: Any, content: Any, tmp_path: Path) -> None:
    def fail_at(stage: str, done: int) -> Any:
        def fail(now: CaptureProgress) -> None:
            if now.stage == stage and now.done >= done:
                raise OSError("the disk went away")

        return fail

    with pytest.raises(OSError, match="went away"):
        go(importance=2, progress=fail_at("importance", 2))
    assert run_state(tmp_path / "run.zarr") == "absent"
    with pytest.raises(OSError, match="went away"):
        go(importance=2, progress=fail_at("capture", 2300))
    assert 0 < open_run(tmp_path / "run.zarr").committed_rows.sum() < 4
    with pytest.raises(StoreError, match="was begun without this `importance`; leave it out, or name a new"):
        go(importance=3)
    go(importance=2, progress=fail_at("importance", 0))
    go("whole.zarr", importance=2)
    assert content(tmp_path / "run.zarr") == content(tmp_path / "whole.zarr")
    go("without.zarr")
    with pytest.raises(StoreError, match="was begun without this `importance`"):
        go("without.zarr", importance=1)


def test_what_has_no_importance_is_refused(tiny_items: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`importance` is -1; give at least 0"):
        CaptureConfig(model="m", adapter="a", data="d", out="o", importance=-1)
    _, config, options = OTHERS["masked"]
    model = adapt(BertForMaskedLM(config), **options)
    with pytest.raises(ValueError, match="`importance` is 4, but BertForMaskedLM doesn't predict the next token"):
        capture(model, tiny_items, tmp_path / "run", tokenizer=tiny_tokenizer, importance=4, score=False)
