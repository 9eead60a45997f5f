"""Two commands at once at one place: the first finishes as if it were alone, the second reports who is at it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorascope.stores import open_place, verify
from lorascope.study.demo_inputs import facts_path

from .called import call, flat, make_inputs
from .test_truncate import write, write_run

STOPPING = """
import importlib, os, signal, sys
module, name, *ends = sys.argv[1].split(":")
module, stopped = importlib.import_module(module), []
original = getattr(module, name)
def stopping(*given, **how):
    if not stopped and all(str(given[-1]).endswith(end) for end in ends):
        stopped.append(True)
        os.kill(os.getpid(), signal.SIGSTOP)
    return original(*given, **how)
setattr(module, name, stopping)
from lorascope.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


@contextmanager
def stopped(where: str, words: list[str], log: Path) -> Iterator[int]:
    """Number of a process that stands still in the call of a function; afterwards it goes on, to a good end."""
    with log.open("w") as out:
        command = [sys.executable, "-c", STOPPING, where, *words]
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status), log.read_text()
            yield process.pid
            os.kill(process.pid, signal.SIGCONT)
            assert process.wait() == 0, log.read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def rest(run: Path) -> dict[str, bytes]:
    """All of a run but its root, whose attributes hold times and places; unfinished files too."""
    assert not list(open_place(run).temporary_files())
    return {str(file.relative_to(run)): file.read_bytes() for file in run.rglob("*") if file.is_file()} | {
        "zarr.json": b""
    }


def who(pid: int) -> str:
    return rf"process {pid} on host {re.escape(socket.gethostname())} since 2\d\d\d-\d\d-\d\d \d\d:\d\d UTC"


@pytest.mark.parametrize(
    ("command", "where"),
    [
        ("pull", "os:replace:tokens/nll/c.1"),
        pytest.param("miub", "lorascope.analyze.miub.miub:finish_result", marks=pytest.mark.slow),
    ],
    ids=lambda value: value.partition(":")[0],
)
def test_copies_and_results(
    capsys: pytest.CaptureFixture[str],
    many_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    where: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(many_rows, tmp_path / "run.zarr")
    given = {
        "pull": ["pull", "run.zarr", "OUT.zarr"],
        "miub": ["miub", "run.zarr", "--out", "OUT.zarr"],
    }[command]
    alone, both = ([word.replace("OUT", name) for word in given] for name in ("alone", "both"))
    assert call(alone[0], capsys, *alone[1:])[0] == 0
    with stopped(where, both, tmp_path / "log") as pid:
        code, _, err = call(both[0], capsys, *both[1:])
        assert code == 2
        said = f"lorascope: error: `both.zarr` is being written by {who(pid)}; wait for it, or name another place\n"
        assert re.fullmatch(said, err), err
    assert rest(tmp_path / "both.zarr") == rest(tmp_path / "alone.zarr")
    assert command == "miub" or verify(tmp_path / "both.zarr", level="digests").ok
    assert not list(tmp_path.glob(".*"))


def test_truncated_adapters(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run.zarr", write(tmp_path / "lora"))
    words = ["adapter", "lora", "--truncate", "99%", "--run", "run.zarr", "--out", "new"]
    with stopped("os:replace:new", words, tmp_path / "log") as pid:
        code, _, err = call(words[0], capsys, *words[1:])
        assert code == 2
        assert re.match(f"lorascope: error: `new` is being written by {who(pid)}; wait for it", err), err
    code, out, _ = call(words[0], capsys, *words[1:])
    assert code == 0
    assert "70.0 %, there already\n" in out
    assert not list(tmp_path.glob(".*"))


def needs_torch(test: Any) -> Any:
    """It loads a model, and so does a second process."""
    skip = pytest.mark.skipif(find_spec("torch") is None, reason="needs lorascope[capture]")
    for mark in (skip, pytest.mark.torch, pytest.mark.slow, pytest.mark.filterwarnings("default")):
        test = mark(test)
    return test


MODEL = ["--model", "model", "--data", "sums.train.jsonl"]
FINE = ["--rank", "2", "--max-steps", "3", "--batch-size", "4", "--learning-rate", "0.01"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and questions, of some rows."""
    path = tmp_path_factory.mktemp("one_writer")
    make_inputs(path, 60)
    return path


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return made


@needs_torch
def test_finetune_and_capture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned = ["finetune", *MODEL, *FINE, "--out", "adapter"]
    with stopped("lorascope.capture.training.finetune:train", tuned, folder / "log") as pid:
        code, _, err = call(tuned[0], capsys, *tuned[1:])
        assert code == 2
        assert re.search(f"adapter` is being written by {who(pid)}; wait for it, or name another place\n$", err)
    captured = ["capture", *MODEL, "--adapter", "adapter", "--out"]
    assert call(captured[0], capsys, *captured[1:], "alone.zarr")[0] == 0
    places = ["lorascope.capture.settling.settle:load", "os:replace:tokens/nll/c.1"]
    for index, where in enumerate(places):
        out = f"both{index}.zarr"
        with stopped(where, [*captured, out], folder / "log") as pid:
            code, _, err = call(captured[0], capsys, *captured[1:], out)
            assert code == 2
            said = f"`{out}` is being written by {who(pid)}; wait for it, or name another place\n$"
            assert re.search(said, err), err
        assert rest(folder / out) == rest(folder / "alone.zarr")
        assert verify(folder / out).ok
    assert not list(folder.glob(".*"))


@needs_torch
def test_study(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        "model": str(folder / "model"),
        "grid": [{"rank": [2, 3]}],
        "data": str(facts_path("train").parent),
        "training": {"learning_rate": 1e-2, "batch_size": 4, "max_steps": 2},
        "tasks": {
            "facts": {"train": "facts.train.jsonl", "train_items": 8, "test": "facts.test.jsonl", "test_items": 6}
        },
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(settings))
    with stopped("lorascope.study.running.steps:finetune", ["study", "run", "study.yaml"], folder / "log") as pid:
        code, out, _ = call("study", capsys, "run", "study.yaml")
        assert code == 0
        assert re.search(rf"r2-s0-facts: another process works on it \({who(pid)}\)", flat(out)), out
        assert "r3-s0-facts: made" in out
    assert call("study", capsys, "status", "study.yaml")[0] == 0
    assert "r3-s0-facts: there already" in (folder / "log").read_text()
