import doctest
import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze import group_by, miub
from lorascope.stores import open_run
from lorascope.study import paper_study
from lorascope.study.read_study import read_study

from ..stored import store_states

module = importlib.import_module("lorascope.study.read_study")  # the package's attribute is the function


def store(path: Path, *, rank: int = 2, size: float = 1.0, seed: int = 0, **provenance: Any) -> Path:
    """A run of two data sets, whose delta is so large."""
    rng = np.random.default_rng(seed)
    base, delta = rng.normal(size=(2, 24, 6))
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets = ["one", "two"] * 3
    states = {"m.0.q_proj": (base, size * delta)}
    store_states(path, states, lengths=[4] * 6, rank=rank, datasets=datasets, provenance=provenance)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs at several depths, one of them behind a link, and what isn't one: a result, a hidden folder."""
    root = tmp_path_factory.mktemp("study")
    about = {"model": {"n_parameters": 1000}, "settings": {"model": "tiny"}}
    for name, rank in (("r2/run.zarr", 2), ("r4/run.zarr", 4), ("deep/er/r8", 8)):
        store(root / name, rank=rank, size=1 / rank, **about)
    store(root / ".r16.partial" / "run.zarr", rank=16, **about)
    miub(open_run(root / "r2/run.zarr"), out=root / "result.zarr")
    away = tmp_path_factory.mktemp("away")
    (root / "deep").rename(away / "deep")
    (root / "deep").symlink_to(away / "deep")
    (away / "deep" / "back").symlink_to(away / "deep")
    return root


def test_a_folder_of_runs(runs: Path) -> None:
    reports: list[tuple[int, int, str]] = []
    study = read_study(runs, n_workers=1, progress=lambda *done: reports.append(done))
    assert study["run"].tolist() == [name for name in ("deep/er/r8", "r2/run.zarr", "r4/run.zarr") for _ in range(2)]
    assert study["dataset"].tolist() == ["one", "two"] * 3
    assert study["R"].tolist() == [8, 8, 2, 2, 4, 4]
    assert study["setting"].tolist() == ["r8", "r8", "r2", "r2", "r4", "r4"]
    assert set(study["model"]) == {"tiny"}
    assert set(study["N"]) == {1000}
    assert set(study["share"]) == {1}
    assert study["n_samples"].tolist() == [3] * 6
    assert list(study.columns) == [
        "run", "adapter", "model", "dataset", "split", "prompt", "setting", "N", "share", "R", "MIUB", "MIUB_se",
        "n_samples", "n_scored",
    ]  # fmt: skip
    assert study.attrs["source"] == f"3 runs: {runs}"
    assert study.attrs["notes"] == [
        "accuracy (ACC): known of no run", "cross-entropy (CE): known of no run",
    ]  # fmt: skip
    assert {name for _, _, name in reports} == {"deep/er/r8", "r2/run.zarr", "r4/run.zarr"}


def test_numbers_are_those_of_miub(runs: Path) -> None:
    result = miub(open_run(runs / "r4/run.zarr"))
    grouped = group_by(result, ["dataset"])
    study = read_study(runs / "r4/run.zarr")
    assert study["MIUB"].tolist() == grouped["miub"].values.tolist()
    assert study["MIUB_se"].tolist() == grouped["miub_se"].values.tolist()
    assert study.attrs["source"] == f"1 run: {runs / 'r4/run.zarr'}"


def test_runs_one_by_one_and_folders_of_them(runs: Path) -> None:
    study = read_study([str(runs / "r2/run.zarr"), runs / "deep"])
    assert list(dict.fromkeys(study["run"])) == [str(runs / "r2/run.zarr"), str(runs / "deep" / "er/r8")]
    small, large = (read_study(runs, where={"R": [rank]}) for rank in ("2", "8"))
    assert study["MIUB"].tolist() == [*small["MIUB"], *large["MIUB"]]


def test_a_table_in_a_folder_stands_for_its_runs(runs: Path, tmp_path: Path) -> None:
    root = shutil.copytree(runs / "r2", tmp_path / "r2")
    (root / "study.csv").write_text("R,MIUB\n8,1.0\n16,2.0\n")
    study = read_study(root, where={"R": ["16"]})
    assert study.to_dict("list") == {"R": [16], "MIUB": [2.0]}
    assert study.attrs["source"] == str(root / "study.csv")


