"""Load a causal language model and its tokenizer, and say which model it is."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from .preflight import plain_path
from .provenance import fingerprint, hash_tensors

__all__ = ["context_length", "load_model", "model_identity", "tokenizer_identity"]

DTYPES: dict[str, Any] = {
    "auto": "auto",
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""Allowed `dtype` -> what transformers is asked for; `auto` is the type the checkpoint was saved in."""
ALLOWED = "a hub id ('owner/name'), a local folder with 'config.json' and safetensors, or a '.gguf' file"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")
_VOLATILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}
"""Entries of a model's config that say where it came from or how it was loaded, not what it is."""


def load_model(
    source: str, *, dtype: str = "auto", device: str = "cpu", trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """Load a causal language model in eval mode, and its fast tokenizer.

    Parameters
    ----------
    source
        Hub id, local folder, or path of a `.gguf` file. Only safetensors and GGUF weights are read, never a pickle.
    dtype
        Type of the weights: `auto`, `float32`, `float16` or `bfloat16`.
    device
        Where the model goes, e.g. `cpu` or `cuda:0`.
    trust_remote_code
        Whether Python code that the model brings may run.

    Returns
    -------
    model, tokenizer
        A transformers `PreTrainedModel` and `PreTrainedTokenizerBase`.

    Raises
    ------
    FileNotFoundError
        If `source` is neither on this disk nor could be a hub id.
    ValueError
        If `source` holds no causal language model that can be read whole, its tokenizer isn't a fast one, or `dtype`
        or `device` isn't allowed.

    Notes
    -----
    GGUF weights are unpacked to `dtype`. Left alone, transformers may keep them packed where a kernel is installed, and
    without one it unpacks them and still labels the model quantized (`hf_quantizer`, `is_quantized`,
    `quantization_method`, `config.quantization_config`), so that `float()`, `save_pretrained` and `Trainer` refuse it.
    `GgufConfig(dequantize=True)` unpacks in any case and leaves no label.
    """
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` is {dtype!r}; allowed are {list(DTYPES)}")
    place = _device(device)
    where, options = _locate(source)
    origin = "" if options else " (nothing on this disk, so taken as a hub id)"
    options["trust_remote_code"] = trust_remote_code
    with _one_line(f"model {source!r}{origin}"):
        quantization: dict[str, Any] = (
            {"quantization_config": GgufConfig(dequantize=True)} if "gguf_file" in options else {}
        )
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where, **options, **quantization, dtype=DTYPES[dtype], use_safetensors=True, output_loading_info=True
        )
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"model {source!r} lacks {len(missing)} of its weights, first {missing[0]!r}; they would be random"
        )
    with _one_line(f"tokenizer of {source!r}"):
        tokenizer: Any = AutoTokenizer.from_pretrained(where, **options)
    if not tokenizer.is_fast:
        raise ValueError(
            f"tokenizer of {source!r} is {type(tokenizer).__name__}, which can't say where in the text its tokens are; "
            "a fast one (with 'tokenizer.json') is needed"
        )
    return model.to(place).eval(), tokenizer


def model_identity(model: nn.Module, source: str) -> dict[str, Any]:
    """Which base model it is: names, type, size, and SHA-256 over its weights and its configuration.

    The same with and without an adapter, unless the adapter's init changed the base (`label_init`).

    Parameters
    ----------
    model
        A plain model or a `PeftModel`.
    source
        Where it was loaded from.

    Raises
    ------
    ValueError
        If a weight is offloaded to the meta device.
    """
    tensors = _base_tensors(model)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}
    return {
        "name": source,
        "class": type(base).__name__,
        "dtype": "+".join(sorted(dtypes)),
        "n_parameters": sum({id(t): t.numel() for t in tensors.values() if isinstance(t, nn.Parameter)}.values()),
        "attention": getattr(base.config, "_attn_implementation", None),
        "sha256": hash_tensors(tensors),
        "config_sha256": _hash_config(base.config),
    }


def tokenizer_identity(tokenizer: Any) -> dict[str, str]:
    """Which tokenizer it is: class, and SHA-256 of all that it does to a text."""
    content = tokenizer.backend_tokenizer.to_str()
    return {"class": type(tokenizer).__name__, "sha256": hashlib.sha256(content.encode()).hexdigest()}


def context_length(model: Any) -> int | None:
    """Most tokens that the model was made for; None where its configuration states no limit."""
    config = model.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"):
        length = getattr(config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return None


def _locate(source: str) -> tuple[str, dict[str, Any]]:
    """What transformers is given for a source, once the source is known to be readable."""
    path = Path(source).expanduser()
    if path.is_dir():
        _check_folder(path)
        return str(path), {"local_files_only": True}
    if path.is_file():
        if path.suffix != ".gguf":
            raise ValueError(f"`model` is {source!r}, a file that isn't '.gguf'; allowed are {ALLOWED}")
        return str(path.parent), {"gguf_file": path.name, "local_files_only": True}
    if not _HUB_ID.fullmatch(source) or path.suffix == ".gguf":
        raise FileNotFoundError(f"`model` is {source!r}, which doesn't exist; allowed are {ALLOWED}")
    return source, {}


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds no readable model, in our words rather than after a failed load."""
    what = f"`model` is {str(folder)!r}, a folder"
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ValueError(f"{what} with an adapter; give the model it was made for, and this folder as `adapter`")
        raise ValueError(f"{what} without 'config.json'; allowed are {ALLOWED}")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{what} without safetensors weights (pickled '.bin' files aren't read); allowed are {ALLOWED}"
        )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"`device` is {name!r}; allowed are 'cpu', 'cuda', 'cuda:0' ...") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"`device` is {name!r}, but torch finds no CUDA device here; use 'cpu'")
    return device


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turn what transformers raises over a source, often a page long, into one line."""
    try:
        yield
    except Exception as error:  # a malformed file makes transformers raise anything, from KeyError to its own kinds
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{what} can't be loaded: {lines[0].strip()}") from error


def _base_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights and saved buffers of the model before PEFT wrapped it, by the plain model's names."""
    added = tuple(
        f"{path}.{name}."
        for path, module in model.named_modules()
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
        for name in module.adapter_layer_names
    )
    return {
        _plain_key(key): tensor
        for key, tensor in model.state_dict(keep_vars=True).items()
        if not f"{key}.".startswith(added)
    }


def _plain_key(key: str) -> str:
    return ".".join(name for name in plain_path(key).split(".") if name not in {"base_layer", "original_module"})


def _hash_config(config: Any) -> str:
    entries = json.loads(config.to_json_string(use_diff=False))
    return fingerprint({key: value for key, value in entries.items() if key not in _VOLATILE})
