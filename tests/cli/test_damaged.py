"""What the commands say of a run that isn't whole any more."""

import json
import shutil
from pathlib import Path

import pytest
import xarray as xr

from lorascope.cli.main import main

from ..stores.on_disk import lose_rows
from .called import call


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


@pytest.mark.parametrize("suffix", ["zarr", "nc"])
def test_verify_compares_every_byte_of_a_result(
    capsys: pytest.CaptureFixture[str], many_rows: Path, tmp_path: Path, suffix: str
) -> None:
    result = tmp_path / f"result.{suffix}"
    assert call("miub", capsys, many_rows, "--out", result)[0] == 0
    code, out, err = call("verify", capsys, result)
    assert (code, err) == (0, "")
    assert out == f"{result}, of run {many_rows}: sound by digests of every byte\n"
    file = result / "samples/js/c/0/0" if suffix == "zarr" else result
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, out, _ = call("verify", capsys, result)
    assert code == 1
    assert "aren't what was written: their digest differs" in out
    assert f"{result}: damaged, or changed by something other than lorascope\n" in out
    code, out, _ = call("verify", capsys, result, "--json")
    answer, help_text = json.loads(out), call("verify", capsys, "--help")[1]
    assert (code, answer["sound"], len(answer["problems"])) == (1, False, 1)
    assert [key for key in answer if key not in help_text] == []
    code, _, err = call("verify", capsys, result, "--component", "*")
    assert (code, "whose bytes are compared; `--component` and `--reforward` are for runs" in err) == (2, True)


def test_verify_says_what_it_can_not_find_in_an_older_result(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    xr.Dataset({"x": 1.0}).to_netcdf(tmp_path / "old.nc")
    code, _, err = call("verify", capsys, tmp_path / "old.nc")
    assert (code, err.count("\n")) == (2, 1)
    assert "old.nc` was saved before results had digests; whether it was changed since can't be found" in err
    (tmp_path / "torn.nc").write_bytes(b"CDF")
    code, _, err = call("verify", capsys, tmp_path / "torn.nc")
    assert (code, err.count("\n")) == (2, 1)
    assert "torn.nc` isn't readable NetCDF (" in err
