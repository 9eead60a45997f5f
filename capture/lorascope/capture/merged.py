"""A merged model's weights, layer by layer, compared with PEFT's own merge of the adapter into its base."""

import copy
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from peft.tuners.lora.layer import Linear
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert

from lorascope.stores.names import require_choice
from lorascope.stores.progress import Progress

from .errors import AdapterError
from .models.adapter import read_adapter
from .models.checkpoint import MOST_INT8, Checkpoint, model_folder, open_checkpoint
from .models.model import read_config
from .models.refusal import adapter_tensors, is_residual, lora_layers, raise_for_problems
from .models.weights import plain_path, state_tensors
from .planning.meta import attach_on_meta, model_on_meta

MERGE_TYPES = ("float32", "float16", "bfloat16", "int8")
"""Types in which a merge can be foretold; `int8` is LLM.int8 of bitsandbytes, as transformers loads it."""
NUMBERS = ("arrived", "residual", "replayed_arrived", "replayed_residual", "size", "n_weights", "n_unequal")
"""Numbers of each component."""
N_BLOCK, N_ROWS = 2**22, 64
"""Numbers of a weight that are compared at a time, and rows in which a wrong change is searched in other layers."""
HOEFFDING = 6
"""Largest difference of `arrived` from those of sound merges, in units of the root mean square of what rounding can do
to a weight, over |P|. By Hoeffding's inequality, rounding exceeds it in 3 of 10⁸ layers."""


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
        `replayed_arrived` and `replayed_residual`, both for PEFT's merge in the type of W1, so what rounding does;
        `size` = |P| / |W0|; `n_weights`; `n_unequal`, numbers that aren't the replayed merge's bit for bit; `dtype` of
        W1; `explanation`; `verdict`: `adapter`, `rounded` (as PEFT merges, but rounding takes more than half of the
        change, or its error is larger), `base`, `scaled`, `else`, `missing` or `not compared`. Over `other`, tensors
        outside of the adapter that aren't the base's: `difference`. Attributes: `verdict` (`adapter`, `rounded`,
        `not the adapter` or `unknown`), `sentence`, and numbers of all layers together.

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
    """All that is needed to merge an adapter into its base, a tensor at a time."""

    base: Checkpoint
    merged: Checkpoint | None
    names: tuple[str, ...]
    """Names of the base's tensors."""
    layers: Mapping[str, Any]
    """Name of a base tensor -> PEFT's layer that changes it, on the meta device."""
    trained: Mapping[int, torch.Tensor]
    """Identity of such a layer's own parameter -> its trained numbers."""
    replaced: Mapping[str, torch.Tensor]
    """Name of a base tensor -> the adapter's own version of it (`modules_to_save`, `bias`)."""
    refused: Mapping[str, str]
    """Path of a module that the adapter changes in a way that isn't replayed -> why."""
    linear: Mapping[str, int]
    """Name of a weight that LLM.int8 quantises -> its axis of inputs."""

    def base_tensor(self, name: str) -> torch.Tensor:
        """Return a tensor of the base; raise ValueError if no file has one that can be read."""
        if (stored := self.base.read(name)) is None:
            raise ValueError("the base's files have no such tensor")
        return stored[0]

    def merged_tensor(self, name: str, base: torch.Tensor) -> tuple[torch.Tensor, str] | None:
        """Return a tensor of the merged model and its type; None if no file has it in the base's shape.

        If the numbers fit a narrower type than float32 and aren't the base's, it was merged in that type.
        """
        stored = None if self.merged is None else self.merged.read(name)
        if stored is None:
            return None
        values, dtype = stored
        if dtype == "int8" and self.linear.get(name) == 0:
            values = values.T
        if dtype == "float32" and not torch.equal(values, base.float()):
            narrow = [
                kind for kind in ("bfloat16", "float16") if torch.equal(values, self.cast("", values, kind).float())
            ]
            dtype = (*narrow, dtype)[0]
        return (values, dtype) if values.shape == base.shape else None

    def replay(self, name: str, dtype: str) -> torch.Tensor:
        """Return a tensor as PEFT merges it into the base in a type."""
        layer, (path, _, leaf) = self.layers.get(name), name.rpartition(".")
        if layer is None:
            return self.cast(name, self.replaced[name] if name in self.replaced else self.base_tensor(name), dtype)
        own: dict[int, torch.Tensor] = {}
        for local, empty in layer.get_base_layer().named_parameters(recurse=False):
            whole = f"{path}.{local}"
            start = self.replaced[whole] if whole in self.replaced else self.base_tensor(whole)
            own[id(empty)] = self.cast(whole, start, dtype).clone()
        for key in {id(parameter) for parameter in layer.parameters()} & self.trained.keys():
            own[key] = self.trained[key].to(torch.float64 if dtype == "float64" else torch.float32)
        real = copy.deepcopy(layer, {key: nn.Parameter(values, requires_grad=False) for key, values in own.items()})
        with torch.no_grad():
            real.merge()
        return self.cast(name, getattr(real.get_base_layer(), leaf).data, dtype)

    def cast(self, name: str, values: torch.Tensor, dtype: str) -> torch.Tensor:
        """Return numbers rounded to a type; in LLM.int8, what its integers stand for, float32."""
        if dtype != "int8":
            return values.to(getattr(torch, dtype))
        if name not in self.linear:
            return values
        half = values.half()  # as bitsandbytes does
        scale = half.abs().amax(self.linear[name], keepdim=True).float()
        return (half * (MOST_INT8 / scale)).round().nan_to_num(0) * scale * (1 / MOST_INT8)

    def factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return float32 A (rank, input) and s B (output, rank) of a linear layer's weight; None for other tensors."""
        layer = self.layers.get(name)
        if not isinstance(layer, Linear) or not name.endswith("weight"):
            return None
        down, up = (self.trained[id(part["default"].weight)].float() for part in (layer.lora_A, layer.lora_B))
        return down, up * layer.scaling["default"]


