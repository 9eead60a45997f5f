import doctest
import math
import re
from collections.abc import Callable
from itertools import product

import pandas as pd
import pytest

from lorascope.analyze.fits import identify as module
from lorascope.analyze.fits.identify import identifiability

PaperCells = Callable[[str], pd.DataFrame]
N, R, D = (1e8, 1e9, 3e9, 1e10), (4.0, 16.0, 64.0, 256.0), (1e3, 1e4, 1e5)
FACTORIAL = pd.DataFrame(list(product(N, R, D)), columns=["N", "R", "D"])
ALL = {"N": "N", "R": "R", "D": "D"}


def test_references_are_not_told_from_amplitudes() -> None:
    found = identifiability(FACTORIAL, **ALL)
    assert (found.rank, found.n_parameters) == (7, 7)
    assert found.sentences == (
        "only A N0^alpha is determined, not A and N0 apart",
        "only B R0^beta is determined, not B and R0 apart",
        "only C D0^gamma is determined, not C and D0 apart",
        "'D' has 3 levels for 3 parameters: its shape isn't put to a test",
    )


def test_the_papers_shape_determines_five() -> None:
    """Sizes at one rank, ranks at one size, one size of data."""
    rows = [(n, 32.0, 1e4) for n in N] + [(1e10, r, 1e4) for r in (128.0, 512.0)]
    found = identifiability(pd.DataFrame(rows, columns=["N", "R", "D"]), **ALL)
    assert found.rank < found.n_parameters
    assert found.sentences == (
        "only A N0^alpha is determined, not A and N0 apart",
        "only B R0^beta is determined, not B and R0 apart",
        "'R' has 3 levels for 3 parameters: its shape isn't put to a test",
        "'D' has one level: its term is a constant, part of the level",
    )
    axes = found.axes.set_index("axis")
    assert axes["n_levels"].tolist() == [4, 3, 1]
    assert axes["enough"].tolist() == [True, True, False]
    assert axes.loc["R", "decades"] == pytest.approx(math.log10(16))
    without = identifiability(pd.DataFrame(rows, columns=["N", "R", "D"]), N="N", R="R")
    assert (without.rank, without.n_parameters) == (5, 5)


@pytest.mark.parametrize(("model", "decades"), [("Phi3", 0.2328), ("LLaMA3", 0.2078)])
def test_the_papers_tables(paper_cells: PaperCells, model: str, decades: float) -> None:
    found = identifiability(paper_cells(model), N="N", R="R", groups=["dataset"])
    assert (found.rank, found.n_parameters) == (9, 9)
    assert found.axes.set_index("axis").loc["N", "decades"] == pytest.approx(decades, abs=1e-4)
    words = "'N' spans 0.23 decades" if model == "Phi3" else "'N' spans 0.21 decades"
    assert f"{words}: an exponent says little beyond them" in found.sentences


def test_too_few_levels() -> None:
    found = identifiability(FACTORIAL[FACTORIAL["N"] < 2e9], **ALL)
    assert found.rank < found.n_parameters
    assert "'N' has 2 levels: level, amplitude and exponent need 3" in found.sentences
    assert found.axes.loc[0, ["n_levels", "n_levels_needed", "enough"]].tolist() == [2, 3, False]
    straight = identifiability(FACTORIAL[FACTORIAL["N"] < 2e9], **ALL, law="log")
    assert straight.rank == straight.n_parameters
    assert straight.axes["n_levels_needed"].tolist() == [2, 2, 2]
    assert straight.sentences == ()


def test_sizes_that_go_along() -> None:
    frame = pd.DataFrame({"N": N, "R": [n**0.5 for n in N]})
    found = identifiability(frame, N="N", R="R")
    assert found.rank < found.n_parameters
    assert found.sentences[-1] == "'N', 'R' go along with each other or with the groups"
    groups = FACTORIAL[FACTORIAL["D"] == 1e3].assign(model=lambda rows: rows["N"].astype(str))
    with_groups = identifiability(groups, N="N", R="R", groups=["model"])
    assert with_groups.sentences[-1] == "'N', 'R' go along with each other or with the groups"
    assert with_groups.rank < with_groups.n_parameters == 8


def test_example_runs() -> None:
    assert doctest.testmod(module).failed == 0


def test_errors_of_an_identifiability() -> None:
    with pytest.raises(ValueError, match=re.escape("`law` is 'share', which isn't about N; look at 'additive'")):
        identifiability(FACTORIAL, **ALL, law="share")
    with pytest.raises(ValueError, match="a law needs at least one of `N`, `R` and `D`: the column of each size"):
        identifiability(FACTORIAL)
    with pytest.raises(ValueError, match="`law` is 'cubic'; it is one of"):
        identifiability(FACTORIAL, **ALL, law="cubic")
    with pytest.raises(ValueError, match="the table has no column 'M'"):
        identifiability(FACTORIAL, N="M")
    with pytest.raises(ValueError, match="column 'N' is -1 in rows 0, 1, 2 and 45 more; it must be above zero"):
        identifiability(FACTORIAL.assign(N=-1.0), N="N")
    with pytest.raises(TypeError, match="`frame` is a list; give a pandas DataFrame"):
        identifiability([1], N="N")
