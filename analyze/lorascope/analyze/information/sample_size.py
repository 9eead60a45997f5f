"""Estimate how many tokens an `undersampled` estimate of mutual information would need."""

import numpy as np
import xarray as xr

from .estimators import ESTIMATORS, PANEL
from .evidence import DRIFT, WIDEST_INTERVAL
from .mutual_information import UNITS_PER_NAT


def sufficient_rows(result: xr.Dataset) -> xr.DataArray:
    """Return about how many rows (tokens) an `undersampled` estimate would need to lose this verdict; NaN for others.

    Parameters
    ----------
    result
        Result of `measure_information` or `mutual_information`.

    Returns
    -------
    xr.DataArray
        Rows, with the dimensions of `verdict`; also NaN if there were too few rows for parts of them. For the panel,
        the larger number of its own and of its largest member.

    Notes
    -----
    An error and the remaining bias fall as the root of the rows, as intervals take them to. So with f^2 times the rows
    the change from a quarter of them to all, its error and the interval's ends are 1/f of what they are, and the rules
    of the verdict hold from f = (|change| - 2 se) / 0.02 nat on, and from f = (distance of the farther end of the
    interval) / (0.05 nat or a tenth of the value) if it may become `ok`. An interval shrinks no further than chance in
    the parts lets it, so this is the order of magnitude, not a promise.
    """
    nats = result[["value", "se", "half", "quarter", "low", "high"]] / UNITS_PER_NAT[result.attrs["units"]]
    change = abs(nats["value"] - nats["quarter"].fillna(nats["half"])) - 2 * nats["se"]
    farther = np.maximum(nats["high"] - nats["value"], nats["value"] - nats["low"])
    width = xr.DataArray(farther / np.maximum(WIDEST_INTERVAL[0], WIDEST_INTERVAL[1] * nats["value"]))
    names = result["estimator"].values.tolist()
    may_be_ok = [name == "panel" or ESTIMATORS[name].says == "ok" for name in names]
    times = np.maximum(change / DRIFT, width.where(xr.DataArray(may_be_ok, dims="estimator"), 1.0))
    n = result["n_tokens"] if "n_tokens" in result else result.attrs["n"]
    rows = (n * np.maximum(times, 1.0) ** 2).where(result["verdict"] == "undersampled")
    if "panel" in names:
        members = nats["value"].sel(estimator=[name for name in names if name in PANEL]).fillna(-np.inf)
        largest = rows.sel(estimator=members.idxmax("estimator")).drop_vars("estimator")
        is_panel = (rows["estimator"] == "panel") & rows.notnull()
        rows = rows.where(~is_panel, np.fmax(rows, largest))
    return rows.rename("sufficient_rows")
