"""MIUB, the size of the change, and routing of a mixture's experts, by expert and layer."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import xarray as xr

from lorascope.analyze.results.options import EXPERT, KEYS
from lorascope.analyze.results.tree import rows_digest
from lorascope.stores import Run, StoreError
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.format.spec import block_path
from lorascope.stores.reading.read import RunLike

from .groups import check_keys, result_groups, sample_spans
from .reduce import UNITS

NOTES = {
    "miub": "js of the expert's own output; tokens: mean; components: sum; samples: mean",
    "miub_se": "standard error over samples",
    "delta_ratio": "sum of |delta| over sum of |base|, of the expert's own output before its weight",
    "share": "share of tokens that are routed to the expert",
    "base_share": "share of tokens that are routed to the expert without the adapter",
    "gained": "share of tokens that are routed to the expert only with the adapter",
    "n_samples": "samples with tokens of the expert",
    "n_tokens": "tokens that are routed to the expert",
}
"""Variable of `experts` -> what it is."""


def experts(run: RunLike, result: xr.DataTree, by: str | Sequence[str] = ("layer", EXPERT)) -> xr.Dataset:
    """Return MIUB, the size of the change, and the share of tokens of each expert of a mixture as a dataset.

    Parameters
    ----------
    run
        An open run or its path or url, of an adapter on experts.
    result
        What `miub` returns for this run, with reduction `mean`.
    by
        `expert`, `layer` or `component`, and any other of the keys of `group_by`, such as `dataset` or `text`.

    Returns
    -------
    xr.Dataset
        Over one dimension per key: `miub` of the experts' own outputs, a mean over a sample's tokens that are routed
        to the expert, summed over the group's components and averaged over samples, in the result's unit, and its
        standard error over samples, `miub_se`; `delta_ratio`, the sum of |delta| over the sum of |base|; `share`, the
        part of the group's tokens that are routed to the expert, and in stream `pair` `base_share`, that of the base,
        and `gained`, the part that only the adapter routes to it; `n_samples` and `n_tokens` of the expert. Without
        tokens an expert's miub and delta_ratio are NaN.

    Raises
    ------
    StoreError
        If the run has no adapter on experts.
    ValueError
        If a key is unknown or given twice, `expert` or both `layer` and `component` are missing, the result is of
        another run or has selected tokens or samples, or isn't a mean over tokens, or there are too many groups.
    """
    run = open_as_written(run)
    by = (by,) if isinstance(by, str) else tuple(by)
    check_keys(result, by, (*KEYS, EXPERT))
    if EXPERT not in by or not {"component", "layer"} & set(by):
        raise ValueError(f"`by` is {list(by)}; name 'expert', 'layer' or 'component', and others")
    by_token = result.children["tokens"].dataset
    if result.attrs["run_rows"] != rows_digest(run) or by_token.sizes["token"] != run.n_tokens:
        raise ValueError(f"the result isn't that of all tokens of {run.place.name!r} as it is now; give `miub(run)`")
    if not (places := expert_places(run, result)):
        raise StoreError(f"no component of the result is an adapter on experts of {run.place.name!r}")
    result = result.isel(component=places)
    names = ["expert", "weight", "js", "base_norm", "delta_norm"]
    names += ["base_expert", "base_weight"] if run.stream == "pair" else []
    components = [run.experts(path)[names] for path in result.dataset["component"].values.tolist()]
    n_experts = max(component.attrs["n_experts"] for component in components)
    groups = result_groups(result, [key for key in by if key != EXPERT], n_experts=n_experts)
    samples, tokens, parts = groups
    owner, weights = by_token["sample_of_token"].values, by_token["weight"].values
    counted = by_token["counted"].values & (samples.codes[owner] >= 0)
    group, n_groups = samples.codes[owner] * tokens.n + tokens.codes, samples.n * tokens.n
    sums = {name: np.zeros((n_groups, parts.n, n_experts)) for name in (*NOTES, *names)}
    for span, part in product(sample_spans(owner), range(parts.n)):
        places = np.arange(span.start, span.stop)[counted[span]]
        members = [
            component.isel(token=places).load()
            for component, code in zip(components, parts.codes, strict=True)
            if code == part
        ]
        expert, pairs = _pair_values(members, weights[places, None], UNITS[result.attrs["unit"]].convert)
        if run.stream == "pair":
            base, is_routed = members[0]["base_expert"].values, members[0]["base_weight"].values != 0
            np.add.at(sums["base_share"], (group[places, None], part, base), weights[places, None] * is_routed)
        # A cell is a sample's tokens of one group and expert.
        of_tokens, place = np.unique(owner[places] * n_groups + group[places], return_inverse=True)
        codes = place[:, None] * n_experts + expert
        n_cells = len(of_tokens) * n_experts
        by_cell = {name: np.bincount(codes.ravel(), values.ravel(), n_cells) for name, values in pairs.items()}
        cells = np.flatnonzero(by_cell["n_tokens"])
        mean = by_cell["js"][cells] / by_cell["share"][cells]
        moments = {"n_samples": np.ones(len(cells)), "miub": mean, "miub_se": mean**2}
        at = of_tokens[cells // n_experts] % n_groups, part, cells % n_experts
        for name, values in {**{name: values[cells] for name, values in by_cell.items()}, **moments}.items():
            np.add.at(sums[name], at, values)
    n_tokens = np.bincount(group[counted], weights[counted], n_groups)[:, None, None]
    n = sums["n_samples"]
    with np.errstate(invalid="ignore", divide="ignore"):
        sums["miub"] /= n
        # Rounding of the difference is 1e-16 of the mean squared.
        sums["miub_se"] = np.sqrt(np.maximum(sums["miub_se"] - n * sums["miub"] ** 2, 0) / (n - 1) / n)
        sums["delta_ratio"] = sums["delta_norm"] / sums["base_norm"]
        sums |= {name: sums[name] / n_tokens for name in ("share", "base_share", "gained")}
    sums |= {name: sums[name].astype(np.int64) for name in ("n_samples", "n_tokens")}
    labels = {**groups.labels(), EXPERT: list(range(n_experts))}
    shape = [len(values) for values in labels.values()]
    variables = {
        name: (
            tuple(labels),
            sums[name].reshape(shape),
            {"long_name": about, "units": result.attrs["units"] if name[:4] == "miub" else "1"},
        )
        for name, about in NOTES.items()
        if run.stream == "pair" or name not in ("base_share", "gained")
    }
    return xr.Dataset(variables, coords=labels, attrs=result.attrs).transpose(*by)


def expert_places(run: Run, result: xr.DataTree) -> list[int]:
    """Return the places of a result's components that are parameters of experts whose routing the run has."""
    blocks = [block_path(path) for path in result.dataset["component"].values.tolist()]
    return [place for place, block in enumerate(blocks) if f"experts/{block}/expert" in run.arrays]


def _pair_values(
    members: Sequence[xr.Dataset], weights: np.ndarray, convert: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the experts of tokens (token, choice), and weighted values of the same shape, summed over components.

    Values are 0 where the router gives weight 0, as where LongCat's and ZAYA's choose the identity, no expert.
    """
    expert, is_routed = members[0]["expert"].values, members[0]["weight"].values != 0
    w = weights * is_routed
    values = {"share": w, "n_tokens": is_routed.astype(np.float64)}
    for name in ("base_norm", "delta_norm"):
        values[name] = w * np.sum([member[name].values for member in members], axis=0, dtype=np.float64)
    values["js"] = w * np.sum([convert(member["js"].values.astype(np.float64)) for member in members], axis=0)
    if "base_expert" in members[0]:
        base, base_weight = (members[0][f"base_{name}"].values[:, None, :] for name in ("expert", "weight"))
        values["gained"] = w * ((expert[:, :, None] != base) | (base_weight == 0)).all(axis=2)
    return expert, values
