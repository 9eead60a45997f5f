"""Checks, without torch, of where a model comes from and of the two files of an adapter."""

import re
import reprlib
from pathlib import Path
from typing import Any

from lorascope.stores.adapter_settings import read_adapter_settings
from lorascope.stores.errors import StoreError
from lorascope.stores.json_document import read_tensor_header
from lorascope.stores.names import require_choice

from ..errors import AdapterError
from .gguf import converted_folder

MODELS = "a hub id ('owner/name'), a local folder with 'config.json' and safetensors, or a '.gguf' file"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")
WEIGHTS, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
"""Names that PEFT's `save_pretrained` gives to weights."""
CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
"""Names in configurations of the largest number of tokens; the first existing one counts."""
LORA_MATRIX = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")
FLOATS = {"F64", "F32", "F16", "BF16"}
"""Types of weights, as safetensors names them, whose shape is that of a plain layer."""


def locate_model(source: str, *, dtype: str = "auto", weights: bool = True) -> tuple[str, dict[str, Any]]:
    """Return a model's path or hub id, and options for `from_pretrained`; raise an error if its files are missing.

    `weights` says whether its weights must exist too. A `.gguf` file that was converted to
    `dtype` before is read from the conversion's folder.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        what = f"`model` is {str(path)!r}, a folder"
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            raise ValueError(f"{what} with an adapter; give the model it was made for, and this folder as `adapter`")
        if not (path / "config.json").is_file():
            raise ValueError(f"{what} without 'config.json'; allowed are {MODELS}")
        if weights and not any(path.glob("*.safetensors")):
            pickled = "(pickled '.bin' files aren't read)"
            raise ValueError(f"{what} without safetensors weights {pickled}; allowed are {MODELS}")
        return str(path), {"local_files_only": True}
    if path.is_file():
        if path.suffix != ".gguf":
            raise ValueError(f"`model` is {source!r}, a file that isn't '.gguf'; allowed are {MODELS}")
        if (converted := converted_folder(path, dtype)).is_dir():
            return str(converted), {"local_files_only": True}
        return str(path.parent), {"gguf_file": path.name, "local_files_only": True}
    if not _HUB_ID.fullmatch(source) or path.suffix == ".gguf":
        raise FileNotFoundError(f"`model` is {source!r}, which doesn't exist; allowed are {MODELS}")
    return source, {}


def check_sharing(share: int, shared_layers: int, share_from: str) -> None:
    """Raise ValueError unless `shared_layers` is a multiple of `share`, and `share_from` is `first` or `mean`."""
    if share < 1:
        raise ValueError(f"`share` is {share!r}; give at least 1, which leaves the model as it is")
    if share > 1 and (shared_layers < share or shared_layers % share):
        raise ValueError(f"`shared_layers` is {shared_layers!r}; give a multiple of `share`, which is {share}")
    require_choice("share_from", share_from, ("first", "mean"))


def require_adapter_settings(folder: Path) -> None:
    """Raise AdapterError unless the folder has a valid LoRA configuration that can be captured."""
    try:
        settings = read_adapter_settings(folder)
    except (FileNotFoundError, ValueError) as error:
        raise AdapterError(str(error)) from error
    if replication := settings.get("layer_replication"):
        raise AdapterError(
            f"`layer_replication` of adapter {str(folder)!r} is {reprlib.repr(replication)}: it makes another base of "
            "the model, which can't be captured"
        )


def require_widths(model: Path, folder: Path) -> None:
    """Raise AdapterError if an adapter's weights have other widths than the layers of a model, by the files' headers.

    Layers that the model's files don't name as the adapter does, or keep quantised, are left to PEFT, and damaged files
    to loading.
    """
    widths: dict[str, list[tuple[str, int]]] = {}
    for key, facts in tensor_header(adapter_weights_file(folder)).items():
        if (match := LORA_MATRIX.fullmatch(key)) and len(facts["shape"]) == 2:
            widths.setdefault(match[1], []).append((key, facts["shape"][match[2] == "A"]))
    for file in sorted(model.glob("*.safetensors")):
        for name, facts in tensor_header(file).items():
            for key, width in widths.get(name.removesuffix(".weight"), ()):
                if facts["dtype"] in FLOATS and len(facts["shape"]) == 2 and width not in facts["shape"]:
                    shape = " x ".join(map(str, facts["shape"]))
                    raise AdapterError(
                        f"adapter {str(folder)!r} doesn't fit the model: {key!r} has a width of {width}, where "
                        f"{name!r} is {shape}; give the adapter's own base model"
                    )


def tensor_header(file: Path) -> dict[str, Any]:
    """Return the header of a safetensors file; {} if it is damaged."""
    try:
        header = read_tensor_header(file)[0]
        shapes = [facts["shape"] for facts in header.values() if isinstance(facts["dtype"], str)]
        return header if len(shapes) == len(header) and all(type(n) is int for s in shapes for n in s) else {}
    except (StoreError, TypeError, KeyError):
        return {}


def adapter_weights_file(folder: Path) -> Path:
    """Return the path of an adapter's safetensors file; raise AdapterError if it doesn't exist."""
    path = folder / WEIGHTS
    if not path.exists():
        pickled = f"; {PICKLED!r} is a pickle and isn't read" if (folder / PICKLED).is_file() else ""
        raise AdapterError(f"adapter {str(folder)!r} has no {path.name!r}{pickled}; save it again with PEFT")
    return path
