import numpy as np
import pytest
import xarray as xr

from lorascope.study import study_cells
from lorascope.study.changes import change, finding, lacking, log_ratio, percent, seeds_finding
from lorascope.study.items import Estimate, ItemTable, item_table
from lorascope.study.reading import UnitResult
from lorascope.study.sweeps import of_bucket, of_choices, of_prompt, of_text
from lorascope.study.tables import paper_table_1


def by_setting(units: list[UnitResult]) -> dict[str, list[UnitResult]]:
    found: dict[str, list[UnitResult]] = {}
    for unit in units:
        found.setdefault(f"{unit.share}/{unit.rank}", []).append(unit)
    return found


def table_of(values: np.ndarray, metric: str = "MIUB") -> ItemTable:
    columns = ((metric, "a"), (metric, "b"))
    return ItemTable(columns, (values,), (np.ones_like(values),), ("x",), {key: {0: 0.0} for key in columns}, 0)


def test_means_are_those_of_the_tables(units: list[UnitResult]) -> None:
    table = item_table(by_setting(units), ["MIUB", "ACC", "CE"], of_choices)
    assert table is not None
    assert (table.n_items, table.n_left_out, len(table.datasets)) == (72, 0, 3)
    averages = paper_table_1(study_cells(units)).query("dataset == 'AVG'").set_index(["metric", "setting"])
    for metric in ("MIUB", "ACC", "CE"):
        assert table.mean(metric, "4/8") == pytest.approx(averages.loc[(metric, "share4"), "value"], rel=1e-12)
        assert table.mean(metric, "1/128") == pytest.approx(averages.loc[(metric, "r128"), "value"], rel=1e-12)


def test_means_over_seeds_and_of_each(seeds: list[UnitResult]) -> None:
    table = item_table(by_setting(seeds), ["MIUB"], of_choices)
    assert table is not None
    assert table.n_seeds() == 3
    cells = study_cells(seeds).query("first_prompt and not is_text and share == 2")
    by_seed = cells.groupby("seed")["MIUB"].mean()
    assert table.seeds["MIUB", "2/8"] == pytest.approx(by_seed.to_dict())
    assert table.mean("MIUB", "2/8") == pytest.approx(by_seed.mean(), rel=1e-12)


def test_items_that_a_setting_lacks_are_left_out(units: list[UnitResult]) -> None:
    first, second = units[:2]
    fewer = second.samples.isel(sample=np.flatnonzero(second.samples["id"].values != "piqa-3"))
    settings = {"a": [first], "b": [UnitResult(**{**vars(second), "samples": fewer})]}
    table = item_table(settings, ["MIUB"], of_choices)
    assert table is not None
    assert [len(values) for values in table.values] == [23, 24, 24]
    broken = second.samples.copy()
    broken["miub"] = ("sample", np.where(broken["id"].values == "arce-5", np.nan, broken["miub"].values))
    table = item_table({"a": [first], "b": [UnitResult(**{**vars(second), "samples": broken})]}, ["MIUB"], of_choices)
    assert table is not None
    assert (table.n_items, table.n_left_out) == (71, 1)
    assert item_table({"a": [first]}, ["MIUB"], lambda samples: np.zeros(samples.sizes["sample"], bool)) is None
    assert item_table({}, ["MIUB"], of_choices) is None
    without = first.samples.drop_vars("base_ce")
    assert item_table({"a": [UnitResult(**{**vars(first), "samples": without})]}, ["base_CE"], of_choices) is None


def test_bootstrap_has_the_standard_error_of_paired_differences() -> None:
    random = np.random.default_rng(1)
    level = random.normal(size=400)
    values = np.stack([level, level + 0.1 + 0.3 * random.normal(size=400)], axis=1)
    found = table_of(values).estimate(lambda means: means["MIUB", "b"] - means["MIUB", "a"])
    differences = values[:, 1] - values[:, 0]
    error = differences.std(ddof=1) / 20
    assert found.value == pytest.approx(differences.mean())
    # Of 1000 draws a quantile of 97.5 % has an error of about 0.09 standard deviations.
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.12)
    assert found == table_of(values).estimate(lambda means: means["MIUB", "b"] - means["MIUB", "a"])


def test_data_sets_count_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = (np.zeros((100, 1)), np.ones((4, 1)))
    key = ("MIUB", "a")
    weights = tuple(map(np.ones_like, values))
    table = ItemTable((key,), values, weights, ("x", "y"), {key: {0: 0.5}}, 0)
    assert table.mean(*key) == 0.5
    assert table.estimate(lambda means: means[key]) == (0.5, 0.5, 0.5, 104)
    wide = np.random.default_rng(0).normal(size=(50, 1))
    table = ItemTable((key,), (wide,), (np.ones_like(wide),), ("x",), {key: {0: 0.0}}, 0)
    whole = table.estimate(lambda means: means[key])
    monkeypatch.setattr("lorascope.study.items.CHUNK", 50 * 300)
    assert table.estimate(lambda means: means[key]) == whole  # drawn in parts


