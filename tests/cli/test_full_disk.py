"""On a full disk commands name the file, what is left of it, and what to do; with room they then end well."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorascope.analyze import open_result
from lorascope.analyze.viewing.index import view_index
from lorascope.cli.main import main
from lorascope.stores.places import folder

from .test_truncate import write, write_run

ROOM = 48 * 1024
"""Bytes that are free: a small file, and no result."""
FULL = r"can't be written (No space left on device)"
MEND = "; free some space, and give the same command again\n"


class Disk:
    """A disk of 16 MB, which is nearly full until there is `room`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, n_free: int = ROOM) -> None:
        (self.path / ".rest").write_bytes(bytes(shutil.disk_usage(self.path).free - n_free))

    def room(self) -> None:
        (self.path / ".rest").unlink()

    def names(self) -> set[str]:
        return {path.name for path in self.path.iterdir()} - {".rest"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)]).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    yield Disk(path)
    subprocess.run(["umount", "-l", str(path)], check=True)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The line that a command ends with on a full disk."""
    assert main([*map(str, words)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.endswith(MEND), err
    return err


def test_a_truncated_adapter(disk: Disk, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lora, new = write(tmp_path / "lora", n_layers=20), disk.path / "new"
    words = (
        "adapter",
        lora,
        "--truncate",
        "99%",
        "--run",
        write_run(tmp_path / "run.zarr", lora, n_layers=20),
        "--out",
        new,
    )
    disk.fill(8192)
    assert f"`{new}` {FULL}: nothing of it is left{MEND}" in refused(capsys, *words)
    assert disk.names() == set()
    disk.room()
    assert main([*map(str, words)]) == 0


@pytest.mark.parametrize("name", ["result.zarr", "result.nc"])
def test_a_result(disk: Disk, many_rows: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    out, left = disk.path / name, f".{name}.unfinished"
    words = ("miub", many_rows, "--out", out)
    disk.fill()
    err = refused(capsys, *words)
    assert f"`{out}` {FULL}: components that are done stay for the next attempt" in err
    assert disk.names() <= {left}
    disk.room()
    assert main([*map(str, words)]) == 0
    assert disk.names() == {name}
    assert main(["miub", str(many_rows), "--out", str(disk.path / "other.zarr")]) == 0
    assert open_result(out)["js"].equals(open_result(disk.path / "other.zarr")["js"])


@pytest.mark.parametrize("end", ["csv", "parquet", "json", "nc", "zarr"])
def test_a_table(disk: Disk, many_rows: Path, capsys: pytest.CaptureFixture[str], end: str) -> None:
    out = disk.path / f"table.{end}"
    words = ("mi", many_rows, "--estimator", "gaussian", "--shuffles", "0", "--out", out)
    disk.fill(0)
    assert main([*map(str, words)]) == 1
    assert f"`{out}` {FULL}: nothing of it is left{MEND}" in capsys.readouterr().err
    assert disk.names() == set()
    disk.room()
    assert main([*map(str, words)]) == 0


@pytest.mark.slow
def test_a_report_leaves_the_older_one(disk: Disk, many_rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = disk.path / "page.html"
    page.write_text("older")
    words = ("report", many_rows, "--out", page)
    disk.fill()
    assert f"`{page}` {FULL}: what was there is unchanged{MEND}" in refused(capsys, *words)
    assert page.read_text() == "older"
    disk.room()
    assert main([*map(str, words)]) == 0
    assert disk.names() == {"page.html"}


def test_a_view(disk: Disk, many_rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(many_rows, disk.path / "run.zarr")
    index, left = disk.path / "run.view.zarr", ".run.view.zarr.unfinished"
    disk.fill()
    err = refused(capsys, "view", run, "--no-browser")
    assert f"`{index}` {FULL}: what was computed stays for the next attempt" in err
    assert disk.names() <= {"run.zarr", left}
    disk.room()
    view_index(run)
    assert disk.names() == {"run.zarr", "run.view.zarr"}


@pytest.mark.parametrize("options", [pytest.param((), marks=pytest.mark.slow), ("--with-run",)])
def test_a_bundle(
    disk: Disk, many_rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    """Also where the disk is full within a copied run, which goes with its bundle."""
    run = shutil.copytree(many_rows, (tmp_path if options else disk.path) / "run.zarr")
    view_index(run)
    bundle = disk.path / "bundle"
    words = ("view", run, "--bundle", bundle, *options)
    disk.fill(300_000)
    assert f"`{bundle}` {FULL}: nothing of it is left{MEND}" in refused(capsys, *words)
    assert "bundle" not in " ".join(disk.names())
    disk.room()
    assert main([*map(str, words)]) == 0


def test_a_copy_goes_on(disk: Disk, many_rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("pull", many_rows, disk.path / "copy.zarr")
    disk.fill(400_000)
    assert main([*map(str, words)]) == 1
    err = capsys.readouterr().err
    assert f"of `{disk.path}/copy.zarr` {FULL}; free some space, and the same command goes on\n" in err
    disk.room()
    assert main([*map(str, words)]) == 0


def test_what_no_command_foresaw(
    many_rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded", "somewhere")

    monkeypatch.setattr(folder, "read_regular", full)
    assert "Disk quota exceeded: 'somewhere'; free" in refused(capsys, "info", many_rows)
