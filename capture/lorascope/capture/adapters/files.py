"""The two files of an adapter's folder, looked for without torch."""

from pathlib import Path

from ..errors import AdapterError

ADAPTER_CONFIG, ADAPTER_WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
"""Names of the files of PEFT's `save_pretrained`."""


def require_adapter_config(folder: Path) -> Path:
    """The file with an adapter's configuration; raises AdapterError if the folder has none."""
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise AdapterError(
            f"{str(folder)!r} is no adapter folder: there is no {ADAPTER_CONFIG!r} in it; give a local folder that "
            "PEFT's `save_pretrained` wrote"
        )
    return path


def require_adapter_weights(folder: Path) -> Path:
    """The file with an adapter's weights; raises AdapterError if the folder has none that is no pickle."""
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        pickled = f"; {PICKLED!r} is a pickle and isn't read" if (folder / PICKLED).is_file() else ""
        raise AdapterError(f"adapter {str(folder)!r} has no {path.name!r}{pickled}; save it again with PEFT")
    return path
