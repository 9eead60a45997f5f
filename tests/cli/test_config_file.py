"""Settings of a capture from a TOML file, and completion: neither needs torch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lorascope.capture.config import CaptureConfig

from .called import call
from .test_main import WITHOUT_TORCH

FILE = """
model = "from the file"
adapter = ["one", "two=other"]
data = "d.jsonl"
out = "o.zarr"
stream = "base"
batch_tokens = 77
kl_share = 0.5
score = false
component = ["*.q_proj"]
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[CaptureConfig]:
    """Settings with which the commands would go on."""
    found: list[CaptureConfig] = []

    def take(config: CaptureConfig, **_: Any) -> None:
        found.append(config)
        raise ValueError("far enough")

    for command in ("capture", "plan"):
        monkeypatch.setattr(f"lorascope.cli.commands.{command}.require_inputs", take)
    (tmp_path / "settings.toml").write_text(FILE)
    return found


@pytest.mark.parametrize("command", ["capture", "plan"])
def test_a_file_has_the_settings_and_the_command_line_goes_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, asked: list[CaptureConfig], command: str
) -> None:
    words = ["--config", tmp_path / "settings.toml", "--model", "mine", "--score", "--component", "*.k_proj"]
    code, _, err = call(command, capsys, *words)
    assert (code, err) == (2, "lorascope: error: far enough\n")
    assert asked == [
        CaptureConfig(
            model="mine", adapter=("one", "two=other"), data=("d.jsonl",), out="o.zarr", stream="base",
            batch_tokens=77, kl_share=0.5, score=True, component=("*.k_proj",),
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "words", "expected"),
    [
        ("", (), False),
        ("", ("--replies",), True),
        ("", ("--replies", "mine.txt"), "mine.txt"),
        ("", ("--replies", "--score"), True),
        ("replies = true", (), True),
        ("replies = 'mine.txt'", (), "mine.txt"),
        ("replies = true", ("--replies", "mine.txt"), "mine.txt"),
        ("replies = 'mine.txt'", ("--no-replies",), False),
    ],
)
def test_replies_are_ours_or_those_of_a_file(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    asked: list[CaptureConfig],
    line: str,
    words: tuple[str, ...],
    expected: bool | str,
) -> None:
    (tmp_path / "settings.toml").write_text(FILE + line)
    assert call("capture", capsys, "--config", tmp_path / "settings.toml", *words)[0] == 2
    assert asked[0].replies is expected or asked[0].replies == expected


@pytest.mark.parametrize("command", ["capture", "plan"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            FILE + "batch_token = 3",
            "has 'batch_token', which is no setting of `{command}`; did you mean 'batch_tokens'?",
        ),
        (FILE + "[more]\nx = 1", "has 'more', which is no setting of `{command}`"),
        (FILE + "config = 'x'", "has 'config', which is no setting of `{command}`"),
        ("\ufeff" + FILE + "limit = 0", "`limit` is 0; give at least 1"),
        *[
            (FILE.replace(f"{key} = ", f"{key} = {value} # ") if key in FILE else FILE + f"{key} = {value}", said)
            for key, value, said in (
                ("batch_tokens", "3.5", "has batch_tokens = 3.5; give a whole number"),
                ("batch_tokens", "true", "has batch_tokens = true; give a whole number"),
                ("limit", "'8'", 'has limit = "8"; give a whole number'),
                ("kl_share", "'0.5'", 'has kl_share = "0.5"; give a number'),
                ("js_share", "false", "has js_share = false; give a number"),
                ("score", "'no'", 'has score = "no"; give true or false'),
                ("score", "0", "has score = 0; give true or false"),
                ("replies", "3", "has replies = 3; give true or false or a text"),
            )
        ],
        (FILE + "limit = ", "which isn't TOML: Invalid value"),
        (None, "and there is no such file; name a TOML file"),
    ],
)
@pytest.mark.usefixtures("asked")
def test_a_mistake_in_it_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, text: str | None, said: str
) -> None:
    path = tmp_path / "mistaken.toml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    code, out, err = call(command, capsys, "--config", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said.format(command=command) in err


@pytest.mark.parametrize("words", [("plan", "--limit", "2.5"), ("mi", "run", "--n-tokens", "2.5")])
def test_a_fraction_isnt_rounded_to_a_whole_number(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    code, _, err = call(words[0], capsys, *words[1:])
    assert (code, err) == (2, f"lorascope: error: `{words[-2]}` is 2.5; give a whole number\n")


def test_an_option_that_also_takes_a_file_keeps_its_ending(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "a b"}\n')
    options = ("--model", "m", "--adapter", "a", "--data", tmp_path / "d.jsonl", "--out", tmp_path / "o")
    code, _, err = call("plan", capsys, *options, "--neutral", "wiki.txt")
    assert (code, err.count("wiki.txt")) == (2, 1)
    assert "doesn't exist" in err


def test_completion_is_installed_without_torch(tmp_path: Path) -> None:
    line = [sys.executable, "-c", WITHOUT_TORCH, "--install-completion", "--shell", "bash"]
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    scripts = [path for path in tmp_path.rglob("*lorascope*") if path.is_file()]
    assert len(scripts) == 1
    script = scripts[0].read_text()
    for word in ("capture", "batch-tokens", "component", "group-by"):
        assert word in script
