import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from lorascope.analyze import compare_metrics, fit_scaling_law
from lorascope.study import read_study, read_units
from lorascope.study.page.page_parts import setting_differences
from lorascope.study.results.cells import study_cells
from lorascope.study.results.study_results import compare_study_metrics, study_law, study_results
from lorascope.study.results.units import UnitResult

from ..made import make_study, make_unit

LAW = {"alpha": 1.5, "beta": 0.5}
"""Exponents of `true_miub`."""


def test_the_law_behind_the_results_is_found(units: list[UnitResult]) -> None:
    law = study_law(study_cells(units))
    assert not isinstance(law, str)
    intervals = law.fit.conf_int()
    for name, truth in LAW.items():
        assert intervals.loc[name, "low"] < truth < intervals.loc[name, "high"]
    assert list(law.fit.design.group_columns) == ["dataset"]
    assert law.fit.nobs == 18


def test_seeds_are_repeats_of_the_law(seeds: list[UnitResult]) -> None:
    cells = study_cells(seeds)
    chosen = cells[cells["first_prompt"] & ~cells["is_text"]]
    fit = fit_scaling_law(chosen.astype({"N": float}), "MIUB", "N", "R", groups=["dataset"], repeat="seed")
    assert fit.nobs == 54
    assert fit.params["alpha"] == pytest.approx(LAW["alpha"], abs=0.2)


def test_what_settings_cant_tell_is_said(tmp_path: Path) -> None:
    make_study(tmp_path / "few", [(8, 8), (1, 8), (1, 32)], sets=("piqa",), lengths=False)
    assert "can't determine" in study_law(study_cells(read_units(tmp_path / "few")))
    make_study(tmp_path / "one", [(1, 8)], sets=("piqa",), lengths=False)
    assert str(study_law(study_cells(read_units(tmp_path / "one")))).startswith("no size varies")
    make_study(tmp_path / "texts", [(8, 8), (1, 8)], sets=(), lengths=False, informed=False)
    cells = study_cells(read_units(tmp_path / "texts"))
    assert study_law(cells) == "there is no data set with choices"
    assert compare_study_metrics(cells)


def test_metrics_are_compared_over_seeds(seeds: list[UnitResult]) -> None:
    comparison = compare_study_metrics(study_cells(seeds))
    assert not isinstance(comparison, str)
    assert len(comparison.cells) == 18
    cells = study_cells(seeds)
    own = cells[(cells["dataset"] == "piqa") & (cells["prompt"] == "main") & (cells["setting"] == "share2 r8")]
    (value,) = [row["ln MIUB"] for (group, setting), row in comparison.cells.iterrows()
                if group.startswith("piqa/") and setting == "share2 r8"]  # fmt: skip
    assert np.exp(value) == pytest.approx(own["MIUB"].mean())


def test_study_csv_is_a_study(tmp_path: Path, units: list[UnitResult]) -> None:
    study_cells(units).to_csv(tmp_path / "study.csv", index=False)
    table = read_study(tmp_path, where={"prompt": ["main"]})
    assert len(table) == 18
    fit = fit_scaling_law(table, "MIUB", "N", "R", groups=["dataset"])
    assert fit.params["beta"] == pytest.approx(LAW["beta"], abs=0.1)
    comparison = compare_metrics(table, groups=["dataset"])
    assert comparison.metrics["metric"].tolist() == ["ln MIUB", "CE", "ln CE"]


def test_all_of_it(units: list[UnitResult]) -> None:
    results = study_results(units[:2], planned=[*(unit.name for unit in units), "share1-r512-s0-qa"])
    assert results.missing == [*(unit.name for unit in units[2:]), "share1-r512-s0-qa"]
    assert list(results.tables) == [
        "study", "lengths", "table_1", "table_2", "table_3", "figure_2", "figure_3", "claims",
    ]  # fmt: skip
    assert all(isinstance(table, pd.DataFrame) for table in results.tables.values())
    assert not study_results(units[:1]).missing


def test_units_that_differ_in_what_shapes_numbers(tmp_path: Path) -> None:
    def made(share: int, rank: int, libraries: dict[str, str] | None = None, **changes: object) -> None:
        def change(results: xr.Dataset) -> xr.Dataset:
            recipe = json.loads(results.attrs["recipe"])
            recipe["train"] |= {"model": {"a": "b"}, "items": "ff", "sharing": [1]} | changes.get("train", {})
            recipe["main"] = {"config": {}, "items": "01", "templates": {"main": "x"}} | changes.get("main", {})
            return results.assign_attrs(recipe=json.dumps(recipe))

        make_unit(tmp_path, share, rank, change=change, prompts=("main",), libraries=libraries)

    made(1, 8)
    made(1, 16)
    made(
        4, 8, train={"sharing": [4, 16, "first"]}, main={"config": {"share": 4, "shared_layers": 16, "states": "none"}}
    )
    assert not list(setting_differences(read_units(tmp_path)))
    made(1, 32, train={"items": "ee", "config": {"rank": 32}})  # a learning rate by default
    made(1, 64, main={"items": "02", "config": {"window_tokens": 64}, "templates": {"main": "y"}})
    made(1, 128, train={"model": {"a": "c"}, "sharing": [2]}, libraries={"torch": "<2.10>"})
    message = " ".join(setting_differences(read_units(tmp_path)))
    for what in (
        "items of train, qa, smol, share1, dall: &quot;ff&quot; in share1-r8-s0-qa, share1-r16-s0-qa, share1-r64-s0-qa",
        "settings of train, qa: {&quot;learning_rate&quot;: 4e-05} in share4-r8-s0-qa, share1-r8-s0-qa,",
        "items of main, qa, smol, share1, dall: &quot;01&quot; in",
        "settings of main, qa: {} in",
        "{&quot;window_tokens&quot;: 64} in share1-r64-s0-qa",
        "templates of main, qa, smol, share1, dall: ",
        "torch: &quot;2.9.0&quot; in share4-r8-s0-qa,",
        "; &quot;&lt;2.10&gt;&quot; in share1-r128-s0-qa",
        "model of train, qa, smol, share1, dall: ",
        "sharing of train, qa, smol, share1, dall: ",
    ):
        assert what in message


def test_results_of_other_units_are_left_out(units: list[UnitResult]) -> None:
    results = study_results(units[:2], planned=[units[1].name])
    assert results.unplanned_units == (units[0].name,)
    assert units[0].name not in set(results.tables["study"]["run"])
    assert not results.missing
    with pytest.raises(ValueError, match="no results are of this study's units, but of 'share8-r8-s0-qa' and the like"):
        study_results(units, planned=["other"])
    twice = UnitResult(**vars(units[0]) | {"name": "smol-share8"})  # it would count as two seeds
    with pytest.raises(ValueError, match="units 'share8-r8-s0-qa' and 'smol-share8' are of one setting"):
        study_results([units[0], twice])
