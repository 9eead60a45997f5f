"""A merged model's weights, layer by layer, compared with PEFT's own merge of the adapter into its base."""

import copy
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import torch
import xarray as xr
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert

from lorascope.stores.format.spec import block_path
from lorascope.stores.names import require_choice
from lorascope.stores.progress import Progress

from .errors import AdapterError
from .models.adapter import read_adapter
from .models.checkpoint import (
    map_weights,
    merge_type,
    model_folder,
    other_settings,
    read_weight,
    round_weight,
    type_name,
)
from .models.model import model_on_meta, read_config
from .models.refusal import adapter_tensors, is_residual, lora_layers, raise_for_problems
from .models.weights import plain_path, state_tensors
from .planning.meta import attach_on_meta

MERGE_TYPES = ("float32", "float16", "bfloat16", "int8")
"""Types in which a merge can be foretold; `int8` is LLM.int8 of bitsandbytes, as transformers loads it."""
NUMBERS = ("arrived", "residual", "size", "n_weights", "n_unequal")
"""Numbers of each component."""
TEXTS = ("dtype", "verdict", "explanation")
"""Texts of each component."""
OPENINGS = {
    "adapter": "It is the adapter",
    "rounded": "It is the adapter, but rounding takes most of it",
    "not the adapter": "It isn't the adapter",
    "unknown": "Can't tell whether it is the adapter",
}
"""Verdict on a model -> how its sentence begins."""
OF_INT8 = (".SCB", ".weight_format")
"""Endings of tensors that LLM.int8 adds to a weight."""
MARGIN, N_ERRORS = 1.25, 6
"""How much larger than in sound merges `residual` may be, and how many of its standard errors `arrived` may be off."""


def compare_merged(
    adapter: str | Path, model: str, merged: str | Path, *, progress: Progress | None = None
) -> xr.Dataset:
    """Compare a merged model's weights with the adapter and base it should consist of; return a verdict by layer.

    Weights are read from the files one at a time, and PEFT merges each again.

    Parameters
    ----------
    adapter
        Folder of a LoRA adapter.
    model
        The base model: a hub id, a local folder, or a `.gguf` file.
    merged
        Folder with the merged model in safetensors, in floats or in 8 bits by bitsandbytes.
    progress
        Called with the numbers of compared and of all tensors.

    Returns
    -------
    xr.Dataset
        Over `component`, each weight (and bias) that the adapter changes. With base W0, the change P = PEFT's merge in
        float64 - W0, and the merged W1: `arrived` = <W1 - W0, P> / <P, P>; `residual` = |W1 - W0 - arrived P| / |P|;
        `size` = |P| / |W0|; `n_weights`; `n_unequal`, numbers that aren't bit for bit those of PEFT's merge in the type
        of W1; `dtype` of W1; `explanation`; `verdict`: `adapter`, `rounded` (as PEFT merges, but rounding takes more
        than half of the change, or its error is larger), `base`, `scaled`, `else`, `missing` or `not compared`. Over
        `other`, tensors outside of the adapter that aren't the base's: `difference`. Attributes: `verdict` (`adapter`,
        `rounded`, `not the adapter` or `unknown`), `sentence`, and `arrived` and `residual` of all layers together.

    Raises
    ------
    AdapterError, ValueError, FileNotFoundError
        If the adapter doesn't fit the base, its init changed the base (PiSSA), or a model's files can't be read.
    """
    folder = Path(merged)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ValueError(f"`merged` is {str(folder)!r}; give a folder with 'config.json' and safetensors")
    merge = _open_merge(adapter, model, folder)
    return _compare(merge, "", progress, {"adapter": str(adapter), "model": model, "merged": str(folder)})


def check_merge(adapter: str | Path, model: str, dtype: str, *, progress: Progress | None = None) -> xr.Dataset:
    """Merge an adapter into its base in a type, layer by layer, and return what rounding does, as `compare_merged`.

    `dtype` is one of `MERGE_TYPES`. In `int8`, linear layers are quantised, merged and quantised again, as PEFT does
    with a model that was loaded in 8 bits. Other parameters and errors are those of `compare_merged`.
    """
    require_choice("dtype", dtype, MERGE_TYPES)
    return _compare(_open_merge(adapter, model), dtype, progress, {"adapter": str(adapter), "model": model})


