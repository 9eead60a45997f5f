"""Truncation of an adapter to the singular directions that predictions need most."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr
from jaxtyping import Bool, Float64, Int64

from lorascope.analyze.adapters.factors import Branch, require_captured
from lorascope.analyze.adapters.truncated import n_direction_parameters, truncatable_branches, write_truncated
from lorascope.analyze.results.weights import standard_error
from lorascope.stores import Run, StoreError
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.reading.read import RunLike

from .importance import importance_by_sample


def truncate_adapter(
    path: str | Path, out: str | Path, *, run: RunLike, adapter: str | None = None, share: float = 0.99
) -> xr.Dataset:
    """Write an adapter with the singular directions that have this share of the importance; return ranks by layer.

    Parameters
    ----------
    path
        Folder of the adapter, as `adapter_report` takes it.
    out
        Folder of the new adapter, which appears when it is complete; if it is there already, nothing is written.
    run
        An open run of this adapter or its path or url, captured with `--importance`.
    adapter
        Name of the adapter in the run; not needed if there is only one.
    share
        Least share of the directions' summed importance that is kept; 1 keeps every direction of any importance.

    Returns
    -------
    xr.Dataset
        Over `component`, with the coordinates of `adapter_report`: `rank_before` and `rank` (at least 1). `lost` and
        `lost_se`, in nats a token: KL(whole || truncated) of the next token's distribution to second order, from the
        run's gradients, and its standard error over samples; NaN for one sample. Attributes: `adapter` and its
        `file_sha256`, `share`, `n_parameters_before`, `n_parameters`, `n_samples`.

    Raises
    ------
    FileNotFoundError, FileExistsError
        If there is no adapter, or `out` exists and isn't the new adapter, or another process writes it.
    DiskFullError
        If the new adapter doesn't fit the disk.
    StoreError
        If the run has no importance of every direction of the adapter.
    ValueError
        If `share` isn't above 0 and at most 1; `adapter_report` refuses the adapter; the run is another adapter's; the
        adapter is DoRA's, or its init changed the base weights, so that s B A isn't all of its change; or new weights
        are beyond their tensor's type.

    Notes
    -----
    Directions are those of the SVD of s B A, here of the core between thin QR factors, in float64. Each layer's most
    important one is kept; further ones follow over all layers in the order of importance per parameter. B' = U sqrt(S)
    and A' = sqrt(S) V^T hold the scaling (and so does a lora_B's bias): each layer's alpha is its rank, so that PEFT
    multiplies by one. A convolution's kernel is a matrix. Other tensors and settings are copied, except the init, which
    may not allow the new rank. `lost` is
    measured on each half of the samples with directions that the other half chose, as good or worse.
    """
    folder, target = Path(path), Path(out)
    if not 0 < share <= 1:
        raise ValueError(f"`share` is {share!r}; it must be above 0 and at most 1, such as 0.99")
    report, branches = truncatable_branches(folder, target)
    run = open_as_written(run)
    stored = run.importance(adapter)
    knows_hash = require_captured(folder, run, adapter or run.adapters[0], option="path")
    layer, number = _layers(run, stored, branches), stored["direction"].values
    if not knows_hash:
        _require_same_norms(run, stored, layer, branches, report)
    own = np.flatnonzero(layer >= 0)
    value = importance_by_sample(stored, np.arange(len(layer)))
    sizes = np.array([n_direction_parameters(branch) for branch in branches])

    def stay(samples: np.ndarray) -> np.ndarray:
        """Return which directions stay by the importance in some samples."""
        mask = np.ones(len(layer), bool)
        mask[own] = choose_directions(value[samples][:, own].mean(axis=0), layer[own], sizes[layer[own]], share)
        return mask

    is_even = np.arange(len(value)) % 2 == 0
    stays = stay(is_even | ~is_even)
    lost = np.full(len(value), np.nan)
    for half in (is_even, ~is_even) if len(value) > 1 else ():  # each loses what the other chose, which isn't too low
        removed = (~stay(~half)).astype(int)
        lost[half] = importance_by_sample(stored, removed)[half, 1:].sum(axis=1)  # no column if all stay
    result = write_truncated(folder, target, report, [number[stays & (layer == k)] for k in range(len(branches))])
    text = "KL(whole || truncated) of the next token's distribution, to second order"
    result["lost"] = ((), lost.mean(), {"long_name": text, "units": "nat/token"})
    result["lost_se"] = ((), standard_error(lost), {"long_name": "standard error of lost", "units": "nat/token"})
    return result.assign_attrs(
        measure="ranks of an adapter that was truncated to a share of its directions' importance",
        share=share,
        n_samples=len(lost),
    )


def choose_directions(
    value: Float64[np.ndarray, " direction"],
    layer: Int64[np.ndarray, " direction"],
    size: Int64[np.ndarray, " direction"],
    share: float,
) -> Bool[np.ndarray, " direction"]:
    """Return which directions make up a share of the summed value: each layer's largest, then by value per parameter.

    `size` is each direction's number of parameters.
    """
    order = np.lexsort([-value, layer])
    is_first = np.zeros(len(value), bool)
    is_first[order[np.unique(layer[order], return_index=True)[1]]] = True
    order = np.lexsort([-value / size, ~is_first])
    before = np.append(0, np.cumsum(value[order])[:-1])
    is_chosen = is_first.copy()
    is_chosen[order] |= (before < share * value.sum()) & (value[order] > 0)
    return is_chosen


def _layers(run: Run, stored: xr.Dataset, branches: Sequence[Branch]) -> Int64[np.ndarray, " direction"]:
    """Return the place in `branches` of each singular direction in a run's gradients; -1 for biases and other layers.

    Raises StoreError if the run lacks a direction.
    """
    layer, index = np.full(stored.sizes["direction"], -1), dict(zip(run.component_paths, range(len(run)), strict=True))
    for place, branch in enumerate(branches):
        is_own = (stored["component"].values == index.get(branch.path, -1)) & (stored["direction"].values >= 0)
        if stored["direction"].values[is_own].tolist() != list(range(branch.down.shape[0])):
            raise StoreError(
                f"{run.place.name!r} has the importance of {is_own.sum()} directions of {branch.path!r}, not of its "
                f"{branch.down.shape[0]}; capture all components with `--importance`"
            )
        layer[is_own] = place
    return layer


def _require_same_norms(
    run: Run, stored: xr.Dataset, layer: Int64[np.ndarray, " direction"], branches: Sequence[Branch], report: xr.Dataset
) -> None:
    """Raise ValueError unless the norms of s B A are those of the run, which doesn't know the adapter's hash.

    They may differ by 1 %, more than weights rounded to bfloat16; an embedding's may lack the model's own factor.
    """
    for place, (branch, norm) in enumerate(zip(branches, report["frobenius_norm"].values.tolist(), strict=True)):
        own = float(np.linalg.norm(stored["singular_value"].values[layer == place]))
        if "embedding" not in branch.extras and not math.isclose(own, norm, rel_tol=0.01, abs_tol=1e-12):
            raise ValueError(
                f"`path` is {report.attrs['adapter']!r}, another adapter: its change of {branch.path!r} has a norm of "
                f"{norm:.4g}, and {own:.4g} in {run.place.name!r}; give the captured adapter's folder"
            )


def mean_scores(measured: xr.Dataset) -> pd.DataFrame:
    """Return a table of mean CE, accuracy and KL with errors, of a whole and a truncated adapter and the difference.

    Parameters
    ----------
    measured
        What `compare_adapters` returns of adapters named `whole` and `truncated`.

    Returns
    -------
    pd.DataFrame
        One row per `adapter`, the paired difference `truncated - whole` last; columns `ce` (nats per token), `accuracy`
        (percent) and `kl` (nats), each followed by its standard error, such as `ce_se`: NaN for fewer than two samples.
    """
    lost = measured.sel(adapter="truncated") - measured.sel(adapter="whole")
    both = xr.concat([measured, lost.expand_dims(adapter=["truncated - whole"])], "adapter")
    columns: dict[str, pd.Series] = {}
    for name, values in {"ce": both["ce"], "accuracy": 100 * both["correct"], "kl": both["kl"]}.items():
        by_adapter = values.transpose("adapter", "sample").to_pandas()
        columns |= {name: by_adapter.mean(axis=1), f"{name}_se": by_adapter.sem(axis=1)}
    return pd.DataFrame(columns)
