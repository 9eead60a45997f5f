"""The scripts behind docs/paper-audit.md: averages, slips and steps with known answers, and the paper's findings."""

import numpy as np
import pandas as pd
import pytest

from ..printed import script

averages = script("study/paper_audit/averages.py")
audit = script("study/paper_audit/audit.py")

WEIGHTS = np.array([0.1, 0.2, 0.3, 0.4])
RNG = np.random.default_rng(0)


def drawn(metric: str, *, weights: np.ndarray = WEIGHTS, n: int = 8) -> pd.DataFrame:
    """A table as `wide_table` gives it: members rounded as printed, the average rounded from weighted exact members."""
    decimals = {"ACC": 3, "CE": 3, "MIUB": 1}[metric]
    exact = RNG.uniform(1, 9, size=(n, len(weights))) * (200 if metric == "MIUB" else 1)
    names = [("m", metric, f"s{k}") for k in range(n)]
    index = pd.MultiIndex.from_tuples(names, names=["model", "metric", "setting"])
    columns = [*"abcd", averages.AVERAGE]
    values = np.column_stack([exact, exact @ weights]).round(decimals)
    return pd.DataFrame(values, index, columns)


def both() -> pd.DataFrame:
    return pd.concat([drawn("CE"), drawn("MIUB")])


def test_averages_of_one_vector_of_weights_fit() -> None:
    weighted = averages.averages_of(both(), "m", ("CE", "MIUB"))
    assert weighted.members.shape == (16, 4)
    assert averages.least_miss(weighted) <= 1 + averages.ROUNDING
    assert (averages.plain_misses(weighted) > 1).all()


def test_plain_means_miss_nothing() -> None:
    plain = averages.averages_of(drawn("ACC", weights=np.full(4, 0.25)), "m", ("ACC",))
    assert averages.plain_misses(plain).max() <= 1 + averages.ROUNDING


def test_the_least_miss_is_that_of_a_grid_of_weights() -> None:
    table = drawn("CE")
    table.iloc[0, 4] += 0.3
    weighted = averages.averages_of(table, "m", ("CE",))
    grid = RNG.dirichlet(np.ones(4) * 3, size=20_000)
    least = averages.least_miss(weighted)
    assert least > 1
    assert least <= np.abs(weighted.gaps() @ grid.T).max(axis=0).min()


def test_an_implied_value_is_the_one_printed() -> None:
    weighted = averages.averages_of(both(), "m", ("CE", "MIUB"))
    for place, member in ((0, 1), (5, 3)):
        low, high = averages.implied_value(weighted, place, member)
        assert low <= weighted.members[place, member] <= high
        assert high - low < 0.2


@pytest.mark.parametrize("metric", ["ACC", "CE"])
def test_a_slip_is_found(metric: str) -> None:
    plain = metric == "ACC"
    table = drawn("ACC", weights=np.full(4, 0.25)) if plain else both()
    lost = table.loc[("m", metric, "s2"), "b"]
    table.loc[("m", metric, "s2"), "b"] = table.loc[("m", metric, "s5"), "b"]
    table.loc[("m", metric, "s5"), "b"] = 4.321
    (slip,) = averages.find_slips(table, "m", metric, () if plain else ("MIUB",))
    assert (slip.member, slip.metric, slip.under, slip.source) == ("b", metric, "s5", "s2")
    assert slip.printed_under == 4.321
    assert slip.low <= lost <= slip.high
    assert slip.high - slip.low < 0.1


def test_weights_that_none_can_be() -> None:
    weighted = averages.averages_of(drawn("CE"), "m", ("CE",))
    broken = weighted._replace(printed=weighted.printed + RNG.normal(size=8))
    with pytest.raises(RuntimeError, match="the linear program of the weights wasn't solved"):
        averages.implied_value(broken, 0, 1)


def steps_of(values: dict[str, list[float]]) -> dict[str, str]:
    settings = [setting for some in audit.ORDER.values() for setting in some]
    rows = [("ACC", name, s, y) for name, row in values.items() for s, y in zip(settings, row, strict=True)]
    rows += [("MIUB", name, s, -y) for _, name, s, y in rows]
    table = pd.DataFrame(rows, columns=["metric", "prompt", "setting", "value"])
    return {claim: f"{word}: {because}" for claim, word, because in audit.step_verdicts(table, ["prompt"])}


def test_steps() -> None:
    steps = steps_of({"a": [0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.4], "b": [0.1, 0.1, 0.3, 0.4, 0.3, 0.2, 0.1]})
    assert steps == {
        "ACC rises at every step of rank": "not identified: 0 of 4 steps fall, 1 level",
        "MIUB falls at every step of rank": "not identified: 0 of 4 steps rise, 1 level",
        "ACC rises at every step of size": "contradicted: 3 of 6 steps fall",
        "MIUB falls at every step of size": "contradicted: 3 of 6 steps rise",
    }
    alone = steps_of({"a": [0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.2], averages.AVERAGE: [1, 2, 1, 1, 2, 3, 4]})
    assert alone["ACC rises at every step of rank"] == "supported: 0 of 2 steps fall; of averages 1 of 2 steps falls"
    assert alone["ACC rises at every step of size"] == "contradicted: 1 of 3 steps falls; of averages 0 of 3 steps fall"


def test_ratios_and_what_rounding_allows() -> None:
    ratios = audit.claimed_ratios()
    row = ratios.query("claim == '571 times' and group == 'Phi3' and member == 'AVG'").iloc[0]
    assert row["low"] == pytest.approx(20.1095 / 0.0355)
    assert row["high"] == pytest.approx(20.1105 / 0.0345)
    assert len(ratios) == 2 * 2 * 7
    other = ratios.assign(value=600.0, low=590.0, high=610.0)
    assert [verdict.word for verdict in audit.ratio_verdicts(other)] == ["contradicted", "contradicted"]


def test_verdicts_and_slips_of_the_paper() -> None:
    """Numbers that can be counted in the tables; docs/paper-audit.md has all verdicts."""
    whole = audit.audit_paper()
    because = {verdict.claim: verdict.because for verdict in whole.verdicts}
    assert len(because) == len(whole.verdicts) == 19
    assert sum(verdict.word == "contradicted" for verdict in whole.verdicts) == 11
    assert because["AVG is the plain mean of its members"].startswith("29 of 42 differ")
    assert because["every setting is a run of its own"] == "1 of 91 pairs of runs agree in all cells"
    assert because["MIUB falls at every step of rank"].startswith("4 of 20 steps rise")
    names = ["LLaMA3", "ARCE", "share2", "share4"]
    assert whole.slips[["model", "member", "under", "source"]].values.tolist() == [names, names]
    expected = {"ACC": [0.894, 0.901, 0.212, 0.222], "CE": [13.399, 11.594, 13.63, 13.66]}
    for slip in whole.slips.itertuples():
        assert [slip.printed_under, slip.printed_source, slip.low, slip.high] == pytest.approx(
            expected[slip.metric], rel=5e-4
        )


def test_ceilings_that_hold() -> None:
    low = audit.cells_above_ceilings().assign(n_above=0)
    assert [verdict.word for verdict in audit.ceiling_verdicts(low)] == ["supported", "supported"]
