"""Load a language model and its tokenizer, and identify them."""

import hashlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from lorascope.stores.format.digests import fingerprint
from lorascope.stores.format.layout import MAX_CHUNK_BYTES
from lorascope.stores.format.spec import MAX_COMPONENTS, ROW_TOKENS
from lorascope.stores.names import require_choice

from .device import is_offloaded, parse_device, require_device
from .gguf import converted_folder, keep_conversion
from .shards import distribution, plain_class
from .sharing import layer_sharing, share_layers
from .source import CONTEXT_NAMES, check_sharing, locate_model
from .tensor_plan import require_shardable
from .weights import Hash, Hashed, ReadableWeights, base_tensors, hash_at_once, hash_tensors, plain_model

DTYPES: dict[str, Any] = {
    "auto": "auto",
    **{name: getattr(torch, name) for name in ("float32", "float16", "bfloat16")},
}
"""Allowed `dtype` -> what transformers is asked for; `auto` is the type the checkpoint was saved in."""
CLASSES: dict[str, Any] = {
    "ForCausalLM": AutoModelForCausalLM,
    "LMHeadModel": AutoModelForCausalLM,
    "ForMaskedLM": AutoModelForMaskedLM,
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
    "Model": AutoModel,
}
"""End of an architecture's name -> what loads it, the first that fits. Encoder-decoder models have two
token axes, and aren't among them."""
_MAX_FEATURES = MAX_CHUNK_BYTES // (2 * ROW_TOKENS)
"""Most features of a layer: a row of more, at two bytes each, doesn't fit a chunk."""
_MAX_SIZES = {
    # A layer has four linear ones at least: more components don't fit a run.
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layers", "n_layer"), MAX_COMPONENTS // 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), MAX_COMPONENTS // 4),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "intermediate_size", "n_inner"), _MAX_FEATURES),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "head_dim"), _MAX_FEATURES),
    "vocab_size": 2**24,  # the largest have a few hundred thousand
}
"""Entry of a model's config -> its largest value."""
_LOADING_ENTRIES = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "distributed_config"}
"""Entries of a model's config that say where it came from or how it was loaded, not what it is."""


def load_model(
    source: str,
    *,
    dtype: str = "auto",
    device: str = "cpu",
    device_map: str | Mapping[str, Any] | None = None,
    tensor_parallel: int = 1,
    fully_shard: bool = False,
    trust_remote_code: bool = False,
    share: int = 1,
    shared_layers: int = 16,
    share_from: Literal["first", "mean"] = "first",
) -> tuple[Any, Any]:
    """Load a language model of transformers, in eval mode, and its fast tokenizer; return both.

    With `TQDM_DISABLE=1` in the environment when Python starts, transformers shows no progress bars.

    Parameters
    ----------
    source
        Hub id, local folder, or path of a `.gguf` file. Only safetensors and GGUF weights are read, never a pickle.
    dtype
        Type of the weights: `auto`, `float32`, `float16` or `bfloat16`.
    device
        Device of the model: `auto`, `cpu`, `cuda`, `cuda:0` ...; ignored if `device_map` is given.
    device_map
        How accelerate spreads the model: `auto`, or module name -> device, `cpu` or `disk`.
    tensor_parallel, fully_shard
        Under torchrun: number of processes over which each layer is split, and whether weights are sharded over all
        processes (FSDP2). Each process reads its own shards only.
    trust_remote_code
        Whether Python code that comes with the model may run.
    share, shared_layers, share_from
        How the last layers share their weights once they are loaded; see `share_layers`.

    Returns
    -------
    model, tokenizer
        A transformers `PreTrainedModel` and `PreTrainedTokenizerBase`.

    Raises
    ------
    FileNotFoundError
        If `source` isn't on this disk and can't be a hub id.
    ValueError
        If `source` contains no language model that can be read whole, its tokenizer isn't a fast one, its layers can't
        share weights as these settings ask, or `dtype` or `device` isn't allowed.

    Notes
    -----
    GGUF weights are unpacked to `dtype`, and kept so in the user's cache (see
    `converted_folder`). By default, transformers may keep them packed if a kernel is installed;
    without a kernel it unpacks them but still labels the model quantized (`hf_quantizer`, `is_quantized`,
    `quantization_method`, `config.quantization_config`), so that `float()`, `save_pretrained` and `Trainer` refuse it.
    `GgufConfig(dequantize=True)` unpacks in any case and leaves no label.

    The kind of model follows from the architecture in its configuration: causal, masked, a classifier
    of sequences or tokens, or a bare encoder.
    """
    require_choice("dtype", dtype, DTYPES)
    check_sharing(share, shared_layers, share_from)
    spread = distribution(tensor_parallel, fully_shard)
    if spread is not None and torch.cuda.is_available() and parse_device(device).type == "cpu":
        raise ValueError(
            "`device` is 'cpu', but transformers splits a model over GPUs where there are any; leave it out, or hide "
            "them by `CUDA_VISIBLE_DEVICES=`"
        )
    place = require_device(parse_device(device)) if device_map is None and spread is None else None
    where, options = locate_model(source, dtype=dtype)
    origin = "" if options else " (nothing on this disk, so taken as a hub id)"
    options["trust_remote_code"] = trust_remote_code
    loading: dict[str, Any] = {"dtype": DTYPES[dtype], "use_safetensors": True, "output_loading_info": True}
    if device_map is not None:
        loading["device_map"] = device_map if isinstance(device_map, str) else dict(device_map)
    if spread is not None:
        loading["distributed_config"] = spread
    if is_gguf := "gguf_file" in options:
        loading["quantization_config"] = GgufConfig(dequantize=True)
    with one_line_errors(f"model {source!r}{origin}"):
        config = read_config(where, **options)
        auto_class = AutoModelForCausalLM if is_gguf else model_class(config)
    if spread is not None:
        twin = model_on_meta(config, torch.bfloat16, trust_remote_code=trust_remote_code)
        require_shardable(twin, tensor_parallel=tensor_parallel, fully_shard=fully_shard)
    with one_line_errors(f"model {source!r}{origin}"):
        loaded: Any = auto_class.from_pretrained(where, **options, **loading)
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        first = f"{len(missing)} of its weights, first {missing[0]!r}"
        raise ValueError(f"model {source!r} lacks {first}; they would be random")
    with one_line_errors(f"tokenizer of {source!r}"):
        tokenizer: Any = AutoTokenizer.from_pretrained(where, **options)
    if not tokenizer.is_fast:
        kind = f"{type(tokenizer).__name__}, which can't say where in the text its tokens are"
        raise ValueError(f"tokenizer of {source!r} is {kind}; a fast one (with 'tokenizer.json') is needed")
    if (file := Path(source).expanduser()).is_file():  # a GGUF file
        if is_gguf:
            keep_conversion(model, tokenizer, converted_folder(file, dtype))
        model.name_or_path = model.config.name_or_path = tokenizer.name_or_path = str(file.parent)
    share_layers(model, share, shared_layers=shared_layers, share_from=share_from)
    return (model if place is None else model.to(place)).eval(), tokenizer


