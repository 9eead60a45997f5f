"""The model of a capture, with its adapters attached, on its device."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel

from ..config import CaptureConfig
from ..models.adapter import adapter_identity, attach_adapters, read_adapter
from ..models.device import input_device
from ..models.model import hash_weights, load_model, model_identity
from ..models.preflight import require_adapter
from ..models.refusal import is_residual, require
from ..models.sharing import sharing_of
from ..models.training_record import RECORD, Training, describe_sharing, read_training
from ..models.weights import Hash, hash_at_once


class Loaded(NamedTuple):
    """A model ready to be measured."""

    model: Any
    """A `PeftModel` in whatever mode it came."""
    tokenizer: Any
    adapters: tuple[str, ...]
    """Names of the adapters that are captured."""
    device: torch.device
    """Device that takes token ids."""
    identity: dict[str, Any]
    """The identity of the base model (`model_identity`), its hash left empty."""
    weights_hash: Callable[[], str]
    """Waits for the hash of the base's weights and gives it."""
    folders: Mapping[str, str]
    """Adapter -> its folder, where it is known."""

    def whole_identity(self) -> dict[str, Any]:
        """The identity of the base model with the hash of its weights, for which this waits."""
        return {**self.identity, "sha256": self.weights_hash()}


def load(
    config: CaptureConfig, device: torch.device, model: Any, tokenizer: Any, start_hash: Hash = hash_at_once
) -> Loaded:
    """The model that `config` names with its adapters, on this device, or a loaded model, which stays where it is.

    Its weights may still be hashed when this returns.

    Raises
    ------
    AdapterError
        If an adapter doesn't fit the model, was trained on one whose layers share weights otherwise, or is untrained,
        merged or disabled.
    ValueError, FileNotFoundError
        If the model can't be read, or a loaded one shares weights otherwise than `config` says.
    """
    if model is not None:
        if not hasattr(tokenizer, "is_fast"):
            kind = "missing" if tokenizer is None else f"a {type(tokenizer).__name__}"
            raise ValueError(f"`tokenizer` is {kind}; give the model's own, a fast one of transformers")
        sharing = sharing_of(model)
        expected = {"share": config.share, "shared_layers": config.shared_layers if config.share > 1 else 0}
        if sharing != expected:
            raise ValueError(
                f"by `share` and `shared_layers` {describe_sharing(expected)}, but in the model that was given "
                f"{describe_sharing(sharing)}; give settings that are the model's"
            )
        identity, weights_hash = model_identity(model, config.model, sha256=""), hash_weights(model, start_hash)
        names = captured_adapters(model, config.stream, allow_zero=config.allow_zero)
    else:
        settings = [read_adapter(folder)[0] for folder in config.adapters.values()]  # before minutes of loading
        model, tokenizer = load_base(config, device)
        # Before the adapters: PiSSA and its like change the base weights while they are attached.
        identity = model_identity(model, config.model, sha256="")
        weights_hash = hash_weights(model, hash_at_once if any(map(is_residual, settings)) else start_hash)
        model = attach_adapters(model, config.adapters, allow_zero=config.allow_zero)
        names = tuple(config.adapters)
    folders = dict(config.adapters)
    if len(folders) == len(names) == 1:  # a loaded model may have another name for its adapter
        folders = dict(zip(names, folders.values(), strict=True))
    folders = {name: folders[name] for name in names if name in folders}
    read_trainings(model, folders, {key: value for key, value in identity.items() if key != "sha256"})  # refuses
    return Loaded(model, tokenizer, names, input_device(model), identity, weights_hash, folders)


def captured_adapters(model: Any, stream: str, *, allow_zero: bool) -> tuple[str, ...]:
    """Names of a loaded model's adapters that are captured; raises an AdapterError if the active one can't be."""
    if stream == "base" and isinstance(model, PeftModel):
        return tuple(model.peft_config)
    return (require_adapter(model, allow_zero=allow_zero),)


def load_base(config: CaptureConfig, device: torch.device) -> tuple[Any, Any]:
    """The base model that the settings name, without adapters, and its tokenizer; see `load_model`."""
    return load_model(
        config.model,
        dtype=config.dtype,
        device=str(device),
        device_map=config.device_map,
        trust_remote_code=config.trust_remote_code,
        share=config.share,
        shared_layers=config.shared_layers,
        share_from=config.share_from,
    )


def read_trainings(model: Any, folders: Mapping[str, str], identity: Mapping[str, Any]) -> dict[str, Training]:
    """Records of training in the adapters' folders; raises an AdapterError if one forbids measuring on this model."""
    trainings = {}
    for name, folder in folders.items():
        if Path(folder, RECORD).is_file():
            sha256 = adapter_identity(model, name)["sha256"]
            trainings[name] = read_training(folder, name, identity, adapter_sha256=sha256)
            require(trainings[name].problems, name)
    return trainings
