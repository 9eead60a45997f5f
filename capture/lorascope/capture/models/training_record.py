"""Records of training in an adapter's folder, compared with the model that the adapter is measured on.

`finetune.json` comes with the adapter, from anywhere: a value is only read if it has the type that it should have.
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
"""Largest number of data sets' names that a run repeats, and of characters in a name."""


class Training(NamedTuple):
    """Record of an adapter's training, with problems and notes from comparing it with the base model."""

    record: dict[str, Any]
    """`n_samples`, `n_target_tokens`, `n_steps` and the names of the `data`; empty if nothing is known."""
    problems: tuple[Problem, ...]
    """Reasons why the adapter can't be measured on this model."""
    notes: tuple[Note, ...]
    """Remarks for a reader of the run."""
    is_proven: bool = False
    """Whether the record contains the hash of this base model."""


def read_training(
    folder: str | Path, name: str, model: Mapping[str, Any], *, adapter_sha256: str | None = None
) -> Training:
    """Return the training record (`finetune.json`) in an adapter's folder, compared with this base model.

    Parameters
    ----------
    folder
        The adapter's folder; only `finetune` leaves a record in it.
    name
        The adapter's name in the model.
    model
        `share` and `shared_layers` from the model's identity, and `sha256` and `dtype` if they are known.
    adapter_sha256
        Hash of the adapter's weights (`adapter_identity`); None to assume that the record is about them.

    Notes
    -----
    Layers that share weights have the usual shapes. So an adapter trained on them fits a model with other sharing, but
    would be measured on layers that it was never trained on: that is a problem. Other base weights may be the same ones
    in another rounding, and are a note.
    """
    path = Path(folder) / RECORD
    if not path.exists():
        return Training({}, (), ())
    try:
        document = parse_json(read_regular(path, at_most=MAX_BYTES), RECORD)
        record, base = _training_counts(document), _base_model_record(document)
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
    """Yield a note on each adapter whose configuration names another base model than `captured`, by name only.

    Pass only adapters whose base isn't known by its hash; adapters without a model's name get no note.
    """
    for name in adapters:
        made_for: Any = getattr(model.peft_config[name], "base_model_name_or_path", None)
        called = _short_model_name(made_for) if isinstance(made_for, str) else ""
        if called and captured and called not in _model_names(captured):
            message = (
                f"{name!r} was made for {made_for[:LONGEST_NAME]!r} by its `base_model_name_or_path`, and {captured!r} "
                "is captured: layers of another model may have the same shapes"
            )
            yield Note("base", message, (name,))


def describe_sharing(sharing: Mapping[str, Any]) -> str:
    """Return a phrase on how layers share weights, such as "no layers share weights"."""
    if sharing["share"] == 1:
        return "no layers share weights"
    return f"the last {sharing['shared_layers']} layers share weights in groups of {sharing['share']}"


def _model_names(model: str) -> set[str]:
    """Return names that an adapter's configuration may use for a model: its own, its folder's, links' targets'."""
    folders = [place.parent for place in (Path(model), Path(model).resolve()) if place.suffix == ".gguf"]
    return {_short_model_name(name) for name in (model, str(Path(model).resolve()), *map(str, folders))}


def _short_model_name(name: str) -> str:
    """Return a model's name without folders, in lower case; in the hub's cache, its repository's name."""
    parts = [part for part in re.split(r"[/\\]", name.strip().casefold()) if part]
    cached = (part.rpartition("--")[2] for part in parts if part.startswith("models--"))
    return next(cached, parts[-1] if parts else "")


def _training_counts(document: Any) -> dict[str, Any]:
    """Return n_samples, n_target_tokens, n_steps and `data` of a training record; ValueError if one isn't valid."""
    if not isinstance(document, dict):
        raise ValueError(f"it holds a {type(document).__name__}, not an object")
    data, steps = _checked_entry(document, "data", list), _checked_entry(document, "steps", list)
    # A run repeats names to terminals and on pages; half of a surrogate pair can't even be written.
    if len(data) > MOST_NAMES or not all(
        isinstance(name, str) and len(name) <= LONGEST_NAME and name.isprintable() for name in data
    ):
        raise ValueError(
            f"`data` should have at most {MOST_NAMES} names, of at most {LONGEST_NAME} characters that can be printed"
        )
    counts = {key: _checked_entry(document, key, int, least=1) for key in ("n_samples", "n_target_tokens")}
    return {**counts, "n_steps": len(steps), "data": data}


def _base_model_record(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return hash, type and layer sharing of the base model in a training record; None if it names no model."""
    if document.get("model") is None:
        return None
    model = _checked_entry(document, "model", dict)
    words = {key: _checked_entry(model, key, str) for key in ("sha256", "dtype")}
    share, n_layers = _checked_entry(model, "share", int, least=1), _checked_entry(model, "shared_layers", int)
    if (share == 1) != (n_layers == 0) or n_layers % share:
        raise ValueError(f"`shared_layers` is {n_layers}, which doesn't fit a `share` of {share}")
    return {**words, "share": share, "shared_layers": n_layers}


def _checked_entry(document: Mapping[str, Any], key: str, kind: type[Any], *, least: int = 0) -> Any:
    """Return `document[key]`; raise ValueError if it isn't of type `kind`, or is an int outside least..2**63 - 1."""
    value: Any = document.get(key)
    description = shorten(repr(value), 40) if key in document else "not there"
    if type(value) is not kind:  # a boolean is no count
        raise ValueError(f"`{key}` is {description}; it should be of type {kind.__name__!r}")
    if kind is int and not least <= value < 2**63:
        raise ValueError(f"`{key}` is {description}; it should be a number from {least} to {2**63 - 1}")
    return value
