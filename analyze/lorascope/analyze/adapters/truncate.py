"""Truncation of an adapter: keep the largest singular directions of each layer's change, in a folder for PEFT."""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr
from jaxtyping import Float64
from safetensors import TensorSpec, serialize

from lorascope.analyze.results.options import refuse_unwritable
from lorascope.stores import Problem, StoreError
from lorascope.stores.adapter_settings import CONFIG, has_residual_init
from lorascope.stores.places.file_lock import file_lock
from lorascope.stores.places.files import atomic_write, read_regular

from .adapter import adapter_report
from .factors import (
    BASE_LAYER,
    DTYPES,
    PREFIX,
    TENSOR_KEY,
    WEIGHTS,
    Branch,
    StoredTensor,
    group_tensors,
    module_scaling,
    narrow_factor,
    raise_problems,
    read_factor,
    read_settings,
    read_tensors,
)

RECORD = "finetune.json"
"""File that `finetune` writes into an adapter's folder; it lists for instance which base layers shared weights."""


def truncate_adapter(path: str | Path, out: str | Path, *, share: float = 0.99) -> xr.Dataset:
    """Write an adapter of smaller rank that keeps this share of each layer's squared norm; return ranks by layer.

    Parameters
    ----------
    path
        Folder of the adapter, as `adapter_report` takes it.
    out
        Folder of the new adapter, which appears when it is complete; if it is there already, nothing is written.
    share
        Least share of the squared Frobenius norm of s B A that each layer keeps; 1 keeps everything but rounding.

    Returns
    -------
    xr.Dataset
        Over `component`, with the coordinates of `adapter_report`: `rank_before`, `rank` (at least 1), and `kept`, the
        remaining share of the squared norm before rounding to the tensors' types (NaN where s B A is zero).
        Attributes: `adapter` and its `file_sha256`, `share`, `n_parameters_before`, `n_parameters`.

    Raises
    ------
    FileNotFoundError, FileExistsError
        If there is no adapter, or `out` exists and isn't the new adapter, or another process writes it.
    DiskFullError
        If the new adapter doesn't fit the disk.
    ValueError
        If `share` isn't above 0 and at most 1; `adapter_report` refuses the adapter; it is DoRA's, or its init changed
        the base weights, so that s B A isn't all of its change; or new weights are beyond their tensor's type.

    Notes
    -----
    The truncated SVD is the best approximation of its rank in the Frobenius norm (Eckart & Young 1936, Psychometrika
    1(3)), here of the core between thin QR factors, in float64. B' = U sqrt(S) and A' = sqrt(S) V^T hold the scaling
    (and so does a lora_B's bias): each layer's alpha is its rank, so that PEFT multiplies by one. A convolution's
    kernel is a matrix. Other tensors and settings are copied, except the init, which may not allow the new rank.
    """
    folder, target = Path(path), Path(out)
    if not 0 < share <= 1:
        raise ValueError(f"`share` is {share!r}; it must be above 0 and at most 1, such as 0.99")
    if os.path.lexists(target) and not (target / WEIGHTS).is_file():
        raise FileExistsError(f"`out` is {str(target)!r}, which is there already; name a new folder")
    refuse_unwritable(target, "out")
    report = adapter_report(folder)
    settings, keys = json.loads(report.attrs["config"]), read_tensors(folder)
    branches = group_tensors(keys)[0]
    raise_problems(_truncation_problems(settings, keys, branches), folder)
    try:
        stored, ranks, shares_left = _truncate_all(folder, settings, keys, branches, share)
    except FloatingPointError as error:
        message = "its truncated weights are beyond the type of the whole ones; save it in float32 first"
        raise ValueError(f"adapter {str(folder)!r} can't be truncated: {message}") from error
    specs = {
        key: TensorSpec(
            dtype=DTYPES[keys[key].dtype][0], shape=tensor.shape, data_ptr=tensor.ctypes.data, data_len=tensor.nbytes
        )
        for key, tensor in stored.items()
    }
    changed = _truncated_settings(settings, {branch.path: rank for branch, rank in zip(branches, ranks, strict=True)})
    files = {
        WEIGHTS: serialize(specs, metadata={"format": "pt"}),
        CONFIG: (json.dumps(changed, indent=2) + "\n").encode(),
    }
    if (folder / RECORD).is_file():
        files[RECORD] = (folder / RECORD).read_bytes()
    with file_lock(target):
        if not os.path.lexists(target):
            with atomic_write(target, flush=True) as partial:
                partial.mkdir()
                for name, content in files.items():
                    (partial / name).write_bytes(content)
                read_settings(partial)  # refuses patterns of too many layers: PEFT tries each on each layer
        elif not _has_files(target, files):
            raise FileExistsError(
                f"`out` is {str(target)!r}, which is there already and isn't this truncation's; name a new folder"
            )
    result = report[["rank"]].rename(rank="rank_before")
    result["rank"] = "component", ranks, {"long_name": "rank of the truncated A and B", "units": "1"}
    result["kept"] = (
        "component",
        shares_left,
        {"long_name": "share of the squared Frobenius norm that is left", "units": "1"},
    )
    return result.assign_attrs(
        {name: report.attrs[name] for name in ("adapter", "file_sha256", "lorascope")},
        measure="ranks of an adapter that was truncated to a share of each layer's squared norm",
        share=share,
        n_parameters_before=report.attrs["n_parameters"],
        n_parameters=sum(tensor.size for key, tensor in stored.items() if ".lora_" in key),
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


def _has_files(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Return whether each of these files is in a folder with this content."""
    try:
        return all(read_regular(folder / name, at_most=len(content)) == content for name, content in files.items())
    except (FileNotFoundError, StoreError):  # missing, or larger
        return False


def _truncation_problems(
    settings: Mapping[str, Any], keys: Mapping[str, StoredTensor], branches: Sequence[Branch]
) -> Iterator[Problem]:
    """Yield a `Problem` for each reason why an adapter's change s B A can't be truncated, or a tensor not copied."""
    if has_residual_init(settings):
        message = "the init {!r} changed the base weights, so that s B A isn't the change of the checkpoint"
        yield Problem("init_lora_weights", "init", message.format(settings.get("init_lora_weights")))
    for branch in branches:
        if settings.get("use_dora") or "magnitude_vector" in branch.extras:
            yield Problem(branch.path, "dora", "DoRA's magnitudes belong to the whole change, not to a part of it")
    for key, tensor in keys.items():
        if tensor.dtype not in DTYPES:
            yield Problem(key, "dtype", f"type {tensor.dtype!r} can't be copied; allowed are {', '.join(DTYPES)}")


def _truncate_all(
    folder: Path,
    settings: Mapping[str, Any],
    keys: Mapping[str, StoredTensor],
    branches: Sequence[Branch],
    share: float,
) -> tuple[dict[str, np.ndarray], list[int], list[float]]:
    """Return the truncated adapter's tensors by key, and for each layer its rank and remaining share of the norm."""
    key_of, ranks, shares_left = {tensor: key for key, tensor in keys.items()}, [], []
    stored: dict[str, np.ndarray] = {}
    with (folder / WEIGHTS).open("rb") as file:
        for key, tensor in keys.items():
            match = TENSOR_KEY.fullmatch(key.removeprefix(PREFIX))
            if match is None:
                file.seek(tensor.start)
                bits = np.fromfile(file, DTYPES[tensor.dtype][1], count=math.prod(tensor.shape))
                stored[key] = bits.reshape(tensor.shape)
            elif match["leaf"] == "bias":  # PEFT multiplies it by the scaling too
                scaling = module_scaling(settings, BASE_LAYER.sub("", match["path"]))
                stored[key] = narrow_factor(scaling * read_factor(file, tensor)[:, 0], tensor.dtype)
        for path, down, up, _ in branches:
            B, A, left = _truncate_factors(
                read_factor(file, up), read_factor(file, down), module_scaling(settings, path), share
            )
            stored[key_of[down]] = narrow_factor(A.reshape(-1, *down.shape[1:]), down.dtype)
            stored[key_of[up]] = narrow_factor(B.reshape(*B.shape, *up.shape[2:]), up.dtype)
            ranks.append(len(A))
            shares_left.append(left)
    return stored, ranks, shares_left


def _truncate_factors(
    B: Float64[np.ndarray, "d_out rank"], A: Float64[np.ndarray, "rank d_in"], scaling: float, share: float
) -> tuple[Float64[np.ndarray, "d_out few"], Float64[np.ndarray, "few d_in"], float]:
    """Return B and A of the fewest singular directions of scaling * B A with this share of its squared norm.

    The third value is the share that they have.
    """
    (left, R_B), (right, R_A) = np.linalg.qr(B), np.linalg.qr(A.T)
    U, sigma, V = np.linalg.svd(scaling * (R_B @ R_A.T), full_matrices=False)
    ratios = sigma / (sigma[0] or 1.0)  # so that squares neither overflow nor vanish
    ratios[ratios < np.finfo(np.float64).eps * max(*A.shape, *B.shape)] = 0  # zero to rounding
    lost = np.append(np.cumsum(np.square(ratios)[::-1])[::-1], 0.0)  # indexed by the new rank
    rank = max(1, int(np.argmax(lost <= (1 - share) * lost[0])))
    root = np.sqrt(sigma[:rank])
    share_left = float(1 - lost[rank] / lost[0]) if lost[0] else float("nan")
    return (left @ U[:, :rank]) * root, root[:, None] * (V[:rank] @ right.T), share_left


def _truncated_settings(settings: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Any]:
    """Return a PEFT configuration like `settings`, with these ranks by module path and scaling 1 everywhere."""
    counts = Counter(ranks.values())
    usual = max(counts, key=lambda rank: (counts[rank], rank))
    # Without `^`, PEFT would match the end of another layer's path.
    pattern = {f"^{re.escape(path)}": rank for path, rank in ranks.items() if rank != usual}
    unused = {"use_rslora": False, "init_lora_weights": True, "eva_config": None}
    changed = {"r": usual, "lora_alpha": usual, "rank_pattern": pattern, "alpha_pattern": pattern}
    return {**settings, **{name: value for name, value in unused.items() if name in settings}, **changed}
