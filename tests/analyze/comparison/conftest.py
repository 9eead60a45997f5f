"""Studies whose numbers are drawn, and the paper's with its own columns by block."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from lorascope.study.paper_tables import paper_study

Make = Callable[..., pd.DataFrame]


def make_study(
    seed: int = 0, *, n_blocks: int = 4, n_settings: int = 5, follows: float = 1.0, n_dropped: int = 0
) -> pd.DataFrame:
    """A table of blocks `b0`, ... and settings `s0`, ...; MIUB falls with accuracy as much as it is told to."""
    rng = np.random.default_rng(seed)
    place = [(f"b{b}", f"s{s}") for b in range(n_blocks) for s in range(n_settings)]
    accuracy = rng.uniform(0.3, 0.9, len(place)).round(3)
    frame = pd.DataFrame(place, columns=["block", "setting"]).assign(
        ACC=accuracy,
        MIUB=np.exp(1 + rng.normal(size=len(place)) - 5 * follows * accuracy),
        CE=np.exp(rng.normal(size=len(place))),
    )
    return frame.drop(index=rng.choice(len(frame), n_dropped, replace=False)).reset_index(drop=True)


@pytest.fixture(name="make_study")
def make_study_fixture() -> Make:
    return make_study


@pytest.fixture
def paper() -> pd.DataFrame:
    """The paper's cells as printed, each run once: 65, in 10 blocks."""
    return paper_study(once=True)
