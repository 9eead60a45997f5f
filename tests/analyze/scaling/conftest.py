"""Designs of studies, with the options of a fit that aren't under test left out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from lorascope.analyze.scaling.design import Design
from lorascope.analyze.scaling.table import make_design
from lorascope.study.paper_tables import paper_study

DesignOf = Callable[..., Design]
PaperCells = Callable[[str], pd.DataFrame]


@pytest.fixture(scope="session")
def design_of() -> DesignOf:
    """The design of a table with columns `y`, `group`, and those of `N`, `R` and `D` that are there.

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