def read_config(where: str, *, trust_remote_code: bool, **options: Any) -> Any:
    """Return a model's configuration; raise ValueError if it announces more layers or features than a run can hold."""
    _require_sizes(PreTrainedConfig.get_config_dict(where, **options)[0])  # before a list of all layers is made
    return AutoConfig.from_pretrained(where, trust_remote_code=trust_remote_code, **options)


def _require_sizes(entries: Mapping[str, Any]) -> None:
    """Raise ValueError if an entry of a model's config, or of a part of it such as `text_config`, is too large."""
    for name, value in entries.items():
        if isinstance(value, dict):
            _require_sizes(value)
        elif isinstance(value, int) and value > _MAX_SIZES.get(name, value):
            raise ValueError(f"`{name}` in its configuration is {value}; allowed are {_MAX_SIZES[name]} at most")


def model_class(config: Any) -> Any:
    """Return the transformers class that loads a model with this configuration; raise ValueError if none does."""
    name = next(iter(config.architectures or ("ForCausalLM",)))
    for ending, auto_class in CLASSES.items():
        if name.endswith(ending) and not getattr(config, "is_encoder_decoder", False):
            return auto_class
    raise ValueError(
        f"its architecture is {name!r}; allowed are those that end in {list(CLASSES)}, and no encoder-decoder models"
    )


def model_on_meta(config: Any, dtype: torch.dtype, *, trust_remote_code: bool = False) -> Any:
    """Return a model with this configuration on the meta device."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same come again when the model itself is loaded
        return model_class(config).from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)


def is_causal(model: Any) -> bool:
    """Return whether the logits at each position are the model's prediction of the next token.

    They are in causal models, except those that transformers also has as encoders (BERT and its kin) if their
    configuration doesn't make them decoders.
    """
    plain = plain_model(model)
    if not type(plain).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        return False
    return bool(getattr(plain.config, "is_decoder", False)) or not is_encoder_kin(model)


def is_encoder_kin(model: Any) -> bool:
    """Return whether transformers also has encoders of this model's type (BERT ...), even if this is a decoder."""
    return plain_model(model).config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Facts about a model that decide which samples fit it and what can be measured with it, as plain values."""

    class_name: str
    """Name of the class of the model that PEFT wrapped."""
    context_length: int
    """Largest number of tokens in a sequence; `sys.maxsize` if the model states no limit."""
    n_known_tokens: int
    """Number of token ids that the model knows; `sys.maxsize` if it doesn't state it."""
    is_causal: bool
    """Whether the logits at each position predict the next token; see `is_causal`."""
    attends_by_length: bool
    """Whether the model may choose how it attends by the length of a batch, as encoders and their kin (BigBird) do."""


