"""Every number that the paper's eq. 9 may mean, side by side, and how large each is beside the paper's own."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze.measuring.captured import available
from lorascope.analyze.measuring.run import measure_run
from lorascope.analyze.results.options import Reduction
from lorascope.analyze.results.weights import standard_error
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike, as_run

from .miub import miub_attributes, require_samples
from .reduce import UNITS, reduce_tokens

PRINTED: Mapping[str, tuple[float, float, int]] = {"Phi3": (1511.6, 1913.3, 128), "LLaMA3": (3217.7, 3837.0, 224)}
"""Model -> least and largest MIUB of the paper's table 1, and how many linear layers its LoRA wraps if it wraps all of
attention and FFN (Phi-3 fuses q, k, v and gate, up), which the paper doesn't say."""
STATES: Mapping[str, str] = {"lora": "js", "delta alone": "js_delta_alone"}
TOKENS: tuple[Reduction, ...] = ("mean", "sum", "last")


def miub_readings(
    run: RunLike,
    *,
    adapter: str | None = None,
    components: Sequence[str] | None = None,
    scheduler: Any = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """MIUB under each reading of the paper's eq. 9; reads the store once.

    Parameters
    ----------
    run, adapter, components, scheduler, n_workers, progress
        As for `miub`.

    Returns
    -------
    xr.Dataset
        Over `states` (base against lora, or delta alone), `tokens` (their mean, sum, or the last one) and `unit` (nat,
        bit, sqrt: the root of each token's JS): `miub`, `miub_se`, and `per_component`, miub over the number of
        components; `times_low` and `times_high`: how many times as large the least and the largest MIUB per component
        of the paper's table 1 are. Cells of delta alone are NaN where a run doesn't keep the states of all tokens.

    Raises
    ------
    StoreError
        As `miub`.

    Notes
    -----
    The paper doesn't say how tokens are reduced, whether base is part of h_LoRA, or which unit it uses. Its
    values per component exceed ln 2 = 0.693 nats, the most that a mean over tokens can reach, 17 to 25 times. This says
    how each reading compares in size with them; which of them the paper used can't be told from size alone.
    """
    run = as_run(run)
    names = available(run, tuple(STATES.values()))
    options: dict[str, Any] = {"scheduler": scheduler, "n_workers": n_workers, "progress": progress}
    measured = measure_run(run, names, adapter=adapter, components=components, **options)
    cells = np.full((2, len(STATES), len(TOKENS), len(UNITS)), np.nan)
    for (i, name), (j, tokens), (k, unit) in product(enumerate(STATES.values()), enumerate(TOKENS), enumerate(UNITS)):
        if name in names:
            used = require_samples(measured, run, tokens)
            values = reduce_tokens(measured, name, run, tokens, unit=unit)[used].sum(axis=1)
            cells[:, i, j, k] = values.mean(), standard_error(values)
    per_component = cells[0] / measured.sizes["component"]
    low, high = (end(value / m for *values, m in PRINTED.values() for value in values) for end in (min, max))
    values_by_name = {"miub": cells[0], "miub_se": cells[1], "per_component": per_component}
    with np.errstate(divide="ignore"):
        values_by_name |= {"times_low": low / per_component, "times_high": high / per_component}
    dims = ("states", "tokens", "unit")
    return xr.Dataset(
        {name: (dims, values) for name, values in values_by_name.items()},
        coords={"states": list(STATES), "tokens": list(TOKENS), "unit": list(UNITS)},
        attrs={**miub_attributes(run, adapter, measured), "printed_low": low, "printed_high": high}
        | {"n_samples": int(require_samples(measured, run, "mean").sum())},
    )
