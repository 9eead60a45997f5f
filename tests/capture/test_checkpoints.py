import copy
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lorascope.capture import checkpoints as module
from lorascope.capture.checkpoints import last_checkpoint, training_folder
from lorascope.capture.config import FinetuneConfig
from lorascope.capture.finetune import FinetuneResult, finetune
from lorascope.stores import StoreError
from lorascope.stores.places.alone import alone

from ..tiny import save_model

# Nine steps in three epochs, with all that draws numbers and all that is carried from one batch to the next.
CONFIG = FinetuneConfig(
    rank=2, learning_rate=1e-2, batch_size=2, micro_batch_size=1, epochs=3, dropout=0.2, seed=3, miub_every=2
)


class StopError(Exception):
    pass


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step."""
    monkeypatch.setattr(module, "SECONDS", 0.0)


@pytest.fixture
def train(tiny_model: Any, tiny_tokenizer: Any, tiny_items: Any, tmp_path: Path) -> Any:
    """Train in the folder of this name, and stop after so many steps; returns what came of it, and the steps seen."""

    def run(name: str, config: FinetuneConfig = CONFIG, *, stop: int | None = None) -> tuple[Any, list[int]]:
        seen: list[int] = []

        def progress(done: int, total: int) -> None:
            assert total == (config.max_steps or 9)
            seen.append(done)
            if done == stop:
                raise StopError

        model = copy.deepcopy(tiny_model)
        out = tmp_path / name / "out"
        if stop is not None:
            with pytest.raises(StopError):
                finetune(model, tiny_tokenizer, tiny_items, out, config, items_eval=tiny_items[:3], progress=progress)
            return None, seen
        return finetune(
            model, tiny_tokenizer, tiny_items, out, config, items_eval=tiny_items[:3], progress=progress
        ), seen

    return run


def require_same(one: FinetuneResult, other: FinetuneResult) -> None:
    """Bit for bit."""
    assert (one.steps, one.before, one.after) == (other.steps, other.before, other.after)
    curves = [[step._replace(seconds=0) for step in result.miub.steps] for result in (one, other) if result.miub]
    assert curves[:1] == curves[1:]
    weights = [load_file(result.path / "adapter_model.safetensors") for result in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("stops", [(2,), (4,), (5,), (3, 6), (2, 4, 5, 9)])
def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(
    train: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], stops: tuple[int, ...]
) -> None:
    whole, _ = train("whole")
    first = 0
    for stop in stops:
        # What is asked of Trainer at a step is done after it, so that the step it was stopped at is lost.
        _, seen = train("stopped", stop=stop)
        assert seen == list(range(first + 1, stop + 1))
        first = stop - 1
        found = last_checkpoint(training_folder(tmp_path / "stopped" / "out"))
        assert found is not None
        assert found.step == first
    gone_on, seen = train("stopped")
    assert seen == list(range(first + 1, 10))
    require_same(whole, gone_on)
    assert [step.step for step in gone_on.miub.steps] == [0, 2, 4, 6, 8, 9]
    assert os.listdir(tmp_path / "stopped") == ["out"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("n_files", [0, 1, 4])
def test_stopped_while_a_checkpoint_is_written_it_goes_on_from_the_one_before(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_files: int
) -> None:
    flush, flushed = module._flush, []

    def stop(file: Path) -> None:
        flushed.extend([file] if "checkpoint-3" in str(file) else [])
        if len(flushed) > n_files:
            raise StopError
        flush(file)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_flush", stop)
        with pytest.raises(StopError):
            train("stopped")
    folder = training_folder(tmp_path / "stopped" / "out")
    assert {file.name for file in folder.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}
    found = last_checkpoint(folder)
    assert found is not None
    assert found.step == 2
    gone_on, seen = train("stopped")
    assert seen == list(range(3, 10))
    require_same(train("whole")[0], gone_on)


def test_a_training_that_ends_within_an_epoch_goes_on_to_there(train: Any) -> None:
    config = dataclasses.replace(CONFIG, max_steps=7, micro_batch_size=None)
    train("stopped", config, stop=6)
    gone_on, seen = train("stopped", config)
    assert seen == [6, 7]
    require_same(train("whole", config)[0], gone_on)


KILLED = """
import json, os, signal, sys
import torch
from lorascope.capture import FinetuneConfig, checkpoints, finetune, load_model, read_items

torch.set_num_threads(1)
checkpoints.SECONDS = 0.0

def kill(done, total):
    if done == 4:
        os.kill(os.getpid(), signal.SIGKILL)

