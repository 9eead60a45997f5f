"""A model's weights in its files, read one at a time by the names of the model's parameters."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from transformers import PreTrainedConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from lorascope.stores.json_document import read_json, read_tensor_header

from .gguf import converted_folder
from .model import load_model, one_line_errors, read_config
from .refusal import DTYPES
from .source import locate_model
from .weights import state_tensors

BUFFERS = {r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$"}
"""Patterns of names in old files whose tensors transformers doesn't load, in addition to a class's own patterns."""
NO_COMPUTATION = {"initializer_range", "max_position_embeddings", "pretraining_tp", "tie_word_embeddings", "use_cache"}
"""Settings of a model that may change although its weights compute the same."""
MOST_INT8 = 127
"""Integer that stands for the largest number of a weight's row in bitsandbytes' LLM.int8."""


def map_weights(folder: Path, model: Any) -> dict[str, torch.Tensor]:
    """Return the tensors in a model's folder by their names in `model`, mapped and not yet read.

    Raises ValueError if a file is missing or damaged.
    """
    files, index = {folder / "model.safetensors"}, folder / "model.safetensors.index.json"
    names, stored = state_tensors(model), {}
    ignored = BUFFERS | {*(model._keys_to_ignore_on_load_unexpected or ())}
    renamings = [entry for entry in get_model_conversion_mapping(model) if isinstance(entry, WeightRenaming)]
    with one_line_errors(f"{str(folder)!r}"):
        if not files <= {*folder.iterdir()}:  # as transformers looks for them
            shards = {*read_json(index)["weight_map"].values()} if index.is_file() else ()
            files = {folder / Path(shard).name for shard in shards} or {*folder.glob("*.safetensors")}
        config = read_config(str(folder), trust_remote_code=False, local_files_only=True).get_text_config()
    for file in sorted(files):
        with one_line_errors(f"{str(file)!r}"):
            read_tensor_header(file)  # refuses what isn't a regular file
            tensors = load_file(file)
        for key, tensor in tensors.items():
            name = rename_source_key(key, renamings, [], model.base_model_prefix, names)[0]
            if name in names or not any(re.search(pattern, name) for pattern in ignored):
                stored[name] = tensor
    if not stored:
        raise ValueError(f"{str(folder)!r} has no weights in safetensors")
    if getattr(config, "tie_word_embeddings", False):
        tied = model.all_tied_weights_keys.items()
        stored = {name: stored[other] for name, other in tied if other in stored} | stored
    return stored


def other_settings(base: Any, merged: Path) -> tuple[str, ...]:
    """Return settings that change what weights compute, as `name=value`, in which a merged model isn't its base."""
    ours = base.get_text_config().to_dict()
    theirs = read_config(str(merged), trust_remote_code=False, local_files_only=True).get_text_config().to_dict()
    common = PreTrainedConfig().to_dict().keys() | NO_COMPUTATION
    names = sorted(name for name in ours.keys() - common if not name.endswith(("_token_id", "dropout", "pdrop")))
    return tuple(f"{name}={theirs.get(name)!r}" for name in names if theirs.get(name) != ours[name])


def read_weight(
    stored: Mapping[str, torch.Tensor], name: str, axis: int | None = None
) -> tuple[torch.Tensor, str] | None:
    """Return a weight and its type (`int8`: its integers' meaning, in float32); None if no file has it.

    `axis` is that of a linear layer's inputs. Raises ValueError if it is quantised in another way than by LLM.int8.
    """
    path, weight = name.removesuffix(".weight"), stored.get(name)
    if weight is None:
        parts = sorted(key.removeprefix(f"{path}.") for key in stored if key.startswith(f"{path}."))
        if {*parts} - {"bias"} and "base_layer.weight" not in parts:
            raise ValueError(f"it is stored as {', '.join(parts)}; allowed are plain weights and LLM.int8")
        return None
    if weight.dtype == torch.int8 and (scale := stored.get(f"{path}.SCB")) is not None:
        values = weight * scale.view(-1, 1) * (1 / MOST_INT8)
        return values.T if axis == 0 else values, "int8"
    if weight.dtype not in DTYPES:
        raise ValueError(f"it is stored as {type_name(weight)}; allowed are plain weights and LLM.int8")
    return weight, type_name(weight)


def merge_type(values: torch.Tensor, dtype: str, base: torch.Tensor) -> str:
    """Return the type in which a weight was merged: a narrower one if its numbers, not the base's, fit that."""
    narrow = {"float32": ("bfloat16", "float16"), "float16": ("bfloat16",)}.get(dtype, ())
    if torch.equal(values.float(), base.float()):
        return dtype
    return next((kind for kind in narrow if torch.equal(values.float(), round_weight(values, kind).float())), dtype)


def type_name(tensor: torch.Tensor) -> str:
    """Return a tensor's type without torch's prefix, such as `bfloat16`."""
    return str(tensor.dtype).removeprefix("torch.")


def round_weight(values: torch.Tensor, dtype: str, axis: int | None = None) -> torch.Tensor:
    """Return numbers in a type; in `int8`, what LLM.int8's integers stand for if it has one scale along `axis`."""
    if dtype != "int8":
        return values.to(getattr(torch, dtype))
    if axis is None:  # not quantised
        return values
    half = values.half()  # as bitsandbytes does
    scale = half.abs().amax(axis, keepdim=True).float()
    return (half * (MOST_INT8 / scale)).round().nan_to_num(0) * scale * (1 / MOST_INT8)


def model_folder(source: str) -> Path:
    """Return the folder with a model's safetensors, which may be a conversion; errors are those of `load_model`."""
    where, options = locate_model(source)
    if not options:
        with one_line_errors(f"model {source!r} (nothing on this disk, so taken as a hub id)"):
            return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors"]))
    if "gguf_file" not in options:
        return Path(where)
    load_model(source)  # keeps its conversion
    folder = converted_folder(Path(source).expanduser(), "auto")
    if not folder.is_dir():
        raise ValueError(f"{source!r} can't be converted to safetensors in {str(folder)!r}; free some space there")
    return folder
