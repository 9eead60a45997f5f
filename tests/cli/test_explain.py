"""`lorascope explain`."""

import shutil
from pathlib import Path

import pytest

from lorascope.cli import screen

from .called import call, flat

QUESTIONS = [
    "What does it say? ",
    "Which next tokens? ",
    "Which parts? ",
    "How far do outputs move? ",
    "Does it help? ",
]


def test_the_paragraph_is_broken_between_words(
    capsys: pytest.CaptureFixture[str], many_rows: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(screen.console, "width", 80)
    run = shutil.copytree(many_rows, tmp_path / "run.zarr")  # without stored results, which it would speak of
    code, out, err = call("explain", capsys, run)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    answers = [flat(answer) for answer in out.strip().split("\n\n")]
    for answer, question in zip(answers, QUESTIONS, strict=True):
        assert answer.startswith(question)


@pytest.mark.usefixtures("wide")
def test_options_reach_it(capsys: pytest.CaptureFixture[str], two_adapters: Path) -> None:
    answers = [call("explain", capsys, two_adapters, "--adapter", name, "--workers", 1)[1] for name in ("a", "b")]
    assert answers[0] != answers[1]


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], many_rows: Path) -> None:
    code, out, err = call("explain", capsys, many_rows, "--adapter", "c")
    assert (code, out, err) == (2, "", "lorascope: error: `adapter` is 'c'; this run holds ['default']\n")
