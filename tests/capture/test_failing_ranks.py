"""Processes that capture together, and of which one fails: the others say which, and the capture goes on."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from lorascope.cli.main import main
from lorascope.stores import open_run, verify
from lorascope.stores.format.meshes import rows_by_mesh

from ..tiny import save_model

DRIVER = """
import os, signal, sys, time
from pathlib import Path
import torch
from lorascope.capture.models import watch
from lorascope.cli.main import main
torch.set_num_threads(1)
how, *words = sys.argv[1:]
watch.GRACE = 2.0
if how in ("sleeps", "frozen"):  # others find theirs by other signs, however slow the machine
    watch.PATIENCE = 15.0
if how in ("adapter", "text.txt") and os.environ["RANK"] == "1":
    os.chdir("elsewhere")
if how == "settings" and os.environ["RANK"] == "1":
    words += ["--stream", "pair"]

passes, last = 0, 60 if "--tensor-parallel" in words else 1  # of 88, row 0 is whole by then; alone, rank 0 goes on

def fail(module, inputs):
    global passes
    if os.environ["RANK"] != "1" or not Path("run.zarr/zarr.json").exists():
        return
    passes += type(module).__name__.endswith("ForCausalLM")
    while passes >= last and not Path("run.zarr/rows/commit/c.0.0").exists():
        time.sleep(0.01)
    if not Path("run.zarr/rows/commit/c.0.0").exists():
        return
    handle.remove()
    if how == "raises":
        raise torch.OutOfMemoryError("CUDA out of memory.\\nTried to allocate 2 GiB.")
    if how == "sleeps":
        time.sleep(600)
    if how == "orphaned":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    if how == "stopped":
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(3)
    os.kill(os.getpid(), {"killed": signal.SIGKILL, "frozen": signal.SIGSTOP, "stopped": 0}[how])

