import copy
import dataclasses
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import Trainer

from lorascope.capture.config import FinetuneConfig
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.training import checkpoints as module
from lorascope.capture.training.checkpoints import training_folder
from lorascope.capture.training.finetune import FinetuneResult, finetune
from lorascope.stores import StoreError
from lorascope.stores.places.file_lock import file_lock
from lorascope.stores.places.files import DiskFullError

from ...tiny import llama, save_model

# Six steps in two epochs, with all that draws numbers and all that is carried from one batch to the next.
CONFIG = FinetuneConfig(
    rank=2, learning_rate=1e-2, batch_size=2, micro_batch_size=1, epochs=2, dropout=0.2, seed=3, miub_every=2
)
N_STEPS = 6


class StopError(Exception):
    pass


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step."""
    monkeypatch.setattr(module, "SECONDS", 0.0)


@pytest.fixture
def tiny_model(tiny_tokenizer: Any) -> Any:
    """A Llama of one layer."""
    return llama(len(tiny_tokenizer), num_hidden_layers=1)


@pytest.fixture
def train(tiny_model: Any, tiny_tokenizer: Any, tiny_items: Any, tmp_path: Path) -> Any:
    """Train in the folder of this name, and stop after this many steps; returns what came of it, and the steps seen."""

    def run(name: str, config: FinetuneConfig = CONFIG, *, stop: int | None = None) -> tuple[Any, list[int]]:
        seen: list[int] = []

        def progress(done: int, total: int, part: str = "") -> None:
            assert total == (config.max_steps or N_STEPS)
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


def kept(out: Path) -> dict[str, list[str]]:
    """The checkpoints there, and the files of each; a whole one says so."""
    return {folder.name: sorted(os.listdir(folder)) for folder in training_folder(out).glob("checkpoint-*")}


def require_same_identity(one: FinetuneResult, other: FinetuneResult) -> None:
    """Bit for bit."""
    assert (one.steps, one.before, one.after) == (other.steps, other.before, other.after)
    curves = [[{**step, "seconds": 0} for step in result.miub["steps"]] for result in (one, other) if result.miub]
    assert curves[:1] == curves[1:]
    weights = [load_file(result.path / "adapter_model.safetensors") for result in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("stops", [(2,), pytest.param((3, 4, 6), marks=pytest.mark.slow)])
def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(
    train: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], stops: tuple[int, ...]
) -> None:
    whole, _ = train("whole")
    first = 0
    for stop in stops:
        # What is asked of Trainer at a step is done after it, so that the step it was stopped at is lost.
        _, seen = train("stopped", stop=stop)
        assert seen == list(range(first or 1, stop + 1))
        first = stop - 1
        ((name, files),) = kept(tmp_path / "stopped/out").items()
        assert name == f"checkpoint-{first}"
        assert "whole.json" in files
    gone_on, seen = train("stopped")
    assert seen == list(range(first, N_STEPS + 1))
    require_same_identity(whole, gone_on)
    assert [step["step"] for step in gone_on.miub["steps"]] == [0, 2, 4, 6]
    assert os.listdir(tmp_path / "stopped") == ["out"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("at", ["adapter", "name"])
def test_stopped_while_a_checkpoint_is_written_it_goes_on_from_the_one_before(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    where, name = {"adapter": (PeftModel, "save_pretrained"), "name": (os, "replace")}[at]
    real = getattr(where, name)

    def stop(*given: Any, **options: Any) -> Any:
        result = real(*given, **options) if at == "adapter" else None  # half of it is there
        if (tmp_path / "stopped/.out.training/checkpoint-3").exists():
            raise StopError
        return result if at == "adapter" else real(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, stop)
        with pytest.raises(StopError):
            train("stopped")
    found = kept(tmp_path / "stopped/out")
    assert {name for name, files in found.items() if "whole.json" in files} == {"checkpoint-2"}
    assert "checkpoint-3" in found
    gone_on, seen = train("stopped")
    assert seen == list(range(2, N_STEPS + 1))
    require_same_identity(train("whole")[0], gone_on)


def test_everything_is_on_the_disk_before_it_counts_and_only_then_the_older_one_goes(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, replace, rmtree = os.fsync, os.replace, shutil.rmtree
    synced: set[str] = set()
    events: list[str] = []

    def noted_sync(descriptor: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    def noted_replace(path: Path, target: Path) -> None:
        if Path(target).name == "whole.json":
            assert {str(file) for file in target.parent.iterdir()} <= synced
            synced.clear()
            events.append(f"whole {target.parent.name}")
        replace(path, target)

    def noted_rmtree(path: Path, *given: Any, **options: Any) -> None:
        if path.name.startswith("checkpoint-"):
            assert str(path.parent) in synced  # the newer one's name
            assert not (path / "whole.json").exists()
            events.append(f"gone {path.name}")
        rmtree(path, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", noted_sync)
        patch.setattr(os, "replace", noted_replace)
        patch.setattr(shutil, "rmtree", noted_rmtree)
        train("out", stop=4)
    expected = ["whole checkpoint-1"]
    for step in (2, 3):
        expected += [f"whole checkpoint-{step}", f"gone checkpoint-{step - 1}"]
    assert events == expected


KILLED = """
import json, os, signal, sys
import torch
from lorascope.capture import FinetuneConfig, finetune, load_model, read_items
from lorascope.capture.training import checkpoints

