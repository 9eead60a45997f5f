from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from lorascope.study import read_units
from lorascope.study.results.cells import length_cells, prompt_cells, study_cells
from lorascope.study.results.units import UnitResult

from ..made import SETS, make_study, make_unit, n_parameters


@cache
def raw(study: Path, name: str) -> pd.DataFrame:
    """A unit's samples, read without lorascope."""
    with xr.open_dataset(study / "results" / f"{name}.nc", engine="netcdf4") as results:
        columns = [key for key, values in results.data_vars.items() if values.dims == ("sample",)]
        return results[columns].to_dataframe()


@pytest.fixture(scope="module")
def cells(units: list[UnitResult]) -> pd.DataFrame:
    return study_cells(units)


def test_a_row_a_unit_data_set_and_prompt(cells: pd.DataFrame) -> None:
    assert len(cells) == 6 * (3 * 4 + 1)
    assert not cells.duplicated(["run", "dataset", "split", "prompt"]).any()
    assert set(cells[~cells["is_text"]]["dataset"]) == set(SETS)
    assert cells[cells["first_prompt"]]["prompt"].unique().tolist() == ["main", "text"]
    assert cells.attrs["source"] == "6 units of a study"
    for row in cells.itertuples():
        assert (n_parameters(row.share), row.N - 10**7, 600) == (row.N, row.N_non_embedding, row.D)
        assert row.setting == f"share{row.share} r{row.R}"
        assert row.adapter == row.run == f"share{row.share}-r{row.R}-s0-qa"


def test_numbers_are_those_of_plain_pandas(study: Path, cells: pd.DataFrame) -> None:
    for row in cells[~cells["is_text"]].itertuples():
        table = raw(study, row.run)
        own = table[(table["dataset"] == row.dataset) & (table["prompt"] == row.prompt) & (table["in_test"] == 1)]
        n = len(own)
        assert (row.n_samples, row.n_scored) == (n, n)
        assert pytest.approx(own["miub"].mean(), rel=1e-12) == row.MIUB
        assert pytest.approx(own["miub"].sem(), rel=1e-12) == row.MIUB_se
        assert pytest.approx(own["ce"].mean(), rel=1e-12) == row.CE
        assert pytest.approx(own["ce"].sem(), rel=1e-9) == row.CE_se
        for column, name in (
            ("ACC", "correct"),
            ("ACC_per_token", "correct_per_token"),
            ("ACC_per_character", "correct_per_character"),
        ):
            for prefix in ("", "base_"):
                share = (own[f"{prefix}{name}"] == 1).mean()
                assert getattr(row, prefix + column) == pytest.approx(share, rel=1e-12)
        p = own["correct"].mean()
        assert pytest.approx(np.sqrt(p * (1 - p) / n), rel=1e-12) == row.ACC_se
        change = own["correct"] - own["base_correct"]
        assert pytest.approx(change.mean(), abs=1e-15) == row.ACC_change
        assert pytest.approx(change.sem(), rel=1e-9, abs=1e-15) == row.ACC_change_se
        assert np.isnan(row.PPL)
        assert np.isnan(row.ACC_written)


def test_texts_are_means_over_tokens(study: Path, cells: pd.DataFrame) -> None:
    for row in cells[cells["is_text"]].itertuples():
        own = raw(study, row.run).query("dataset == 'wiki'")
        tokens = own["length"] - 1
        ce = (own["ce"] * tokens).sum() / tokens.sum()
        assert pytest.approx(ce, rel=1e-12) == row.CE
        assert pytest.approx(np.exp(ce), rel=1e-12) == row.PPL
        base = (own["base_ce"] * tokens).sum() / tokens.sum()
        assert pytest.approx(np.exp(base), rel=1e-12) == row.base_PPL
        assert pytest.approx(own["miub"].mean(), rel=1e-12) == row.MIUB
        assert np.isnan(row.ACC)
        assert row.first_prompt


