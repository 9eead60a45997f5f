"""Comparison of an interrupted run or training with the one that is to continue it."""

from collections.abc import Iterator, Mapping
from typing import Any

from lorascope.stores import StoreError
from lorascope.stores.format.digests import DECISIVE_LIBRARIES

COMPARED = (
    "weights of model and adapters, tokenizer, data, prompts, settings that shape numbers, type of device, and "
    f"versions of {', '.join(DECISIVE_LIBRARIES)}"
)
"""The parts of a run's identity, in words; see `lorascope.stores.format.digests`."""
SHOWN = 6
"""Differences named in an error before the rest is only counted."""
_ABSENT = object()


def require_same(
    stored: Mapping[str, Any],
    expected: Mapping[str, Any],
    what: str,
    advice: str = "repeat the command that began it, or name a new folder",
) -> None:
    """Raise unless two identities agree.

    Raises
    ------
    StoreError
        If anything differs: each difference as `where: stored -> wanted`.
    """
    differing = list(differences(stored, expected))
    if differing:
        more = f", and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        raise StoreError(f"{what}: {'; '.join(differing[:SHOWN])}{more}; {advice}")


def differences(stored: Any, expected: Any, where: str = "") -> Iterator[str]:
    """Every place where two trees of JSON values differ, as `where: stored -> wanted`."""
    if isinstance(stored, Mapping) and isinstance(expected, Mapping):
        for key in sorted({*stored, *expected}):
            path = f"{where}.{key}" if where else str(key)
            yield from differences(stored.get(key, _ABSENT), expected.get(key, _ABSENT), path)
    elif _plain(stored) != _plain(expected):
        yield f"{where}: {_show(stored)} -> {_show(expected)}"


def _plain(value: Any) -> Any:
    """The value with lists for tuples, as JSON has it."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = repr(_plain(value))
    return text if len(text) <= 40 else f"{text[:36]}...{text[-1]}"
