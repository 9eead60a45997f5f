from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lorascope.study import read_units
from lorascope.study.results.cells import length_cells, prompt_cells, study_cells
from lorascope.study.results.tables import (
    data_labels,
    datasets_table,
    information_table,
    lay_out,
    lengths_table,
    prompts_table,
    texts_table,
)
from lorascope.study.results.units import UnitResult

from ..made import PROMPTS, make_study, make_unit, n_parameters
from .test_cells import raw

COLUMNS = ["r8", "r32", "r128", "share8", "share4", "share2", "share1"]
RUNS = {
    **{f"r{rank}": f"share1-r{rank}-s0-qa" for rank in (8, 32, 128)},
    **{f"share{share}": f"share{share}-r8-s0-qa" for share in (8, 4, 2, 1)},
}
SOURCES = {"ACC": "correct", "CE": "ce", "MIUB": "miub"}


def test_table_1_is_that_of_plain_pandas(study: Path, units: list[UnitResult]) -> None:
    table = datasets_table(study_cells(units))
    assert table["setting"].drop_duplicates().tolist() == COLUMNS
    assert table["dataset"].drop_duplicates().tolist() == ["piqa", "arce", "hellaswag", "AVG"]
    assert len(table) == 4 * 3 * 7
    assert table.attrs == {"rank": 8, "excluded_units": []}
    for row in table.itertuples():
        own = raw(study, RUNS[row.setting]).query("prompt == 'main' and in_test == 1")
        means = own.groupby("dataset")[SOURCES[row.metric]].mean()
        errors = own.groupby("dataset")[SOURCES[row.metric]].sem()
        if row.metric == "ACC":
            errors = (means * (1 - means) / 24) ** 0.5
        means["AVG"], errors["AVG"] = means.mean(), np.sqrt((errors**2).sum()) / 3
        assert row.value == pytest.approx(means[row.dataset], rel=1e-12)
        assert row.se == pytest.approx(errors[row.dataset], rel=1e-9)
        assert row.n_items == (72 if row.dataset == "AVG" else 24)
        assert row.n_seeds == 1
        assert np.isnan(row.seed_sd)
        assert row.runs == RUNS[row.setting]
        assert row.unit == {"ACC": "share", "CE": "nat/token", "MIUB": "nat"}[row.metric]


def test_seeds_are_averaged_and_said(seeds: list[UnitResult]) -> None:
    cells = study_cells(seeds)
    table = datasets_table(cells)
    own = cells[(cells["share"] == 4) & (cells["dataset"] == "piqa") & (cells["prompt"] == "main")]
    assert len(own) == 3
    row = table[(table["dataset"] == "piqa") & (table["setting"] == "share4") & (table["metric"] == "MIUB")].iloc[0]
    assert row["value"] == pytest.approx(own["MIUB"].mean(), rel=1e-12)
    assert row["se"] == pytest.approx(own["MIUB_se"].mean(), rel=1e-12)
    assert row["seed_sd"] == pytest.approx(own["MIUB"].std(), rel=1e-12)
    assert (row["n_seeds"], row["n_items"]) == (3, 24)
    assert row["runs"].split() == [f"share4-r8-s{seed}-qa" for seed in range(3)]
    average = table[(table["dataset"] == "AVG") & (table["setting"] == "share4") & (table["metric"] == "MIUB")].iloc[0]
    main = cells[(cells["share"] == 4) & cells["first_prompt"] & ~cells["is_text"]]
    by_seed = main.groupby("seed")["MIUB"].mean()
    assert average["seed_sd"] == pytest.approx(by_seed.std(), rel=1e-12)
    assert average["runs"].split() == [f"share4-r8-s{seed}-qa" for seed in range(3)]


def test_what_isnt_there_is_empty_and_counted(tmp_path: Path) -> None:
    make_study(tmp_path, [(8, 8), (1, 8)])
    make_unit(tmp_path / "results", 1, 32, sets=("piqa",))
    cells = study_cells(read_units(tmp_path))
    table = datasets_table(cells)
    empty = table[table["value"].isna()]
    assert set(empty["dataset"]) == {"arce", "hellaswag", "AVG"}  # a mean of one set isn't that of three
    assert empty["setting"].unique().tolist() == ["r32"]
    assert empty["n_items"].eq(0).all()
    assert len(empty) == 9


