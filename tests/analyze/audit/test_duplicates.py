import doctest
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorascope.analyze.audit import duplicates
from lorascope.analyze.audit.duplicates import agreement, duplicates_part
from lorascope.analyze.audit.grid import Grid


def test_the_paper_prints_one_run_twice(paper: Grid) -> None:
    part = duplicates_part(paper)
    assert part.table.to_numpy().tolist() == [["LLaMA3", "r32", "LLaMA3", "share1", 18, 18, True]]
    assert part.findings == ("LLaMA3 r32 and LLaMA3 share1 have the same numbers in all 18 cells",)
    (verdict,) = part.verdicts
    assert (verdict.word, verdict.because) == ("contradicted", "1 of 91 pairs of runs agree in all cells")


@given(st.integers(0, 2**32 - 1), st.data())
def test_planted_duplicates(
    make: Callable[..., pd.DataFrame], lay: Callable[..., Grid], seed: int, data: st.DataObject
) -> None:
    values = np.random.default_rng(seed).uniform(0, 1000, (2, 2, 3, 4))
    (g, a), (h, b) = data.draw(
        st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=2, max_size=2, unique=True)
    )
    n_changed = data.draw(st.integers(0, 2))
    values[h, :, b] = values[g, :, a]
    values[h, 0, b, :n_changed] += 1
    (row,) = duplicates_part(lay(make(values))).table.itertuples()
    assert {(row.group, row.setting), (row.other_group, row.other_setting)} == {(f"g{g}", f"s{a}"), (f"g{h}", f"s{b}")}
    assert row.n_shared == 10
    assert row.n_equal == 10 - n_changed - (n_changed > 0)  # the average changes too
    assert row.whole == (n_changed == 0)


def test_most_cells_are_named_as_such(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    values = np.random.default_rng(0).uniform(0, 1000, (1, 1, 2, 4))
    values[0, 0, 1, :3] = values[0, 0, 0, :3]
    part = duplicates_part(lay(make(values).assign(model="")))
    assert part.findings == ("s0 and s1 have the same numbers in 3 of 5 cells",)
    assert part.verdicts[0].word == "supported"
    values[0, 0, 1, 2] += 1
    assert duplicates_part(lay(make(values))).findings == ()


def test_runs_that_are_all_the_same_are_named_together(
    make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]
) -> None:
    values = np.random.default_rng(0).uniform(0, 1000, (1, 1, 6, 4))
    values[0, 0, [1, 3]] = values[0, 0, 0]
    values[0, 0, 5] = values[0, 0, 4]
    part = duplicates_part(lay(make(values).assign(model="")))
    assert part.findings == (
        "3 runs have the same numbers in all 5 cells: s0, s1, s3",
        "s4 and s5 have the same numbers in all 5 cells",
    )
    assert len(part.table) == 4
    assert part.verdicts[0].because == "4 of 15 pairs of runs agree in all cells"


def test_runs_that_agree_with_a_third_alone_are_not_put_together(
    make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]
) -> None:
    values = np.random.default_rng(0).uniform(0, 1000, (1, 1, 3, 8))
    values[0, 0, 1:] = values[0, 0, 0]
    table = make(values).assign(model="").query("dataset != 'AVG'")
    kept = {"s0": range(8), "s1": range(5), "s2": range(3, 8)}
    there = [int(name[1:]) in kept[setting] for setting, name in zip(table["setting"], table["dataset"], strict=True)]
    table = table[there]
    part = duplicates_part(lay(table, average=None))
    assert part.findings == (
        "s0 and s1 have the same numbers in all 5 cells",
        "s0 and s2 have the same numbers in all 5 cells",
    )


def test_half_of_the_cells_is_not_most(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    values = np.random.default_rng(0).uniform(0, 1000, (1, 1, 2, 5))
    values[0, 0, 1, :3] = values[0, 0, 0, :3]  # three of five and not their average
    assert len(duplicates_part(lay(make(values))).table) == 0


def test_a_single_run_is_compared_with_nothing(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    assert duplicates_part(lay(make(np.ones((1, 1, 1, 4))))).verdicts == ()


def test_few_cells_are_not_compared(make: Callable[..., pd.DataFrame], lay: Callable[..., Grid]) -> None:
    part = duplicates_part(lay(make(np.ones((1, 1, 3, 1)))))  # one member and its average: two cells
    assert len(part.table) == 0
    assert part[1:] == ((), (), ())


def test_missing_cells_are_no_agreement() -> None:
    runs = np.array([[1.0, np.nan, 3.0], [1.0, np.nan, 4.0]])
    found = agreement(runs)
    assert found.n_equal.tolist() == [[2, 1], [1, 2]]
    assert found.n_shared.tolist() == [[2, 2], [2, 2]]


@pytest.mark.parametrize("n", [1, 4])
def test_agreement_with_itself(n: int) -> None:
    runs = np.random.default_rng(0).normal(size=(n, 5))
    assert agreement(runs).n_equal.tolist() == (5 * np.eye(n, dtype=int)).tolist()


def test_examples_run() -> None:
    assert doctest.testmod(duplicates) == (0, 2)
