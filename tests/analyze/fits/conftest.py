"""Designs of studies, studies whose numbers are drawn, and the paper's."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.fits.design import Design, make_design
from lorascope.study.paper_tables import paper_study

DesignOf = Callable[..., Design]
PaperCells = Callable[[str], pd.DataFrame]


@pytest.fixture(scope="session")
def design_of() -> DesignOf:
    """The design of a table with columns `y`, `group`, and those of `N`, `R` and `D` that it has.

    `bounds`: exponent -> where it is looked for, in place of the usual.
    """

    def make(frame: pd.DataFrame, **options: Any) -> Design:
        roles: dict[str, Any] = {axis: axis if axis in frame.columns else None for axis in ("N", "R", "D")}
        defaults: dict[str, Any] = {
            "response": "y", "groups": ["group"] if "group" in frame.columns else [], "offsets": [], "share": None,
            "repeat": None, "law": "additive", "residuals": "relative",
        }  # fmt: skip
        bounds = options.pop("bounds", {})
        design = make_design(frame, **{**roles, **defaults, **options})
        return replace(design, limits={**design.limits, **bounds})

    return make


@pytest.fixture(scope="session")
def paper_cells() -> PaperCells:
    """The paper's cells of one model, each run once: 35 of Phi3, 30 of LLaMA3."""

    def cells(model: str) -> pd.DataFrame:
        study = paper_study(once=True)
        return study[study["model"] == model].reset_index(drop=True)

    return cells


def make_study(
    seed: int = 0, *, n_groups: int = 4, n_settings: int = 5, follows: float = 1.0, n_dropped: int = 0
) -> pd.DataFrame:
    """A table of groups `g0`, ... and settings `s0`, ...; the slope of MIUB over accuracy is given."""
    rng = np.random.default_rng(seed)
    place = [(f"g{g}", f"s{s}") for g in range(n_groups) for s in range(n_settings)]
    accuracy = rng.uniform(0.3, 0.9, len(place)).round(3)
    frame = pd.DataFrame(place, columns=["group", "setting"]).assign(
        ACC=accuracy,
        MIUB=np.exp(1 + rng.normal(size=len(place)) - 5 * follows * accuracy),
        CE=np.exp(rng.normal(size=len(place))),
    )
    return frame.drop(index=rng.choice(len(frame), n_dropped, replace=False)).reset_index(drop=True)


@pytest.fixture
def paper() -> pd.DataFrame:
    """The paper's cells as printed, each run once: 65, in 10 groups."""
    return paper_study(once=True)
