import math
import re
from collections.abc import Callable
from itertools import product

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.scaling.design import Design
from lorascope.analyze.scaling.estimate import estimated
from lorascope.analyze.scaling.identify import SUPPOSED, cramer_rao, fisher_root, identifiability
from lorascope.analyze.scaling.laws import Axes
from lorascope.analyze.scaling.simulate import simulate_study

DesignOf = Callable[..., Design]
PaperCells = Callable[[str], pd.DataFrame]
N, R, D = (1e8, 1e9, 3e9, 1e10), (4.0, 16.0, 64.0, 256.0), (1e3, 1e4, 1e5)
FACTORIAL = pd.DataFrame(list(product(N, R, D)), columns=["N", "R", "D"])
ALL = {"N": "N", "R": "R", "D": "D"}


def test_nine_printed_parameters_are_six() -> None:
    found = identifiability(FACTORIAL, **ALL)
    assert sorted(found.printed_names) == sorted(["A", "B", "C", "N0", "R0", "D0", "alpha", "beta", "gamma"])
    assert found.printed_rank == 6
    s = found.printed_singular_values
    assert len(s) == 9
    assert s[0] == 1
    assert s[5] > 1e-3
    assert (s[6:] < 1e-9).all()
    assert (found.rank, found.n_parameters, found.determined) == (7, 7, True)
    assert found.sentences == (
        "only A N0^alpha is determined, not A and N0 apart",
        "only B R0^beta is determined, not B and R0 apart",
        "only C D0^gamma is determined, not C and D0 apart",
        "'D' has 3 levels for 3 parameters: any smooth curve goes through, so its shape isn't put to a test",
    )


@pytest.mark.parametrize("seed", range(5))
def test_rank_does_not_hang_on_the_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    at = {name: float(rng.uniform(0.1, 1.5)) for name in ("A", "B", "C", "alpha", "beta", "gamma")}
    found = identifiability(FACTORIAL, **ALL, at=at)
    assert (found.printed_rank, found.rank) == (6, 7)


def test_the_papers_shape_determines_five() -> None:
    """Sizes at one rank, ranks at one size, one size of data."""
    rows = [(n, 32.0, 1e4) for n in N] + [(1e10, r, 1e4) for r in (128.0, 512.0)]
    found = identifiability(pd.DataFrame(rows, columns=["N", "R", "D"]), **ALL)
    assert found.printed_rank == 5  # A', alpha, B', beta and a constant
    assert not found.determined
    assert found.sentences == (
        "only A N0^alpha is determined, not A and N0 apart",
        "only B R0^beta is determined, not B and R0 apart",
        "'R' has 3 levels for 3 parameters: any smooth curve goes through, so its shape isn't put to a test",
        "'D' has one level: its term is a constant, part of the level",
    )
    axes = found.axes.set_index("axis")
    assert axes["n_levels"].tolist() == [4, 3, 1]
    assert axes["enough"].tolist() == [True, True, False]
    assert axes.loc["R", "decades"] == pytest.approx(math.log10(16))
    without = identifiability(pd.DataFrame(rows, columns=["N", "R", "D"]), N="N", R="R")
    assert (without.printed_rank, without.rank, without.n_parameters, without.determined) == (4, 5, 5, True)


@pytest.mark.parametrize(("model", "decades"), [("Phi3", 0.2328), ("LLaMA3", 0.2078)])
def test_the_papers_tables(paper_cells: PaperCells, model: str, decades: float) -> None:
    found = identifiability(paper_cells(model), N="N", R="R", groups=["dataset"])
    assert (found.rank, found.n_parameters, found.printed_rank) == (9, 9, 4)
    assert found.axes.set_index("axis").loc["N", "decades"] == pytest.approx(decades, abs=1e-4)
    words = "'N' spans 0.23 decades" if model == "Phi3" else "'N' spans 0.21 decades"
    assert any(
        said.startswith(words) and said.endswith("describes this range and says little beyond it")
        for said in found.sentences
    )


def test_too_few_levels() -> None:
    found = identifiability(FACTORIAL[FACTORIAL["N"] < 2e9], **ALL)
    assert not found.determined
    assert "'N' has 2 levels: level, amplitude and exponent need 3" in found.sentences
    assert found.axes.loc[0, ["n_levels", "n_levels_needed", "enough"]].tolist() == [2, 3, False]
    straight = identifiability(FACTORIAL[FACTORIAL["N"] < 2e9], **ALL, law="log")
    assert straight.determined
    assert straight.axes["n_levels_needed"].tolist() == [2, 2, 2]
    assert straight.sentences == ()


