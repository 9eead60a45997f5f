"""Sentences on a fit: how its search went, and what its numbers can't be taken for."""

import math

from .design import Design
from .estimate import Estimate

__all__ = ["group_notes", "huber_notes", "search_notes", "weight_notes"]

SAME = 0.01
"""Exponents of equally good answers may differ so much and count as one."""
NOISY = 0.07
"""Sigma of relative residuals from which weights by the observed response do harm (by simulation: 10 % noise)."""


def search_notes(estimate: Estimate) -> list[str]:
    """How the search went, where it isn't as it should be."""
    search, said = estimate.search, []
    if not search.converged:
        said.append("the search ended before it converged: numbers are what it had reached")
    for name in search.at_bound:
        place = estimate.design.exponents.index(name)
        low, high = estimate.design.bounds[place]
        said.append(f"{name} is at an end of its range, {low:g} to {high:g}: it isn't an estimate")
    if search.found_better:
        said.append(f"a random start found a loss lower by {100 * search.found_better:.2g} %, which is the one given")
    if search.n_starts and search.share_of_starts < 0.5:
        said.append(
            f"only {100 * search.share_of_starts:.0f} % of {search.n_starts} random starts ended at the best optimum: "
            "the loss has several valleys, or is hard to descend"
        )
    if search.spread > SAME:
        said.append(
            f"random starts that ended at the best optimum differ by {search.spread:.2g} in an exponent: several "
            "answers are equally good, and the one given is one of them"
        )
    return said


def weight_notes(estimate: Estimate) -> list[str]:
    """What relative residuals do where there is much noise."""
    if estimate.design.residual != "relative" or estimate.sigma < NOISY:
        return []
    return [
        f"relative residuals divide by the observed response; with as much noise, sigma {estimate.sigma:.2g}, that "
        "pulls the fit down and makes tests reject too often: compare residuals='log'"
    ]


def huber_notes(estimate: Estimate) -> list[str]:
    """What isn't Huber's of a fit by Huber's loss."""
    if not math.isfinite(estimate.delta):
        return []
    return ["what each size adds and lack of fit are tests of least squares, beside parameters by Huber's loss"]


def group_notes(design: Design) -> list[str]:
    """What one group alone can't tell."""
    n = len(set(design.groups))
    return (
        ["there is one group: nothing can be said of how groups differ, and no bootstrap draws them"] if n < 2 else []
    )
