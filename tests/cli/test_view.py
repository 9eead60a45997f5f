"""`lorascope view`: the address that it prints works until it is stopped, quietly."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path

import pytest

from lorascope.cli.commands import view as command
from lorascope.stores import verify

from .called import call


@pytest.fixture
def run(many_rows: Path, tmp_path: Path) -> Path:
    return shutil.copytree(many_rows, tmp_path / "run.zarr")


@pytest.mark.parametrize(
    ("stop", "words"), [(signal.SIGINT, []), pytest.param(signal.SIGTERM, ["--no-browser"], marks=pytest.mark.slow)]
)
def test_it_serves_until_it_is_stopped(run: Path, tmp_path: Path, stop: signal.Signals, words: list[str]) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}.part && mv {opened}.part {opened}\nexit 3\n')
    browser.chmod(0o755)
    line = [sys.executable, "-m", "lorascope", "view", str(run), *words]
    serving = subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "BROWSER": str(browser)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert serving.stdout is not None
        first = serving.stdout.readline()
        url = first.split()[1]
        assert first == f"view: {url} (until Ctrl-C; whoever has this address on this machine can read the runs)\n"
        with urllib.request.urlopen(f"{url}view.json") as answer:
            assert b'"name": "' in answer.read()
        while not opened.exists() and not words:
            assert serving.poll() is None
            time.sleep(0.05)
        serving.send_signal(stop)
        out, errors = serving.communicate(timeout=60)
        # On a slow machine the index shows its progress.
        assert out == ""
        assert not [line for line in errors.splitlines() if not line.startswith("view: ")]
        assert serving.returncode == 0
    finally:
        serving.kill()
    assert (opened.read_text() if opened.exists() else "") == ("" if words else url)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url)


@pytest.mark.parametrize("browser", ["none", "raises", "of a terminal", "of the desktop"])
def test_opening_a_browser_never_fails(monkeypatch: pytest.MonkeyPatch, browser: str) -> None:
    monkeypatch.delenv("BROWSER", raising=False)
    opened: list[str] = []

    class Browser:
        name = "w3m" if browser == "of a terminal" else "firefox"

        def open(self, url: str) -> None:
            opened.append(url)
            if browser == "raises":
                raise OSError("no display")

    def get() -> Browser:
        if browser == "none":
            raise webbrowser.Error("could not locate runnable browser")
        return Browser()

    monkeypatch.setattr(webbrowser, "get", get)
    command._open_browser("http://127.0.0.1:1/")
    assert len(opened) == (browser in ("raises", "of the desktop"))


def test_a_bundle_says_what_it_holds(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    code, out, err = call("view", capsys, run, "--bundle", tmp_path / "beside")
    first, second = out.splitlines()
    assert (code, err) == (0, "")
    assert first.startswith(f"bundle: {tmp_path}/beside, ")
    assert first.endswith("MB, including 0 B of runs")
    assert (tmp_path / "beside/report.html").is_file()
    assert second == "the bundle reads the runs next to it: serve both together"
    code, out, _ = call("view", capsys, run, "--bundle", tmp_path / "whole", "--with-run")
    assert code == 0
    assert out.count("\n") == 1
    assert verify(tmp_path / "whole/runs/0").ok


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    for words, said in {
        (run, "--with-run"): "`--with-run` is for a bundle; name its folder by `--bundle`",
        (run, "--port", "65536"): 'Invalid value "65536" for --port. Must be <= 65535',
        (run, "--bundle", tmp_path / "new", "--port", "80"): "`--port` is 80, and with `--bundle` nothing is served",
        (run, "--bundle", tmp_path / "x/y"): "or have the runs copied into the bundle (`with_runs`; `--with-run` of",
    }.items():
        code, out, err = call("view", capsys, *words)
        assert (code, out, err.count("\n")) == (2, "", 1), words
        assert said in err
