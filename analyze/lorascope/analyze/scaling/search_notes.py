"""Sentences on how the search for a law's parameters went."""

import math

from .estimate import Estimate

__all__ = ["search_notes"]

NOISY = 0.07
"""Sigma of relative residuals above which weights by the observed response do harm (by simulation: 10 % noise)."""


def search_notes(fit: Estimate) -> list[str]:
    """How the search went, where it isn't as it should be, and what a fit's numbers can't be taken for."""
    search, said = fit.search, []
    if not search.converged:
        said.append("the search ended before it converged: numbers are what it had reached")
    for name in search.at_bound:
        low, high = fit.design.limits[name]
        said.append(f"{name} is at an end of its range, {low:g} to {high:g}: it isn't an estimate")
    if search.share_of_starts < 0.5:
        said.append(
            f"only {100 * search.share_of_starts:.0f} % of {search.n_starts} random starts ended at the optimum"
        )
    if fit.design.residual == "relative" and fit.sigma >= NOISY:
        said.append(
            f"relative residuals divide by the observed response; with as much noise, sigma {fit.sigma:.2g}, that "
            "pulls the fit down and makes tests reject too often: compare residuals of the logarithm"
        )
    if math.isfinite(fit.delta):
        said.append("what each size adds and lack of fit are tests of least squares, beside parameters by Huber's loss")
    return said
