"""Checks of the two files in an adapter's folder, without torch."""

import reprlib
from pathlib import Path

from lorascope.stores.adapter_settings import read_adapter_settings

from ..errors import AdapterError

WEIGHTS, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
"""Names that PEFT's `save_pretrained` gives to weights."""


def require_settings(folder: Path) -> None:
    """Raise AdapterError unless the folder has an adapter's configuration, and a sound one."""
    try:
        settings = read_adapter_settings(folder)
    except (FileNotFoundError, ValueError) as error:
        raise AdapterError(str(error)) from error
    if replication := settings.get("layer_replication"):
        raise AdapterError(
            f"`layer_replication` of adapter {str(folder)!r} is {reprlib.repr(replication)}: it makes another base of "
            "the model, which can't be captured"
        )


def weights_file(folder: Path) -> Path:
    """The file with an adapter's weights; raises AdapterError if the folder has none that is no pickle."""
    path = folder / WEIGHTS
    if not path.exists():
        pickled = f"; {PICKLED!r} is a pickle and isn't read" if (folder / PICKLED).is_file() else ""
        raise AdapterError(f"adapter {str(folder)!r} has no {path.name!r}{pickled}; save it again with PEFT")
    return path
