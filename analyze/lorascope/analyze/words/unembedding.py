"""The unembedding out of a model's own folder: its safetensors and its tokenizer, without torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from safetensors import SafetensorError, safe_open

from lorascope.analyze.adapters.factors import DTYPES
from lorascope.stores import StoreError
from lorascope.stores.format.widen import widen_block
from lorascope.stores.json_document import read_json
from lorascope.stores.tensor_file import read_tensor_header

PREFIXES = ("", "model.", "transformer.", "gpt_neox.")
NORMS = ("norm.weight", "ln_f.weight", "final_layer_norm.weight")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
HEADS = ("lm_head.weight", "embed_out.weight")
"""Names of the final norm and of the input embedding, each with one of `PREFIXES`, and of the output embedding."""
PLAIN = (
    *("llama", "mistral", "ministral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "phi3", "phimoe"),
    *("smollm3", "granite", "granitemoe", "olmo2", "olmo3", "olmoe", "starcoder2", "stablelm", "glm", "glm4"),
    *("gpt_oss", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "codegen", "helium", "exaone4", "seed_oss"),
    *("ernie4_5", "hunyuan_v1_dense", "arcee", "apertus", "minimax", "jetmoe"),
)
"""Types of models that keep their final norm's weight as it is, and whose norm takes the mean off if it has a bias,"""
LESS_ONE = ("gemma", "gemma2", "gemma3_text", "vaultgemma", "nemotron")
"""those that keep it less 1, and"""
CENTRED = ("cohere", "cohere2")
"""those whose norm takes the mean off although it has no bias. Each was held against its norm's output."""
MAX_VOCABULARY = 2**24
"""Most token ids, of which each takes memory; the largest vocabularies in use have a sixtieth."""
BLOCK = 1024
"""Token ids in one Dask block."""


def read_unembedding(folder: Path) -> xr.Dataset:
    """`weight`, `norm` and `text` as `Run.unembedding` gives them, from `*.safetensors` and `tokenizer.json`.

    A text isn't always what the tokenizer would decode: of pieces that begin with `▁` the space is kept.

    Raises
    ------
    FileNotFoundError
        If `config.json`, `tokenizer.json` or the weights aren't there.
    StoreError
        If the model's type isn't in `PLAIN`, `LESS_ONE` or `CENTRED`, a file is no regular one or damaged, a tensor
        isn't there under a known name, or they don't fit each other.
    """
    import dask.array as da

    config = _object(folder / "config.json")
    kind = config.get("model_type")
    if kind not in (*PLAIN, *LESS_ONE, *CENTRED):
        why = f"of type {kind!r}, whose final norm isn't known"
        raise StoreError(f"the model in `{folder}` is {why}; capture with `--unembedding` instead")
    files = _files(folder)
    inputs = [prefix + name for prefix in PREFIXES for name in EMBEDDINGS]
    is_tied = config.get("tie_word_embeddings") is True or not any(name in files for name in HEADS)
    weight, dtype = _tensor(files, inputs if is_tied else HEADS, "output embedding", 2)
    norms = [prefix + name for prefix in PREFIXES for name in NORMS]
    norm, norm_dtype = _tensor(files, norms, "final norm", 1)
    if norm.shape != weight.shape[1:]:
        raise StoreError(f"the output embedding in `{folder}` is {weight.shape}, but its norm {norm.shape}; look at it")
    text = _texts(folder / "tokenizer.json", len(weight))
    added = np.float32(kind in LESS_ONE)
    lazy = da.from_array(weight, chunks=(BLOCK, weight.shape[1]), name=False, inline_array=True)
    lazy = lazy.map_blocks(widen_block, dtype, dtype=np.float32)
    values = {"norm": ("feature", widen_block(norm, norm_dtype) + added), "text": ("vocabulary", text)}
    is_centred = kind in CENTRED or any(
        name.removesuffix("weight") + "bias" in files for name in norms if name in files
    )
    return xr.Dataset({"weight": (("vocabulary", "feature"), lazy), **values}, attrs={"centred": is_centred})


def _object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise StoreError(f"`{path}` holds no object; copy the model again")
    return found


def _files(folder: Path) -> dict[str, Path]:
    """Name of each tensor -> its file, as the index says, or the one file without an index."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        path = folder / "model.safetensors"
        return dict.fromkeys(read_tensor_header(path)[0], path)
    names = _object(index).get("weight_map")
    if not isinstance(names, dict) or not all(map(_is_name, names.values())):
        raise StoreError(f"`weight_map` of `{index}` doesn't name a file beside it for each tensor; copy it again")
    return {name: folder / file for name, file in names.items()}


def _is_name(file: Any) -> bool:
    return isinstance(file, str) and Path(file).name == file and "\0" not in file


def _tensor(files: dict[str, Path], names: Iterable[str], what: str, ndim: int) -> tuple[np.ndarray, str]:
    """The first of these tensors that is there, mapped into memory as it is stored, and its type."""
    name = next((one for one in names if one in files), None)
    if name is None:
        raise StoreError(f"the model's {what} goes by none of {', '.join(names)}; capture with `--unembedding` instead")
    header, first = read_tensor_header(files[name])
    try:
        with safe_open(files[name], framework="np"):  # compares the header with the file's length
            facts = header[name]
    except (SafetensorError, KeyError) as error:
        raise StoreError(f"`{files[name]}` is damaged: {error}; copy the model again") from error
    shape, kind = tuple(facts["shape"]), facts["dtype"]
    if len(shape) != ndim or 0 in shape or kind not in ("BF16", "F16", "F32"):
        raise StoreError(f"{name!r} is {shape} of {kind}; allowed are {ndim} axes of BF16, F16 or F32")
    if shape[0] > MAX_VOCABULARY:
        raise StoreError(f"{name!r} has {shape[0]} entries; allowed are {MAX_VOCABULARY}: look at the model")
    dtype, bits = DTYPES[kind]
    start = first + facts["data_offsets"][0]
    return np.memmap(files[name], np.dtype(bits), "r", start, shape), dtype


def _texts(path: Path, n: int) -> np.ndarray:
    """Text of each of n token ids, object; empty where the tokenizer has none."""
    document = _object(path)
    model, added = document.get("model"), document.get("added_tokens") or []
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    decode = _decoded if "ByteLevel" in str(document.get("decoder")) else _spaced
    texts = np.full(n, "", object)
    try:
        if not isinstance(vocabulary, dict):  # of Unigram pieces and their scores
            pairs = [(one[0], index) for index, one in enumerate(vocabulary or [])]
        else:
            pairs = list(vocabulary.items())
        for piece, index in pairs:
            if 0 <= index < n:
                texts[index] = decode(piece)
        for one in added:
            if 0 <= one["id"] < n:
                texts[one["id"]] = str(one["content"])
    except (TypeError, LookupError, AttributeError) as error:
        raise StoreError(f"`{path}` isn't a tokenizer's file ({error!r}); copy it again") from error
    return texts


def _spaced(piece: str) -> str:
    return piece.replace("▁", " ")


_BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OF_BYTE = {chr(byte): byte for byte in _BYTES} | {
    chr(256 + place): byte for place, byte in enumerate(sorted({*range(256)} - {*_BYTES}))
}
"""Character that stands for a byte in GPT-2's vocabulary -> the byte."""


def _decoded(piece: str) -> str:
    is_known = all(character in _OF_BYTE for character in piece)
    return bytes(_OF_BYTE[c] for c in piece).decode(errors="replace") if is_known else piece