class _Merge(NamedTuple):
    """A base, an adapter and perhaps a merged model; tensors by the names of the model's parameters."""

    names: tuple[str, ...]
    base: Mapping[str, torch.Tensor]
    """The base's tensors, as in its files."""
    merged: Mapping[str, torch.Tensor]
    """The merged model's; empty if a merge is foretold."""
    layers: Mapping[str, Any]
    """Name of a tensor -> PEFT's layer that changes it, on the meta device."""
    trained: Mapping[int, torch.Tensor]
    """Identity of such a layer's own parameter -> its trained numbers."""
    replaced: Mapping[str, torch.Tensor]
    """The adapter's own versions of tensors (`modules_to_save`, `bias`)."""
    refused: Mapping[str, str]
    """Path of a module that the adapter changes in a way that isn't replayed -> why."""
    axes: Mapping[str, int]
    """Name of a weight that LLM.int8 quantises -> its axis of inputs."""
    settings: tuple[str, ...]
    """Settings of config.json, such as `rms_norm_eps=1e-05`, in which the merged model isn't the base."""


def _open_merge(adapter: str | Path, source: str, merged: Path | None = None) -> _Merge:
    """Return what merges the adapter in a folder into a base; raise AdapterError if it doesn't fit."""
    config, stored = read_adapter(adapter)
    if is_residual(config):
        raise AdapterError(
            f"the init {config.init_lora_weights!r} of adapter {str(adapter)!r} changed its base, and isn't replayed; "
            "save it with PEFT's `path_initial_model_for_weight_conversion`"
        )
    folder = model_folder(source)
    own = read_config(str(folder), trust_remote_code=False, local_files_only=True)
    settings = () if merged is None else other_settings(own, merged)
    model = model_on_meta(own, torch.float32)
    names, whole = tuple(state_tensors(model)), tuple(get_keys_to_not_convert(model))
    axes = {
        f"{path}.weight": 0 if isinstance(module, Conv1D) else 1
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not path.endswith(whole)
    }
    base, after = map_weights(folder, model), {} if merged is None else map_weights(merged, model)
    adapted, problems = attach_on_meta(model, {"default": str(adapter)})
    raise_for_problems(problems, str(adapter))
    layers: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for path, layer in lora_layers(adapted).items():
        if f"{path}.weight" not in names or not hasattr(layer.get_base_layer(), "weight"):
            refused[path] = f"PEFT's {type(layer).__name__} isn't replayed"
            continue
        layers |= {f"{path}.{leaf}": layer for leaf in ("weight", *["bias"] * bool(layer.lora_bias.get("default")))}
    tensors = {plain_path(key).replace(".base_layer.", "."): tensor for key, tensor in stored.items()}
    replaced = {key: tensor for key, tensor in tensors.items() if ".lora_" not in key}
    unknown = {key.partition(".token_adapter")[0] for key in replaced.keys() - {*names}}
    refused |= dict.fromkeys(sorted(unknown), "trained tokens aren't replayed")
    expected = adapter_tensors(adapted, "default").items()
    trained = {id(empty): tensors[key] for key, empty in expected if key in tensors and ".lora_" in key}
    return _Merge(names, base, after, layers, trained, replaced, refused, axes, settings)


def _compare(merge: _Merge, dtype: str, progress: Progress | None, attrs: dict[str, Any]) -> xr.Dataset:
    """Return the Dataset of `compare_merged`; without a merged model, of the merge replayed in `dtype`."""
    unknown = {"verdict": "not compared"}
    rows: dict[str, dict[str, Any]] = {path: unknown | {"explanation": why} for path, why in merge.refused.items()}
    others: dict[str, str] = {}
    parts = (merge.base.keys() | merge.merged.keys()) - {*merge.names} if merge.merged else set()
    names = [*merge.names, *sorted(name for name in parts if not name.endswith(OF_INT8))]
    skipped = [f"{path}." for path in merge.refused]
    skipped += [f"{block}.experts." for path in merge.refused if (block := block_path(path))]
    for n_done, name in enumerate(names):
        path = name.removesuffix(".weight")
        try:
            if name in merge.layers or name in merge.replaced:
                rows[path] = _compare_component(merge, name, dtype)
            elif merge.merged and not name.startswith((*skipped,)) and (difference := _compare_other(merge, name)):
                others[name] = difference
        except (ValueError, NotImplementedError) as error:  # quantised, or a variant that PEFT can't merge
            skipped.append(f"{path}.")
            rows[path] = unknown | {"explanation": " ".join(str(error).split()) or type(error).__name__}
        if progress is not None:
            progress(n_done + 1, len(names))
    return _summarize(rows, others, merge.settings, attrs)