model, tokenizer = load_model(sys.argv[1])
items = read_items(sys.argv[2])
finetune(model, tokenizer, items, sys.argv[3], FinetuneConfig(**json.loads(sys.argv[4])), progress=kill)
"""


def test_a_process_that_is_killed_loses_no_step_before_its_last_checkpoint(
    tiny_model: Any, tiny_tokenizer: Any, data: Path, tmp_path: Path
) -> None:
    from lorascope.capture import load_model, read_items

    save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    config = dataclasses.replace(CONFIG, miub_every=None)
    words = [sys.executable, "-c", KILLED, *map(str, (tmp_path / "model", data, tmp_path / "out"))]
    ended = subprocess.run([*words, json.dumps(dataclasses.asdict(config))], check=False)
    assert ended.returncode == -signal.SIGKILL
    model, tokenizer = load_model(str(tmp_path / "model"))
    seen: list[int] = []
    gone_on, whole = (
        finetune(model, tokenizer, read_items(data), tmp_path / name, config, progress=lambda n, _: seen.append(n))
        for name in ("out", "whole")
    )
    assert seen == [*range(4, 10), *range(1, 10)]
    require_same(whole, gone_on)


def test_time_before_it_was_stopped_counts(train: Any, tmp_path: Path) -> None:
    train("out", stop=5)
    found = last_checkpoint(training_folder(tmp_path / "out" / "out"))
    assert found is not None
    assert found.seconds > 0
    (found.path / "whole.json").write_text(json.dumps({"step": found.step, "seconds": 1000.0}))
    result, _ = train("out")
    assert 1000 < result.train_seconds < 1100
    assert result.miub.share == pytest.approx(result.miub.seconds / result.train_seconds)
    assert result.miub.seconds == pytest.approx(sum(step.seconds for step in result.miub.steps))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": 2e-2}, "config.learning_rate: 0.01 -> 0.02"),
        ({"rank": 3, "seed": 4}, "config.rank: 2 -> 3; config.seed: 3 -> 4"),
        ({"window_tokens": 8}, "config.window_tokens: 512 -> 8"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_lost(
    train: Any, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    train("out", stop=5)
    folder = training_folder(tmp_path / "out" / "out")
    with pytest.raises(
        StoreError, match=f"was another: {words}; repeat the command that began it, or delete"
    ) as caught:
        train("out", dataclasses.replace(CONFIG, **change))
    assert repr(str(folder)) in str(caught.value)
    assert train("out")[1] == [5, 6, 7, 8, 9]


def test_other_data_or_base_weights_are_refused(
    tiny_model: Any, tiny_tokenizer: Any, tiny_items: Any, train: Any, tmp_path: Path
) -> None:
    train("out", stop=5)
    out = tmp_path / "out" / "out"
    given = (tiny_model, tiny_tokenizer)
    with pytest.raises(StoreError, match="was another: data: "):
        finetune(*given, tiny_items[1:], out, CONFIG, items_eval=tiny_items[:3])
    with pytest.raises(StoreError, match="was another: held_out: "):
        finetune(*given, tiny_items, out, CONFIG, items_eval=tiny_items[:2])
    torch.nn.init.zeros_(tiny_model.model.layers[0].mlp.down_proj.weight)
    with pytest.raises(StoreError, match=r"was another: model.sha256: "):
        finetune(*given, tiny_items, out, CONFIG, items_eval=tiny_items[:3])


def test_one_that_diverged_leaves_nothing_to_go_on_from(
    tiny_model: Any, tiny_tokenizer: Any, tiny_items: Any, tmp_path: Path
) -> None:
    config = FinetuneConfig(rank=2, learning_rate=1e30, batch_size=3, max_steps=4)
    with pytest.raises(FloatingPointError, match="the loss of step 2 is nan"):
        finetune(tiny_model, tiny_tokenizer, tiny_items, tmp_path / "out", config)
    assert os.listdir(tmp_path) == []


def test_what_was_stopped_before_its_first_checkpoint_is_no_obstacle(train: Any, tmp_path: Path) -> None:
    train("out", stop=3)
    folder = training_folder(tmp_path / "out" / "out")
    shutil.rmtree(folder / "checkpoint-2")
    assert train("out", dataclasses.replace(CONFIG, rank=1))[1] == list(range(1, 10))


def test_one_process_at_a_time(tiny_model: Any, tiny_tokenizer: Any, tiny_items: Any, tmp_path: Path) -> None:
    with alone(tmp_path / "out"), pytest.raises(FileExistsError, match="out` is being made by another process"):
        finetune(tiny_model, tiny_tokenizer, tiny_items, tmp_path / "out", CONFIG, items_eval=tiny_items)
    assert os.listdir(tmp_path) == []
