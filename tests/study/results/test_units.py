import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import save
from lorascope.study import read_units
from lorascope.study.results import units as module
from lorascope.study.running.steps import save_checked

from ..made import GRID, make_study, make_unit, n_parameters


def test_units_come_back_with_all_that_was_written(study: Path) -> None:
    units = read_units(study)
    assert [one.name for one in read_units(study / "results")] == [one.name for one in units]
    assert [(one.share, one.rank) for one in units] == sorted(GRID, key=lambda key: (-key[0], key[1]))
    one = next(one for one in units if one.share == 4)
    with xr.open_dataset(study / "results" / f"{one.name}.nc", engine="netcdf4") as raw:
        np.testing.assert_array_equal(one.samples["miub"], raw["miub"])
        assert one.samples["id"].values.tolist() == raw["id"].values.tolist()
        assert one.recipe == json.loads(raw.attrs["recipe"])
    assert one.first_prompt == "main"
    assert one.sizes == {"N": n_parameters(4), "N_non_embedding": n_parameters(4) - 10**7, "D": 600}
    assert [unit.information is not None for unit in units] == [True, False, False, True, False, True]
    assert one.notes[0] == "piqa: 5 of 6 items of 101 to 200 tokens"


def test_what_isnt_whole_is_passed_over(tmp_path: Path) -> None:
    path = make_unit(tmp_path, informed=True)
    path.with_name(".share1-r32-s0-qa.nc.partial").write_bytes(b"half")
    path.with_name(".hidden.nc").write_bytes(b"half")
    path.with_name("share1-r32-s0-qa.information.nc").write_bytes(b"of a unit that isn't done")
    assert [one.name for one in read_units(tmp_path)] == [path.stem]


def with_attribute(key: str, value: str) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda found: found.assign_attrs({key: value})


def with_unit(**changed: object) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda found: found.assign_attrs(unit=json.dumps(json.loads(found.attrs["unit"]) | changed))


def in_bits(found: xr.Dataset) -> xr.Dataset:
    return found.assign(miub=found["miub"].assign_attrs(units="bit"))


REFUSED: dict[str, tuple[Callable[[xr.Dataset], xr.Dataset], str]] = {
    "no json": (with_attribute("training", "{"), "`training` is '{': invalid JSON"),
    "deep json": (with_attribute("recipe", "[" * 1000), "`recipe` .* recursion limit exceeded"),
    "list": (with_attribute("runs", "[]"), "`runs` is .*: input should be a valid dictionary"),
    "no rank": (with_unit(rank=None), "`unit.rank` is None: input should be a valid integer"),
    "rank 0": (with_unit(rank=0), "`unit.rank` is 0: input should be greater than or equal to 1"),
    "true": (with_unit(share=True), "`unit.share` is True: input should be a valid integer"),
    "seed": (with_unit(seed=-1), "`unit.seed` is -1: input should be greater"),
    "other name": (with_unit(name="other"), "it is of unit 'other' by its own words"),
    "markup": (with_unit(name='"><script>'), "`unit.name` is .*: string should match pattern"),
    "column": (lambda found: found.drop_vars("miub"), "it has no numbers 'miub' by sample"),
    "texts": (lambda found: found.assign(ce=found["id"]), "it has no numbers 'ce' by sample"),
    "bits": (in_bits, "`miub` is in 'bit', not in nats"),
    "empty": (lambda found: found.isel(sample=slice(0)), "holds no sample"),
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


def test_a_flipped_bit_in_a_file_of_results_is_found(tmp_path: Path) -> None:
    made = make_unit(tmp_path / "made")
    (folder := tmp_path / "results").mkdir()
    path = folder / made.name
    with xr.open_dataset(made, engine="netcdf4") as results:
        save_checked(results.load(), path)
    whole = path.read_bytes()
    assert [unit.name for unit in read_units(folder)] == [path.stem]
    random = np.random.default_rng(0)
    for place, bit in zip(random.integers(len(whole), size=40), random.integers(8, size=40), strict=True):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="isn't a unit's results, or is damaged"):
            read_units(folder)


def test_large_files_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_unit(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "MOST_BYTES", path.stat().st_size - 1)
        with pytest.raises(ValueError, match="bytes, where results have"):
            read_units(tmp_path)
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
        (lambda found: found.assign_attrs(fingerprint="share1-r8-s0-qa-main-0123456789abcdef"), None),
        (lambda found: found.assign_attrs(fingerprint="another"), "is of another run than the unit's results"),
        (lambda found: found.drop_vars("verdict"), "isn't what `measure_information` returns: it has no 'verdict'"),
        (lambda found: found.drop_vars("js"), "has no 'js' or no estimate of the panel"),
        (lambda found: found.isel(estimator=[1]), "has no 'js' or no estimate of the panel"),
        (lambda found: found.isel(component=[0, 0]), "has a component twice"),
        (lambda found: found.assign(value=found["value"].assign_attrs(units="bit")), "are in 'bit', not in nats"),
    ],
)
def test_other_estimates_are_refused(
    tmp_path: Path, change: Callable[[xr.Dataset], xr.Dataset], words: str | None
) -> None:
    make_study(tmp_path, [(1, 8)])
    path = tmp_path / "results" / "share1-r8-s0-qa.information.nc"
    with xr.open_dataset(path, engine="netcdf4") as opened:
        found = opened.load()
    path.unlink()
    save(change(found), path)
    if words is None:
        assert read_units(tmp_path)[0].information is not None
        return
    with pytest.raises(ValueError, match=words):
        read_units(tmp_path)