def _base_weight(merge: _Merge, name: str) -> torch.Tensor:
    """Return a tensor of the base; raise ValueError if its files lack it."""
    if (stored := read_weight(merge.base, name, merge.axes.get(name))) is None:
        raise ValueError("the base's files have no such tensor")
    return stored[0]


def _replay(merge: _Merge, name: str, dtype: str) -> torch.Tensor:
    """Return a tensor as PEFT merges it into the base in a type."""

    def start(name: str) -> torch.Tensor:
        """Return a tensor before the merge."""
        values = merge.replaced[name] if name in merge.replaced else _base_weight(merge, name)
        return round_weight(values, dtype, merge.axes.get(name))

    if (layer := merge.layers.get(name)) is None:
        return start(name)
    path, _, leaf = name.rpartition(".")
    own = layer.get_base_layer().named_parameters(recurse=False)
    values = {id(empty): start(f"{path}.{local}").clone() for local, empty in own}
    for key in {id(parameter) for parameter in layer.parameters()} & merge.trained.keys():
        values[key] = merge.trained[key].to(torch.float64 if dtype == "float64" else torch.float32)
    real = copy.deepcopy(layer, {key: nn.Parameter(tensor, requires_grad=False) for key, tensor in values.items()})
    with torch.no_grad():
        real.merge()
    return round_weight(getattr(real.get_base_layer(), leaf).data, dtype, merge.axes.get(name))


def _compare_component(merge: _Merge, name: str, dtype: str) -> dict[str, Any]:
    """Return the row of a tensor that the adapter changes: its numbers, verdict and explanation."""
    axis, exact = merge.axes.get(name), _replay(merge, name, "float64")
    start = _base_weight(merge, name)
    stored = read_weight(merge.merged, name, axis)
    if stored is not None and stored[0].shape == start.shape:
        dtype = merge_type(*stored, start)
    elif merge.merged:
        return {"verdict": "missing", "explanation": f"there is no such weight of shape {tuple(start.shape)}"}
    elif dtype == "int8" and axis is None:
        dtype = type_name(start)
    replayed, change = _replay(merge, name, dtype), exact - start
    merged = replayed if stored is None else stored[0]
    shares = [_share(values, start, change) for values in (merged, replayed, round_weight(exact, dtype, axis))]
    n_unequal = int((merged != replayed).sum())
    size = float(change.norm() / start.double().norm())
    row: dict[str, Any] = dict(zip(NUMBERS, (*shares[0], size, start.numel(), n_unequal), strict=True))
    row |= {"norm": float(change.norm()), "dtype": dtype, "verdict": _judge(shares, start.numel(), dtype)}
    if not change.any():
        return row | {"verdict": "else" if n_unequal else "adapter", "explanation": "the adapter changes nothing"}
    return row | {"explanation": "" if merged.isfinite().all() else "NaN or infinite numbers"}


def _share(values: torch.Tensor, start: torch.Tensor, change: torch.Tensor) -> tuple[float, float]:
    """Return `arrived` and `residual` of numbers that a float64 change leads to from `start`."""
    moved = values.double() - start
    arrived = float((moved * change).sum() / change.square().sum())
    return arrived, float((moved - arrived * change).norm() / change.norm())


