"""The paper's table, fitted and compared, and a table of many groups with hostile names."""

import html
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.fits.fit import fit_scaling_law
from lorascope.analyze.fits.metrics import MetricComparison, compare_metrics
from lorascope.analyze.fits.result import ScalingFit
from lorascope.study.paper_tables import paper_study

ROLES: dict[str, Any] = {"N": "N", "R": "R", "groups": ["dataset"], "offsets": ["sweep"]}
DATASETS = list(dict.fromkeys(paper_study()["dataset"]))
HOSTILE = "<b>%{x}</b>"


def title_of(figure: Any) -> str:
    """Title and notes as plain text."""
    return html.unescape(str(figure.layout.title.text).replace("<br>", " ")).replace("\u00a0", " ")


def points_of(figure: Any) -> list[Any]:
    """The traces with something to hover over."""
    return [trace for trace in figure.data if trace.hovertemplate]


def legend_of(figure: Any) -> list[str]:
    return [trace.name for trace in figure.data if trace.showlegend is not False]


@pytest.fixture(scope="session")
def study() -> pd.DataFrame:
    return paper_study(once=True)


@pytest.fixture(scope="session")
def phi(study: pd.DataFrame) -> pd.DataFrame:
    return study[study["model"] == "Phi3"]


@pytest.fixture(scope="session")
def phi_fit(phi: pd.DataFrame) -> ScalingFit:
    return fit_scaling_law(phi, "MIUB", **ROLES)


@pytest.fixture(scope="session")
def many() -> pd.DataFrame:
    """Twelve groups of a power law in size and rank, without a floor, except 0.1 %."""
    random = np.random.default_rng(0)
    rows = [
        {"g": f"{HOSTILE} {k}", "n": n, "r": r, "y": (1 + k) * (1e9 / n) ** 0.3 * (8 / r) ** 0.1}
        for k in range(12)
        for n in (1e8, 3e8, 1e9)
        for r in (8.0, 32.0, 128.0)
    ]
    table = pd.DataFrame(rows)
    return table.assign(y=table["y"] * (1 + 1e-3 * random.normal(size=len(table))))


@pytest.fixture(scope="session")
def comparison(study: pd.DataFrame) -> MetricComparison:
    return compare_metrics(study, collapsed_below=0.25)