def model_facts(model: Any) -> ModelFacts:
    """Return the `ModelFacts` of a model: class, context, vocabulary, causal or not; it may be on the meta device."""
    return ModelFacts(
        class_name=plain_class(plain_model(model)).__name__,
        context_length=context_length(model) or sys.maxsize,
        n_known_tokens=getattr(model.config.get_text_config(), "vocab_size", None) or sys.maxsize,
        is_causal=is_causal(model),
        attends_by_length=not is_causal(model) or is_encoder_kin(model),
    )


def model_identity(model: nn.Module, source: str, *, sha256: str | None = None) -> dict[str, Any]:
    """Return what identifies a base model, as JSON values: name, type, size, and SHA-256 of weights and config.

    An adapter doesn't change it, unless the adapter's init changed the base (`is_residual`). Weights that are shared
    count once as parameters, and enter the hash under each of their names.

    Parameters
    ----------
    model
        A plain model or a `PeftModel`.
    source
        Where it was loaded from.
    sha256
        Hash of the weights, if it is known or comes later.

    Raises
    ------
    ValueError
        If a weight is on the meta device, and not because accelerate offloaded it, or layers share weights in a manner
        that `layer_sharing` has no name for.
    """
    tensors = base_tensors(model)
    base = plain_model(model)
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}
    n_parameters, n_others = _n_parameters(model)
    return {
        "name": source,
        "class": plain_class(base).__name__,
        "dtype": "+".join(sorted(dtypes)),
        "n_parameters": n_parameters,
        "n_parameters_non_embedding": n_others,
        **layer_sharing(model),
        "attention": getattr(base.config, "_attn_implementation", None),
        "sha256": hash_tensors(ReadableWeights(model, tensors)).sha256 if sha256 is None else sha256,
        "config_sha256": _hash_config(base.config),
    }


def hash_weights(model: nn.Module, start_hash: Hash) -> Callable[[], Hashed]:
    """Begin to hash the base model's weights with `start_hash`; return a function that waits for the hash.

    They are hashed at once if a pass may change how they are kept: offloaded and quantised weights, and those of RWKV,
    which rescales some before its first pass.
    """
    weights = ReadableWeights(model, base_tensors(model))
    is_plain = all(type(tensor) in {torch.Tensor, nn.Parameter} and not tensor.is_meta for tensor in weights.values())
    is_kept = is_plain and not is_offloaded(model) and not getattr(plain_model(model).config, "rescale_every", 0)
    return (start_hash if is_kept else hash_at_once)(weights)


def _n_parameters(model: Any) -> tuple[int, int]:
    """Count the base model's parameters, shared ones once: (all, all except input and output embeddings)."""
    base = plain_model(model)
    modules: list[Any] = [module for module in base.modules() if isinstance(module, nn.Embedding)]
    if isinstance(base, PreTrainedModel):
        whole: Any = base  # transformers types one of the two
        modules = [whole.get_input_embeddings(), whole.get_output_embeddings()]
    excluded = {id(tensor) for module in modules if module is not None for tensor in module.parameters()}
    sizes = {id(tensor): tensor.numel() for tensor in base_tensors(model).values() if isinstance(tensor, nn.Parameter)}
    return sum(sizes.values()), sum(n for key, n in sizes.items() if key not in excluded)


def tokenizer_identity(tokenizer: Any) -> dict[str, str]:
    """Return what identifies a tokenizer: its class, and the SHA-256 of its serialised form."""
    content = tokenizer.backend_tokenizer.to_str()
    return {"class": type(tokenizer).__name__, "sha256": hashlib.sha256(content.encode()).hexdigest()}


def context_length(model: Any) -> int | None:
    """Return the largest number of tokens that the model takes; None if its configuration states no limit."""
    lengths = (getattr(model.config.get_text_config(), name, None) for name in CONTEXT_NAMES)
    return next((length for length in lengths if isinstance(length, int) and length > 0), None)


@contextmanager
def one_line_errors(what: str) -> Iterator[None]:
    """Turn any error within the context into a ValueError of one line: `what` can't be loaded, and why.

    Errors of transformers are often a page long.
    """
    try:
        yield
    except Exception as error:  # a malformed file makes transformers raise anything, from KeyError to its own kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
        reason = " ".join(lines) if lines[0].endswith(":") else lines[0]  # after a colon comes the reason
        raise ValueError(f"{what} can't be loaded: {reason} ({type(error).__name__})") from error


def _hash_config(config: Any) -> str:
    """Return the hash of a model's configuration without entries on where it came from and how it was loaded."""
    entries = json.loads(config.to_json_string(use_diff=False))
    return fingerprint({key: value for key, value in entries.items() if key not in _LOADING_ENTRIES})
