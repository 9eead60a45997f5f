import doctest
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorascope.analyze.audit import audit_table as module
from lorascope.analyze.audit.audit_table import audit_table
from lorascope.analyze.audit.ceilings import Ceiling
from lorascope.analyze.audit.ratios import RatioClaim
from lorascope.analyze.stats.record import data_hash
from lorascope.study.paper_tables import paper_table


def rows(*cells: tuple[Any, ...]) -> pd.DataFrame:
    return pd.DataFrame(list(cells), columns=["model", "metric", "setting", "dataset", "value"])


SMALL = rows(("X", "ACC", "r8", "a", 0.25), ("X", "ACC", "r8", "b", 0.75), ("X", "ACC", "r8", "AVG", 0.50))


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
def test_clean_tables_yield_no_findings(
    make: Callable[..., pd.DataFrame], seed: int, n_metrics: int, n_settings: int, n_members: int, decimals: int
) -> None:
    rng = np.random.default_rng(seed)
    values = np.sort(rng.uniform(10, 99, (2, n_metrics, n_settings, n_members)), axis=2)
    values += np.arange(n_settings)[:, None]  # rises by more than rounding could hide
    table = make(values, decimals=decimals)
    order = {"size": [f"s{k}" for k in range(n_settings)]} if n_settings > 1 else None
    ends = {"over": "s0", "of": f"s{n_settings - 1}", "metric": "m0", "member": "AVG", "group": "g1"}
    truth = values[1, 0, -1].mean() / values[1, 0, 0].mean()
    found = audit_table(
        table,
        order=order,
        directions={"m0": "rises"} if order else None,
        ceilings={"m0": Ceiling(value=200, because="made so")},
        claims=[RatioClaim(words="as it is", value=round(truth, 2), **ends)],
    )
    assert found.findings == found.notes == ()
    assert {one.word for one in found.verdicts} <= {"supported"}
    assert len(found.averages) == 2 * n_metrics * n_settings


