"""Whether an interrupted run may go on: it must be the same capture in everything that shapes its numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any

from lorascope.stores import StoreError

from .config import CaptureConfig

FREE_SETTINGS = {
    *("model", "adapter", "data", "prompt", "examples"),  # wherever they lie: their hashes are compared
    *("share", "shared_layers", "share_from"),  # the model's identity says what came of them
    *("out", "device", "device_map", "queue", "overfill", "budget", "trust_remote_code"),
}
"""Settings that don't shape the numbers."""
UNSHARED = {"share": 1, "shared_layers": 0}
DECISIVE_LIBRARIES = ("torch", "transformers", "peft", "tokenizers")
"""Libraries whose version shapes the numbers."""

COMPARED = (
    "weights of model and adapters, tokenizer, data, prompts, settings that shape numbers, type of device, and "
    f"versions of {', '.join(DECISIVE_LIBRARIES)}"
)
"""What `identity` holds, in words."""
SHOWN = 6
"""Differences named in an error before the rest is only counted."""
_ABSENT = object()


def identity(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's provenance shapes its numbers: the same for two attempts at one capture.

    Left out are names and places of files, whose content is hashed; the number of threads and the device's name, within
    one type of device, since another node may go on with a run; and times. A run that is older than a setting was
    captured as that setting's default has it.
    """
    found = {key: provenance.get(key) for key in ("adapters", "tokenizer", "data", "prompt", "js_share")}
    model = {**UNSHARED, **provenance.get("model", {})}
    defaults = {field.name: field.default for field in fields(CaptureConfig) if field.default is not MISSING}
    settings = {**defaults, **provenance.get("settings", {})}
    libraries = provenance.get("libraries", {})
    return {
        **found,
        "model": {key: value for key, value in model.items() if key != "name"},
        "settings": {key: value for key, value in settings.items() if key not in FREE_SETTINGS},
        "libraries": {name: libraries.get(name) for name in DECISIVE_LIBRARIES},
        "device": provenance.get("device", {}).get("type"),
    }


def require_same(
    stored: Mapping[str, Any],
    wanted: Mapping[str, Any],
    what: str,
    advice: str = "repeat the command that began it, or name a new folder",
) -> None:
    """Raise unless two identities agree; see `identity`.

    Raises
    ------
    StoreError
        If anything differs: each difference as `where: stored -> wanted`.
    """
    found = list(differences(stored, wanted))
    if found:
        more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise StoreError(f"{what}: {'; '.join(found[:SHOWN])}{more}; {advice}")


def differences(stored: Any, wanted: Any, where: str = "") -> Iterator[str]:
    """Every place where two trees of JSON values differ, as `where: stored -> wanted`."""
    if isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        for key in sorted({*stored, *wanted}):
            path = f"{where}.{key}" if where else str(key)
            yield from differences(stored.get(key, _ABSENT), wanted.get(key, _ABSENT), path)
    elif _plain(stored) != _plain(wanted):
        yield f"{where}: {_show(stored)} -> {_show(wanted)}"


def _plain(value: Any) -> Any:
    """JSON has lists for tuples."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = repr(_plain(value))
    return text if len(text) <= 40 else f"{text[:36]}...{text[-1]}"