def _open_merge(adapter: str | Path, source: str, merged: Path | None = None) -> _Merge:
    """Return what merges the adapter in a folder into a base; raise AdapterError if it doesn't fit."""
    config, stored = read_adapter(adapter)
    if is_residual(config):
        raise AdapterError(
            f"the init {config.init_lora_weights!r} of adapter {str(adapter)!r} changed its base, and isn't replayed; "
            "save it with PEFT's `path_initial_model_for_weight_conversion`"
        )
    folder = model_folder(source)
    model = model_on_meta(read_config(str(folder), trust_remote_code=False, local_files_only=True), torch.float32)
    base, checkpoint = open_checkpoint(folder, model), None if merged is None else open_checkpoint(merged, model)
    names, unquantised = tuple(state_tensors(model)), get_keys_to_not_convert(model)
    linear = {
        f"{path}.weight": 0 if isinstance(module, Conv1D) else 1
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not path.endswith(tuple(unquantised))
    }
    adapted, problems = attach_on_meta(model, {"default": str(adapter)})
    raise_for_problems(problems, str(adapter))
    tensors = {plain_path(key).replace(".base_layer.", "."): tensor for key, tensor in stored.items()}
    layers: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for path, layer in lora_layers(adapted).items():
        if f"{path}.weight" not in names or not hasattr(layer.get_base_layer(), "weight"):
            refused[path] = f"PEFT's {type(layer).__name__} isn't replayed"
            continue
        layers |= {f"{path}.{leaf}": layer for leaf in ("weight", *["bias"] * bool(layer.lora_bias.get("default")))}
    others = {key: tensor for key, tensor in tensors.items() if ".lora_" not in key}
    refused |= {
        key.partition(".token_adapter")[0]: "trained tokens aren't replayed" for key in others if key not in names
    }
    replaced = {key: tensor for key, tensor in others.items() if key in names}
    expected = adapter_tensors(adapted, "default").items()
    trained = {id(empty): tensors[key] for key, empty in expected if key in tensors and ".lora_" in key}
    return _Merge(base, checkpoint, names, layers, trained, replaced, refused, linear)


