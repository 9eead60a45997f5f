"""Null adapters: whether an adapter does more than random ones of the same size, which a capture measured."""

import numpy as np
import xarray as xr

from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.reading.read import RunLike

from .format import format_error, format_number
from .tree import run_attributes
from .weights import standard_error, t_test

UNITS = {"ce_change": "nat/token", "kl": "nat/token", "miub": "nat"}
"""Measure that is compared -> its unit."""
LEAST_NULLS = 8
"""Fewest nulls whose spread is a unit; with fewer, only the rank among them is known."""
LEVEL = 0.001
"""Largest p at which the sentence claims something: adapters whose B has permuted rows, which learned nothing either,
have p up to 0.05 in 8 % of cases, and this in 0.02 % (the demo's loss, eight nulls; docs/analysis.md)."""


def null_adapters(run: RunLike, *, adapter: str | None = None) -> xr.Dataset:
    """Compare what an adapter does with what random adapters of the same size do, in units of their spread.

    A null adapter is the adapter with B of every layer turned at random: A, rank, scaling, B^T B and so the norm stay.

    Parameters
    ----------
    run
        An open run or its path or url, captured with `--null-adapters`.
    adapter
        Name of the adapter; not needed if there is only one.

    Returns
    -------
    xr.Dataset
        By `measure`, means over samples of means over tokens: `ce_change`, by how much the loss on the tokens to
        predict changes, and `kl`, KL(base || adapted) of next tokens, in nats a token; `miub` in nats. `value` is the
        adapter's and `se` its error over samples; `nulls` (null, measure) each null's, `null_mean` and `null_sd` their
        mean and standard deviation; `difference` is value - null_mean, `difference_se` its error over the same samples;
        `rank` is 1 if the value is the largest of all, n + 1 if it is the smallest. With eight nulls or more,
        `spreads` is difference / null_sd, and `p` that of a further null as far away, two-sided, by Student's t with
        n - 1 degrees of freedom and the error null_sd sqrt(1 + 1/n); else both are NaN. Attributes: provenance,
        `n_nulls`, `n_samples`.

    Raises
    ------
    StoreError
        If the run has no null adapters, or a chunk is broken.
    """
    run = open_as_written(run)
    result = compare_variants(run.null_adapters(adapter))
    return result.assign_attrs(run_attributes(run, adapter))


def compare_variants(stored: xr.Dataset) -> xr.Dataset:
    """Compare variant 0 with the others, values (sample, variant) from `Run.null_adapters`, as `null_adapters` does."""
    values = np.stack([stored[name].values.T.astype(np.float64) for name in UNITS], axis=-1)
    own, *nulls = values[:, np.isfinite(values).all(axis=(0, 2))]  # (sample, measure) each
    means, apart, n = np.mean(nulls, axis=1), own - np.mean(nulls, axis=0), len(nulls)
    spread = means.std(axis=0, ddof=1) if n > 1 else np.full(len(UNITS), np.nan)
    unit = np.where((spread > 0) & (n >= LEAST_NULLS), spread, np.nan)
    columns = {
        "value": (own.mean(axis=0), "the adapter's, mean over samples"),
        "se": (standard_error(own), "standard error of value over samples"),
        "null_mean": (means.mean(axis=0), "mean over nulls"),
        "null_sd": (spread, "standard deviation over nulls"),
        "difference": (apart.mean(axis=0), "value - null_mean"),
        "difference_se": (standard_error(apart), "standard error of difference over samples"),
        "spreads": (apart.mean(axis=0) / unit, "difference / null_sd"),
        "p": (t_test(apart.mean(axis=0), unit * np.sqrt(1 + 1 / n), n), "p of a null as far away, two-sided"),
        "rank": (1 + (means > own.mean(axis=0)).sum(axis=0), "place among value and nulls, the largest first"),
    }
    data = {name: ("measure", column, {"long_name": text}) for name, (column, text) in columns.items()}
    coordinates = {"measure": [*UNITS], "units": ("measure", [*UNITS.values()])}
    nulls_by_measure = {"nulls": (("null", "measure"), means, {"long_name": "each null's, mean over samples"})}
    return xr.Dataset(data | nulls_by_measure, coordinates, {"n_nulls": n, "n_samples": len(own)})


def describe_nulls(compared: xr.Dataset) -> str:
    """Return a sentence (plain text) on whether an adapter does more than its nulls: the result of `null_adapters`."""
    n, (loss, kl, _) = compared.attrs["n_nulls"], compared.drop_vars("nulls").to_dataframe().itertuples()
    is_more = [row.p <= LEVEL and abs(row.difference) > 2 * row.difference_se for row in (loss, kl)]
    shown, name, others = loss, "change", "random adapters of the same size"
    if np.isnan(loss.p):
        claim = f"Can't tell whether it is more than chance, which takes {LEAST_NULLS} different {others}: "
        claim += f"its loss is number {n + 2 - loss.rank} of {n + 1} from the lowest"
    elif is_more[0] and loss.difference < 0:
        claim = f"More than chance: the loss is lower than with {others}"
    elif is_more[0]:
        claim = f"More than chance, and for the worse: the loss is higher than with {others}"
    elif is_more[1] and kl.difference > 0:
        claim = f"Next tokens move further than with {others}, but the loss isn't clearly lower"
        shown, name = kl, "KL(base || adapted)"
    else:
        claim = f"Not clearly more than chance: the loss isn't clearly lower than with {others}"
    numbers = (format_error(*pair) for pair in ((shown.value, shown.se), (shown.null_mean, shown.null_sd)))
    apart = "" if np.isnan(shown.spreads) else f", {format_number(abs(shown.spreads))} of their spreads apart"
    return f"{claim} ({name} {{}} nat per token, with {n} of them {{}}{apart}).".format(*numbers)