def _judge(shares: Sequence[tuple[float, float]], n_weights: int, dtype: str) -> str:
    """Return the verdict on a weight by its `_share`, and those of PEFT's merge and of the exact one, rounded once."""
    (arrived, residual), replayed, rounded = shares
    finfo = torch.finfo(torch.float16 if dtype == "int8" else getattr(torch, dtype))
    tolerance = MARGIN * max(replayed[1], rounded[1]) + 4 * finfo.eps + 1e-6
    slack = N_ERRORS * tolerance / math.sqrt(n_weights)
    low, high = sorted([replayed[0], rounded[0]])
    if residual <= tolerance and low - slack <= arrived <= high + slack:
        return "adapter" if arrived >= 0.5 and math.hypot(residual, 1 - arrived) < 1 else "rounded"
    if not residual <= tolerance * max(1, abs(arrived)):  # also NaN
        return "else"
    return "base" if abs(arrived) <= slack else "scaled"


def _compare_other(merge: _Merge, name: str) -> str:
    """Return how a tensor outside of the adapter differs from the base's; "" if it is that, maybe in another type."""
    axis = merge.axes.get(name)
    before, after = read_weight(merge.base, name, axis), read_weight(merge.merged, name, axis)
    if before is None:
        return "it isn't in the base" if after else ""
    start = before[0].double()
    if after is None or after[0].shape != start.shape:
        return f"there is no such tensor of shape {tuple(start.shape)}"
    values, rounded = after[0], round_weight(before[0], merge_type(*after, before[0]), axis)
    if torch.equal(rounded.to(values.dtype), values):
        return ""
    noise, off = (tensor.double() - start for tensor in (rounded, values))
    if off.norm() <= MARGIN * noise.norm():  # rounded twice, or on another device
        return ""
    return f"it differs by {float(off.norm() / start.norm()):.2g} of its norm, in {int(off.count_nonzero()):,} numbers"


def _summarize(
    rows: Mapping[str, Mapping[str, Any]], others: Mapping[str, str], settings: Sequence[str], attrs: dict[str, Any]
) -> xr.Dataset:
    """Return the Dataset of `compare_merged` from the rows of its components."""
    empty: dict[str, Any] = dict.fromkeys((*NUMBERS, "norm"), math.nan) | dict.fromkeys(TEXTS, "")
    frame = pd.DataFrame([{**empty, **row} for row in rows.values()], [*rows], [*empty])
    parts = [path.split(".") for path in rows]
    frame["kind"] = [".".join(names[-2:] if names[-1] == "bias" else names[-1:]) for names in parts]
    frame["layer"] = [next((int(name) for name in names if name.isdecimal()), -1) for names in parts]
    counts, weights = Counter(frame["verdict"]), frame["norm"] ** 2
    if others or counts.keys() - {"adapter", "rounded", "not compared"}:
        verdict = "not the adapter"
    elif counts["not compared"] or not counts or settings:
        verdict = "unknown"
    else:
        verdict = "rounded" if counts["rounded"] else "adapter"
    if weights.sum():
        attrs["arrived"] = float((weights * frame["arrived"]).sum() / weights.sum())
        attrs["residual"] = math.sqrt((weights * frame["residual"] ** 2).sum() / weights.sum())
    opening = OPENINGS[verdict] if "merged" in attrs else OPENINGS[verdict].replace("It is", "It would be")
    sentence = f"{opening} (layers: {', '.join(f'{n} {name}' for name, n in sorted(counts.items()))})"
    if counts["scaled"]:
        sentence += f"; scaled by {frame['arrived'][frame['verdict'] == 'scaled'].median():.3g} in the median"
    if settings:
        sentence += f"; config.json isn't the base's: {', '.join(settings)}"
    if others:
        sentence += f"; other tensors that aren't the base's: {len(others)}, such as {next(iter(others))}"
    elif weights.sum() and verdict in ("adapter", "rounded"):
        if "merged" in attrs:
            sentence += f"; {(frame['n_unequal'] == 0).sum()} bit for bit as PEFT merges here"
        arrived, residual = (f"{100 * attrs[name]:.3g} %" for name in ("arrived", "residual"))
        dtypes = " and ".join(filter(None, frame["dtype"].unique()))
        sentence += f"; in {dtypes}, {arrived} of the change arrives, with rounding noise of {residual} of its size"
    result: xr.Dataset = frame.drop(columns="norm").rename_axis("component").to_xarray().set_coords(["kind", "layer"])
    result["difference"] = xr.DataArray(np.array([*others.values()], dtype=object), {"other": [*others]})
    result.attrs = attrs | {"verdict": verdict, "sentence": sentence}
    return result
