"""Plain numbers about a run: its largest components, what rounding swallowed, how far the next token moves."""

from typing import NamedTuple

import numpy as np
import xarray as xr

from lorascope.stores import Run
from lorascope.stores.format.tables import ROLES

from .measuring.captured import reduction
from .scores import Estimate
from .weights import token_weights, weighted_mean

__all__ = ["kl", "role_means", "swallowed", "top_components", "top_share"]


class TopComponent(NamedTuple):
    """One component and its place in the sum."""

    component: str
    js: Estimate
    """js_component, nats."""
    share: float
    """Share of MIUB."""
    cumulative_share: float
    """Share of MIUB that it and all components before it hold."""


class Swallowed(NamedTuple):
    """Share of features where base + delta, rounded to the layer's own type, is base."""

    mean: float
    """Mean over components."""
    largest: float
    component: str
    """Where it is largest."""
    n_components: int


class Divergence(NamedTuple):
    """How far the adapter moves what the model says next."""

    mean: float
    """KL(base || adapted) of the next-token distributions, nats, mean over tokens."""
    n_tokens: int
    """Tokens that it was measured at."""


class RoleMean(NamedTuple):
    """How far tokens of one role were moved."""

    role: str
    n_tokens: int
    mean: float
    """js_token, nats."""


def top_components(qualified: xr.Dataset, n: int = 10) -> list[TopComponent]:
    """The n components with the largest js, in nats; components without a finite one come last."""
    means = qualified["js_component"].values
    order = np.argsort(-np.nan_to_num(means, nan=-1.0), kind="stable")[:n]
    shares = qualified["share"].values[order]
    return [
        TopComponent(
            component=str(qualified["component"].values[place]),
            js=Estimate(float(means[place]), float(qualified["js_component_se"].values[place])),
            share=float(share),
            cumulative_share=float(cumulative),
        )
        for place, share, cumulative in zip(order, shares, np.cumsum(shares), strict=True)
    ]


def top_share(qualified: xr.Dataset, n: int = 5) -> float:
    """Share of MIUB that its n largest components hold; NaN where MIUB is 0 or not finite."""
    return top_components(qualified, n)[-1].cumulative_share


def role_means(qualified: xr.Dataset) -> list[RoleMean]:
    """Weighted mean js_token of each role that occurs, in nats, over tokens where it is finite."""
    values, roles, weights = (qualified[name].values for name in ("js_token", "role", "weight"))
    found = [(name, (roles == number) & np.isfinite(values)) for number, name in enumerate(ROLES)]
    means = [RoleMean(name, int(k.sum()), weighted_mean(values[k], weights[k])) for name, k in found]
    return [role for role in means if role.n_tokens]


def swallowed(run: Run, adapter: str | None = None) -> Swallowed | None:
    """Share of features that the layers' rounding swallowed, by component; None where a run doesn't know."""
    measured = reduction(run, "swallowed", adapter)
    if measured is None:  # early runs hold one number a component
        shares = dict(run.attributes.get("measured", {}).get("swallowed_share", {}))
    else:
        weights, known = token_weights(run), np.isfinite(measured.values)
        shares = {
            path: weighted_mean(column[there], weights[there])
            for path, column, there in zip(run.component_paths, measured.values.T, known.T, strict=True)
            if there.any()
        }
    if not shares:
        return None
    component = max(shares, key=lambda path: shares[path])
    return Swallowed(float(np.mean(list(shares.values()))), shares[component], component, len(shares))


def kl(run: Run, adapter: str | None = None) -> Divergence | None:
    """Weighted mean KL(base || adapted) of the next-token distributions; None where none was measured."""
    measured = reduction(run, "kl", adapter)
    if measured is None:
        return None
    known = np.isfinite(measured.values)
    mean = weighted_mean(measured.values[known], token_weights(run)[known])
    return Divergence(mean, int(known.sum())) if known.any() else None
