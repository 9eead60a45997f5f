import re
from pathlib import Path

import numpy as np
import pytest

from lorascope.cli.main import main
from lorascope.stores import open_run


def pulled(capsys: pytest.CaptureFixture[str], source: Path, out: Path, *options: str) -> str:
    assert main(["pull", str(source), str(out), *options]) == 0
    return capsys.readouterr().out


def test_it_says_what_it_took(capsys: pytest.CaptureFixture[str], many_rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "part.zarr"
    options = ("--component", "*.0.*", "--component", "*.1.mlp.up_proj", "--samples", "2", "--tokens", "share:0.1")
    text = pulled(capsys, many_rows, out, *options, "--seed", "3", "--adapter", "def*")
    assert "3 of 4 components, 2 of 5 samples, 110 of 2500 tokens: " in text
    assert re.search(rf"tokens: \S+ kB in {out} \(the source has \S+ MB\)\n", text)
    assert "the source was checked by the checksum of every chunk, the copy was read back and compared" in text
    run = open_run(out)
    assert run.samples["id"].values.tolist() == ["s0", "s1"]
    np.testing.assert_allclose(run.tokens["weight"].values, 10)


def test_samples_by_name_of_an_unfinished_run(
    capsys: pytest.CaptureFixture[str], unfinished: Path, tmp_path: Path
) -> None:
    text = pulled(capsys, unfinished, tmp_path / "part.zarr", "--samples", "s0", "--samples", "d/s[12]")
    assert "1 of 5 samples" in text
    assert "2 samples aren't wholly captured yet and were excluded" in text
    assert "the source was checked by the digest of every row" in text
