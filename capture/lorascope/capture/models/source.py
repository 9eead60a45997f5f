"""The source of a model, checked without torch."""

import re
from pathlib import Path
from typing import Any

MODELS = "a hub id ('owner/name'), a local folder with 'config.json' and safetensors, or a '.gguf' file"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")


def locate(source: str, *, weights: bool = True) -> tuple[str, dict[str, Any]]:
    """Path and options for transformers of a model's source, which is checked to be readable, with `weights` too."""
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
        return str(path.parent), {"gguf_file": path.name, "local_files_only": True}
    if not _HUB_ID.fullmatch(source) or path.suffix == ".gguf":
        raise FileNotFoundError(f"`model` is {source!r}, which doesn't exist; allowed are {MODELS}")
    return source, {}


def check_sharing(share: int, shared_layers: int, share_from: str) -> None:
    """Raise a ValueError unless these settings name a sharing."""
    if share < 1:
        raise ValueError(f"`share` is {share!r}; give at least 1, which leaves the model as it is")
    if share > 1 and (shared_layers < share or shared_layers % share):
        raise ValueError(f"`shared_layers` is {shared_layers!r}; give a multiple of `share`, which is {share}")
    if share_from not in ("first", "mean"):
        raise ValueError(f"`share_from` is {share_from!r}; allowed are first, mean")