@settings(max_examples=20)  # two audits each
@given(st.integers(0, 2**32 - 1), st.data())
def test_planted_weights_and_a_planted_swap(make: Callable[..., pd.DataFrame], seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    weights = 0.1 + 0.6 * rng.dirichlet(np.ones(4))
    values = rng.uniform(0, 100, (1, 2, 6, 4))
    a, b = sorted(data.draw(st.lists(st.integers(0, 5), min_size=2, max_size=2, unique=True)))
    values[0, 1, a, 2] = values[0, 1, b, 2] + 20
    table = make(values, weights)
    whole = audit_table(table, weighted=[("m0", "m1")])
    assert whole.weights.loc[whole.weights["asked"], "fits"].tolist() == [True]
    own = whole.ranges[whole.ranges["metrics"] == "m0, m1"]
    assert (own["low"] - 1e-9 <= weights).all()
    assert (weights <= own["high"] + 1e-9).all()
    slipped = table.set_index(["metric", "setting", "dataset"])["value"].copy()
    slipped["m1", f"s{a}", "d2"], slipped["m1", f"s{b}", "d2"] = (
        slipped["m1", f"s{b}", "d2"],
        slipped["m1", f"s{a}", "d2"],
    )
    found = audit_table(slipped.reset_index().assign(model="g0"), weighted=[("m0", "m1")])
    slips = found.repairs[["kind", "member", "metric", "under", "source"]].to_numpy().tolist()
    assert ["swap", "d2", "m1", f"s{a}", f"s{b}"] in slips
    assert any("are swapped" in sentence for sentence in found.findings)


def test_the_order_of_rows_does_not_matter() -> None:
    table = paper_table(1)
    shuffled = table.sample(frac=1, random_state=0)
    first, second = audit_table(table), audit_table(shuffled)
    key = ["group", "metric", "setting"]
    pd.testing.assert_frame_equal(
        first.averages.sort_values(key, ignore_index=True), second.averages.sort_values(key, ignore_index=True)
    )
    low = [one.ranges.set_index(["group", "metrics", "member"])["low"].sort_index() for one in (first, second)]
    np.testing.assert_allclose(*(one[one.index.get_level_values("metrics") == "CE, MIUB"] for one in low), atol=1e-7)


def test_a_table_with_names_of_its_own() -> None:
    table = pd.DataFrame(
        {
            "task": ["qa", "code", "mean"] * 2,
            "score": [50, 70, 60, 40, 60, 55],
            "rank": [8, 8, 8, 16, 16, 16],
            "kind": "accuracy",
        }
    )
    found = audit_table(
        table,
        value="score",
        averaged="task",
        average="mean",
        metric="kind",
        setting="rank",
        groups=(),
        order={"rank": [8, 16]},
        directions={"accuracy": "rises"},
    )
    assert found.averages["within_rounding"].tolist() == [True, False]
    assert set(found.averages["group"]) == {""}
    assert found.findings[0].startswith("mean isn't the plain mean of its members: 1 of 2 differ")
    assert found.findings[1] == (
        "accuracy along rank: 2 of 2 steps fall; of averages 1 of 1 step falls: "
        "qa 8 to 16 (50 to 40), code 8 to 16 (70 to 60)"
    )


def test_groups_of_several_columns() -> None:
    table = pd.concat([SMALL.assign(seed=1), SMALL.assign(seed=2)], ignore_index=True)
    assert audit_table(table, groups=("model", "seed")).averages["group"].tolist() == ["X/1", "X/2"]


def test_printed_characters_show_zeros() -> None:
    table = SMALL.assign(printed=["0.250", "0.750", "0.505"], value=[0.25, 0.75, 0.505])
    assert audit_table(table).averages["within_rounding"].tolist() == [True]  # within 0.0055
    found = audit_table(table, printed="printed")
    assert found.averages["within_rounding"].tolist() == [False]
    assert found.decimals.to_numpy().tolist() == [["ACC", "member", 3, 2], ["ACC", "average", 3, 1]]
    assert audit_table(table, decimals=3).averages["within_rounding"].tolist() == [False]
    assert audit_table(table, decimals={"ACC": 1}).averages["within_rounding"].tolist() == [True]


def test_rows_without_a_value_are_left_out_and_counted() -> None:
    table = pd.concat(
        [SMALL, rows(("X", "ACC", "r8", "c", np.nan), ("X", "ACC", "r16", "a", 0.5), ("X", "ACC", "r16", "AVG", 0.5))]
    )
    found = audit_table(table.reset_index(drop=True))
    assert found.notes == (
        "1 of 6 rows without a value in 'value' are left out",
        "1 of 2 averages lack a member and aren't recomputed",
    )
    assert found.provenance["n_rows"] == 5


def test_a_table_without_averages() -> None:
    found = audit_table(paper_table(2), averaged="prompt", average=None, groups=())
    assert len(found.averages) == len(found.weights) == 0
    assert [one.claim for one in found.verdicts] == ["every setting is a run of its own"]
    assert found.findings == ()


def test_members_of_the_average() -> None:
    table = pd.concat([SMALL, rows(("X", "ACC", "r8", "c", 0.99))], ignore_index=True)
    assert audit_table(table).averages["within_rounding"].tolist() == [False]
    assert audit_table(table, members=["a", "b"]).averages["within_rounding"].tolist() == [True]


def test_provenance_names_rows_and_settings() -> None:
    table = paper_table(1)
    found = audit_table(table, weighted=[("CE", "MIUB")])
    assert found.provenance["n_rows"] == 252
    assert found.provenance["settings"]["weighted"] == [["CE", "MIUB"]]
    assert "arXiv 2501.03152" in found.provenance["settings"]["source"]
    assert audit_table(table.set_axis(range(7, 259))).provenance == audit_table(table).provenance
    other = table.assign(value=table["value"].where(table.index > 0, 0.952))
    assert audit_table(other).provenance["data_sha256"] != found.provenance["data_sha256"] != data_hash(table)


def test_the_frame_is_left_as_it_was() -> None:
    table = paper_table(1)
    before = table.copy(deep=True)
    audit_table(table)
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize(
    ("frame", "options", "words"),
    [
        (
            SMALL.drop(columns="metric"),
            {},
            "the table has no column 'metric'; it has 'model', 'setting', 'dataset', 'value'",
        ),
        (SMALL, {"groups": ["family"]}, "the table has no column 'family'"),
        (SMALL, {"printed": "text"}, "the table has no column 'text'"),
        (
            SMALL,
            {"setting": "metric"},
            "column 'metric' is named for two things; each of 'value', 'model', 'metric', 'metric'",
        ),
        (SMALL, {"printed": "value"}, "column 'value' is named for two things"),
        (SMALL.assign(value=["0.2", 0.5, 0.1]), {}, "column 'value' holds '0.2' in row 0, where a number belongs"),
        (SMALL.assign(value=[np.inf, 0.5, 0.1]), {}, "column 'value' is inf in row 0; numbers must be finite"),
        (SMALL.assign(value=np.nan), {}, "no row of the table has a value in 'value'"),
        (SMALL.assign(setting=[None, "x", "x"]), {}, "column 'setting' is empty in row 0"),
        (SMALL.assign(value=[0.1 + 0.2, 0.5, 0.1]), {}, "0.30000000000000004 has 17 decimals"),
        (SMALL, {"average": "mean"}, "`average` names 'mean'; the table has 'a', 'b', 'AVG' as its rows; give None if"),
        (SMALL, {"members": ["a", "z"]}, "`members` names 'z'; the table has 'a', 'b' as its members"),
        (SMALL, {"weighted": [["CE"]]}, "`weighted` names 'CE'; the table has 'ACC' as its metrics"),
        (SMALL, {"order": {"r": ["r8", "r9"]}, "directions": {"ACC": "rises"}}, "`order['r']` names 'r9'"),
        (SMALL, {"ceilings": {"CE": Ceiling(value=1, because="")}}, "`ceilings` names 'CE'"),
        (SMALL, {"decimals": {"CE": 1}}, "`decimals` names 'CE'"),
        (SMALL, {"decimals": 400}, "`decimals` is 400; a printed number has 0 to 12"),
        (SMALL, {"decimals": {"ACC": -1}}, "`decimals` is -1; a printed number has 0 to 12"),
        (SMALL.assign(value=SMALL["value"] * 1e15), {}, "row 0 holds 2.5e+14, to 0 decimals a number of more than 12"),
        (SMALL.assign(value=[1.0, 2.0, 3.0]), {"decimals": 12}, "row 0 holds 1, to 12 decimals a number of more than"),
        (
            SMALL.assign(value=[0.0, 0.75, 0.5], printed=["0e-400", "0.75", "0.5"]),
            {"printed": "printed"},
            "row 0 is printed as '0e-400'; a printed number has 0 to 12 decimals",
        ),
        (
            pd.concat([SMALL, SMALL]).set_axis(list("pqrstu")),
            {},
            "rows p, s have the same labels: X, ACC, r8, a; keep one, or name the column that tells them apart among "
            "`groups`",
        ),
    ],
)
def test_tables_that_cannot_be_audited(frame: pd.DataFrame, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        audit_table(frame, **options)


@pytest.mark.parametrize(
    ("frame", "options", "words"),
    [
        ({"value": [1]}, {}, "`frame` is a dict; give a pandas DataFrame, one row a cell"),
        (SMALL, {"decimals": 1.5}, "`decimals` is 1.5; give a whole number, or one for each metric"),
    ],
)
def test_things_that_are_no_tables(frame: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=re.escape(words)):
        audit_table(frame, **options)


def test_examples_run() -> None:
    assert doctest.testmod(module).failed == 0
