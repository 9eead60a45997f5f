"""Records of training in an adapter's folder, compared with the model that the adapter is measured on.

`finetune.json` came with the adapter, from anywhere: nothing of it is taken that isn't of the type it should be.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

from peft import PeftModel

from lorascope.stores import Problem
from lorascope.stores.json_document import MAX_BYTES, parse_json
from lorascope.stores.places.files import read_regular

from .preflight import Note

RECORD = "finetune.json"
"""The file that `finetune` leaves in an adapter's folder."""
MOST_NAMES, LONGEST_NAME = 1000, 300
"""Names of data sets that a run repeats, and characters of a name."""


class Training(NamedTuple):
    """Record of an adapter's training."""

    record: dict[str, Any]
    """`n_samples`, `n_target_tokens`, `n_steps` and the names of the `data`; empty where nothing is known."""
    problems: tuple[Problem, ...]
    """Reasons why the adapter can't be measured on this model."""
    notes: tuple[Note, ...]
    """Remarks for a reader of the run."""
    is_proven: bool = False
    """Whether the record has the hash of this very base model."""


def read_training(
    folder: str | Path, name: str, model: Mapping[str, Any], *, adapter_sha256: str | None = None
) -> Training:
    """Record of training in the folder of this adapter, compared with a model.

    Parameters
    ----------
    folder
        The adapter's folder; only `finetune` leaves a record in it.
    name
        The adapter's name in the model.
    model
        `share` and `shared_layers` from the model's identity, and `sha256` and `dtype` where they are known.
    adapter_sha256
        Hash of the adapter's weights (`adapter_identity`); None to take the record for theirs.

    Notes
    -----
    Layers that share weights have shapes like any others, so that an adapter trained on them fits a model that shares
    otherwise, and would be measured on layers that it never saw: that is a problem. Other base weights may be another
    rounding of the same, and are a note.
    """
    path = Path(folder) / RECORD
    if not path.exists():
        return Training({}, (), ())
    try:
        document = parse_json(read_regular(path, at_most=MAX_BYTES), RECORD)
        record, base = _amounts(document), _base(document)
        trained = document.get("adapter_sha256")
    except (OSError, ValueError) as error:
        reason = shorten(str(error), 160) or type(error).__name__
        message = f"{RECORD!r} of {name!r} can't be used, so that its training isn't known: {reason}"
        return Training({}, (), (Note("training", message, ()),))
    problems: tuple[Problem, ...] = ()
    if base is not None and any(base[key] != model[key] for key in ("share", "shared_layers")):
        layers = f" and `shared_layers` {base['shared_layers']}" if base["share"] > 1 else ""
        message = (
            f"it was trained on a model in which {describe_sharing(base)}, but in this one {describe_sharing(model)}; "
            f"load the model with `share` {base['share']}{layers}"
        )
        problems = (Problem(str(folder), "sharing", message),)
    if None not in (adapter_sha256, trained) and adapter_sha256 != trained:
        message = f"{RECORD!r} of {name!r} was written for other adapter weights, so that its training isn't known"
        return Training({}, problems, (Note("training", message, ()),))
    if base is None or model.get("sha256", base["sha256"]) == base["sha256"]:
        return Training(record, problems, (), is_proven=base is not None and "sha256" in model)
    dtype, trained_dtype = str(model["dtype"]), base["dtype"]
    types = "" if dtype == trained_dtype else f": {shorten(repr(trained_dtype), 40)} there, {dtype!r} here"
    message = f"{name!r} was trained on other base weights than these, by their SHA-256{types}"
    return Training(record, problems, (Note("training", message, ()),))


def base_notes(model: PeftModel, adapters: Iterable[str], captured: str) -> Iterator[Note]:
    """Notes on adapters whose own configuration names another model than the one captured, by their last parts.

    Leave out adapters whose base is known by its hash; nothing is noted where a name is missing.
    """
    for name in adapters:
        made_for: Any = getattr(model.peft_config[name], "base_model_name_or_path", None)
        called = _last_part(made_for) if isinstance(made_for, str) else ""
        if called and captured and called not in _model_names(captured):
            message = (
                f"{name!r} was made for {made_for[:LONGEST_NAME]!r} by its `base_model_name_or_path`, and {captured!r} "
                "is captured: layers of another model may have the same shapes"
            )
            yield Note("base", message, (name,))


def describe_sharing(sharing: Mapping[str, Any]) -> str:
    """A model's sharing in words."""
    if sharing["share"] == 1:
        return "no layers share weights"
    return f"the last {sharing['shared_layers']} layers share weights in groups of {sharing['share']}"


def _model_names(model: str) -> set[str]:
    """All names by which an adapter's configuration may call a model: its own, its folder's, and of links' targets."""
    folders = [place.parent for place in (Path(model), Path(model).resolve()) if place.suffix == ".gguf"]
    return {_last_part(name) for name in (model, str(Path(model).resolve()), *map(str, folders))}


def _last_part(name: str) -> str:
    """Name of a model without its folders; the hub's cache names it in a folder above the files."""
    parts = [part for part in re.split(r"[/\\]", name.strip().casefold()) if part]
    cached = (part.rpartition("--")[2] for part in parts if part.startswith("models--"))
    return next(cached, parts[-1] if parts else "")


def _amounts(document: Any) -> dict[str, Any]:
    """Counts and names of a record that a run keeps."""
    if not isinstance(document, dict):
        raise ValueError(f"it holds a {type(document).__name__}, not an object")
    data, steps = _entry(document, "data", list), _entry(document, "steps", list)
    # A run repeats names to terminals and on pages; half of a surrogate pair can't even be written.
    if len(data) > MOST_NAMES or not all(
        isinstance(name, str) and len(name) <= LONGEST_NAME and name.isprintable() for name in data
    ):
        raise ValueError(
            f"`data` should have at most {MOST_NAMES} names, of at most {LONGEST_NAME} characters that can be printed"
        )
    counts = {key: _entry(document, key, int, least=1) for key in ("n_samples", "n_target_tokens")}
    return {**counts, "n_steps": len(steps), "data": data}


def _base(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The base model of the training; None where the record is silent on it."""
    if document.get("model") is None:
        return None
    model = _entry(document, "model", dict)
    words = {key: _entry(model, key, str) for key in ("sha256", "dtype")}
    share, n_layers = _entry(model, "share", int, least=1), _entry(model, "shared_layers", int)
    if (share == 1) != (n_layers == 0) or n_layers % share:
        raise ValueError(f"`shared_layers` is {n_layers}, which doesn't go with a `share` of {share}")
    return {**words, "share": share, "shared_layers": n_layers}


def _entry(document: Mapping[str, Any], key: str, kind: type[Any], *, least: int = 0) -> Any:
    """A value of this type, or a count of at least so many that fits a table of int64."""
    value: Any = document.get(key)
    description = shorten(repr(value), 40) if key in document else "not there"
    if type(value) is not kind:  # a boolean is no count
        raise ValueError(f"`{key}` is {description}; it should be of type {kind.__name__!r}")
    if kind is int and not least <= value < 2**63:
        raise ValueError(f"`{key}` is {description}; it should be a number from {least} to {2**63 - 1}")
    return value
