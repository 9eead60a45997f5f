"""A wrong path is refused before anything heavy is imported: torch above all, which takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "peft", "xarray", "pandas", "dask", "numba", "scipy", "statsmodels")
RUN = """
import contextlib, io, json, sys
from lorascope.cli.main import main
heavy, answers = set(sys.argv[1].split(",")), []
for words in json.load(sys.stdin):
    before, err = set(sys.modules), io.StringIO()
    with contextlib.redirect_stderr(err):
        code = main(words)
    answers.append([code, err.getvalue(), sorted(heavy & set(sys.modules) - before)])
json.dump(answers, sys.stdout)
"""
"""One process for all calls; a call is charged with what it was the first to import."""
CAPTURE = {"--model": "model", "--adapter": "adapter", "--data": "d.jsonl", "--out": "o.zarr"}
TRAIN = {"--model": "model", "--data": "d.jsonl", "--out": "o"}


def made_of(words: list[str], options: dict[str, str], **changed: str) -> list[str]:
    options = options | {f"--{name}": value for name, value in changed.items()}
    return [*words, *(word for pair in options.items() for word in pair)]


CASES = {
    **{
        " ".join([command, *more]): ([command, "no.zarr", *more], "`no.zarr` doesn't exist; name a run")
        for command, *more in (
            *(["miub"], ["mi"], ["info"], ["report"], ["view"], ["verify"], ["verify", "--reforward", "2"]),
            *(["explain"], ["pull", "o.zarr"]),
        )
    },
    "second run": (["miub", "run.zarr", "no.zarr"], "`no.zarr` doesn't exist"),
    "miub out": (["miub", "run.zarr", "--out", "d.jsonl/x.nc"], "d.jsonl` is a file; name another place"),
    "no store": (["miub", "model"], "`model` and the folders in it are no runs"),
    "fit": (["fit", "no.csv"], "`no.csv` is not there"),
    "compare": (["compare", "no.csv"], "`no.csv` is not there"),
    "adapter": (["adapter", "no"], "adapter 'no' is not there"),
    "adapter weights": (["adapter", "bare"], "has no 'adapter_model.safetensors'"),
    **{
        f"{command} --{option} {value}": (made_of([command], CAPTURE, **{option: value}), message)
        for command in ("capture", "plan")
        for option, value, message in (
            ("model", "./no", "`model` is './no', which doesn't exist"),
            ("model", "adapter", "a folder with an adapter"),
            ("adapter", "no", "adapter 'no' is not there"),
            ("adapter", "bare", "adapter 'bare' has no 'adapter_model.safetensors'"),
            ("data", "no.jsonl", "data file 'no.jsonl' doesn't exist"),
            ("data", "keys.jsonl", "keys.jsonl, line 2: the format isn't known: the keys are 'massages'"),
            ("data", "half.jsonl", "half.jsonl, line 1: not JSON"),
            ("data", "empty.jsonl", "empty.jsonl: the file is empty"),
            ("data", "second.jsonl", "second.jsonl, line 2: `text` is 1"),
            ("data", "arc_easy:test@no", "folder 'no' doesn't exist"),
            ("prompt", "no.txt", "prompt file 'no.txt' doesn't exist"),
            ("out", "d.jsonl", "is a file"),
            ("out", "model", "isn't empty and holds no run"),
        )
    },
    "capture examples": (made_of(["capture"], CAPTURE, prompt="prompt1", examples="no.jsonl"), "'no.jsonl' doesn't"),
    "finetune model": (made_of(["finetune"], TRAIN, model="./no"), "`model` is './no', which doesn't exist"),
    "finetune data": (made_of(["finetune"], TRAIN, data="no.jsonl"), "data file 'no.jsonl' doesn't exist"),
    "finetune empty": (made_of(["finetune"], TRAIN, data="empty.jsonl"), "empty.jsonl: the file is empty"),
    "capture device": (made_of(["capture"], CAPTURE, device="gpu"), "`device` is 'gpu'; allowed are"),
    "finetune held_out": (made_of(["finetune"], TRAIN, **{"held-out": "no.jsonl"}), "data file 'no.jsonl' doesn't"),
    "finetune out": (made_of(["finetune"], TRAIN, out="model"), "is there already"),
    "study run": (["study", "run", "no.yaml"], "no study's file `no.yaml`"),
    "study report": (["study", "report", "no.yaml"], "no study's file `no.yaml`"),
    "study run model": (["study", "run", "model.yaml"], "`model` is './no', which doesn't exist"),
    "study plan data": (["study", "plan", "data.yaml"], "data file 'no.jsonl' doesn't exist"),
    "demo": (["demo", "--out", "model"], "the demo's"),  # isn't the demo's; or the demo's model isn't installed
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of all commands, except the missing ones; the model's weights and the run are empty files."""
    path = tmp_path_factory.mktemp("early")
    for name in ("model", "adapter", "bare", "run.zarr"):
        (path / name).mkdir()
    settings = json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2})
    for file, text in {
        "model/config.json": "{}",
        "model/model.safetensors": "",
        "adapter/adapter_config.json": settings,
        "adapter/adapter_model.safetensors": "",
        "bare/adapter_config.json": settings,
        "run.zarr/zarr.json": "{}",
        "d.jsonl": '{"text": "x"}\n',
        "empty.jsonl": "\n",
        "second.jsonl": '{"text": "x"}\n{"text": 1}\n',
        "keys.jsonl": '\ufeff\n{"massages": []}\n',
        "half.jsonl": '{"text": "x"\n',
        "model.yaml": "{model: ./no, grid: {rank: 2}, tasks: {t: {train: d.jsonl, test: d.jsonl}}}",
        "data.yaml": "{model: model, grid: {rank: 2}, tasks: {t: {train: no.jsonl, test: d.jsonl}}}",
    }.items():
        (path / file).write_text(text)
    return path


def called(folder: Path, calls: list[list[str]], heavy: str = ",".join(HEAVY)) -> list[tuple[int, str, list[str]]]:
    """Exit code, message and heavy imports of each call."""
    line = [sys.executable, "-c", RUN, heavy]
    done = subprocess.run(line, input=json.dumps(calls), capture_output=True, text=True, cwd=folder, check=True)
    return [tuple(answer) for answer in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, tuple[int, str, list[str]]]:
    """Case -> its answer."""
    return dict(zip(CASES, called(folder, [words for words, _ in CASES.values()]), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_path_is_refused_before_heavy_imports(
    answers: dict[str, tuple[int, str, list[str]]], name: str
) -> None:
    code, err, heavy = answers[name]
    assert err.startswith("lorascope: error: ")
    assert err.count("\n") == 1
    assert CASES[name][1] in err
    assert (code, heavy) == (2, [])


def test_the_check_can_fail(folder: Path) -> None:
    calls = [["info", "no.zarr"], ["info", "run.zarr"]]
    found = called(folder, calls, "xarray,zarr")
    assert [answer[0] for answer in found] == [2, 2]
    assert [answer[2] for answer in found] == [[], ["xarray", "zarr"]]
