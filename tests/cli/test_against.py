"""`lorascope verify RUN --against`: sentence, table, JSON and exit codes."""

import json
import shutil
from pathlib import Path

import pytest

from .called import call, flat

pytest.importorskip("torch")

from ..capture.test_against import Trained, merge, scaled, texts, trained  # noqa: F401 (a fixture)
from ..tiny import byte_tokenizer, save_model


@pytest.mark.usefixtures("wide")
def test_exit_codes_and_what_is_printed(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    for name, factor, code, words in (
        ("sound", 1.0, 0, "It is the adapter: all 28 compared layers have it, "),
        ("half", 0.5, 1, "It is the adapter at another scale: all 28 compared layers have it at 0.500 times its scale"),
    ):
        folder = save_model(tmp_path / name, merge(trained, scaled(factor)), trained.tokenizer)
        result, out, _ = call("verify", capsys, trained.run.path, "--against", folder)
        assert (result, out.split("\n")[0].startswith(words)) == (code, True)
        rows = [line.split() for line in out.splitlines() if line.startswith("│")]
        assert [row[1] for row in rows] == ["all", "text"]
        code, out, _ = call("verify", capsys, trained.run.path, "--against", folder, "--device", "cpu", "--json")
        printed = json.loads(out)
        assert printed["verdict"] == {1.0: "adapter", 0.5: "scaled"}[factor]
        assert printed["all"]["slope"] == pytest.approx(factor, abs=0.02)
        assert printed["not_compared"] == []
        assert len(printed["layers"]) == 28
        assert all(layer["slope"] == pytest.approx(factor, abs=1e-4) for layer in printed["layers"])
        assert (len(printed["roles"]), len(printed["samples"])) == (1, 24)


def test_what_was_not_compared_is_printed(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    from lorascope.capture import attach_adapter, capture

    model = attach_adapter(merge(trained, scaled(0)), trained.adapter)
    options = {"tokenizer": trained.tokenizer, "progress": False, "score": False, "window_tokens": 200}
    run = capture(model, texts(3), tmp_path / "run.zarr", changes="none", **options)
    code, out, err = call("verify", capsys, run.path, "--against", tmp_path / "never-loaded")
    assert code == 3
    assert err == ""
    assert "Can't tell: no tokens are comparable" in out
    assert "not compared: 3 samples: next-token changes weren't captured (`--changes all`)" in flat(out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reforward", "2"], "`--against` compares with another model; with it go `--adapter` (one name)"),
        (["--model", "m"], "`--against` compares with another model"),
        (["--adapter", "none"], "`adapter` is 'none'; this run holds ['default']"),
    ],
)
def test_mistakes(trained: Trained, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    code, _, err = call("verify", capsys, trained.run.path, "--against", "nowhere/m", *words)
    assert code == 2
    assert message in err


def test_a_missing_target(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    code, _, err = call("verify", capsys, trained.run.path, "--against", "./nowhere")
    assert code == 2
    assert "`model` is './nowhere', which doesn't exist" in err


@pytest.mark.parametrize("target", ["", " "])
def test_an_empty_target(trained: Trained, target: str, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """As of a variable that a pipeline forgot to set."""
    code, out, err = call("verify", capsys, trained.run.path, "--against", target)
    assert (code, out) == (2, "")
    assert f"`--against` is {target!r}; give a folder" in err


def test_an_adapter_in_the_folder_is_not_merged(
    trained: Trained,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """transformers attaches it to the base beside it; other software runs the base."""
    folder = save_model(tmp_path / "both", trained.model, trained.tokenizer)
    shutil.copytree(trained.adapter, folder, dirs_exist_ok=True)
    code, _, err = call("verify", capsys, trained.run.path, "--against", folder)
    assert code == 2
    assert "holds an adapter ('adapter_config.json'), which isn't merged" in err


@pytest.mark.usefixtures("wide")
def test_a_tokenizer_that_splits_otherwise_is_not_compared(
    trained: Trained,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tokenizers import normalizers

    tokenizer = byte_tokenizer(("the", "Ġthe", "ing"))
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    folder = save_model(tmp_path / "lower", merge(trained), tokenizer)
    code, out, _ = call("verify", capsys, trained.run.path, "--against", folder)
    assert code == 0
    assert "not compared: how the tokenizer splits texts: its file isn't the run's" in flat(out)
