"""Every stage through the command line, on a model made on the spot."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch
if importlib.util.find_spec("torch") is None:
    pytest.skip("needs lorascope[capture]", allow_module_level=True)

from ..tiny import byte_tokenizer, llama, save_model  # noqa: E402


def lorascope(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "lorascope", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stages")
    tokenizer = byte_tokenizer()
    save_model(path / "model", llama(len(tokenizer)), tokenizer)
    items = [{"id": str(i), "question": f"{i} + 1?", "choices": [str(i + 1), str(i)], "answer": 0} for i in range(12)]
    (path / "sums.train.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def test_from_a_model_to_a_report(folder: Path) -> None:
    data = ["--data", "sums.train.jsonl"]
    model = ["--model", "model", *data]
    fine = ["--rank", "2", "--max-steps", "3", "--batch-size", "4", "--learning-rate", "0.01"]
    steps = [
        (["finetune", *model, "--out", "adapter", "--held-out", "sums.train.jsonl", *fine], "after: CE"),
        (["capture", *model, "--adapter", "adapter", "--out", "run.zarr", "--limit", "8"], "at 14 components"),
        (["info", "run.zarr"], "sums/train"),
        (["capture", *model, "--adapter", "adapter", "--out", "run.zarr", "--limit", "8"], "at 14 components"),  # done
        (["verify", "run.zarr"], "sound at level statistics"),
        (["verify", "run.zarr", "--reforward", "2"], "2 samples computed again"),
        (["pull", "run.zarr", "small.zarr", "--component", "model.layers.0.*", "--samples", "3"], "small.zarr"),
        (["info", "small.zarr"], "pull"),
        (["miub", "run.zarr", "--out", "result.zarr"], "fidelity"),
        (["report", "run.zarr"], "run.html"),
    ]
    for words, expected in steps:
        done = lorascope(folder, *words)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout, words
        assert "Traceback" not in done.stderr
    assert (folder / "result.zarr/zarr.json").is_file()
    assert (folder / "run.html").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--adapter", "nowhere"], "'nowhere' is no adapter folder"),
        (["--adapter", "model"], "is no adapter folder"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--tokens", "first"], "`tokens` is 'first'; allowed are 'all', 'prompt'"),
        (["--device", "tpu9"], "`device` is 'tpu9'; allowed are"),
        (["--out", "sums.train.jsonl"], "is a file"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, words: list[str], message: str) -> None:
    right = {"--model": "model", "--adapter": "model", "--data": "sums.train.jsonl", "--out": "new.zarr"}
    right |= dict(zip(words[::2], words[1::2], strict=True))
    done = lorascope(folder, "capture", *[word for pair in right.items() for word in pair])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("lorascope: error: ")
    assert message in done.stderr
    assert not (folder / "new.zarr").exists()
