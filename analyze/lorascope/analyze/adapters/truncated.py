"""An adapter of fewer singular directions in each layer's change, written in a folder for PEFT."""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Int64
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


def truncatable_branches(folder: Path, target: Path) -> tuple[xr.Dataset, list[Branch]]:
    """Return the `adapter_report` of an adapter that can be truncated into the folder `target`, and its layers.

    Raises as `truncate_adapter`; it may be that `target` is there, if it is an adapter's folder.
    """
    if os.path.lexists(target) and not (target / WEIGHTS).is_file():
        raise FileExistsError(f"`out` is {str(target)!r}, which is there already; name a new folder")
    refuse_unwritable(target, "out")
    report = adapter_report(folder)
    keys = read_tensors(folder)
    settings = json.loads(report.attrs["config"])
    branches = group_tensors(keys, settings)[0]
    raise_problems(_truncation_problems(settings, keys, branches), folder)
    return report, branches


def n_direction_parameters(branch: Branch) -> int:
    """Return the number of parameters of one direction of a layer."""
    return math.prod(branch.down.shape[1:]) + math.prod(branch.up.shape) // branch.up.shape[1]


def write_truncated(
    folder: Path, target: Path, report: xr.Dataset, chosen: Sequence[Int64[np.ndarray, " few"]]
) -> xr.Dataset:
    """Write the adapter of a folder with the chosen singular directions of each layer; return ranks by layer.

    `report` is what `adapter_report` returns of it, `chosen` the directions' numbers by descending singular value.
    Raises as `truncate_adapter`.
    """
    settings, keys = json.loads(report.attrs["config"]), read_tensors(folder)
    branches = group_tensors(keys, settings)[0]
    try:
        stored = _truncate_all(folder, settings, keys, branches, chosen)
    except FloatingPointError as error:
        message = "its truncated weights are beyond the type of the whole ones; save it in float32 first"
        raise ValueError(f"adapter {str(folder)!r} can't be truncated: {message}") from error
    specs = {
        key: TensorSpec(
            dtype=DTYPES[keys[key].dtype][0], shape=tensor.shape, data_ptr=tensor.ctypes.data, data_len=tensor.nbytes
        )
        for key, tensor in stored.items()
    }
    ranks = [len(numbers) for numbers in chosen]
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
    return result.assign_attrs(
        {name: report.attrs[name] for name in ("adapter", "file_sha256", "lorascope")},
        n_parameters_before=report.attrs["n_parameters"],
        n_parameters=sum(tensor.size for key, tensor in stored.items() if ".lora_" in key),
    )


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
    if settings.get("target_parameters"):
        message = "LoRA on parameters, such as those of experts, can't be truncated, only that on layers"
        yield Problem("target_parameters", "parameters", message)
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
    chosen: Sequence[Int64[np.ndarray, " few"]],
) -> dict[str, np.ndarray]:
    """Return the truncated adapter's tensors by key; each layer keeps its chosen directions."""
    key_of = {tensor: key for key, tensor in keys.items()}
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
        for (path, down, up, _), numbers in zip(branches, chosen, strict=True):
            (left, R_B), (right, R_A) = np.linalg.qr(read_factor(file, up)), np.linalg.qr(read_factor(file, down).T)
            U, sigma, V = np.linalg.svd(module_scaling(settings, path) * (R_B @ R_A.T), full_matrices=False)
            root = np.sqrt(sigma[numbers])
            B, A = (left @ U[:, numbers]) * root, root[:, None] * (V[numbers] @ right.T)
            stored[key_of[down]] = narrow_factor(A.reshape(-1, *down.shape[1:]), down.dtype)
            stored[key_of[up]] = narrow_factor(B.reshape(*B.shape, *up.shape[2:]), up.dtype)
    return stored


def _truncated_settings(settings: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Any]:
    """Return a PEFT configuration like `settings`, with these ranks by module path and scaling 1 everywhere."""
    counts = Counter(ranks.values())
    usual = max(counts, key=lambda rank: (counts[rank], rank))
    # Without `^`, PEFT would match the end of another layer's path.
    pattern = {f"^{re.escape(path)}": rank for path, rank in ranks.items() if rank != usual}
    unused = {"use_rslora": False, "init_lora_weights": True, "eva_config": None}
    changed = {"r": usual, "lora_alpha": usual, "rank_pattern": pattern, "alpha_pattern": pattern}
    return {**settings, **{name: value for name, value in unused.items() if name in settings}, **changed}
