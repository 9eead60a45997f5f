"""The model of a capture, with its adapters attached, on its device; and settings that describe a loaded model."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lorascope.stores.names import suggestion

from ..config import LOADING, CaptureConfig
from ..models.adapter import attach_adapters, read_adapter, read_trainings
from ..models.components import adapted_modules
from ..models.device import input_device
from ..models.model import DTYPES, ModelFacts, hash_weights, load_model, model_facts, model_identity
from ..models.preflight import captured_adapters
from ..models.refusal import is_residual, part_problems, plan_problems, raise_for_problems, split_problems
from ..models.shards import is_sharded, layer_shards
from ..models.sharing import layer_sharing
from ..models.tensor_plan import require_shardable
from ..models.training_record import describe_sharing
from ..models.weights import Hash, Hashed, base_tensors, hash_at_once, plain_model
from .data import Items, name_data
from .inputs import IN_MEMORY

MODEL_SETTINGS = frozenset({"adapter", "device", *LOADING})
"""Settings that a model in memory already decides."""


class Loaded(NamedTuple):
    """A model with its adapters on its device, ready to be measured, and what identifies it."""

    model: Any
    """A `PeftModel`, in training or evaluation mode."""
    tokenizer: Any
    adapters: tuple[str, ...]
    """Names of the adapters that are captured."""
    device: torch.device
    """Device that takes token ids."""
    identity: dict[str, Any]
    """Identity of the base model (`model_identity`), with an empty hash."""
    weights_hash: Callable[[], Hashed]
    """Waits for the hash of the base's weights, and returns it."""
    folders: Mapping[str, str]
    """Adapter -> its folder, if that is known."""
    facts: ModelFacts


def load(
    config: CaptureConfig, device: torch.device, model: Any, tokenizer: Any, start_hash: Hash = hash_at_once
) -> Loaded:
    """Load the model that `config` names and attach its adapters; or check a given `model`, which isn't moved.

    Its weights may still be hashed when this returns.

    Raises
    ------
    AdapterError
        If an adapter doesn't fit the model, was trained on one whose layers share weights differently, or is untrained,
        merged or disabled.
    ValueError, FileNotFoundError
        If the model can't be read, or a loaded one doesn't share weights as `config` says.
    """
    if model is not None:
        if not hasattr(tokenizer, "is_fast"):
            kind = "missing" if tokenizer is None else f"a {type(tokenizer).__name__}"
            raise ValueError(f"`tokenizer` is {kind}; give the model's own, a fast one of transformers")
        sharing = layer_sharing(model)
        expected = {"share": config.share, "shared_layers": config.shared_layers if config.share > 1 else 0}
        if sharing != expected:
            raise ValueError(
                f"by `share` and `shared_layers` {describe_sharing(expected)}, but in the model that was given "
                f"{describe_sharing(sharing)}; give settings that are the model's"
            )
        identity, weights_hash = model_identity(model, config.model, sha256=""), hash_weights(model, start_hash)
        names = captured_adapters(model, config.stream, allow_zero=config.allow_zero)
        if is_sharded(model):
            require_splittable(config, {name: model.peft_config[name] for name in names})
            raise_for_problems(part_problems(model), ", ".join(names))
        if shards := layer_shards(model):
            require_shardable(model, tensor_parallel=shards.size, fully_shard=False)
            for name in names:
                raise_for_problems(plan_problems(model, adapted_modules(model, name)), name)
    else:
        settings = {name: read_adapter(folder)[0] for name, folder in config.adapters.items()}  # before loading
        if config.is_split:
            require_splittable(config, settings)
        model, tokenizer = load_model(config.model, device=str(device), **config.loading)
        # Before the adapters: PiSSA and similar inits change the base weights while they are attached.
        identity = model_identity(model, config.model, sha256="")
        weights_hash = hash_weights(model, hash_at_once if any(map(is_residual, settings.values())) else start_hash)
        model = attach_adapters(model, config.adapters, allow_zero=config.allow_zero)
        names = tuple(config.adapters)
    folders = dict(config.adapters)
    if len(folders) == len(names) == 1:  # a loaded model may have another name for its adapter
        folders = dict(zip(names, folders.values(), strict=True))
    folders = {name: folders[name] for name in names if name in folders}
    read_trainings(model, folders, {key: value for key, value in identity.items() if key != "sha256"})  # refuses
    return Loaded(model, tokenizer, names, input_device(model), identity, weights_hash, folders, model_facts(model))


def require_splittable(config: CaptureConfig, adapters: Mapping[str, Any]) -> None:
    """Raise an error if a capture needs weights that are whole, for a model whose weights are split over processes.

    `adapters` maps names to PEFT's configurations.

    Raises
    ------
    ValueError
        If a setting needs whole layers.
    AdapterError
        If an adapter does.
    """
    needs = {
        "share": config.share > 1,
        "importance": config.importance,
        "null_adapters": config.null_adapters,
        "codec": config.codec == "auto",
    }
    if name := next((name for name, is_asked in needs.items() if is_asked), None):
        raise ValueError(
            f"`{name}` is {getattr(config, name)!r}, which needs whole weights in one process, and the model's are "
            "split over processes here; leave it out, or capture in one process"
        )
    for name, settings in adapters.items():
        raise_for_problems(split_problems(settings), config.adapters.get(name, name))


def settings_in_memory(
    model: Any, data: Any, out: str | Path, options: Mapping[str, Any]
) -> tuple[CaptureConfig, Items | None]:
    """Return the settings that describe a model and data in memory, and the data's items (None if it is files).

    `data` takes what `name_data` takes.

    Raises
    ------
    TypeError
        If the model is only named, or an option isn't a setting that is still open.
    AdapterError
        If the model has no adapter that can be measured.
    Exception
        What `name_data` raises.
    """
    _require_known_options(options)
    if isinstance(model, str | Path):
        raise TypeError(f"`model` is {str(model)!r}; give a loaded `PeftModel`, or a `CaptureConfig` that names it")
    names = captured_adapters(model, options.get("stream", "adapted"), allow_zero=bool(options.get("allow_zero")))
    plain, sharing = plain_model(model), layer_sharing(model)
    shared = {"share": sharing["share"], "shared_layers": sharing["shared_layers"]} if sharing["share"] > 1 else {}
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in base_tensors(model).values()}
    settings = {
        "model": str(getattr(plain, "name_or_path", "")) or f"{type(plain).__name__} {IN_MEMORY}",
        "adapter": tuple(f"{name}={name} {IN_MEMORY}" for name in names),
        "dtype": dtypes.pop() if len(dtypes) == 1 and dtypes <= DTYPES.keys() else "auto",
        "device": input_device(model).type,
    }
    named, items = name_data(data)
    return CaptureConfig(**{**settings, **shared, **options, "data": named, "out": str(out)}), items


def _require_known_options(options: Mapping[str, Any]) -> None:
    """Raise TypeError if an option is no setting of CaptureConfig, or says how a model is loaded."""
    known = {field.name for field in fields(CaptureConfig)}
    for name in options:
        if name in MODEL_SETTINGS:
            raise TypeError(f"`{name}` says how a model is loaded, and this one is; leave it out")
        if name not in known:
            close = suggestion(name, sorted(known - MODEL_SETTINGS))
            raise TypeError(f"`capture` has no option `{name}`{close or '; `CaptureConfig` names them all'}")
