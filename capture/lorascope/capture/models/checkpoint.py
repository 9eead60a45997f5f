"""A model's weights in its files, read one at a time by the names of the model's parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from lorascope.stores.json_document import read_json, read_tensor_header

from .gguf import converted_folder
from .model import load_model, one_line_errors, read_config
from .source import locate_model
from .weights import state_tensors

TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Types of weights that are read as they are, by their names in safetensors."""
MOST_INT8 = 127
"""Integer that stands for the largest number of a weight's row in bitsandbytes' LLM.int8."""


class Checkpoint(NamedTuple):
    """The safetensors files of a model, with the model's own name of each tensor."""

    places: Mapping[str, tuple[Path, str, str]]
    """Name of a tensor in the model -> its file, its key and its type there."""
    tied: Mapping[str, str]
    """Name of a weight that the model shares with another -> the other's name."""

    def read(self, name: str) -> tuple[torch.Tensor, str] | None:
        """Return a weight and its type (`int8`: its integers' meaning, in float32); None if no file has it.

        Raises ValueError if it is quantised in another way than by LLM.int8.
        """
        stored = next((stored for stored in (name, self.tied.get(name)) if stored in self.places), None)
        path = name.removesuffix(".weight")
        if stored is None:
            parts = sorted(key.removeprefix(f"{path}.") for key in self.places if key.startswith(f"{path}."))
            if {*parts} - {"bias"} and "base_layer.weight" not in parts:
                raise ValueError(f"it is stored as {', '.join(parts)}; allowed are plain weights and LLM.int8")
            return None
        dtype, scales = self.places[stored][2], f"{path}.SCB"
        if dtype == "I8" and scales in self.places:
            return self._tensor(stored) * self._tensor(scales).view(-1, 1) * (1 / MOST_INT8), "int8"
        if dtype not in TYPES:
            raise ValueError(f"it is stored as {dtype}; allowed are {', '.join(TYPES.values())} and LLM.int8")
        return self._tensor(stored), TYPES[dtype]

    def _tensor(self, name: str) -> torch.Tensor:
        """Return a stored tensor, mapped from its file."""
        file, key, _ = self.places[name]
        with safe_open(file, "pt") as tensors:
            stored: torch.Tensor = tensors.get_tensor(key)
        return stored


def open_checkpoint(folder: Path, model: Any) -> Checkpoint:
    """Return the weights in a folder by their names in `model`; raise ValueError if a file is missing or damaged."""
    files, index = [folder / "model.safetensors"], folder / "model.safetensors.index.json"
    if not files[0].is_file():  # as transformers looks for them
        shards = {*read_json(index)["weight_map"].values()} if index.is_file() else set()
        files = [folder / Path(shard).name for shard in shards] or [*folder.glob("*.safetensors")]
    renamings = [entry for entry in get_model_conversion_mapping(model) if isinstance(entry, WeightRenaming)]
    names, places = state_tensors(model), {}
    for file in sorted(files):
        with one_line_errors(f"{str(file)!r}"), safe_open(file, "pt"):  # compares the header with the file's length
            header = read_tensor_header(file)[0]
        for key, facts in header.items():
            name, _ = rename_source_key(key, renamings, [], model.base_model_prefix, names)
            places[name] = (file, key, facts["dtype"])
    config = read_config(str(folder), trust_remote_code=False, local_files_only=True).get_text_config()
    return Checkpoint(places, model.all_tied_weights_keys if getattr(config, "tie_word_embeddings", False) else {})


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
