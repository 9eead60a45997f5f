"""Attach LoRA adapters to a model, and refuse adapters that can't be measured on it.

Every adapter is compared with the model first; an adapter that is refused then leaves the model as it was.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import remove_hook_from_module  # type: ignore[import-untyped]  # it has no stubs
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from lorascope.capture.errors import AdapterError
from lorascope.stores import StoreError
from lorascope.stores.adapter_settings import CONFIG, belongs_to_adapter
from lorascope.stores.json_document import read_tensor_header

from .device import execution_device, hidden_device_map, is_offloaded
from .preflight import inspect_adapter
from .refusal import (
    adapter_tensors,
    first_line,
    fit_problems,
    init_problems,
    is_residual,
    lora_layers,
    peft_type,
    plan_problems,
    raise_for_problems,
    weight_problems,
)
from .shards import layer_shards
from .sharing import layer_sharing
from .source import adapter_weights_file, require_adapter_settings
from .training_record import RECORD, Training, read_training
from .weights import hash_tensors, plain_path


def attach_adapter(model: nn.Module, path: str | Path, *, name: str = "default", allow_zero: bool = False) -> PeftModel:
    """Attach the LoRA adapter in a folder to a plain model; return the PeftModel, active and in eval mode.

    See `attach_adapters` for the errors.
    """
    return attach_adapters(model, {name: path}, allow_zero=allow_zero)


def attach_adapters(model: nn.Module, folders: Mapping[str, str | Path], *, allow_zero: bool = False) -> PeftModel:
    """Attach LoRA adapters (name -> folder) to a plain model; return the PeftModel, with the first one active.

    The model is in eval mode afterwards.

    The model itself is wrapped, not copied. Adapter weights kept in half precision become float32, PEFT's default. All
    adapters are compared with the model before any of them is attached.

    Parameters
    ----------
    model
        A model without any adapter; offloaded layers stay offloaded.
    folders
        Name of each adapter in the model -> folder with `adapter_config.json` and `adapter_model.safetensors`; a
        pickled `adapter_model.bin` isn't read.
    allow_zero
        Whether an adapter that changes nothing (all lora_B zero) is accepted.

    Raises
    ------
    AdapterError
        If a folder contains no LoRA adapter, an adapter was made for another model or trained on one whose layers share
        weights differently, or it can't be measured.

    Notes
    -----
    An adapter begun by PiSSA or OLoRA changes the base weights again while it is attached (`is_residual`), so take
    `model_identity` before if the checkpoint's own hash is wanted; it can't be combined with other adapters.
    """
    for name in folders:
        if not name.isidentifier():
            raise AdapterError(f"`name` is {name!r}; allowed are letters, digits and `_`, not beginning with a digit")
    contents = {name: read_adapter(folder) for name, folder in folders.items()}
    if isinstance(model, PeftModel) or any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        where = str(next(iter(folders.values())))
        raise AdapterError(f"the model already has an adapter; attach {where!r} to a freshly loaded model")
    for name, (config, tensors) in contents.items():
        problems = init_problems(model, config, len(contents)) or fit_problems(model, config, tensors, name)
        problems += plan_problems(model, tensors) if layer_shards(model) else []
        problems += read_training(folders[name], name, layer_sharing(model)).problems
        if not any(problem.kind in {"shape", "unexpected"} for problem in problems):  # of any size, and mapped only
            problems += weight_problems(tensors, allow_zero=allow_zero)
        raise_for_problems(problems, str(folders[name]))
    adapted: Any = model
    for name, content in contents.items():
        adapted = _attach_with_peft(adapted, folders[name], name, *content)
    adapted.eval()
    for place, name in enumerate(contents):
        stream = "adapted" if place == 0 else "base"
        raise_for_problems(inspect_adapter(adapted, name, stream=stream, allow_zero=allow_zero), name)
    attached: PeftModel = adapted
    return attached


def scaling_identity(model: nn.Module, name: str) -> float | dict[str, float]:
    """Return the current scaling of an adapter: one number if all modules agree, else module path -> number."""
    scalings = {path: float(layer.scaling[name]) for path, layer in lora_layers(model).items() if name in layer.scaling}
    values = set(scalings.values())
    return values.pop() if len(values) == 1 else scalings


def adapter_identity(source: nn.Module | str | Path, name: str = "default") -> dict[str, Any]:
    """Return what identifies an adapter, as JSON values: its configuration, and SHA-256 of its float32 weights.

    A folder and a model with this adapter give the same identity, whatever the adapter's name in the model. `base` says
    whether base states are those of the checkpoint, or of the residual that the adapter's init left.

    Parameters
    ----------
    source
        A `PeftModel`, or an adapter's folder.
    name
        The adapter's name in the model; not used for a folder.

    Raises
    ------
    AdapterError
        If the folder contains no LoRA adapter, or the model no adapter of this name.
    """
    if isinstance(source, nn.Module):
        if not isinstance(source, PeftModel) or name not in source.peft_config:
            raise AdapterError(f"the model, a {type(source).__name__}, has no adapter {name!r}")
        config: Any = source.peft_config[name]
        tensors = adapter_tensors(source, name)
    else:
        config, stored = read_adapter(source)
        trained = tuple(config.modules_to_save or ())
        tensors = {plain_path(key): tensor for key, tensor in stored.items() if belongs_to_adapter(key, trained)}
    targets = config.target_modules
    return {
        "peft_type": peft_type(config),
        "rank": config.r,
        "alpha": config.lora_alpha,
        "rank_pattern": dict(config.rank_pattern or {}),
        "alpha_pattern": dict(config.alpha_pattern or {}),
        "scaling": "alpha / sqrt(rank)" if config.use_rslora else "alpha / rank",
        "target_modules": targets if isinstance(targets, str) else sorted(targets or ()),
        "init_lora_weights": config.init_lora_weights,
        "base": "residual base" if is_residual(config) else "frozen base",
        "use_rslora": bool(config.use_rslora),
        "use_dora": bool(config.use_dora),
        "bias": config.bias,
        "base_model": config.base_model_name_or_path,
        "peft_version": config.peft_version,
        "n_parameters": sum(tensor.numel() for tensor in tensors.values()),
        "sha256": hash_tensors(tensors, dtype=torch.float32).sha256,
    }


def read_trainings(model: nn.Module, folders: Mapping[str, str], identity: Mapping[str, Any]) -> dict[str, Training]:
    """Return adapter -> training record in its folder; raise AdapterError if a record doesn't fit the base model."""
    trainings = {}
    for name, folder in folders.items():
        if Path(folder, RECORD).is_file():
            sha256 = adapter_identity(model, name)["sha256"]
            trainings[name] = read_training(folder, name, identity, adapter_sha256=sha256)
            raise_for_problems(trainings[name].problems, name)
    return trainings