def test_models_stand_beside_each_other(tmp_path: Path) -> None:
    make_study(tmp_path, [(8, 8), (1, 8)])
    make_unit(tmp_path / "results", 1, 8, model="big")
    table = datasets_table(study_cells(read_units(tmp_path)))
    assert table["model"].unique().tolist() == ["big", "smol"]
    assert table[(table["model"] == "big") & (table["setting"] == "share8")]["value"].isna().all()
    assert table[(table["model"] == "big") & (table["setting"] == "r8")]["value"].notna().all()


def test_of_data_sizes_the_largest_is_laid_out(tmp_path: Path) -> None:
    for n in (100, 200):
        make_unit(tmp_path, train_items=n, noise=0.0)
    layout = lay_out(study_cells(read_units(tmp_path)))
    assert layout.excluded_units == ("share1-r8-s0-d100-qa",)
    assert (layout.ranks, layout.sizes, layout.columns) == (("r8",), (), ("r8",))
    make_unit(tmp_path)  # all items are more than any number
    assert lay_out(study_cells(read_units(tmp_path))).cells["run"].unique().tolist() == ["share1-r8-s0-qa"]


def test_sizes_are_those_of_the_rank_with_most_of_them(tmp_path: Path) -> None:
    make_study(tmp_path, [(8, 4), (1, 4), (8, 16), (2, 16), (1, 16), (1, 64)], informed=False)
    layout = lay_out(study_cells(read_units(tmp_path)))
    assert (layout.ranks, layout.sizes, layout.rank) == (("r4", "r16", "r64"), ("share8", "share2", "share1"), 16)
    assert layout.excluded_units == ("share8-r4-s0-qa",)


def test_data_sets_of_one_name_are_told_apart() -> None:
    frame = pd.DataFrame(
        {
            "dataset": ["piqa", "piqa", "arce", "arce", "wiki"],
            "split": ["test", "train", "test", "test", ""],
            "task": ["a", "a", "a", "b", "a"],
        }
    )
    assert data_labels(frame) == ["piqa/test", "piqa/train", "arce (a)", "arce (b)", "wiki"]


def test_tasks_that_share_data_sets_have_averages_of_their_own(tmp_path: Path) -> None:
    for task in ("a", "b"):
        make_study(tmp_path, [(1, 8)], task=task)
    names = datasets_table(study_cells(read_units(tmp_path)))["dataset"].unique().tolist()
    assert names[-2:] == ["AVG (a)", "AVG (b)"]
    apart = tmp_path / "apart"
    make_study(apart, [(1, 8)], task="a", sets=("piqa",))
    make_study(apart, [(1, 8)], task="b", sets=("arce",), text=False)
    table = datasets_table(study_cells(read_units(apart)))
    average = table[(table["dataset"] == "AVG") & (table["metric"] == "MIUB")]
    parts = table[(table["dataset"] != "AVG") & (table["metric"] == "MIUB")]
    assert average["value"].item() == pytest.approx(parts["value"].mean())
    assert average["runs"].item().split() == ["share1-r8-s0-a", "share1-r8-s0-b"]


def test_table_2_is_on_the_same_items(study: Path, units: list[UnitResult]) -> None:
    table = prompts_table(prompt_cells(units))
    assert table["prompt"].drop_duplicates().tolist() == list(PROMPTS)
    assert table["metric"].drop_duplicates().tolist() == ["ACC", "MIUB"]
    assert table["n_items"].eq(36).all()
    for row in table.itertuples():
        own = raw(study, RUNS[row.setting]).query(f"prompt == '{row.prompt}' and in_prompts == 1")
        assert row.value == pytest.approx(own.groupby("dataset")[SOURCES[row.metric]].mean().mean(), rel=1e-12)


