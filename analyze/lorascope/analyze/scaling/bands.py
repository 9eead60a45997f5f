"""What a fit predicts, with the error of the mean and of a further cell."""

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .design import Design
from .estimate import Estimate

__all__ = ["bands"]


def bands(estimate: Estimate, rows: Design, level: float) -> pd.DataFrame:
    """Predicted response of rows, with intervals of the mean and of a single further cell.

    Returns
    -------
    DataFrame
        Under the rows' labels: `mean`, `mean_se`, `mean_low`, `mean_high`, `low`, `high`, in units of the response.

    Notes
    -----
    Linear theory (the delta method), t with the fit's degrees of freedom. A further cell adds the spread of the
    residuals. Laws and residuals of the logarithm have bands on its scale, turned back: `mean` is then a median of the
    response; residuals of the logarithm have none (NaN) where the law isn't positive, as it may be far from the cells.
    Where a parameter isn't identified, bands between the settings may still hold; beyond them they don't.
    """
    from scipy import stats  # type: ignore[import-untyped]

    predicted = estimate.predicted(rows)
    error = estimate.prediction_errors(rows)
    t = float(stats.t.ppf((1 + level) / 2, estimate.df))
    logarithmic = rows.residual == "log"
    if logarithmic or rows.law.logarithmic:
        positive = np.where(predicted > 0, predicted, np.nan) if logarithmic else predicted
        middle = np.log(positive) if logarithmic else predicted
        relative = error / positive if logarithmic else error
        whole = np.hypot(relative, estimate.sigma)
        ends = [np.exp(middle + sign * t * spread) for spread in (relative, whole) for sign in (-1, 1)]
        mean = predicted if logarithmic else np.exp(middle)
        mean_error = error if logarithmic else relative * mean
    else:
        scale = predicted if rows.residual == "relative" else np.ones(len(predicted))
        whole = np.hypot(error, estimate.sigma * scale)
        ends = [predicted + sign * t * spread for spread in (error, whole) for sign in (-1, 1)]
        mean, mean_error = predicted, error
    columns = dict(zip(("mean_low", "mean_high", "low", "high"), ends, strict=True))
    return pd.DataFrame({"mean": mean, "mean_se": mean_error, **columns}, index=rows.frame.index)
