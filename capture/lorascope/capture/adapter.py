"""Attach a LoRA adapter to a model, and refuse one that isn't what will be measured.

PEFT loads an adapter with `strict=False`: keys that fit nowhere at most warn, and the output stays the base's own. So
PEFT first adapts a twin of the model on the meta device, which has every name and shape and no numbers, and the
file is held against that; an adapter refused by then leaves the real model as it was.
"""

import copy
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from lorascope.stores import Problem

from .preflight import (
    AdapterError,
    adapter_tensors,
    peft_type,
    plain_path,
    require,
    require_adapter,
    weight_problems,
)
from .provenance import hash_tensors

__all__ = ["adapter_identity", "attach_adapter", "label_init", "require_folder"]


RESIDUAL = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Inits that subtract the adapter's starting point from the base weights (PEFT's `lora/layer.py`, `*_init`)."""
UNREPEATED = ("pissa_niter", "lora_ga")
"""Those whose base a load doesn't give back: PEFT draws PiSSA's fast SVD anew and skips LoRA-GA, without a word."""


def attach_adapter(model: nn.Module, path: str | Path, *, name: str = "default", allow_zero: bool = False) -> PeftModel:
    """Attach the LoRA adapter in a folder to a plain model, active and in eval mode.

    The model itself is wrapped, not copied. Adapter weights kept in half precision become float32, PEFT's default.

    Parameters
    ----------
    model
        A model without any adapter.
    path
        Folder with `adapter_config.json` and `adapter_model.safetensors`; a pickled `adapter_model.bin` isn't read.
    name
        What the adapter is called in the model.
    allow_zero
        Whether an adapter that changes nothing (all lora_B zero) is taken.

    Raises
    ------
    AdapterError
        If the folder holds no LoRA adapter, the adapter was made for another model, or it can't be measured.

    Notes
    -----
    An adapter begun by PiSSA or OLoRA changes the base weights again while it is attached (`label_init`), so take
    `model_identity` before if the checkpoint's own hash is wanted.
    """
    if not name.isidentifier():
        raise AdapterError(f"`name` is {name!r}; allowed are letters, digits and `_`, not beginning with a digit")
    folder = Path(path)
    config = _read_config(folder)
    tensors = _read_tensors(folder)
    if isinstance(model, PeftModel) or any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise AdapterError(f"the model already has an adapter; attach {str(path)!r} to a freshly loaded model")
    require(_fit_problems(model, config, tensors, name) + weight_problems(tensors, allow_zero=allow_zero), str(path))
    try:
        # PEFT draws an init before it loads over it; that is no reason for the global random state to move.
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            # PEFT 0.21 asks transformers 5.24 for a property under its old name: nothing that a user could change.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            adapted = PeftModel.from_pretrained(
                model, str(folder), adapter_name=name, config=config, torch_device="cpu"
            )
    except (ValueError, ImportError) as error:
        raise AdapterError(f"PEFT can't attach adapter {str(path)!r}: {_first_line(error)}") from error
    adapted.eval()
    require_adapter(adapted, name=name, allow_zero=allow_zero)
    return adapted


def adapter_identity(source: nn.Module | str | Path, name: str = "default") -> dict[str, Any]:
    """What an adapter is: its configuration, and SHA-256 over its weights as float32.

    The same from a folder and from a model that the folder was attached to, whatever it is called there.

    Parameters
    ----------
    source
        A `PeftModel`, or an adapter's folder.
    name
        The adapter's name in the model; a folder has none.

    Raises
    ------
    AdapterError
        If the folder holds no LoRA adapter, or the model none of this name.
    """
    if isinstance(source, nn.Module):
        if not isinstance(source, PeftModel) or name not in source.peft_config:
            raise AdapterError(f"the model, a {type(source).__name__}, has no adapter {name!r}")
        config: Any = source.peft_config[name]
        tensors = adapter_tensors(source, name)
    else:
        config = _read_config(Path(source))
        tensors = {plain_path(key): tensor for key, tensor in _read_tensors(Path(source)).items()}
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
        "base": label_init(config),
        "use_rslora": bool(config.use_rslora),
        "use_dora": bool(config.use_dora),
        "bias": config.bias,
        "base_model": config.base_model_name_or_path,
        "peft_version": config.peft_version,
        "n_parameters": sum(tensor.numel() for tensor in tensors.values()),
        "sha256": hash_tensors(tensors, dtype=torch.float32),
    }


def label_init(config: LoraConfig) -> Literal["frozen base", "residual base"]:
    """Whether base states are those of the checkpoint, or of what the adapter's init left of it.

    PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change the base weights; EVA, MiCA and orthogonal init don't.
    """
    init = config.init_lora_weights
    return "residual base" if isinstance(init, str) and init.lower().startswith(RESIDUAL) else "frozen base"


def require_folder(path: str | Path) -> None:
    """Raise an `AdapterError` unless this folder holds a LoRA adapter that can be read."""
    _read_config(Path(path))
    _read_tensors(Path(path))


def _read_config(folder: Path) -> LoraConfig:
    """The LoRA configuration in an adapter's folder."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise AdapterError(
            f"{str(folder)!r} is no adapter folder: there is no {CONFIG_NAME!r} in it; "
            "give a local folder that PEFT's `save_pretrained` wrote"
        )
    try:
        kind = json.loads(path.read_bytes())["peft_type"]
        config: LoraConfig | None = LoraConfig.from_pretrained(str(folder)) if kind == "LORA" else None
    except (ValueError, TypeError, KeyError) as error:
        raise AdapterError(f"{str(path)!r} is no PEFT configuration: {_first_line(error)}") from error
    if config is None:
        raise AdapterError(f"`peft_type` of adapter {str(folder)!r} is {kind!r}; only 'LORA' can be captured")
    return config


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """An adapter's weights by the keys of its file, never unpickled."""
    path = folder / SAFETENSORS_WEIGHTS_NAME
    if not path.is_file():
        pickled = f"; {WEIGHTS_NAME!r} is a pickle and isn't read" if (folder / WEIGHTS_NAME).is_file() else ""
        raise AdapterError(
            f"adapter {str(folder)!r} has no {SAFETENSORS_WEIGHTS_NAME!r}{pickled}; save it again with PEFT"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise AdapterError(f"{str(path)!r} is damaged: {_first_line(error)}; copy or save the adapter again") from error


def _fit_problems(
    model: nn.Module, config: LoraConfig, tensors: Mapping[str, torch.Tensor], name: str
) -> list[Problem]:
    """Where the file's keys and shapes differ from those that PEFT makes for this model."""
    if str(config.init_lora_weights).startswith(UNREPEATED):
        return [
            Problem(
                "init_lora_weights",
                "init",
                f"{config.init_lora_weights!r} changed the base weights in a way that loading doesn't repeat; save it "
                "with PEFT's `path_initial_model_for_weight_conversion`",
            )
        ]
    try:
        wanted = _wanted_shapes(model, config, name)
    except ValueError as error:
        message = f"it fits no layer of this model: {shorten(_first_line(error), 160)}"
        return [Problem("target_modules", "no-layers", message)]
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    return [
        *(
            Problem(key, "missing", "it lacks weights that this model needs, so it was made for another one")
            for key in sorted(wanted.keys() - found.keys())
        ),
        *(
            Problem(
                key, "unexpected", "it holds weights that this model has no place for, so it was made for another one"
            )
            for key in sorted(found.keys() - wanted.keys())
        ),
        *(
            Problem(
                f"{key}: {found[key]}, not {shape}", "shape", "its weights have other shapes than this model's layers"
            )
            for key, shape in wanted.items()
            if key in found and found[key] != shape
        ),
    ]


def _wanted_shapes(model: nn.Module, config: LoraConfig, name: str) -> dict[str, tuple[int, ...]]:
    """Shape by key of the file that fits, found by adapting a twin without numbers."""
    memo: dict[int, Any] = {
        id(tensor): nn.Parameter(tensor.to("meta"), requires_grad=False)
        if isinstance(tensor, nn.Parameter)
        else tensor.to("meta")
        for tensor in (*model.parameters(), *model.buffers())
    }
    # Inits only decide numbers, and some of them need data or libraries that a twin doesn't.
    plain = copy.copy(config)
    plain.init_lora_weights = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same come again when the model itself is adapted
        twin = PeftModel(copy.deepcopy(model, memo), plain, adapter_name=name, low_cpu_mem_usage=True)
    state = get_peft_model_state_dict(twin, adapter_name=name, save_embedding_layers=False)
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
