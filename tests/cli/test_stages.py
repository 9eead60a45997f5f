"""Every stage through the command line, on a model made on the spot."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]  # other people's warnings, at load time
if importlib.util.find_spec("torch") is None:
    pytest.skip("needs lorascope[capture]", allow_module_level=True)

from lorascope.cli import screen  # noqa: E402
from lorascope.cli.screen import CONTINUES  # noqa: E402
from lorascope.stores import open_place  # noqa: E402
from lorascope.study.grid import grid_units  # noqa: E402

from ..tiny import save_gguf  # noqa: E402
from .called import call, flat, make_inputs  # noqa: E402

MODEL = ["--model", "model", "--data", "sums.train.jsonl"]
FINE = ["--rank", "2", "--max-steps", "3", "--batch-size", "4", "--learning-rate", "0.01"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and questions."""
    path = tmp_path_factory.mktemp("stages")
    make_inputs(path, 12)
    (path / "empty").mkdir()
    (path / "more").mkdir()
    shutil.copy(path / "sums.train.jsonl", path / "more")
    (path / "empty/adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    (path / "empty/adapter_model.safetensors").touch()
    return path


@pytest.fixture(autouse=True)
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    monkeypatch.setattr(screen.console, "width", 200)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return made


def lorascope(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code, out, err = call(words[0], capsys, *words[1:])
    return code, flat(out), err


def test_from_a_model_to_a_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = ["--miub-every", "2", "--miub-samples", "5"]
    captured = ["capture", *MODEL, "--adapter", "adapter", "--out", "run.zarr", "--limit", "8"]
    pulled = ["pull", "run.zarr", "small.zarr", "--component", "model.layers.0.*", "--samples", "3"]
    more = ["--data", "more/sums.train.jsonl", "--held-out", "sums.train.jsonl"]  # one name, and the same items
    steps = [
        (["finetune", *MODEL, *more, "--out", "adapter", *FINE, *measured], "after: CE"),
        (captured, "at 14 components"),
        (["info", "run.zarr"], "sums/train"),
        (captured, "already complete: "),
        (["verify", "run.zarr"], "sound by checksums, decoding, statistics"),
        (["verify", "run.zarr", "--reforward", "2"], "2 samples computed again"),
        (pulled, "in small.zarr (the source has"),
        (pulled, "in small.zarr; nothing was copied"),
        (["info", "small.zarr"], "pull"),
        (["miub", "run.zarr", "--out", "result.zarr"], "MIUB"),
        (["report", "run.zarr"], "run.html"),
    ]
    for words, expected in steps:
        code, out, err = lorascope(capsys, *words)
        assert code == 0, (words, err)
        assert expected in out, (words, out)
        if words[0] == "finetune":
            assert " nat after step 3, on 5 held-out samples; measuring it took " in out
    assert (folder / "result.zarr/zarr.json").is_file()
    assert (folder / "run.html").is_file()


@pytest.mark.parametrize(
    ("seconds", "overhead", "is_printed"),
    [(9.9, {"overhead": 1.5}, False), (10.0, {"overhead": 1.5}, True), (10.0, {}, False)],
)
def test_a_capture_is_compared_with_a_bare_pass_if_it_took_long_enough(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    overhead: dict[str, float],
    is_printed: bool,
) -> None:
    measured = {"stored_bytes": 3_000_000, "seconds": seconds, **overhead}
    attributes = {"measured": measured, "provenance": {"preflight": []}}
    samples = SimpleNamespace(sizes={"sample": 1})
    about = {"path": "run", "place": open_place("run"), "attributes": attributes}
    run = SimpleNamespace(n_tokens=1, samples=samples, component_paths=("a",), **about)
    monkeypatch.setattr("lorascope.cli.commands.capture._capture_with_bar", lambda *_: run)
    code, out, _ = lorascope(capsys, "capture", *MODEL, "--adapter", "empty", "--out", "none.zarr")
    assert code == 0
    assert "3 MB in " in out
    assert (", 1.5 times a bare forward pass" in out) == is_printed


def test_the_reader_of_gguf_files_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    from tqdm.auto import tqdm
    from transformers import modeling_gguf_pytorch_utils

    from lorascope.capture import load_model
    from lorascope.cli.screen import quiet_libraries

    path = save_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(modeling_gguf_pytorch_utils, "tqdm", tqdm)  # as it is before a command
    load_model(str(path))
    assert "de-quantizing GGUF tensors" in capfd.readouterr().err
    quiet_libraries()
    load_model(str(path))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "where", "said"),
    [
        (
            ["capture", *MODEL, "--adapter", "empty", "--out", "stopped.zarr"],
            "lorascope.capture.settling.data.read_item_files",
            "stopped before anything was written to `stopped.zarr`; the same command begins again",
        ),
        (
            ["finetune", *MODEL, "--out", "stopped"],
            "lorascope.capture.load_model",
            "stopped before the first checkpoint; nothing of the training stays, and the same command begins again",
        ),
    ],
)
def test_stopped_while_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], where: str, said: str
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stop)
    code, out, err = lorascope(capsys, *words)
    assert (code, out) == (130, "")
    assert err == f"loading model\nlorascope: error: {said}\n"


def test_a_study_says_what_is_done(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorascope.study.running.run import Outcome

    task = "{train: sums.train.jsonl, test: sums.train.jsonl}"
    (folder / "study.yaml").write_text(f"{{model: model, grid: {{rank: [2, 4]}}, tasks: {{sums: {task}}}}}")
    n_done = 2

    def outcomes(settings: Any, *_: object, **__: object) -> Iterator[Outcome]:
        for unit in grid_units(settings)[:n_done]:
            yield Outcome(unit, "there already")
        if n_done < 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("lorascope.study.running.run.run_study", outcomes)
    code, out, _ = lorascope(capsys, "study", "run", "study.yaml")
    assert code == 0
    assert "already complete: all 2 units are done, by the same settings, models, data and prompts" in out
    assert " s; results" not in out
    n_done = 1
    code, _, err = lorascope(capsys, "study", "run", "study.yaml")
    assert (code, err) == (130, f"lorascope: error: stopped with 1 of 2 units known to be done; {CONTINUES}\n")