def _compare(merge: _Merge, dtype: str, progress: Progress | None, attrs: dict[str, str]) -> xr.Dataset:
    """Return the Dataset of `compare_merged`; without a merged model, of the merge replayed in `dtype`."""
    rows = {path: _unknown(reason) for path, reason in merge.refused.items()}
    others: dict[str, str] = {}
    for n_done, name in enumerate(merge.names):
        path = name.removesuffix(".weight")
        if name in merge.layers or name in merge.replaced:
            rows[path] = _compare_component(merge, name, dtype)
        elif path not in rows and merge.merged is not None:
            try:
                if difference := _compare_other(merge, name):
                    others[name] = difference
            except ValueError as error:  # quantised
                rows[path] = _unknown(str(error))
        if progress is not None:
            progress(n_done + 1, len(merge.names))
    if merge.merged is not None:
        extra = merge.merged.places.keys() - merge.base.places.keys() - {*merge.names}
        unknown = tuple(f"{path}." for path, row in rows.items() if row["verdict"] == "not compared")
        extra = {name for name in extra if not (name.endswith((".SCB", ".weight_format")) or name.startswith(unknown))}
        others |= dict.fromkeys(sorted(extra), "it isn't in the base")
    return _summarize(rows, others, attrs)


def _unknown(reason: str) -> dict[str, Any]:
    """Return the row of a tensor that can't be compared."""
    return {"verdict": "not compared", "explanation": reason}


def _compare_component(merge: _Merge, name: str, dtype: str) -> dict[str, Any]:
    """Return the row of a tensor that the adapter changes: its numbers, verdict and explanation."""
    try:
        base, exact = merge.base_tensor(name), merge.replay(name, "float64")
        if merge.merged is None:
            dtype = dtype if dtype != "int8" or name in merge.linear else str(base.dtype).removeprefix("torch.")
            merged = replayed = merge.replay(name, dtype)
        elif (stored := merge.merged_tensor(name, base)) is None:
            return {"verdict": "missing", "explanation": f"there is no such weight of shape {tuple(base.shape)}"}
        else:
            merged, dtype = stored
            replayed = merge.replay(name, dtype)
        row = _measure(merge, name, dtype, base, exact, replayed, merged)
    except (ValueError, NotImplementedError) as error:  # PEFT's, of a variant that can't be merged
        return _unknown(" ".join(str(error).split()) or type(error).__name__)
    return row | {"dtype": dtype} | _judge(merge, name, row, merged, base)


