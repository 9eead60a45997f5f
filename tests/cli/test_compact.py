from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lorascope.cli.main import main
from lorascope.stores import create_run, open_run
from lorascope.stores.copying.copy_target import spec_of, tables_of, weights_of


def raw_run(source: Path, path: Path) -> Path:
    """A run that is captured raw, of numbers that can be compressed."""
    run = open_run(source)
    spec = replace(spec_of(run), codec="raw")
    with create_run(path, spec, tables=tables_of(run), weights=weights_of(run, spec)) as writer:
        for row in range(3):
            tokens = writer.row_tokens(row)
            values = np.arange(tokens.start, tokens.stop, dtype=np.float32)
            writer.write_row(
                row,
                {
                    name: np.broadcast_to(values.reshape(-1, *[1] * (len(shape) - 1)), (len(values), *shape[1:])).copy()
                    for name, (shape, _) in writer.row_arrays(row).items()
                },
            )
        writer.finish({})
    return path


def test_it_says_how_much_smaller_it_is(capsys: pytest.CaptureFixture[str], many_rows: Path, tmp_path: Path) -> None:
    source, out = raw_run(many_rows, tmp_path / "raw.zarr"), tmp_path / "out.zarr"
    assert main(["compact", str(source), str(out)]) == 0
    text = capsys.readouterr().out
    assert " MB became " in text
    assert f"% of it, in {out}" in text
    assert f"each of its 3 rows was read back and compared; {source} can be deleted" in text
    assert open_run(source).finished
    assert main(["compact", str(out), str(tmp_path / "again.zarr")]) == 2
    assert "is compressed already; there is nothing to gain" in capsys.readouterr().err
