"""What the commands say of a run that isn't whole any more."""

import shutil
from pathlib import Path

import pytest

from lorascope.cli.main import main

from ..stores.on_disk import lose_rows


@pytest.fixture
def damaged(many_rows: Path, tmp_path: Path) -> Path:
    """A finished run whose middle row has lost its digest."""
    run = shutil.copytree(many_rows, tmp_path / "run.zarr")
    lose_rows(run, 1)
    return run


def test_lost_rows_are_not_called_uncaptured(capsys: pytest.CaptureFixture[str], damaged: Path, tmp_path: Path) -> None:
    words = (
        f"3 samples have lost tokens (1 rows of the finished run `{damaged}` are gone; `lorascope verify` says which)"
    )
    assert main(["miub", str(damaged)]) == 0
    assert f"{words} and are excluded" in capsys.readouterr().out
    assert main(["pull", str(damaged), str(tmp_path / "part.zarr")]) == 0
    assert f"{words} and were excluded" in capsys.readouterr().out
    assert main(["report", str(damaged)]) == 0
    assert "1 rows of this run were lost since it was finished." in (tmp_path / "run.html").read_text()


def test_of_many_problems_some_are_shown_and_the_others_counted(
    capsys: pytest.CaptureFixture[str], many_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(many_rows, tmp_path / "run.zarr")
    for row in range(3):
        (run / f"tokens/nll/c.{row}").unlink()
    monkeypatch.setattr("lorascope.cli.commands.verify.MOST_SHOWN", 1)
    assert main(["verify", str(run)]) == 1
    out = capsys.readouterr().out
    assert "'tokens/nll/c.0' is missing" in out
    assert "'tokens/nll/c.1'" not in out
    assert "and 2 more: 2 missing" in out
