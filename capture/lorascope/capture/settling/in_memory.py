"""Settings of a capture of a model and data in memory."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from lorascope.stores.names import suggestion

from ..config import CaptureConfig
from ..models.device import input_device
from ..models.model import DTYPES
from ..models.sharing import sharing_of
from ..models.weights import base_tensors, plain_model
from ..samples.items import Item
from ..samples.sources import read_items
from .inputs import IN_MEMORY
from .load import captured_adapters

Items = Mapping[str, Sequence[Item]]
"""Name of data in memory -> its items."""
LOADING = frozenset(
    {"adapter", "dtype", "device", "device_map", "trust_remote_code", "share", "shared_layers", "share_from"}
)
"""Settings of how a model is loaded; one that is loaded has its own."""


def settings_of(
    model: Any, data: Any, out: str | Path, options: Mapping[str, Any]
) -> tuple[CaptureConfig, Items | None]:
    """Settings that describe a loaded model and data (see `named_data`), and the items of the data.

    Raises
    ------
    TypeError
        If the model is only named, or an option is none of the settings that are left open.
    AdapterError
        If the model has no adapter that can be measured.
    Exception
        What `named_data` raises.
    """
    _require_options(options)
    if isinstance(model, str | Path):
        raise TypeError(f"`model` is {str(model)!r}; give a loaded `PeftModel`, or a `CaptureConfig` that names it")
    names = captured_adapters(model, options.get("stream", "adapted"), allow_zero=bool(options.get("allow_zero")))
    plain, sharing = plain_model(model), sharing_of(model)
    shared = {"share": sharing["share"], "shared_layers": sharing["shared_layers"]} if sharing["share"] > 1 else {}
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in base_tensors(model).values()}
    settings = {
        "model": str(getattr(plain, "name_or_path", "")) or f"{type(plain).__name__} {IN_MEMORY}",
        "adapter": tuple(f"{name}={name} {IN_MEMORY}" for name in names),
        "dtype": dtypes.pop() if len(dtypes) == 1 and dtypes <= DTYPES.keys() else "auto",
        "device": input_device(model).type,
    }
    named, items = named_data(data)
    return CaptureConfig(**{**settings, **shared, **options, "data": named, "out": str(out)}), items


def named_data(data: Any) -> tuple[tuple[str, ...], Items | None]:
    """Name of the data in the settings, and its items where they are no files.

    `data` is whatever `read_items` takes, a list of paths, or items that were read.

    Raises
    ------
    ValueError
        If it holds nothing, or an item twice.
    Exception
        What `read_items` raises of data that isn't files.
    """
    if isinstance(data, str | Path):
        return (str(data),), None
    if isinstance(data, list | tuple) and data and all(isinstance(element, str | Path) for element in data):
        return tuple(map(str, data)), None
    items = items_of(data)
    name = f"{', '.join(dict.fromkeys(item.dataset for item in items))} {IN_MEMORY}"
    return (name,), {name: items}


def items_of(data: Any) -> list[Item]:
    """Items of data in any form that `named_data` takes; raises likewise."""
    if isinstance(data, list | tuple) and data and isinstance(data[0], str | Path):
        items = [item for path in data for item in read_items(path)]
    elif isinstance(data, list | tuple) and data and all(isinstance(element, Item) for element in data):
        items = [*data]
    else:
        items = [*read_items(data)]
    counts = Counter((item.dataset, item.split, item.id) for item in items)
    if twice := [key for key, n in counts.items() if n > 1]:
        dataset, _, name = twice[0]
        raise ValueError(f"item {name!r} of {dataset!r} stands in `data` twice; give each an `id` of its own")
    return items


def _require_options(options: Mapping[str, Any]) -> None:
    known = {field.name for field in fields(CaptureConfig)}
    for name in options:
        if name in LOADING:
            raise TypeError(f"`{name}` says how a model is loaded, and this one is; leave it out")
        if name not in known:
            close = suggestion(name, sorted(known - LOADING))
            raise TypeError(f"`capture` has no option `{name}`{close or '; `CaptureConfig` names them all'}")
