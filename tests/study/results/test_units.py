import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import save
from lorascope.study import read_units
from lorascope.study.results import units as module

from ..made import GRID, make_study, make_unit, n_parameters


def test_units_come_back_with_all_that_was_written(study: Path) -> None:
    units = read_units(study)
    assert [unit.name for unit in read_units(study / "results")] == [unit.name for unit in units]
    assert [(unit.share, unit.rank) for unit in units] == sorted(GRID, key=lambda key: (-key[0], key[1]))
    unit = next(unit for unit in units if unit.share == 4)
    with xr.open_dataset(study / "results" / f"{unit.name}.nc", engine="netcdf4") as raw:
        np.testing.assert_array_equal(unit.samples["miub"], raw["miub"])
        assert unit.samples["id"].values.tolist() == raw["id"].values.tolist()
        assert unit.recipe == json.loads(raw.attrs["recipe"])
    assert unit.first_prompt == "main"
    assert unit.sizes == {"N": n_parameters(4), "N_non_embedding": n_parameters(4) - 10**7, "D": 600}
    assert [unit.information is not None for unit in units] == [True, False, False, True, False, True]
    assert unit.notes[0] == "piqa: 5 of 6 items of 101 to 200 tokens"


def test_what_isnt_whole_is_passed_over(tmp_path: Path) -> None:
    path = make_unit(tmp_path, informed=True)
    path.with_name(".share1-r32-s0-qa.nc.partial").write_bytes(b"half")
    path.with_name(".hidden.nc").write_bytes(b"half")
    path.with_name("share1-r32-s0-qa.information.nc").write_bytes(b"of a unit that isn't done")
    assert [unit.name for unit in read_units(tmp_path)] == [path.stem]


def with_attribute(key: str, value: str) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda results: results.assign_attrs({key: value})


def with_unit(**changed: object) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda results: results.assign_attrs(unit=json.dumps(json.loads(results.attrs["unit"]) | changed))


def in_bits(results: xr.Dataset) -> xr.Dataset:
    return results.assign(miub=results["miub"].assign_attrs(units="bit"))


REFUSED: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], str]] = {
    "no json": (with_attribute("training", "{"), "`training` is '{': invalid JSON"),
    "list": (with_attribute("runs", "[]"), "`runs` is .*: input should be a valid dictionary"),
    "no rank": (with_unit(rank=None), "`unit.rank` is None: input should be a valid integer"),
    "rank 0": (with_unit(rank=0), "`unit.rank` is 0: input should be greater than or equal to 1"),
    "other name": (with_unit(name="other"), "it is of unit 'other' by its own words"),
    "markup": (with_unit(name='"><script>'), "`unit.name` is .*: string should match pattern"),
    "column": (lambda results: results.drop_vars("miub"), "it has no 'miub' by sample"),
    "bits": (in_bits, "`miub` isn't in nats"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_no_unit_is_refused_in_a_line(tmp_path: Path, name: str) -> None:
    change, words = REFUSED[name]
    path = make_unit(tmp_path, change=change)
    with pytest.raises(ValueError, match=words) as raised:
        read_units(tmp_path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_foreign_and_damaged_files(tmp_path: Path) -> None:
    path = make_unit(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match="or is damaged: .*; take it out, or delete it, and `lorascope study run` makes it again"
    ):
        read_units(tmp_path)
    path.unlink()
    save(xr.Dataset({"x": ("y", [1.0])}), tmp_path / "other.nc")
    with pytest.raises(
        ValueError, match=r"other\.nc` isn't a unit's results, or is damaged: `unit`: field required .*; take it out"
    ):
        read_units(tmp_path)


def test_large_files_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_unit(tmp_path)
    packed = make_unit(tmp_path / "packed").rename(tmp_path / "packed.nc")
    size = packed.stat().st_size
    path.unlink()
    zeros = xr.Dataset({"x": ("y", np.zeros(size))})
    zeros.to_netcdf(tmp_path / "packed.nc", engine="netcdf4", encoding={"x": {"zlib": True}})
    monkeypatch.setattr(module, "MOST_BYTES", size)
    with pytest.raises(ValueError, match=f"its arrays take {8 * size} bytes; results take {size} at most"):
        read_units(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda results: results.assign_attrs(fingerprint="share1-r8-s0-qa-main-0123456789abcdef"), None),
        (lambda results: results.assign_attrs(fingerprint="another"), "is of another run than the results beside it"),
        (lambda results: results.drop_vars("verdict"), "isn't what `measure_information` returns"),
        (lambda results: results.isel(estimator=[1]), "isn't what `measure_information` returns"),
        (lambda results: results.assign(value=results["value"].assign_attrs(units="bit")), "values aren't in nats"),
    ],
)
def test_other_estimates_are_refused(
    tmp_path: Path, change: Callable[[xr.Dataset], xr.Dataset], words: str | None
) -> None:
    make_study(tmp_path, [(1, 8)])
    path = tmp_path / "results" / "share1-r8-s0-qa.information.nc"
    with xr.open_dataset(path, engine="netcdf4") as opened:
        estimates = opened.load()
    path.unlink()
    save(change(estimates), path)
    if words is None:
        assert read_units(tmp_path)[0].information is not None
        return
    with pytest.raises(ValueError, match=words):
        read_units(tmp_path)
