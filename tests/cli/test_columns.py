"""What commands make of columns with values that they may not have, under right digests: one line, or nothing."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorascope.analyze.viewing.bundle import write_bundle
from lorascope.cli.main import main
from lorascope.stores import StoreError

from ..stores.conftest import make_run  # noqa: F401
from ..stores.format.test_tables import ranged_columns, values_outside, whole_run
from ..stores.on_disk import forge_column

READERS: dict[str, Callable[[Path, Path], int]] = {
    "info": lambda run, out: main(["info", str(run)]),
    "miub": lambda run, out: main(["miub", str(run)]),
    "report": lambda run, out: main(["report", str(run), "--out", str(out / "page.html")]),
    "pull": lambda run, out: main(["pull", str(run), str(out / "copy.zarr")]),
    "view": lambda run, out: write_bundle(run, out / "page", with_runs=True) is None,
}


def read_by(reader: str, run: Path, out: Path) -> int:
    """Exit code of a command; 2 for a function that refuses."""
    out.mkdir()
    try:
        return int(READERS[reader](run, out))
    except StoreError:
        return 2


@pytest.mark.parametrize("reader", READERS)
def test_column_out_of_range_is_refused_or_not_read(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], tmp_path: Path, reader: str
) -> None:
    make: Any = request.getfixturevalue("make_run")
    run = whole_run(make)
    codes = {}
    for name, array in list(ranged_columns(run)):
        content, root = (run / array.key(0)).read_bytes(), (run / "zarr.json").read_bytes()
        forge_column(run, name, 0, values_outside(array)[-1])
        capsys.readouterr()
        codes[name] = read_by(reader, run, tmp_path / name.replace("/", "-"))
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        assert codes[name] == 0 or reader == "view" or f"entry 0 of '{name}' is" in printed.err, (name, printed)
        (run / array.key(0)).write_bytes(content)
        (run / "zarr.json").write_bytes(root)
    assert read_by(reader, run, tmp_path / "sound") == 0
    refused = {name for name, code in codes.items() if code == 2}
    assert refused >= {name for name in codes if re.fullmatch(r"components/.*|adapters/[^/]+/[^/]+", name)}