def test_sizes_and_settings_from_provenance(tmp_path: Path) -> None:
    known = [
        store(
            tmp_path / f"{share}-{n}.zarr",
            model={"n_parameters": 4000 // share, "n_parameters_non_embedding": 2000 // share, "share": share},
            training={"default": {"n_samples": n}},
        )
        for share, n in ((1, 50), (4, 50), (4, 200))
    ]
    study = read_study(known).drop_duplicates("run")
    assert study["N"].tolist() == [4000, 1000, 1000]
    assert study["N_non_embedding"].tolist() == [2000, 500, 500]
    assert study["D"].tolist() == [50, 50, 200]
    assert study["setting"].tolist() == ["share1 r2 d50", "share4 r2 d50", "share4 r2 d200"]


def test_what_only_some_runs_know_stays_empty_and_is_said(tmp_path: Path) -> None:
    first = store(tmp_path / "one.zarr", model={"n_parameters": 7})
    other = store(tmp_path / "other.zarr")
    study = read_study([first, other])
    assert study["N"].isna().tolist() == [False, False, True, True]
    assert f"parameters of the model (N): known of not every run: {str(other)!r} lacks it" in study.attrs["notes"]
    alone = read_study(other)
    assert "N" not in alone
    assert "parameters of the model (N): known of no run" in alone.attrs["notes"]


def test_runs_that_measure_different_things_are_said(tmp_path: Path) -> None:
    first = store(tmp_path / "one.zarr", population="all tokens of each sequence")
    other = store(tmp_path / "other.zarr", population="the last 16 tokens of each sequence")
    assert (
        "runs differ in which tokens they keep: 'all tokens of each sequence', 'the last 16 tokens of each sequence'; "
        "their MIUB isn't one quantity"
    ) in read_study([first, other]).attrs["notes"]


def test_scores(make_small: Callable[..., Any]) -> None:
    small = make_small()
    study = read_study(small.run.path)
    correct = small.run.samples["correct"].values
    assert study["ACC"].item() == pytest.approx(correct.mean(), rel=1e-12)
    assert study["CE"].item() == pytest.approx(small.run.samples["ce"].values.mean(), rel=1e-12)
    assert study["n_scored"].item() == len(correct)
    assert "PPL" not in study
    text = read_study(make_small(is_text=True).run.path)
    assert text["PPL"].item() == pytest.approx(np.exp(text["CE"].item()), rel=1e-12)
    assert "ACC" not in text


def test_several_adapters_are_rows_of_their_own(make_small: Callable[..., Any]) -> None:
    study = read_study(make_small(adapters=("a", "b")).run.path)
    assert study["adapter"].tolist() == ["a", "b"]
    assert study["MIUB"].nunique() == 2


def test_values_that_arent_finite_are_empty_and_counted(make_small: Callable[..., Any]) -> None:
    run = make_small(not_finite=True).run
    study = read_study(run.path)
    assert study["MIUB"].isna().all()
    assert f"run {str(run.path)!r}: 1 values aren't finite, and MIUB is empty where they enter" in study.attrs["notes"]


def test_samples_that_arent_whole_are_counted(unfinished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_adapter_rank", lambda run, adapter: 4)
    notes = read_study(unfinished).attrs["notes"]
    assert any("samples aren't wholly captured and not in MIUB" in note for note in notes)


@pytest.mark.parametrize("word", list(module.PAPER))
def test_the_paper(word: str) -> None:
    cells = module.PAPER[word]
    study = read_study(word)
    pd.testing.assert_frame_equal(study, paper_study(cells, once=True))
    assert study.attrs["source"].endswith(f"table 1, {cells}")
    assert study.attrs["notes"] == ["LLaMA3's share1 is its r32 run printed a second time: it is taken once"]


@pytest.mark.parametrize(
    ("where", "n", "n_notes"),
    [({"sweep": ["size"]}, 40, 0), ({"sweep": ["rank"]}, 30, 0), ({"model": ["Phi3"]}, 35, 0), ({"R": ["32"]}, 45, 1)],
)
def test_the_papers_run_in_two_sweeps_is_taken_once_if_both_are_there(
    where: dict[str, list[str]], n: int, n_notes: int
) -> None:
    study = read_study("paper", where=where)
    assert len(study) == n
    assert len(study.attrs["notes"]) == n_notes


def test_mixed_ranks_are_refused(many_rows: Path) -> None:
    with pytest.raises(ValueError, match=r"adapter 'default' of `.*` has components of ranks 2, 3, 4; a study has one"):
        read_study(many_rows)


def test_mistakes(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "s.csv"
    table.write_text("R,MIUB\n8,1.0\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken" / "odd.zarr").mkdir(parents=True)
    (tmp_path / "broken" / "odd.zarr" / "zarr.json").write_text("{")
    run = runs / "r2/run.zarr"
    for paths, kind, message in (
        ([], ValueError, r"no study is named; give a table, a folder of runs, runs, or the word 'paper'"),
        (
            tmp_path / "no",
            FileNotFoundError,
            r"`.*no` is not there; name a table \(.csv, .tsv\), a fold",
        ),
        ("papers", FileNotFoundError, r"runs, or 'paper', 'paper:repaired', 'paper:without-collapsed'"),
        (tmp_path / "empty", FileNotFoundError, r"`.*empty` holds neither 'study.csv' nor a run; name a folder in"),
        ([table, run], ValueError, r"'.*s.csv' is a whole table and can't be put together with others; name it alone"),
        (["paper", str(run)], ValueError, r"'paper' is a whole table and can't be put together"),
        ([run, run], ValueError, r"run '.*r2/run.zarr' is given twice; give each run once"),
        ([run, runs], ValueError, r"run '.*r2/run.zarr' is given twice"),
        ([runs / "deep", runs / "deep" / "back"], ValueError, r"run '.*r8' is given twice"),
        ([run, f"{run}/"], ValueError, r"run '.*r2/run.zarr' is given twice"),
        (tmp_path / "broken", ValueError, r"`.*odd.zarr` isn't a readable Zarr group"),
        (runs / "result.zarr", ValueError, r"is a Zarr group but no lorascope run"),
        ("ftp://a/b", ValueError, r"ftp"),
    ):
        with pytest.raises(kind, match=message):
            read_study(paths)  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="`paper` is not there"):
        read_study(Path("paper"))


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0