def read_adapter(path: str | Path) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """Return (LoraConfig, key in the file -> weight) of an adapter's folder; weights are mapped, not yet read.

    Raises
    ------
    AdapterError
        If the folder contains no LoRA adapter that can be read.
    """
    folder = Path(path)
    require_adapter_settings(folder)  # PEFT itself would accept any rank and alpha
    try:
        config: LoraConfig = LoraConfig.from_pretrained(str(folder))
    except Exception as error:  # what is wrong in a configuration makes PEFT raise anything
        raise AdapterError(f"{str(folder / CONFIG)!r} is no PEFT configuration: {first_line(error)}") from error
    file = adapter_weights_file(folder)
    try:
        read_tensor_header(file)
        return config, load_file(file)  # mapped, not yet read
    except StoreError as error:
        raise AdapterError(str(error)) from error
    except RuntimeError as error:  # torch's, where there is no room to map it
        raise AdapterError(
            f"{str(file)!r} can't be mapped: {first_line(error)}; is it as large as it should?"
        ) from error
    except SafetensorError as error:
        raise AdapterError(f"{str(file)!r} is damaged: {first_line(error)}; copy or save the adapter again") from error


def _attach_with_peft(
    model: Any, folder: str | Path, name: str, config: LoraConfig, tensors: Mapping[str, torch.Tensor]
) -> PeftModel:
    """Load an adapter into a model with PEFT and return the PeftModel; raise AdapterError if PEFT can't.

    The model stays on its devices.
    """
    offloaded = is_offloaded(model)
    # With offloaded layers PEFT must not draw an init, which would land on the meta device and stay there.
    options: dict[str, Any] = {"adapter_name": name, "torch_device": "cpu", "low_cpu_mem_usage": offloaded}
    try:
        # PEFT draws an init before it overwrites it with the loaded weights; the global random state must not change.
        with hidden_device_map(model), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            # PEFT 0.21 asks transformers 5.24 for a property under its old name: nothing that a user could change.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            if isinstance(model, PeftModel):
                model.load_adapter(str(folder), **options)
                adapted = model
            else:
                adapted = PeftModel.from_pretrained(model, str(folder), config=config, **options)
    except Exception as error:  # what is wrong in a configuration makes PEFT raise anything
        raise AdapterError(f"PEFT can't attach adapter {str(folder)!r}: {first_line(error)}") from error
    if offloaded:
        _place_weights(adapted, tensors, name)
    return adapted


def _place_weights(model: nn.Module, tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """Set an adapter's weights on its layers' devices: LoRA's in float32, copies of base modules in the base's type.

    PEFT moves them to the device of an offloaded layer's own weights, the meta device, where they are lost. It also
    gives the trained copy of an offloaded module (`modules_to_save`) the hook that loads the base's weights.
    """
    layers: list[Any] = [m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    layers = [layer for layer in layers if name in layer._get_available_adapters()]
    for layer in layers:
        if isinstance(layer, ModulesToSaveWrapper):
            remove_hook_from_module(layer.modules_to_save[name], recurse=True)
    saved = {plain_path(key): tensor for key, tensor in tensors.items()}
    keys = {id(tensor): key for key, tensor in adapter_tensors(model, name).items()}
    for layer in layers:
        is_wrapper = isinstance(layer, AuxiliaryTrainingWrapper)
        device = execution_device(layer.original_module if is_wrapper else layer.get_base_layer())
        for module in layer.modules():
            for local, empty in [*module._parameters.items()]:
                key = keys.get(id(empty), "")
                if key in saved:
                    weight = saved[key].to(device, empty.dtype if is_wrapper else torch.float32)
                    module._parameters[local] = nn.Parameter(weight, requires_grad=False)
