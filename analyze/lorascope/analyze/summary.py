"""Plain numbers about a run: scores, sizes, its largest components, what rounding swallowed."""

from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import xarray as xr
import zarr

from lorascope.stores import Run
from lorascope.stores.format.layout import goes_with_states
from lorascope.stores.format.spec import DTYPES
from lorascope.stores.format.tables import ROLES

from .measuring.captured import reduction
from .scores import Estimate, scores, scores_table
from .weights import token_weights, weighted_mean

__all__ = [
    "Divergence",
    "RoleMean",
    "Saving",
    "Size",
    "Swallowed",
    "TopComponent",
    "factor_saving",
    "kl",
    "role_means",
    "scores",
    "scores_table",
    "sizes",
    "swallowed",
    "top_components",
    "top_share",
]


class Size(NamedTuple):
    """What one part of a store takes."""

    part: str
    raw_bytes: int
    """Of its committed values in memory."""
    stored_bytes: int
    """Of its files."""


class Saving(NamedTuple):
    """What keeping z = A x in place of delta saves, in bytes of committed tokens before compression."""

    n_factored: int
    """Components, of all adapters, whose delta is kept as a factor."""
    n_whole: int
    """Components, of all adapters, whose delta is kept itself."""
    factor_bytes: int
    """z and lora_B."""
    delta_bytes: int
    """The same deltas at the item size of their base."""
    delta_float32_bytes: int
    """The same deltas at the factor's own accuracy."""
    plain_bytes: int
    """Every base, every delta, and in a `pair` the adapted run's outputs, at the item size of the base."""


class TopComponent(NamedTuple):
    """One component and its place in the sum."""

    component: str
    js: Estimate
    """js_component, nats."""
    share: float
    """Of MIUB."""
    cumulative_share: float
    """Of MIUB, with all components before it."""


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


def sizes(run: Run) -> list[Size]:
    """Bytes of a run's parts in memory and on disk, and of the whole at the end."""
    raw: dict[str, int] = {}
    for path, node in zarr.open_group(run.place.zarr_store(read_only=True), mode="r").members(max_depth=None):
        if isinstance(node, zarr.Array):
            share = _tokens_kept(run, path) / run.n_tokens if node.attrs.get("written") == "by row" else 1
            raw[_part(path)] = raw.get(_part(path), 0) + round(node.nbytes * share)
    stored: dict[str, int] = {}
    for path, n_bytes in run.place.sizes():
        stored[_part(path)] = stored.get(_part(path), 0) + n_bytes
    parts = [Size(part, raw[part], stored[part]) for part in PARTS if raw.get(part)]
    return [*parts, Size("whole run", sum(p.raw_bytes for p in parts), sum(stored.values()))]


def _tokens_kept(run: Run, path: str) -> int:
    """Tokens of which an array that is written row by row holds values."""
    committed = run.committed.values
    return int((committed & run.with_states.values if goes_with_states(path) else committed).sum())


def factor_saving(run: Run) -> Saving:
    """What the factor form saves in a run, in bytes; all adapters together."""
    n_tokens = int((run.committed & run.with_states).sum())
    n_outputs = 2 if run.stream == "pair" else 1
    widths = run.components["d_out"].values.astype(np.int64)
    itemsizes = np.array([DTYPES[name][0].itemsize for name in run.components["stored_dtype"].values])
    kept, touched, factors = np.zeros_like(widths), np.zeros_like(widths), 0
    for name in run.adapters:
        table = run.adapter(name)
        factored, ranks = table["factor_start"].values >= 0, table["rank"].values.astype(np.int64)
        kept += factored
        touched += ranks > 0
        factors += int((4 * ranks * (n_tokens + widths))[factored].sum())
    values = n_tokens * widths
    return Saving(
        n_factored=int(kept.sum()),
        n_whole=int((touched - kept).sum()),
        factor_bytes=factors if n_tokens else 0,
        delta_bytes=int((kept * values * itemsizes).sum()),
        delta_float32_bytes=int((kept * values * 4).sum()),
        plain_bytes=int(((n_outputs + touched) * values * itemsizes).sum()),
    )


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
    return [
        RoleMean(name, int(kept.sum()), weighted_mean(values[kept], weights[kept]))
        for name, kept in found
        if kept.any()
    ]


def swallowed(run: Run, adapter: str | None = None) -> Swallowed | None:
    """Share of features that the layers' rounding swallowed, by component; None where a run doesn't know."""
    shares = _swallowed_shares(run, adapter)
    if not shares:
        return None
    component = max(shares, key=lambda path: shares[path])
    return Swallowed(float(np.mean(list(shares.values()))), shares[component], component, len(shares))


def _swallowed_shares(run: Run, adapter: str | None) -> dict[str, float]:
    """Weighted mean over the measured tokens of each component that has any."""
    measured = reduction(run, "swallowed", adapter)
    if measured is None:  # early runs hold one number a component
        return dict(run.attributes.get("measured", {}).get("swallowed_share", {}))
    values, weights = measured.values, token_weights(run)
    known = np.isfinite(values)
    return {
        path: weighted_mean(values[known[:, index], index], weights[known[:, index]])
        for index, path in enumerate(run.component_paths)
        if known[:, index].any()
    }


def kl(run: Run, adapter: str | None = None) -> Divergence | None:
    """Weighted mean KL(base || adapted) of the next-token distributions; None where none was measured."""
    measured = reduction(run, "kl", adapter)
    if measured is None:
        return None
    known = np.isfinite(measured.values)
    if not known.any():
        return None
    return Divergence(weighted_mean(measured.values[known], token_weights(run)[known]), int(known.sum()))


PARTS = ("base", "adapted", "factor", "lora_B", "delta", "js", "reductions", "tables")
REDUCTIONS = ("delta_norm", "swallowed", "kl")


def _part(path: str) -> str:
    """Part of the store that a path inside it belongs to."""
    names = PurePosixPath(path).parts
    if names[0] == "reductions":
        return "reductions"
    if names[0] not in {"states", "adapters"} or len(names) < 3:
        return "tables"
    if names[2] in REDUCTIONS:
        return "reductions"
    return {"lora_bias": "lora_B"}.get(names[2], names[2] if names[2] in PARTS else "tables")
