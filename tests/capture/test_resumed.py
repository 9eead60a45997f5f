"""A capture that was interrupted, and goes on."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lorascope.capture import CaptureProgress
from lorascope.capture.errors import Interrupted
from lorascope.capture.models.refusal import lora_layers
from lorascope.stores import StoreError, open_run, run_state, verify
from lorascope.stores.places.file_lock import file_lock

from ..stores.on_disk import unfinish


def interrupt_after(n_tokens: int, what: Callable[[], None]) -> Callable[[CaptureProgress], None]:
    def tell(progress: CaptureProgress) -> None:
        if progress.stage == "capture" and progress.done >= n_tokens:
            what()

    return tell


def test_error_in_the_middle_then_the_same_again(content: Any, go: Any, tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        go("run.zarr", progress=interrupt_after(2300, fail))
    begun = open_run(tmp_path / "run.zarr")
    assert not begun.finished
    assert 0 < begun.committed_rows.sum() < begun.n_rows
    before = {row: begun.digest(row).tobytes() for row in np.flatnonzero(begun.committed_rows)}
    chunks = [tmp_path / f"run.zarr/tokens/nll/c.{row}" for row in before]
    written = [chunk.stat().st_mtime_ns for chunk in chunks]
    run = go("run.zarr")
    assert run.finished
    assert all(run.digest(row).tobytes() == digest for row, digest in before.items())
    # Committed rows aren't written again.
    assert written == [chunk.stat().st_mtime_ns for chunk in chunks]
    go("whole.zarr")
    assert content(tmp_path / "run.zarr") == content(tmp_path / "whole.zarr")
    assert verify(run.path).ok


def test_signal_finishes_the_row_and_the_same_command_goes_on(content: Any, go: Any, tmp_path: Path) -> None:
    number = signal.SIGTERM
    sent = []

    def send() -> None:
        if not sent:
            sent.append(number)
            os.kill(os.getpid(), number)

    with pytest.raises(
        Interrupted, match=r"stopped after 2 of 4 rows of .*run.zarr.; the same command goes on"
    ) as caught:
        go("run.zarr", progress=interrupt_after(1300, send))
    assert caught.value.exit_code == 128 + number
    # 1300 tokens in: row 1 had been begun and is whole, row 2 isn't begun.
    assert open_run(tmp_path / "run.zarr").committed_rows.tolist() == [True, True, False, False]
    go("run.zarr")
    go("whole.zarr")
    assert content(tmp_path / "run.zarr") == content(tmp_path / "whole.zarr")


def test_rows_missing_anywhere_are_filled(content: Any, go: Any, tmp_path: Path) -> None:
    """As several processes leave them: rows commit independently."""
    go("whole.zarr")
    shutil.copytree(tmp_path / "whole.zarr", tmp_path / "run.zarr")
    unfinish(tmp_path / "run.zarr", 0, 2)
    (tmp_path / "run.zarr/tokens/nll/c.2").write_bytes(b"torn")
    (tmp_path / "run.zarr/tokens/nll/c.0").unlink()
    run = go("run.zarr")
    assert run.finished
    assert content(tmp_path / "run.zarr") == content(tmp_path / "whole.zarr")


def test_interrupted_while_being_set_up(content: Any, go: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lorascope.stores.writing import create

    def fail(*arguments: Any, **options: Any) -> bytes:
        raise OSError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(create, "combine_digests", fail)
        with pytest.raises(OSError, match="power cut"):
            go("run.zarr")
    assert run_state(tmp_path / "run.zarr") == "torn"
    go("run.zarr")
    go("whole.zarr")
    assert content(tmp_path / "run.zarr") == content(tmp_path / "whole.zarr")


def test_another_capture_is_refused_with_what_differs(go: Any, adapted: Any, text: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="enough"):
        go("run.zarr", progress=interrupt_after(1100, raise_enough))

    def refused(words: str, **changes: Any) -> None:
        with pytest.raises(StoreError, match=f"contains another capture.*{words}.*repeat the command"):
            go("run.zarr", **changes)
        assert not open_run(tmp_path / "run.zarr").finished

    refused(r"settings.tokens: 'all' -> 'last:5'", tokens="last:5")
    refused(r"settings.seed: 0 -> 3; settings.store: 'exact' -> 'bf16'", store="bf16", seed=3)
    refused(r"model.dtype: 'float32' -> 'bfloat16'", dtype=torch.bfloat16)
    refused(r"settings.ablate: nothing -> 'kinds'", ablate="kinds")
    refused(r"settings.component: \[\] -> \['\*.q_proj'\]", component=("*.q_proj",))
    layers = list(lora_layers(adapted).values())
    layers[-1].set_scale("default", 1.5)
    refused(r"adapters.default.module_scaling: 2.0 -> \{", model=adapted)
    for layer in layers[:-1]:
        layer.set_scale("default", 1.5)
    refused(r"adapters.default.module_scaling: 2.0 -> 3.0", model=adapted)
    for layer in layers:
        layer.set_scale("default", 1.0)
    with torch.no_grad():
        adapted.base_model.model.model.layers[0].mlp.up_proj.lora_B["default"].weight[0, 0] += 1
    refused(r"adapters.default.sha256: '.*' -> '", model=adapted)
    words = text.read_text()
    text.write_text(words.replace("question 5 ", "question 6 "))
    refused(r"data: '.*' -> '")
    text.write_text(words)
    # Settings that shape no number may change.
    assert go("run.zarr", queue="1 GiB", device="cpu", overfill=True).finished


ABLATION = ("--ablate", "kinds", "--ablate-share", "0.5")


@pytest.mark.slow
def test_three_processes_write_what_one_writes(content: Any, command: Any, tmp_path: Path) -> None:
    for out, n_ranks in (("alone.zarr", 1), ("three.zarr", 3)):
        done = command(
            out,
            n_ranks,
            "--prompt",
            "main",
            "--prompt",
            "prompt3",
            "--answer-tokens",
            "3",
            *ABLATION,
            "--importance",
            "2",
            "--null-adapters",
            "2",
            "--neutral",
            "50",
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert content(tmp_path / "alone.zarr") == content(tmp_path / "three.zarr")
    measured = json.loads((tmp_path / "three.zarr/zarr.json").read_text())["attributes"]["measured"]
    assert (measured["ranks"], measured["rows"]) == (3, open_run(tmp_path / "three.zarr").n_rows)


@pytest.mark.slow
def test_ranks_end_with_the_refusal_of_the_first(command: Any, tmp_path: Path) -> None:
    with file_lock(tmp_path / "run.zarr"):
        done = command("run.zarr", 2)
    assert done.returncode != 0
    assert f"error: `run.zarr` is being written by process {os.getpid()} on host" in done.stderr
    assert "gloo" not in done.stderr.lower()
    assert not (tmp_path / "run.zarr").exists()


def raise_enough() -> None:
    raise RuntimeError("enough")


def test_a_finished_run_is_opened_as_it_is_unless_it_lost_a_chunk(go: Any, tmp_path: Path) -> None:
    run, folder = go("run.zarr"), tmp_path / "run.zarr"
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    assert go("run.zarr").finished
    assert before == {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    once = sorted(folder.glob("adapters/default/lora_B/*/c.0.0"))[0].relative_to(folder)
    for chunk in (f"states/{run.component_paths[0]}/base/c.1.0", str(once)):
        content = (folder / chunk).read_bytes()
        (folder / chunk).unlink()
        with pytest.raises(StoreError, match=rf"1 chunks that were written into .* are missing, '{chunk}' first"):
            go("run.zarr")
        (folder / chunk).write_bytes(content)


def test_run_that_lost_a_committed_chunk_is_not_gone_on_with(go: Any, tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        go("run.zarr", progress=interrupt_after(2300, fail))
    run = open_run(tmp_path / "run.zarr")
    row = int(np.flatnonzero(run.committed_rows)[0])
    chunk = f"states/{run.component_paths[0]}/base/c.{row}.0"
    (tmp_path / "run.zarr" / chunk).unlink()
    with pytest.raises(StoreError, match=rf"1 chunks .* are missing, '{chunk}' first"):
        go("run.zarr")
    assert not open_run(tmp_path / "run.zarr").finished