handle = torch.nn.modules.module.register_module_forward_pre_hook(fail)
raise SystemExit(main(["capture", *words]))
"""
GOES_ON = "; committed rows stay, and the same command goes on"
OF_OTHERS = {
    "raises": r"rank 1 of 2 ended: CUDA out of memory\. Tried to allocate 2 GiB",
    "killed": r"rank 1 of 2 ended without a word \(killed, or out of memory\)",
    "sleeps": r"rank 1 of 2 hasn't moved for 15 s \(`time\.sleep\(600\)`, .*driver\.py:32\)",
    "frozen": r"rank 1 of 2 hasn't answered for 15 s",
}
OF_ITSELF = {"raises": [r"CUDA out of memory\. Tried to allocate 2 GiB\."], "sleeps": [OF_OTHERS["sleeps"] + GOES_ON]}


@pytest.fixture
def words(
    tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], list[str]]:
    """Words of a capture of some four rows, which begins in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    tiny_model.resize_token_embeddings(-(-len(tiny_tokenizer) // 2) * 2)
    save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    (tmp_path / "text.txt").write_text("".join(f"question {n} is the answer of the fourth\n" for n in range(220)))

    def run(out: str) -> list[str]:
        options = ["--model", "model", "--adapter", str(tiny_adapter), "--data", "text.txt", "--out", out]
        return [*options, "--window-tokens", "100", "--batch-tokens", "200", "--device", "cpu"]

    return run


def start(how: str, words: list[str], *options: str) -> tuple[int, list[str]]:
    """Exit code of two processes under torchrun of which one fails in this way, and their lines on errors."""
    Path("driver.py").write_text(DRIVER)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--shutdown-timeout", "60"]
    done = subprocess.run(
        [sys.executable, *launcher, "driver.py", how, *words, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    lines = re.findall(r"^lorascope: error: (.*)$", done.stderr, re.MULTILINE)
    assert lines, done.stderr[-3000:]
    return done.returncode, lines


@pytest.mark.slow
@pytest.mark.parametrize("how", OF_OTHERS)
def test_others_end_with_a_line_and_one_process_goes_on(
    how: str, words: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = start(how, words("run.zarr"), "--tensor-parallel", "2")
    assert code != 0
    expected = [*OF_ITSELF.get(how, []), OF_OTHERS[how] + GOES_ON]
    assert len(lines) == len(expected), lines
    assert all(map(re.fullmatch, expected, sorted(lines))), lines
    begun = open_run("run.zarr")
    n = int(begun.committed_rows.sum())
    assert 0 < n < begun.n_rows
    assert begun.committed_rows[:n].all()

    assert main(["capture", *words("run.zarr")]) == 0
    run = open_run("run.zarr")
    assert run.finished
    assert verify("run.zarr").ok
    assert all((run.digest(row) == begun.digest(row)).all() for row in range(n))
    assert rows_by_mesh(run.attributes, run.committed_rows) == [(2, [[0, n]]), (1, [[n, run.n_rows]])]
    capsys.readouterr()
    assert main(["info", "run.zarr"]) == 0
    first, last = ("0" if n == 1 else f"0 to {n - 1}"), (f"{n} to {run.n_rows - 1}" if n < run.n_rows - 1 else f"{n}")
    assert f"2 processes a layer: {first}; 1 process a layer: {last}\n" in capsys.readouterr().out
    if how == "killed":
        assert main(["capture", *words("whole.zarr")]) == 0
        compare(run, open_run("whole.zarr"), n)


def compare(run: Any, whole: Any, n: int) -> None:
    """Rows after the first n are equal in every bit; the first n, whose sums two processes added up, to rounding.

    A sum of 64 float32 products, the longest here, is off by at most 64 * 2**-24 of its terms, in each of 14 layers.
    """
    assert all((run.digest(row) == whole.digest(row)).all() for row in range(n, run.n_rows))
    assert not all((run.digest(row) == whole.digest(row)).all() for row in range(n))
    for path in run.component_paths:
        ours, theirs = (np.asarray(each[path]["lora"]) for each in (run, whole))
        assert np.abs(ours - theirs).max() < 14 * 64 * 2**-24 * np.abs(theirs).max()
    assert (whole.attributes.get("meshes"), rows_by_mesh(whole.attributes, whole.committed_rows)) == (
        None,
        [(1, [[0, whole.n_rows]])],
    )


@pytest.mark.slow
def test_ranks_with_different_batches_name_the_one_that_failed(words: Any) -> None:
    _, lines = start("killed", words("run.zarr"))
    assert all(re.fullmatch(OF_OTHERS["killed"] + GOES_ON, line) for line in lines), lines
    assert main(["capture", *words("run.zarr")]) == 0
    assert main(["capture", *words("whole.zarr")]) == 0
    run, whole = open_run("run.zarr"), open_run("whole.zarr")
    assert all((run.digest(row) == whole.digest(row)).all() for row in range(run.n_rows))
    assert "meshes" not in run.attributes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "differs"),
    [("adapter", "adapters."), ("text.txt", "data: "), ("settings", "settings.stream: 'adapted' -> 'pair'; ")],
)
def test_ranks_that_differ_begin_no_run(what: str, differs: str, words: Any, tiny_adapter: Path) -> None:
    """With other data or settings, ranks would make other passes, and wait for each other in vain.

    An adapter's row layers have whole B on each rank, so that proofs on each would see no difference.
    """
    own = ["adapter" if word == str(tiny_adapter) else word for word in words("run.zarr")]
    shutil.copytree("model", "elsewhere/model")
    shutil.copy("text.txt", "elsewhere")
    for folder in (Path(), Path("elsewhere")):
        shutil.copytree(tiny_adapter, folder / "adapter")
    if what == "adapter":
        tensors = load_file("elsewhere/adapter/adapter_model.safetensors")
        key = next(key for key in tensors if "o_proj.lora_B" in key)
        save_file({**tensors, key: tensors[key] + 0.1}, "elsewhere/adapter/adapter_model.safetensors")
    if what == "text.txt":
        Path("elsewhere/text.txt").write_text("question 1 is another one\n" * 30)
    code, lines = start(what, own, "--tensor-parallel", "2")
    assert code != 0
    begins, ends = "rank 1 doesn't capture what rank 0 does: ", "model, adapters, data and settings"
    assert all(line.startswith(begins + differs) and line.endswith(ends) for line in lines), lines
    assert not Path("run.zarr").exists()


@pytest.mark.slow
def test_without_torchrun_both_end(words: Any) -> None:
    """torchrun is killed while one rank waits in torch for the other, which sleeps; nobody is left to end them."""
    _, lines = start("orphaned", words("run.zarr"), "--tensor-parallel", "2")
    gone = r"the process through which ranks are connected is gone \(.*\)" + GOES_ON
    assert len(lines) == 2, lines
    assert all(re.fullmatch(gone, line) for line in lines), lines


@pytest.mark.slow
def test_stopped_by_a_signal_names_nobody(words: Any) -> None:
    """torchrun hands its SIGTERM to all ranks."""
    code, lines = start("stopped", words("run.zarr"), "--tensor-parallel", "2")
    assert code != 0
    assert len(lines) == 2, lines
    assert all(
        re.fullmatch(r"stopped after \d+ of \d+ rows of `run.zarr`; the same command goes on", x) for x in lines
    ), lines
