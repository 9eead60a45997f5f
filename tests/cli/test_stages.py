"""Every stage through the command line, on a model made on the spot."""

import importlib.util
from pathlib import Path

import pytest

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]  # other people's warnings, at load time
if importlib.util.find_spec("torch") is None:
    pytest.skip("needs lorascope[capture]", allow_module_level=True)

from lorascope.cli import screen  # noqa: E402

from .called import call, flat, make_inputs  # noqa: E402

MODEL = ["--model", "model", "--data", "sums.train.jsonl"]
FINE = ["--rank", "2", "--max-steps", "3", "--batch-size", "4", "--learning-rate", "0.01"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and questions."""
    path = tmp_path_factory.mktemp("stages")
    make_inputs(path, 12)
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
    steps = [
        (["finetune", *MODEL, "--out", "adapter", "--held-out", "sums.train.jsonl", *FINE, *measured], "after: CE"),
        (captured, "at 14 components"),
        (["info", "run.zarr"], "sums/train"),
        (captured, "at 14 components"),  # done already
        (["verify", "run.zarr"], "sound at level statistics"),
        (["verify", "run.zarr", "--reforward", "2"], "2 samples computed again"),
        (["pull", "run.zarr", "small.zarr", "--component", "model.layers.0.*", "--samples", "3"], "small.zarr"),
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


def test_measuring_miub_without_held_out_items_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = lorascope(capsys, "finetune", *MODEL, *FINE, "--miub-every", "2", "--out", "refused")
    assert code == 2
    assert "`miub_every` is 2, but there are no held-out items to measure MIUB on; give some" in err
    assert not (folder / "refused").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--adapter", "nowhere"], "adapter 'nowhere' is not there; give a local folder"),
        (["--adapter", "model"], "is no adapter folder"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--tokens", "first"], "`tokens` is 'first'; allowed are 'all', 'prompt'"),
        (["--device", "tpu9"], "`device` is 'tpu9'; allowed are"),
        (["--out", "sums.train.jsonl"], "is a file"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    right = {"--model": "model", "--adapter": "model", "--data": "sums.train.jsonl", "--out": "new.zarr"}
    right |= dict(zip(words[::2], words[1::2], strict=True))
    code, _, err = lorascope(capsys, "capture", *[word for pair in right.items() for word in pair])
    assert code == 2
    assert err.count("\n") == 1, err
    assert err.startswith("lorascope: error: ")
    assert message in err
    assert not (folder / "new.zarr").exists()
