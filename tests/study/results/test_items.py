import numpy as np
import pandas as pd
import pytest
import xarray as xr

from lorascope.study.results.cells import study_cells
from lorascope.study.results.claims import decide_claim, log_ratio, percent_change
from lorascope.study.results.items import Estimate, ItemTable, Means, Spread, Training, item_rows, item_table
from lorascope.study.results.tables import datasets_table
from lorascope.study.results.units import UnitResult


def items(units: list[UnitResult], *metrics: str) -> ItemTable | None:
    """Test items by share and rank."""
    rows = pd.concat([item_rows(unit).assign(setting=f"{unit.share}/{unit.rank}") for unit in units])
    return item_table(rows[rows["is_first"] & (rows["in_test"] > 0)], list(dict.fromkeys(rows["setting"])), metrics)


def table_of(*sets: np.ndarray) -> ItemTable:
    """MIUB of data sets, (item, setting), under settings a and b with one seed each."""
    values = {f"set {k}": items for k, items in enumerate(sets)}
    weights = {name: np.ones_like(items) for name, items in values.items()}
    settings = tuple("ab"[: sets[0].shape[1]])
    return ItemTable(("MIUB",), settings, tuple(Training(name, name) for name in settings), values, weights)


def gap(means: Means) -> np.ndarray:
    return means["MIUB"][1] - means["MIUB"][0]


def mean(table: ItemTable, metric: str, setting: str) -> float:
    return float(table.means()[metric][table.settings.index(setting)][0])


def with_samples(unit: UnitResult, samples: xr.Dataset) -> UnitResult:
    return UnitResult(**{**vars(unit), "samples": samples})


def test_means_are_those_of_the_tables(units: list[UnitResult]) -> None:
    table = items(units, "MIUB", "ACC", "CE")
    assert table is not None
    assert (table.n_items, len(table.values)) == (72, 3)
    averages = datasets_table(study_cells(units)).query("dataset == 'AVG'").set_index(["metric", "setting"])
    for metric in ("MIUB", "ACC", "CE"):
        assert mean(table, metric, "4/8") == pytest.approx(averages.loc[(metric, "share4"), "value"], rel=1e-12)
        assert mean(table, metric, "1/128") == pytest.approx(averages.loc[(metric, "r128"), "value"], rel=1e-12)


def test_means_over_seeds_and_of_each(seeds: list[UnitResult]) -> None:
    table = items(seeds, "MIUB")
    assert table is not None
    cells = study_cells(seeds).query("first_prompt and not is_text and share == 2")
    by_seed = cells.groupby("seed")["MIUB"].mean()
    own = [k for k, training in enumerate(table.trainings) if training.setting == "2/8"]
    assert [table.trainings[k].runs for k in own] == [f"share2-r8-s{seed}-qa" for seed in range(3)]
    assert table.training_means()[0, own, 0].tolist() == pytest.approx(by_seed.tolist())
    assert mean(table, "MIUB", "2/8") == pytest.approx(by_seed.mean(), rel=1e-12)


def test_other_settings_lend_their_trainings_where_they_have_all_items(seeds: list[UnitResult]) -> None:
    rows = pd.concat([item_rows(unit).assign(setting=f"{unit.share}/{unit.rank}") for unit in seeds])
    rows = rows[rows["is_first"] & (rows["in_test"] > 0)]
    rows = rows[(rows["run"] != "share2-r8-s0-qa") | (rows["id"] != "piqa-3")]
    again = rows[rows["setting"] == "1/8"].assign(setting="shown again")
    table = item_table(pd.concat([rows, again]), ["1/8", "1/128"], ["MIUB"])
    assert table is not None
    assert table.settings == ("1/8", "1/128")
    names = [training.setting for training in table.trainings]
    assert names[:6] == ["1/8"] * 3 + ["1/128"] * 3
    assert sorted(set(names[6:])) == ["1/32", "2/8", "4/8", "8/8"]
    assert names.count("2/8") == 2
    assert table.n_items == 72


def test_a_seed_without_a_data_set_of_its_setting_is_left_out(seeds: list[UnitResult]) -> None:
    first, second, third = (unit for unit in seeds if (unit.share, unit.rank) == (1, 8))
    fewer = with_samples(third, third.samples.isel(sample=np.flatnonzero(third.samples["dataset"].values != "arce")))
    table = items([first, second, fewer], "MIUB")
    assert table is not None
    assert [training.runs for training in table.trainings] == [first.name, second.name]
    assert len(table.values) == 3


