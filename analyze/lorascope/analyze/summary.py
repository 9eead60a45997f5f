"""Plain numbers about a run: scores, sizes, its largest components, what rounding swallowed."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import xarray as xr
import zarr

from lorascope.stores import Run
from lorascope.stores.layout import DTYPES
from lorascope.stores.tables import ROLES

from .scores import Estimate, scores, scores_table

__all__ = [
    "RoleMean",
    "Saving",
    "Size",
    "Swallowed",
    "TopComponent",
    "factor_saving",
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
    """Every base and every delta at the item size of its base."""


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


class RoleMean(NamedTuple):
    """How far tokens of one role were moved."""

    role: str
    n_tokens: int
    mean: float
    """js_token, nats."""


def sizes(run: Run) -> list[Size]:
    """Bytes of a run's parts in memory and on disk, and of the whole at the end."""
    raw: dict[str, int] = {}
    committed = int(run.committed.values.sum())
    for path, node in zarr.open_group(run.path, mode="r").members(max_depth=None):
        if isinstance(node, zarr.Array):
            by_row = node.attrs.get("written") == "by row"
            share = committed / run.n_tokens if by_row else 1
            raw[_part(path)] = raw.get(_part(path), 0) + round(node.nbytes * share)
    stored: dict[str, int] = {}
    for path, n_bytes in _files(run.path):
        stored[_part(path)] = stored.get(_part(path), 0) + n_bytes
    parts = [Size(part, raw[part], stored[part]) for part in PARTS if raw.get(part)]
    return [*parts, Size("whole run", sum(p.raw_bytes for p in parts), sum(stored.values()))]


def factor_saving(run: Run) -> Saving:
    """What the factor form saves in a run, in bytes; all adapters together."""
    n_tokens = int(run.committed.values.sum()) if run.has_states else 0
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
        factor_bytes=factors if run.has_states else 0,
        delta_bytes=int((kept * values * itemsizes).sum()),
        delta_float32_bytes=int((kept * values * 4).sum()),
        plain_bytes=int(((1 + touched) * values * itemsizes).sum()),
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
    """Mean js_token of each role that occurs, in nats, over tokens where it is finite."""
    values, roles = qualified["js_token"].values, qualified["role"].values
    found = [(name, values[(roles == number) & np.isfinite(values)]) for number, name in enumerate(ROLES)]
    return [RoleMean(name, len(kept), float(kept.mean())) for name, kept in found if len(kept)]


def swallowed(run: Run) -> Swallowed | None:
    """Share of features that the layers' rounding swallowed, by component; None where a run doesn't know."""
    shares: dict[str, float] = run.attributes.get("measured", {}).get("swallowed_share", {})
    if not shares:
        return None
    component = max(shares, key=lambda path: shares[path])
    return Swallowed(float(np.mean(list(shares.values()))), shares[component], component, len(shares))


PARTS = ("base", "adapted", "factor", "lora_B", "delta", "js", "tables")


def _part(path: str) -> str:
    """Part of the store that a path inside it belongs to."""
    names = PurePosixPath(path).parts
    if names[0] in {"states", "adapters"} and len(names) > 2 and names[2] in PARTS:
        return names[2]
    return "lora_B" if names[0] == "adapters" and len(names) > 2 and names[2] == "lora_bias" else "tables"


def _files(root: Path) -> Iterator[tuple[str, int]]:
    for folder, _, names in os.walk(root):
        for name in names:
            file = Path(folder) / name
            yield file.relative_to(root).as_posix(), file.stat().st_size