def test_prompts_are_compared_on_the_same_items(study: Path, units: list[UnitResult]) -> None:
    cells = prompt_cells(units)
    assert cells["n_samples"].eq(12).all()
    assert not cells["is_text"].any()
    row = cells[(cells["prompt"] == "main") & (cells["dataset"] == "arce")].iloc[0]
    table = raw(study, row["run"]).query("dataset == 'arce' and prompt == 'main' and in_prompts == 1")
    assert row["MIUB"] == pytest.approx(table["miub"].mean(), rel=1e-12)


def test_lengths_say_how_many_were_wanted(study: Path, units: list[UnitResult]) -> None:
    cells = length_cells(units)
    assert cells["bucket"].drop_duplicates().tolist() == ["1-100", "101-200", "201-300"]
    own = cells[cells["run"] == units[0].name].set_index(["dataset", "bucket"])
    assert own.loc[("piqa", "101-200"), ["n_samples", "n_wanted"]].tolist() == [5, 6]
    assert own.loc[("hellaswag", "1-100"), ["n_samples", "n_wanted"]].tolist() == [6, 6]
    empty = own.loc[("arce", "201-300")]
    assert (empty["n_samples"], empty["n_wanted"], empty["split"]) == (0, 6, "test")
    assert np.isnan(empty["MIUB"])
    table = raw(study, units[0].name).query("dataset == 'piqa' and bucket == '101-200' and prompt == 'main'")
    assert own.loc[("piqa", "101-200"), "MIUB"] == pytest.approx(table["miub"].mean(), rel=1e-12)
    assert own.loc[("piqa", "101-200"), "ACC"] == pytest.approx(table["correct"].mean())
    assert own.loc[("piqa", "101-200"), "mean_length"] == 150


def test_data_sizes_tell_settings_apart_within_a_task(tmp_path: Path) -> None:
    for n in (100, 200):
        make_unit(tmp_path, train_items=n)
    make_unit(tmp_path, task="other")
    cells = study_cells(read_units(tmp_path))
    assert dict(zip(cells["run"], cells["setting"], strict=True)) == {
        "share1-r8-s0-d100-qa": "r8 d100", "share1-r8-s0-d200-qa": "r8 d200", "share1-r8-s0-other": "r8",
    }  # fmt: skip
    assert cells[cells["run"] == "share1-r8-s0-d100-qa"]["D"].eq(100).all()


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_isnt_finite_isnt_averaged_away(tmp_path: Path, broken: float) -> None:
    def break_one(results: xr.Dataset) -> xr.Dataset:
        values = results["miub"].values.copy()
        values[3] = broken
        return results.assign(miub=("sample", values, {"units": "nat"}))

    make_unit(tmp_path, change=break_one)
    cells = study_cells(read_units(tmp_path))
    assert cells["MIUB"].isna().sum() == 1
    assert cells[cells["MIUB"].isna()][["dataset", "prompt"]].values.tolist() == [["piqa", "main"]]


def test_written_answers_and_lacking_bases(tmp_path: Path) -> None:
    def change(results: xr.Dataset) -> xr.Dataset:
        names = [name for name in results.data_vars if str(name).startswith("base_")]
        written = np.where(results["answer"] >= 0, np.arange(results.sizes["sample"]) % 2, -1).astype(np.int8)
        return results.drop_vars(names).assign(
            written_correct=("sample", written), written_prediction=("sample", np.zeros_like(written))
        )

    make_unit(tmp_path, change=change)
    cells = study_cells(read_units(tmp_path))
    assert cells[~cells["is_text"]]["ACC_written"].eq(0.5).all()
    assert cells["base_ACC"].isna().all()
    assert cells["ACC"].notna().sum() == 12


def test_a_study_of_one_prompt_has_no_cells_of_prompts(tmp_path: Path) -> None:
    make_study(tmp_path, [(1, 8)], prompts=("main",))
    cells = prompt_cells(read_units(tmp_path))
    assert len(cells) == 0
    assert cells["is_text"].dtype == bool