def test_items_that_a_setting_lacks_are_left_out(units: list[UnitResult]) -> None:
    first, second = units[:2]
    fewer = second.samples.isel(sample=np.flatnonzero(second.samples["id"].values != "piqa-3"))
    table = items([first, with_samples(second, fewer)], "MIUB")
    assert table is not None
    assert [len(values) for values in table.values.values()] == [23, 24, 24]
    broken = second.samples.copy()
    broken["miub"] = ("sample", np.where(broken["id"].values == "arce-5", np.nan, broken["miub"].values))
    table = items([first, with_samples(second, broken)], "MIUB")
    assert table is not None
    assert table.n_items == 71
    assert item_table(item_rows(first).assign(setting="a"), ["b"], ["MIUB"]) is None
    assert items([with_samples(first, first.samples.drop_vars("base_ce"))], "base_CE") is None


def test_bootstrap_has_the_standard_error_of_paired_differences() -> None:
    random = np.random.default_rng(1)
    level = random.normal(size=400)
    values = np.stack([level, level + 0.1 + 0.3 * random.normal(size=400)], axis=1)
    estimate = table_of(values).estimate(gap)
    differences = values[:, 1] - values[:, 0]
    assert estimate.value == pytest.approx(differences.mean())
    # With 1000 draws a quantile of 97.5 % has an error of about 0.09 standard deviations.
    assert (estimate.high - estimate.low) / 2 == pytest.approx(1.96 * differences.std(ddof=1) / 20, rel=0.12)
    assert estimate == table_of(values).estimate(gap)


def test_data_sets_count_the_same() -> None:
    table = table_of(np.zeros((100, 1)), np.ones((10, 1)))
    assert mean(table, "MIUB", "a") == 0.5
    assert table.estimate(lambda means: means["MIUB"][0])[:4] == (0.5, 0.5, 0.5, 110)


@pytest.mark.parametrize("n_items", [2, 5, 9])
def test_few_items_support_nothing(n_items: int) -> None:
    """Of five items that only scatter, all fall together once in sixteen times."""
    values = np.stack([np.full(n_items, 2.0), np.linspace(1, 1.5, n_items)], axis=1)
    made = decide_claim(1, "c", table_of(values).estimate(gap), "nat", "b less a:", falls=True)
    assert made.verdict == "not identified"
    assert f"no interval of {n_items} items" in made.because


def test_intervals_of_ten_items_hold_what_they_promise() -> None:
    random = np.random.default_rng(0)
    n_missed = 0
    for _ in range(200):
        values = np.stack([np.zeros(10), random.normal(size=10)], axis=1)
        estimate = table_of(values).estimate(gap)
        n_missed += not estimate.low < 0 < estimate.high
    assert n_missed <= 20  # 5 % of 200, and two standard deviations of that and of draws


@pytest.mark.parametrize(
    ("low", "high", "falls", "word"),
    [
        (-2.0, -1.0, True, "supported"),
        (-2.0, -1.0, False, "contradicted"),
        (1.0, 2.0, True, "contradicted"),
        (1.0, 2.0, False, "supported"),
        (-1.0, 2.0, True, "not identified"),
        (0.0, 2.0, False, "not identified"),
    ],
)
def test_the_interval_decides(low: float, high: float, falls: bool, word: str) -> None:
    made = decide_claim(2, "a claim", Estimate(0.5, low, high, 40), "nat", "b less a:", falls=falls)
    assert made.verdict == word
    assert made.because.startswith("b less a: 0.500 [")
    assert made.because.endswith("nat, 95 % over 40 items, one seed a setting")
    assert made[4:10] == (0.5, low, high, "nat", 40, 1)


@pytest.mark.parametrize(
    ("reach", "n_seeds", "word"), [(0.6, 3, "supported"), (0.9, 3, "not identified"), (0.9, 1, "not identified")]
)
def test_items_and_trainings_decide_together(reach: float, n_seeds: int, word: str) -> None:
    made = decide_claim(
        2, "c", Estimate(1.0, 0.5, 1.5, 40, Spread(0.2, reach, n_seeds)), "nat", "b less a:", falls=False
    )
    assert made.verdict == word
    assert (made.high - 1) == pytest.approx(np.hypot(0.5, reach))
    assert (made.n_seeds, made.seed_sd) == (n_seeds, 0.2)
    assert made.because.endswith("nat, 95 % over 40 items and trainings")


def test_changes_in_percent_and_logarithms() -> None:
    means = np.array([[2.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(percent_change({"MIUB": means}), [-50, np.nan])
    np.testing.assert_allclose(log_ratio(means), [np.log(2), np.nan])
