"""Measured places of a run: captured tokens after which the change of the next token's distribution is stored."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from lorascope.analyze.results.weights import prefix_repeats, token_weights
from lorascope.stores import Run, StoreError
from lorascope.stores.reading.token_choice import TokenChoice, chosen_token_weights

SAME_COLUMNS = ("samples/id", "samples/dataset", "tokens/sample", "tokens/position", "tokens/token_id")
"""Columns that are equal in two runs over the same samples."""


class Places(NamedTuple):
    """Measured places in the run's order; P is the next token's distribution with the adapter, Q that without."""

    token: Int64[np.ndarray, " place"]
    """Place on the run's token axis."""
    sample: Int64[np.ndarray, " place"]
    """Number of its sample among those with a place."""
    weight: Float64[np.ndarray, " place"]
    n_samples: int
    n_not_finite: int
    """Number of places that aren't here, since a KL divergence isn't finite."""
    n_repeated: int
    """Number of places that aren't here, since an earlier sample has the same tokens up to there."""
    values: dict[str, np.ndarray]
    """Name of a variable of `Run.changes` -> its values by place, float64 or token ids; also `kl`, KL(Q || P)."""

    @property
    def starts(self) -> Int64[np.ndarray, " sample"]:
        """Number of each sample's first place; a sample's places follow each other."""
        return np.searchsorted(self.sample, np.arange(self.n_samples))

    def sums(self, values: Float64[np.ndarray, " place"]) -> Float64[np.ndarray, " sample"]:
        """Return weighted sums of values over each sample's places."""
        return np.add.reduceat(self.weight * values, self.starts)


def read_places(run: Run, adapter: str | None, tokens: TokenChoice, control: Run | None) -> list[Places]:
    """Return the chosen places that are measured in the run and in `control` if there is one: one `Places` a run.

    Raises StoreError if a run has no changes, both aren't over the same samples, or an adapter changes nothing.
    """
    if control is not None:
        _require_same_samples(run, control)
    runs = [(run, adapter)] if control is None else [(run, adapter), (control, None)]
    tables = [each.changes(name).assign(kl=each.reduction("kl", name)) for each, name in runs]
    measured = np.all([table["base_choice"].values >= 0 for table in tables], axis=0)
    if not measured.any():
        raise StoreError(f"no place of {run.place.name!r} is measured yet, or no logit is a number; capture more of it")
    chosen = chosen_token_weights(run, tokens, measured) * token_weights(run)
    is_repeat = prefix_repeats(run, chosen > 0)
    weight = np.where(is_repeat, 0, chosen)
    is_finite = np.all([np.isfinite(table[kl].values) for table in tables for kl in ("kl", "kl_adapted_base")], axis=0)
    token = np.flatnonzero(is_finite & (weight > 0))
    sample = np.unique(run.read_static("tokens/sample")[token], return_inverse=True)[1]
    n_samples, n_repeated = int(sample.max(initial=-1)) + 1, int(is_repeat.sum())
    places = Places(token, sample, weight[token], n_samples, int((weight > 0).sum()) - len(token), n_repeated, {})
    every = []
    for (each, name), table in zip(runs, tables, strict=True):
        values = {str(key): column.values for key, column in table.isel(token=token).data_vars.items()}
        every.append(
            places._replace(values={key: v if v.dtype.kind == "i" else v.astype(float) for key, v in values.items()})
        )
        if not (every[-1].values["kl"].any() and every[-1].values["kl_adapted_base"].any()):
            label = f"adapter {name or each.adapters[0]!r} of {each.place.name!r}"
            raise StoreError(f"{label} changes no prediction at {len(token)} measured places with finite numbers")
    return every


def _require_same_samples(run: Run, control: Run) -> None:
    """Raise StoreError unless both runs captured the same tokens of the same samples, and know the same token ids."""
    for name in SAME_COLUMNS:
        if not np.array_equal(run.read_static(name), control.read_static(name)):
            names = f"{run.place.name!r} and the control {control.place.name!r}"
            raise StoreError(f"{names} differ in {name!r}; capture both over the same data, with the same settings")