torch.set_num_threads(1)
checkpoints.SECONDS = 0.0

def kill(done, total, part=""):
    if done == 4:
        os.kill(os.getpid(), signal.SIGKILL)

model, tokenizer = load_model(sys.argv[1])
items = read_items(sys.argv[2])
finetune(model, tokenizer, items, sys.argv[3], FinetuneConfig(**json.loads(sys.argv[4])), progress=kill)
"""


@pytest.mark.slow
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
        finetune(model, tokenizer, read_items(data), tmp_path / name, config, progress=lambda n, *_: seen.append(n))
        for name in ("out", "whole")
    )
    assert seen == [*range(3, N_STEPS + 1), *range(1, N_STEPS + 1)]
    require_same_identity(whole, gone_on)


@pytest.mark.slow
def test_time_of_the_steps_that_count_is_told(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    config = dataclasses.replace(CONFIG, miub_every=None)
    # The clock is looked at after each of 6 steps, after each of 5 checkpoints, and at the end.
    assert train("whole", config)[0].train_seconds == 12
    train("stopped", config, stop=5)
    # Four steps and three checkpoints before it was stopped, then two steps, a checkpoint, and the end.
    assert train("stopped", config)[0].train_seconds == 7 + 4


def test_other_settings_are_refused_and_nothing_is_lost(train: Any, tmp_path: Path) -> None:
    train("out", stop=5)
    words = "config.rank: 2 -> 3; config.seed: 3 -> 4; repeat the command that began it, or delete"
    with pytest.raises(StoreError, match=f"was another: {words}") as caught:
        train("out", dataclasses.replace(CONFIG, rank=3, seed=4))
    assert repr(str(training_folder(tmp_path / "out" / "out"))) in str(caught.value)
    assert train("out")[1] == [4, 5, 6]


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


def test_other_libraries_and_numeric_settings_are_refused(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train("out", stop=5)
    with monkeypatch.context() as patch:
        patch.setattr("lorascope.capture.settling.provenance.version", lambda name: "0.1")
        with pytest.raises(StoreError, match="was another: libraries.accelerate: .* -> '0.1'; libraries.lorascope: "):
            train("out")
    with monkeypatch.context() as patch:
        patch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
        with pytest.raises(StoreError, match="was another: mixed_precision: 'no' -> 'bf16'; "):
            train("out")
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(StoreError, match="was another: device.float32_matmul_precision: 'highest' -> 'medium'; "):
            train("out")
    finally:
        torch.set_float32_matmul_precision("highest")
    assert train("out")[1] == [4, 5, 6]


DAMAGES: list[tuple[str, bytes | None, str]] = [
    ("optimizer.pt", None, "it isn't what was written"),
    ("rng_state.pth", b"garbage", "it isn't what was written"),
    ("model.safetensors", b"another base", "it isn't what was written"),
    ("whole.json", b"", "Expecting value"),
    ("whole.json", b"[]", "it isn't what was written"),
    ("whole.json", b"{}", "it isn't what was written"),
    ("../recipe.json", b"{", "Expecting property name"),
]


def test_damaged_checkpoints_are_one_line_and_stay(train: Any, tmp_path: Path) -> None:
    train("out", stop=5)
    folder = training_folder(tmp_path / "out/out")
    for file, content, words in DAMAGES:
        path = folder / "checkpoint-4" / file
        kept = path.read_bytes() if path.exists() else None
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        before = sorted(folder.rglob("*"))
        with pytest.raises(ValueError, match=f"can't be used to continue it: .*{words}") as caught:
            train("out")
        assert f"delete '{folder}', and it begins again" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert sorted(folder.rglob("*")) == before
        if kept is None:
            path.unlink()
        else:
            path.write_bytes(kept)


def test_a_disk_that_is_full_at_the_end_leaves_the_last_checkpoint(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PeftModel.save_pretrained

    def fail(model: Any, folder: Any, **options: Any) -> None:
        if Path(folder).name == "adapter":
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(model, folder, **options)

    out = tmp_path / "full/out"
    with monkeypatch.context() as patch:
        patch.setattr(PeftModel, "save_pretrained", fail)
        words = (
            rf"^`{out}` can't be written \(No space left on device\): `.*/checkpoint-5` is left; free some space, and"
        )
        with pytest.raises(DiskFullError, match=words):
            train("full")
    assert not out.exists()
    _, seen = train("full")
    assert seen == [5, 6]


@pytest.mark.slow
def test_a_disk_that_is_full_costs_the_checkpoint_and_not_the_training(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = train("whole")
    real = Trainer._save_rng_state

    def fail(trainer: Trainer, folder: str) -> None:
        if trainer.state.global_step in (3, 4):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(trainer, folder)

    monkeypatch.setattr(Trainer, "_save_rng_state", fail)
    with pytest.warns(
        RuntimeWarning, match="no checkpoint after step [34]: .*No space left on device; stopped now, the"
    ):
        train("full", stop=5)
    assert list(kept(tmp_path / "full/out")) == ["checkpoint-2"]
    with pytest.warns(RuntimeWarning, match="no checkpoint after step"):
        gone_on, _ = train("full")
    require_same_identity(whole, gone_on)


@pytest.mark.slow
def test_what_was_stopped_before_its_first_checkpoint_is_no_obstacle(train: Any, tmp_path: Path) -> None:
    train("out", stop=3)
    shutil.rmtree(training_folder(tmp_path / "out/out") / "checkpoint-2")
    assert train("out", dataclasses.replace(CONFIG, rank=1))[1] == list(range(1, N_STEPS + 1))


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_isnt_a_trainings_is_left_alone(train: Any, tmp_path: Path, kind: str) -> None:
    place = training_folder(tmp_path / "out/out")
    place.parent.mkdir()
    if kind == "folder":
        place.mkdir()
        (place / "thesis.txt").write_text("years of work")
    elif kind == "file":
        place.write_text("years of work")
    else:
        place.symlink_to(tmp_path)
    with pytest.raises(FileExistsError, match="something else is there; move it away, or name another `out`"):
        train("out")
    assert place.is_symlink() or (place / "thesis.txt" if kind == "folder" else place).read_text() == "years of work"


def test_an_adapter_that_came_meanwhile_is_told_before_the_training(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = encode_items

    def meanwhile(*given: Any, **options: Any) -> Any:
        (tmp_path / "out/out").mkdir(parents=True, exist_ok=True)
        (tmp_path / "out/out/adapter_config.json").write_text("{}")
        return real(*given, **options)

    monkeypatch.setattr("lorascope.capture.training.finetune.encode_items", meanwhile)
    with pytest.raises(FileExistsError, match="which is there already; give a new or empty folder"):
        train("out", stop=None)
    assert os.listdir(tmp_path / "out") == ["out"]


def test_one_process_at_a_time(tiny_model: Any, tiny_tokenizer: Any, tiny_items: Any, tmp_path: Path) -> None:
    with (
        file_lock(tmp_path / "out"),
        pytest.raises(FileExistsError, match=f"out` is being written by process {os.getpid()} on host "),
    ):
        finetune(tiny_model, tiny_tokenizer, tiny_items, tmp_path / "out", CONFIG, items_eval=tiny_items)
    assert os.listdir(tmp_path) == []