def _measure(
    merge: _Merge, name: str, dtype: str, base: torch.Tensor, exact: torch.Tensor, replayed: torch.Tensor,
    merged: torch.Tensor,
) -> dict[str, float]:  # fmt: skip
    """Return the numbers of a component (see `compare_merged`), and those that its verdict needs.

    `error` is |W1 - W0 - P| / |P|, `rounding` the largest one that rounding explains, `squared` is |P|^2, and `once`
    the share that arrives if W0 + P is rounded once.
    """
    sums, rounded = np.zeros(8), merge.cast(name, exact, dtype)
    n_unequal, rows = 0, max(1, N_BLOCK * len(base) // base.numel())
    for part in (slice(first, first + rows) for first in range(0, len(base), rows)):
        start, whole = base[part].double().flatten(), exact[part].flatten()
        change = whole - start
        error, again, once = (values[part].double().flatten() - whole for values in (merged, replayed, rounded))
        pairs = [(change, change), (start, start), (whole, whole), (error, change), (again, change), (once, change)]
        sums += [float(torch.dot(left, right)) for left, right in (*pairs, (error, error), (again, again))]
        n_unequal += int((merged[part] != replayed[part]).sum())
    squared, before, after = sums[:3]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares, errors = sums[3:6] / squared, sums[6:] / squared
        rests = np.sqrt(np.maximum(errors - shares[:2] ** 2, 0))
        numbers = (1 + shares[0], rests[0], 1 + shares[1], rests[1], np.sqrt(squared / before), base.numel(), n_unequal)
        allowed = _rounding(merge, name, dtype, base, exact, math.sqrt(before), math.sqrt(after)) / np.sqrt(squared)
        needed = {"error": np.sqrt(errors[0]), "rounding": allowed, "squared": squared, "once": 1 + shares[2]}
        return dict(zip(NUMBERS, numbers, strict=True)) | needed


def _rounding(
    merge: _Merge, name: str, dtype: str, base: torch.Tensor, exact: torch.Tensor, before: float, after: float
) -> float:
    """Return the largest |W1 - W0 - P| that rounding explains (docs/analysis.md); `before`: |W0|, `after`: |W0 + P|."""
    finfo = torch.finfo(torch.float16 if dtype == "int8" else getattr(torch, dtype))
    unit, layer, product = finfo.eps / 2, merge.layers.get(name), 0.0
    if layer is not None:
        groups = (layer.lora_A, layer.lora_B, layer.lora_embedding_A, layer.lora_embedding_B)
        factors = [
            merge.trained[id(part)].double().norm() for group in groups for part in group.parameters() if part.ndim > 1
        ]
        product = abs(layer.scaling["default"]) * float(torch.stack(factors).prod())
        product *= max(1.0, after / before) if layer.lora_variant else 1.0  # DoRA multiplies the sum
        product *= 5 * unit + (layer.r["default"] + 2) * 2**-24
    step = 0.0
    if dtype == "int8":
        axis = merge.linear[name]
        scales = sum(values.double().abs().amax(axis) for values in (base, exact))
        step = float(torch.as_tensor(scales).norm()) * math.sqrt(base.shape[axis]) / MOST_INT8 / 2 * (1 + 1 / MOST_INT8)
    subnormal = 1.5 * finfo.smallest_normal * finfo.eps * math.sqrt(base.numel())
    return 1.01 * (unit * (before + 3 * after) + product) + step + subnormal


def _judge(
    merge: _Merge, name: str, row: Mapping[str, float], merged: torch.Tensor, base: torch.Tensor
) -> dict[str, str]:
    """Return the verdict on a component with these numbers, and an explanation if it isn't the adapter's."""
    arrived, rounding = row["arrived"], max(row["rounding"], 1e-6)  # a hundred times the precision of `residual`
    slack = HOEFFDING * rounding / math.sqrt(row["n_weights"])
    if row["squared"] == 0 and not row["n_unequal"]:
        return {"verdict": "adapter", "explanation": "the adapter changes nothing"}
    low, high = sorted([row["replayed_arrived"], row["once"]])
    if row["error"] <= rounding and low - slack <= arrived <= high + slack:
        if arrived < 0.5 or row["error"] >= 1:
            return {"verdict": "rounded", "explanation": "rounding takes most of the change, or adds more than it"}
        return {"verdict": "adapter", "explanation": ""}
    if not row["residual"] <= rounding:  # also NaN
        return {"verdict": "else", "explanation": _find_origin(merge, name, merged.float() - base.float())}
    if abs(arrived) <= slack:
        return {"verdict": "base", "explanation": "the adapter's change isn't in it"}
    reasons = {"added twice, or with twice its scale": 2.0, "subtracted": -1.0}
    if name in merge.layers:
        reasons["added without its scaling"] = 1 / merge.layers[name].scaling["default"]
    fitting = [reason for reason, value in reasons.items() if abs(value - arrived) <= 2 * slack + 1e-3]
    return {"verdict": "scaled", "explanation": " or ".join(fitting)}


def _find_origin(merge: _Merge, name: str, change: torch.Tensor) -> str:
    """Return what explains most of a change (by its square): another layer's, or the own one transposed; else ""."""
    if not change.isfinite().all():
        return "NaN or infinite numbers"
    if (factors := merge.factors(name)) is None:
        return ""
    if merge.layers[name].fan_in_fan_out:
        change = change.T
    rows = torch.linspace(0, len(change) - 1, min(N_ROWS, len(change))).long()
    down, up = factors
    candidates = {"its lora_B read transposed": up.T.reshape(up.shape)[rows] @ down}
    if len(up) == down.shape[1]:
        candidates["its change transposed"] = down.T[rows] @ up.T
    for other in merge.layers.keys() - {name}:
        if (pair := merge.factors(other)) is not None and (len(pair[1]), pair[0].shape[1]) == change.shape:
            candidates[f"the change of {other.removesuffix('.weight')}"] = pair[1][rows] @ pair[0]
    part = change[rows]
    for explanation, candidate in candidates.items():
        if float((part * candidate).sum()) ** 2 > float(part.square().sum() * candidate.square().sum()) / 2:
            return explanation
    return ""


def _compare_other(merge: _Merge, name: str) -> str:
    """Return how a tensor outside of the adapter differs from the base's; "" if it is that, maybe in another type."""
    if merge.base.read(name) is None:
        return ""  # both may have it in parts, such as single experts
    base = merge.base_tensor(name)
    if (stored := merge.merged_tensor(name, base)) is None:
        return f"there is no such tensor of shape {tuple(base.shape)}"
    values, dtype = stored
    if torch.equal(merge.cast(name, base, dtype).to(values.dtype), values):
        return ""
    size, off = (float(tensor.norm()) for tensor in (base.double(), values.double() - base.double()))
    if off <= _rounding(merge, name, dtype, base, base, size, size):
        return ""
    return f"it differs by {off / (size or 1):.2g} of its norm, in {int((values != base).sum()):,} numbers"


def _summarize(rows: Mapping[str, Mapping[str, Any]], others: Mapping[str, str], attrs: dict[str, str]) -> xr.Dataset:
    """Return the Dataset of `compare_merged` from the rows of its components."""
    verdicts, names = Counter(row["verdict"] for row in rows.values()), [path.split(".") for path in rows]
    columns = {name: [row.get(name, math.nan) for row in rows.values()] for name in (*NUMBERS, "squared")}
    texts = {name: [row.get(name, "") for row in rows.values()] for name in ("dtype", "verdict", "explanation")}
    result = xr.Dataset(
        {
            **{name: ("component", columns[name], {"units": "1"}) for name in NUMBERS},
            **{name: ("component", np.array(texts[name], dtype=object)) for name in texts},
            "difference": ("other", np.array([*others.values()], dtype=object)),
        },
        coords={
            "component": [*rows],
            "kind": ("component", [".".join(parts[-2:] if parts[-1] == "bias" else parts[-1:]) for parts in names]),
            "layer": ("component", [next((int(part) for part in parts if part.isdecimal()), -1) for parts in names]),
            "other": [*others],
        },
        attrs=attrs | {"measure": "a merged model's weights compared with PEFT's merge"},
    )
    weights = xr.DataArray(columns["squared"], dims="component").fillna(0)
    if float(weights.sum()):
        for name in NUMBERS[:4]:
            power = 2 if name.endswith("residual") else 1
            result.attrs[name] = float((result[name] ** power).weighted(weights).mean()) ** (1 / power)
    if others or verdicts.keys() - {"adapter", "rounded", "not compared"}:
        result.attrs["verdict"] = "not the adapter"
    elif verdicts["not compared"] or not verdicts:
        result.attrs["verdict"] = "unknown"
    else:
        result.attrs["verdict"] = "rounded" if verdicts["rounded"] else "adapter"
    result.attrs["sentence"] = _describe(result, verdicts)
    return result


def _describe(result: xr.Dataset, verdicts: Mapping[str, int]) -> str:
    """Return the verdict on a merged model as a sentence."""
    n, attrs = result.sizes["component"], result.attrs
    dtypes = " and ".join(dict.fromkeys(dtype for dtype in result["dtype"].values.tolist() if dtype))
    rounding = ""
    if "arrived" in attrs:
        arrives, noise = (f"{100 * attrs[name]:.3g} %" for name in ("arrived", "residual"))
        rounding = f"in {dtypes}, {arrives} of the change arrives, with rounding noise of {noise} of its size"
    lost = f"in {verdicts['rounded']} of {n} layers rounding takes most of the change, or adds more than it"
    if attrs["verdict"] == "rounded" or ("merged" not in attrs and attrs["verdict"] == "adapter"):
        return f"merged as PEFT does {rounding}" + (f"; {lost}" if verdicts["rounded"] else "")
    if attrs["verdict"] == "adapter":
        equal = f"{int((result['n_unequal'] == 0).sum())} bit for bit as PEFT merges here"
        return f"it is the adapter on this base, in all {n} layers ({equal}); {rounding}"
    scaled = result["arrived"].values[result["verdict"].values == "scaled"]
    factor = float(np.median(scaled)) if len(scaled) else 1.0
    states = {
        "base": "the base", "scaled": f"the adapter {factor:.3g} times (median)", "else": "something else",
        "missing": "missing", "rounded": "lost by rounding", "not compared": "not compared",
    }  # fmt: skip
    parts = [f"{state} in {verdicts[name]} of {n} layers" for name, state in states.items() if verdicts[name]]
    if n_others := result.sizes["other"]:
        parts.append(f"other tensors that aren't the base's: {n_others}, such as {result['other'].values[0]}")
    opening = "it isn't the adapter" if attrs["verdict"] == "not the adapter" else "unknown whether it is the adapter"
    return f"{opening}: {', '.join(parts)}"