def test_weights_are_tokens_of_texts(units: list[UnitResult]) -> None:
    table = item_table({"a": units[:1]}, ["CE", "MIUB"], of_text("wiki"))
    assert table is not None
    cells = study_cells(units[:1]).query("is_text")
    assert table.mean("CE", "a") == pytest.approx(cells["CE"].item(), rel=1e-12)
    assert table.mean("MIUB", "a") == pytest.approx(cells["MIUB"].item(), rel=1e-12)


@pytest.mark.parametrize("n_items", [2, 5, 9])
def test_few_items_support_nothing(n_items: int) -> None:
    """Of five items that only scatter, all fall together once in sixteen times."""
    values = np.stack([np.full(n_items, 2.0), np.linspace(1, 1.5, n_items)], axis=1)
    found = table_of(values).estimate(lambda means: means["MIUB", "b"] - means["MIUB", "a"])
    made = finding(1, "c", found, "nat", "b less a:", n_seeds=1, falls=True)
    assert made.verdict.word == "not identified"
    assert f"no interval of {n_items} items" in made.verdict.because


def test_intervals_of_ten_items_hold_what_they_promise() -> None:
    random = np.random.default_rng(0)
    n_missed = 0
    for _ in range(400):
        values = np.stack([np.zeros(10), random.normal(size=10)], axis=1)
        found = table_of(values).estimate(lambda means: means["MIUB", "b"] - means["MIUB", "a"])
        n_missed += not found.low <= 0 <= found.high
    # 5 % of 400, and three of its standard errors; a plain percentile interval misses twice as often.
    assert n_missed <= 20 + 3 * np.sqrt(400 * 0.05 * 0.95)


def test_one_item_has_no_interval() -> None:
    found = table_of(np.array([[1.0, 2.0]])).estimate(lambda means: means["MIUB", "b"])
    assert found.value == 2
    assert np.isnan([found.low, found.high]).all()
    assert finding(1, "c", found, "nat", "what:", n_seeds=1, falls=True).verdict.word == "not identified"


def test_which_samples_count(units: list[UnitResult]) -> None:
    samples: xr.Dataset = units[0].samples
    counts = [int(chosen(samples).sum()) for chosen in (of_choices, of_bucket("101-200"), of_prompt("prompt2"))]
    assert counts == [72, 17, 36]
    assert int(of_text("wiki")(samples).sum()) == 12


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
    made = finding(2, "a claim", Estimate(0.5, low, high, 40), "nat", "b less a:", n_seeds=1, falls=falls)
    assert made.verdict.word == word
    assert made.verdict.because.startswith("b less a: 0.500 [")
    assert made.verdict.because.endswith("nat, 95 % over 40 items; one seed, whose noise is unknown")
    assert made[2:] == (0.5, low, high, "nat", 40, 1)


def test_seeds_against_each_other() -> None:
    columns = (("MIUB", "a"), ("MIUB", "b"))
    values = np.ones((4, 2))

    def seen(a: list[float], b: list[float]) -> str:
        seeds = {columns[0]: dict(enumerate(a)), columns[1]: dict(enumerate(b))}
        table = ItemTable(columns, (values,), (values,), ("x",), seeds, 0)
        made = seeds_finding(1, table, "MIUB", "a", "b", falls=True, of="")
        return made.verdict.word

    assert seen([1.0], [0.5]) == "not identified"
    assert seen([1.0, 1.01, 0.99], [0.5, 0.51, 0.49]) == "supported"
    assert seen([1.0, 1.01, 0.99], [1.5, 1.51, 1.49]) == "contradicted"
    assert seen([1.0, 2.0, 0.1], [0.9, 1.8, 0.2]) == "not identified"
    # Student's t with 4 degrees of freedom: 2.7764; pooled standard deviation 0.01
    seeds = {columns[0]: {0: 1.0, 1: 1.01, 2: 0.99}, columns[1]: {0: 0.5, 1: 0.51, 2: 0.49}}
    made = seeds_finding(
        1, ItemTable(columns, (values,), (values,), ("x",), seeds, 0), "MIUB", "a", "b", falls=True, of=" of m"
    )
    assert made.high - made.value == pytest.approx(2.7764451 * 0.01 * np.sqrt(2 / 3), rel=1e-6)
    assert made.verdict.claim == "MIUB of m falls from a to b by more than seeds differ"


def test_changes_in_percent_and_logarithms() -> None:
    np.testing.assert_allclose(percent(np.array([2.0, 0.0]), np.array([1.0, 1.0])), [-50, np.nan])
    np.testing.assert_allclose(log_ratio(np.array([1.0, 0.0]), np.array([np.e, 1.0])), [1, np.nan])
    assert change(table_of(np.array([[2.0, 3.0], [2.0, 3.0]])), "MIUB", "a", "b").value == pytest.approx(50)
    assert lacking(4, "c", "why").verdict == ("c", "not identified", "why")
