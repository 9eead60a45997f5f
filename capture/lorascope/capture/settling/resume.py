"""Whether an interrupted run may go on: it must be the same capture in everything that shapes its numbers."""

from collections.abc import Iterator, Mapping
from typing import Any

from lorascope.stores import StoreError
from lorascope.stores.format.fingerprint import DECISIVE_LIBRARIES

COMPARED = (
    "weights of model and adapters, tokenizer, data, prompts, settings that shape numbers, type of device, and "
    f"versions of {', '.join(DECISIVE_LIBRARIES)}"
)
"""What the identity of a run holds, in words; see `lorascope.stores.format.fingerprint`."""
SHOWN = 6
"""Differences named in an error before the rest is only counted."""
_ABSENT = object()


def require_same(
    stored: Mapping[str, Any],
    wanted: Mapping[str, Any],
    what: str,
    advice: str = "repeat the command that began it, or name a new folder",
) -> None:
    """Raise unless two identities agree.

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
