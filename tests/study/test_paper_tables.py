import hashlib
import re
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest

from lorascope.study.paper_tables import SOURCE, CellSet, paper_study, paper_table

SHA256 = {
    1: "79d1878c87e748cd7da7a594ecd355295500f14473dea4cc12129f3daeb2c6d7",
    2: "5dd2c8e6aac2878e816dcb37d1f1aacdd6a03cca4c736242663edf2180f9b245",
    3: "fbd204794281c4e62ef8ddeda309b99f9f581adc7341b138d8eaa980a7443efb",
}
METRICS = ("ACC", "CE", "MIUB")
SETTINGS = ["r32", "r128", "r512", "share8", "share4", "share2", "share1"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_tables_are_those_transcribed(number: int) -> None:
    own = (files("lorascope.study") / "paper" / f"table{number}.csv").read_bytes()
    assert hashlib.sha256(own).hexdigest() == SHA256[number]
    assert paper_table(number).attrs["source"] == f"{SOURCE}, table {number}"


def test_table_1() -> None:
    table = paper_table(1)
    assert table.columns.tolist() == ["dataset", "model", "metric", "setting", "value"]
    assert len(table) == 252
    assert len(table.drop_duplicates(["dataset", "model", "metric", "setting"])) == 6 * 2 * 3 * 7
    assert np.isfinite(table["value"]).all()
    cells = table.set_index(["dataset", "model", "metric", "setting"])["value"]
    assert cells["ARCE", "LLaMA3", "MIUB", "share8"] == 3779.9
    third = paper_table(3)
    assert third["printed"].tolist()[0] == "0.870"
    assert third[third["value"].isna()]["printed"].tolist() == ["0.88", "1561(", "1561it"]


@pytest.mark.parametrize("number", [0, 4, "1"])
def test_there_are_three_tables(number: object) -> None:
    with pytest.raises(ValueError, match=f"`number` is {number!r}; the paper has tables 1, 2 and 3"):
        paper_table(number)  # type: ignore[arg-type]


def test_the_study_is_table_1_laid_out() -> None:
    study, table = paper_study(), paper_table(1)
    assert study.columns.tolist() == [
        *("dataset", "model", "block", "setting", "sweep", "share", "layers", "N", "N_non_embedding", "R"),
        *METRICS,
    ]
    assert len(study) == 5 * 2 * 7
    assert study.index.tolist() == list(range(70))
    assert study["setting"].tolist() == SETTINGS * 10
    cells = table.set_index(["dataset", "model", "setting", "metric"])["value"]
    for row in study.itertuples():
        assert row.block == f"{row.dataset}/{row.model}"
        for metric in METRICS:
            assert getattr(row, metric) == cells[row.dataset, row.model, row.setting, metric]
    assert study.attrs["source"] == f"{SOURCE}, table 1, as printed"


def test_sizes_are_those_of_shared_layers() -> None:
    study = paper_study()
    for row in study.itertuples():
        share = int(row.setting.removeprefix("share")) if row.setting.startswith("share") else 1
        assert row.share == share
        assert row.layers == 16 + 16 // share
        assert row.sweep == ("size" if row.setting.startswith("share") else "rank")
        assert f"r{row.R}" == (row.setting if row.sweep == "rank" else "r32")
    assert (study[["share", "layers", "N", "N_non_embedding", "R"]].dtypes == np.int64).all()


def test_parameters_by_the_shapes_of_the_models() -> None:
    """Llama-3-8B and Phi-3-mini: attention, gated FFN, two norms a layer; untied embeddings and a last norm."""
    study = paper_study().drop_duplicates(["model", "layers"])
    shapes = {"LLaMA3": (4096, 14336, 1024, 128256), "Phi3": (3072, 8192, 3072, 32064)}
    for row in study.itertuples():
        width, ffn, key_value, vocabulary = shapes[row.model]
        layer = 2 * width * width + 2 * width * key_value + 3 * width * ffn + 2 * width
        assert row.N_non_embedding == row.layers * layer
        assert row.N - row.N_non_embedding == 2 * vocabulary * width + width
    wide = study.pivot(index="model", columns="share", values="N")
    np.testing.assert_allclose((wide[1] / wide[8])[["Phi3", "LLaMA3"]], [1.70924, 1.61357], atol=5.1e-6)


def test_the_repair_moves_what_share4_prints() -> None:
    printed, repaired = paper_study().set_index(["block", "setting"]), paper_study("repaired")
    assert repaired.attrs["source"].endswith("repaired")
    repaired = repaired.set_index(["block", "setting"])
    changed = printed.index[(printed[list(METRICS)] != repaired[list(METRICS)]).any(axis=1)]
    assert changed.tolist() == [("ARCE/LLaMA3", "share4"), ("ARCE/LLaMA3", "share2")]
    assert repaired.loc[("ARCE/LLaMA3", "share4"), list(METRICS)].tolist() == [0.217, 13.645, 3579.5]
    assert repaired.loc[("ARCE/LLaMA3", "share2"), list(METRICS)].tolist() == [0.901, 11.594, 3443.7]
    assert printed.loc[("ARCE/LLaMA3", "share4"), ["ACC", "CE"]].tolist() == [0.901, 11.594]


def test_collapsed_cells_can_be_left_out() -> None:
    whole, rest = paper_study(), paper_study("without collapsed")
    gone = whole[whole["ACC"] < 0.25]
    assert gone[["block", "setting"]].to_numpy().tolist() == [
        ["ARCE/LLaMA3", "share8"],
        ["ARCC/LLaMA3", "share8"],
        ["ARCC/LLaMA3", "share4"],
    ]
    assert len(rest) == 67
    assert rest["ACC"].min() > 0.25
    assert rest.index.tolist() == list(range(67))


@pytest.mark.parametrize(("cells", "n_rows"), [("as printed", 65), ("repaired", 65), ("without collapsed", 62)])
def test_a_run_printed_twice_can_be_used_once(cells: CellSet, n_rows: int) -> None:
    study = paper_study(cells, once=True)
    assert len(study) == n_rows
    assert study.index.tolist() == list(range(n_rows))
    assert not ((study["model"] == "LLaMA3") & (study["setting"] == "share1")).any()
    both = paper_study().set_index(["model", "setting"])[list(METRICS)].loc["LLaMA3"]
    pd.testing.assert_frame_equal(both.loc["r32"].reset_index(drop=True), both.loc["share1"].reset_index(drop=True))


def test_cell_sets_have_names() -> None:
    words = "`cells` is 'corrected'; allowed are 'as printed', 'repaired', 'without collapsed'"
    with pytest.raises(ValueError, match=re.escape(words)):
        paper_study("corrected")  # type: ignore[arg-type]
