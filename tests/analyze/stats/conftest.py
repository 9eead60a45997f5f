"""Studies whose numbers are drawn, and the paper's."""

import numpy as np
import pandas as pd
import pytest

from lorascope.study.paper_tables import paper_study


def make_study(
    seed: int = 0, *, n_groups: int = 4, n_settings: int = 5, follows: float = 1.0, n_dropped: int = 0
) -> pd.DataFrame:
    """A table of groups `g0`, ... and settings `s0`, ...; MIUB falls with accuracy as much as it is told to."""
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
