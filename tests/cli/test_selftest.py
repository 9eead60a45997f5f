"""`lorascope selftest` on the tiny model that it makes: a table to paste, and an exit code."""

import importlib.util
from pathlib import Path

import pytest

from .called import call, flat

pytestmark = pytest.mark.torch
if importlib.util.find_spec("torch") is None:
    pytest.skip("needs lorascope[capture]", allow_module_level=True)

from lorascope.capture.selftest import checks, selftest  # noqa: E402
from lorascope.capture.settling import trial  # noqa: E402


@pytest.mark.slow
@pytest.mark.usefixtures("wide")
def test_a_sound_machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(selftest, "TRIAL_SECONDS", 0.1)
    monkeypatch.setattr(trial, "BARE_SECONDS", 0.1)
    code, out, _ = call("selftest", capsys, "--device", "cpu", "--out", tmp_path, "--traceback")
    assert code == 0
    assert out.startswith("**All 4 checks passed**\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    found = {row[0]: row[1:] for row in rows}
    assert found["captured again"][2] == "ok"
    assert found["copies under load"] == ["nothing to copy on a CPU", "", ""]
    assert found["stage by itself"] == ["capture", "--codec raw", "--states none"]
    for what in ("forward", "copies", "encoders", "disk", "expected of all", "as tried"):
        assert all(float(rate.partition("·")[0]) > 0 for rate in found[what]), what
    assert f"- disk: `{tmp_path}`" in out
    assert not [*tmp_path.iterdir()]


def test_a_check_that_fails_is_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = checks.reduce_tokens
    monkeypatch.setattr(checks, "reduce_tokens", lambda *given: right(*given)._replace(js=right(*given).js * 1.001))
    monkeypatch.setattr(selftest, "time_captures", lambda *_: {})
    monkeypatch.setattr("lorascope.cli.screen.LOG_SECONDS", 0.0)
    code, out, err = call("selftest", capsys, "--device", "cpu", "--out", tmp_path)
    assert code == 1
    assert err.splitlines()[-1] == "selftest: 3 of 3"
    assert out.startswith("**1 of 4 checks FAILED**\n")
    assert "| 1.0e-03 | 1.0e-06 | FAILED |" in flat(out)


def test_a_model_goes_with_its_adapter(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call("selftest", capsys, "--model", "x")
    assert (code, err) == (2, "lorascope: error: `--model` and `--adapter` belong together; give both or neither\n")


def test_a_place_that_is_no_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = call("selftest", capsys, "--out", tmp_path / "none")
    assert code == 2
    assert f"`out` is '{tmp_path / 'none'}', which isn't a folder; name one on the disk for runs" in flat(err)