def test_table_3_has_medians_with_their_verdicts(units: list[UnitResult]) -> None:
    table = information_table(study_cells(units), units)
    assert table["setting"].drop_duplicates().tolist() == ["r8", "r128", "share8", "share1"]
    assert table["metric"].drop_duplicates().tolist() == ["ACC", "MIUB", "MI", "js", "js sum"]
    for unit in units:
        if unit.information is None:
            continue
        column = f"r{unit.rank}" if unit.share == 1 else f"share{unit.share}"
        own = table[table["setting"] == column].set_index("metric")
        frame = unit.information.sel(estimator="panel").to_dataframe().dropna(subset=["value"])
        assert own.loc["MI", "value"] == pytest.approx(frame["value"].median(), rel=1e-12)
        assert own.loc["MI", ["low", "high"]].tolist() == pytest.approx(frame["value"].quantile([0.25, 0.75]).tolist())
        assert own.loc["js", "value"] == pytest.approx(frame["js"].median(), rel=1e-12)
        assert own.loc["js sum", "value"] == pytest.approx(frame["js"].sum(), rel=1e-12)
        assert own.loc["MI", ["n_components", "n_clean", "n_tokens", "n_items"]].tolist() == [7, 6, 500, 20]
        assert own.loc["MI", "unit"] == "nat"
    scores = datasets_table(study_cells(units))
    expected = scores[(scores["dataset"] == "AVG") & (scores["metric"] == "ACC") & (scores["setting"] == "r128")]
    assert table[(table["metric"] == "ACC") & (table["setting"] == "r128")]["value"].item() == expected["value"].item()


def test_figure_2_has_texts_by_model_size(study: Path, units: list[UnitResult]) -> None:
    table = texts_table(study_cells(units))
    assert table["metric"].drop_duplicates().tolist() == ["MIUB", "PPL", "CE"]
    assert table["setting"].drop_duplicates().tolist() == ["share8", "share4", "share2", "share1"]
    assert table["R"].eq(8).all()
    for row in table.itertuples():
        assert n_parameters(row.share) == row.N
        own = raw(study, RUNS[row.setting]).query("dataset == 'wiki'")
        tokens = own["length"] - 1
        ce = (own["ce"] * tokens).sum() / tokens.sum()
        assert row.value == pytest.approx({"MIUB": own["miub"].mean(), "CE": ce, "PPL": np.exp(ce)}[row.metric])
        assert row.se > 0


def test_figure_2_of_models_that_share_nothing(tmp_path: Path) -> None:
    make_unit(tmp_path, 1, 8)
    make_unit(tmp_path, 1, 8, model="big")
    make_unit(tmp_path, 1, 2)
    table = texts_table(study_cells(read_units(tmp_path)))
    assert table["setting"].unique().tolist() == ["r8"]
    assert table["model"].unique().tolist() == ["big", "smol"]


def test_figure_3_by_length(study: Path, units: list[UnitResult]) -> None:
    table = lengths_table(length_cells(units))
    assert table["bucket"].drop_duplicates().tolist() == ["1-100", "101-200", "201-300"]
    assert table["metric"].drop_duplicates().tolist() == ["MIUB", "ACC"]
    own = table[(table["dataset"] == "piqa") & (table["setting"] == "r32") & (table["bucket"] == "101-200")]
    expected = raw(study, RUNS["r32"]).query("dataset == 'piqa' and bucket == '101-200' and prompt == 'main'")
    assert own["value"].tolist() == pytest.approx([expected["miub"].mean(), expected["correct"].mean()])
    assert own[["n_items", "n_wanted"]].values.tolist() == [[5, 6], [5, 6]]
    assert table["value"].isna().sum() == 2 * len(COLUMNS)
    assert len(lengths_table(length_cells(units).iloc[:0])) == 0


def test_lengths_are_each_models_own(tmp_path: Path) -> None:
    """Two tokenizers count one item's tokens in two ways."""
    options = {"text": False, "prompts": ("main",), "informed": False}
    make_unit(tmp_path, model="big", **options)  # type: ignore[arg-type]
    longer = lambda results: results.assign(item_length=results["item_length"] + 7)  # noqa: E731
    make_unit(tmp_path, change=longer, **options)  # type: ignore[arg-type]
    table = lengths_table(length_cells(read_units(tmp_path))).query("bucket == '1-100' and dataset == 'piqa'")
    assert table.groupby("model")["mean_length"].first().to_dict() == {"big": 50, "smol": 57}