def test_sizes_that_go_along() -> None:
    frame = pd.DataFrame({"N": N, "R": [n**0.5 for n in N]})
    found = identifiability(frame, N="N", R="R")
    assert not found.determined
    assert found.sentences[-1] == "'N', 'R' go along with each other or with the groups"
    groups = FACTORIAL[FACTORIAL["D"] == 1e3].assign(model=lambda rows: rows["N"].astype(str))
    with_groups = identifiability(groups, N="N", R="R", groups=["model"])
    assert with_groups.sentences[-1] == "'N', 'R' go along with each other or with the groups"
    assert with_groups.rank < with_groups.n_parameters == 8


def test_printed_references_of_the_other_laws() -> None:
    product_law = identifiability(FACTORIAL, **ALL, law="multiplicative")
    assert (len(product_law.printed_names), product_law.printed_rank, product_law.n_parameters) == (7, 4, 5)
    straight = identifiability(FACTORIAL, **ALL, law="log")
    assert (len(straight.printed_names), straight.printed_rank) == (6, 4)  # slopes and one constant
    printed = identifiability(FACTORIAL, **ALL, law="as printed")
    assert sorted(printed.printed_names) == sorted(["A", "B", "C", "N0", "R0", "alpha", "beta"])  # D/R has no reference
    assert printed.printed_rank == 5
    assert (printed.rank, printed.n_parameters) == (6, 6)
    assert not any("D0" in said for said in printed.sentences)


def test_errors_of_an_identifiability() -> None:
    with pytest.raises(ValueError, match=re.escape("`law` is 'share', which isn't about N; look at 'additive'")):
        identifiability(FACTORIAL, **ALL, law="share")
    with pytest.raises(ValueError, match="a design needs at least one of `N`, `R` and `D`: the column of each size"):
        identifiability(FACTORIAL)
    with pytest.raises(ValueError, match="`law` is 'cubic'; it is one of"):
        identifiability(FACTORIAL, **ALL, law="cubic")
    with pytest.raises(ValueError, match="the table has no column 'M'"):
        identifiability(FACTORIAL, N="M")
    with pytest.raises(ValueError, match="column 'N' is -1 in rows 0, 1, 2 and 45 more; it must be above zero"):
        identifiability(FACTORIAL.assign(N=-1.0), N="N")
    with pytest.raises(TypeError, match="`frame` is a list; give a pandas DataFrame"):
        identifiability([1], N="N")


# Standard errors before any response.


def test_bound_is_the_error_of_linear_theory(design_of: DesignOf) -> None:
    frame = simulate_study(
        {"A": 1.0, "alpha": 0.5, "B": 0.8, "beta": 0.6}, N=N, R=R, groups={"a": 1.5, "b": 2.5}, noise=0.01,
        random=np.random.default_rng(0),
    )  # fmt: skip
    found = estimated(design_of(frame))
    root = fisher_root(found.design.terms, "additive", found.values, found.design.levels) / found.design.y[:, None]
    errors = cramer_rao(root, found.sigma)
    np.testing.assert_allclose(errors, list(found.standard_errors.values()), rtol=1e-8)


def test_bound_by_hand() -> None:
    x = np.array([0.0, 1.0, 2.0, 5.0])
    errors = cramer_rao(np.column_stack([np.ones(4), x]), 0.3)
    spread = ((x - x.mean()) ** 2).sum()
    expected = [0.3 * math.sqrt(1 / 4 + x.mean() ** 2 / spread), 0.3 / math.sqrt(spread)]
    np.testing.assert_allclose(errors, expected, rtol=1e-12)
    np.testing.assert_allclose(
        cramer_rao(1e-9 * np.column_stack([np.ones(4), x]), 0.3), 1e9 * np.array(expected), rtol=1e-9
    )


def test_what_nothing_determines_has_no_bound() -> None:
    x = np.arange(5.0)
    zero = cramer_rao(np.column_stack([np.ones(5), x, np.zeros(5)]), 1.0)
    assert np.isfinite(zero[:2]).all()
    assert zero[2] == math.inf
    twice = cramer_rao(np.column_stack([np.ones(5), x, 3 * x, x**2]), 1.0)
    assert list(np.isinf(twice)) == [False, True, True, False]
    assert np.isinf(cramer_rao(np.ones((1, 2)), 1.0)).all()  # fewer cells than parameters


def test_bound_where_levels_are_too_few() -> None:
    two = {"N": np.log([1.0, 1.0, 10.0, 10.0])}
    errors = cramer_rao(fisher_root(Axes(two, None, None), "additive", SUPPOSED, np.ones((4, 1))), 1.0)
    assert np.isinf(errors[1:]).all()  # amplitude and exponent
    three = {"N": np.log([1.0, 3.0, 10.0, 10.0])}
    assert np.isfinite(
        cramer_rao(fisher_root(Axes(three, None, None), "additive", SUPPOSED, np.ones((4, 1))), 1.0)
    ).all()
