"""An adapter's folder: its settings, and the tensors of each layer, read one at a time."""

import hashlib
import math
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float64
from safetensors import SafetensorError, safe_open

from lorascope.stores.adapter_settings import KEY_PATTERN, belongs_to_adapter, read_adapter_settings
from lorascope.stores.errors import Problem, join_problems
from lorascope.stores.format.digests import canonical_json
from lorascope.stores.json_document import read_tensor_header

if TYPE_CHECKING:  # `read` of an adapter's folder needs no xarray
    from lorascope.stores import Run

UNSUPPORTED_SETTINGS = ("kasa_config", "monteclora_config", "use_bdlora", "use_qalora")
"""Settings of variants whose change of a layer's weight isn't the single product s B A."""


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the LoRA configuration in an adapter's folder; raise ValueError if its change isn't scaling * B A.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no configuration in it.
    ValueError
        If the file isn't a LoRA configuration, or one whose change of weight isn't s B A.
    """
    settings = read_adapter_settings(folder)
    for name in UNSUPPORTED_SETTINGS:
        if settings.get(name):
            raise ValueError(
                f"`{name}` of adapter {str(folder)!r} is {reprlib.repr(settings[name])}: its change isn't one "
                "product s B A per layer, and nothing else is measured here; capture a run with it instead"
            )
    return settings


def module_rank(settings: Mapping[str, Any], path: str) -> int:
    """Return the LoRA rank of the module at `path`, from `rank_pattern` and `r` of the configuration."""
    return int(_pattern_value(settings, "rank_pattern", path, settings["r"]))


def module_scaling(settings: Mapping[str, Any], path: str) -> float:
    """Return the factor of B A at the module with this path: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
    rank, alpha = module_rank(settings, path), _pattern_value(settings, "alpha_pattern", path, settings["lora_alpha"])
    return float(alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank)


def adapted_path(settings: Mapping[str, Any], path: str) -> str:
    """Return the path that PEFT matches patterns with: of the adapted parameter, such as a router's `gate.weight`."""
    targets = (str(target).rpartition(".") for target in settings.get("target_parameters") or ())
    names = (name for module, _, name in targets if module and f".{path}".endswith(f".{module}"))
    return ".".join([path, *islice(names, 1)])


def _pattern_value(settings: Mapping[str, Any], name: str, path: str, default: float) -> float:
    """Return the value in the pattern setting `name` for a module's path, or `default` if no pattern matches.

    The first pattern that matches the end of the path counts (PEFT 0.21, `get_pattern_key`).
    """
    pattern: Mapping[str, float] = settings.get(name) or {}
    adapted = adapted_path(settings, path)
    return next((value for key, value in pattern.items() if re.match(KEY_PATTERN.format(key), adapted)), default)


WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
DTYPES = {
    "BF16": ("bfloat16", "<u2"),
    "F16": ("float16", "<f2"),
    "F32": ("float32", "<f4"),
    "F64": ("float64", "<f8"),
}
"""Supported types: name in safetensors -> usual name, and NumPy type to read the bytes with."""
PREFIX = "base_model.model."
"""Prefix that PEFT puts before the plain model's own names."""
TENSOR_KEY = re.compile(
    r"(?P<path>.+?)\.lora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector)"
    r"(?:\.(?!(?:weight|bias)$)(?P<adapter>[^.]+))?(?:\.(?P<leaf>weight|bias))?"
)
"""Pattern of PEFT's keys, with the adapter's name or, as `save_pretrained` writes them, without."""
BASE_LAYER = re.compile(r"\.base_layer(?=\.|$)")
"""Part of a path that PEFT adds for the inner layer of a module that it wraps twice."""
EXPERT_PARAMETERS = ("down_proj", "gate_up_proj")
"""Stacked weights of a module of experts: that of PEFT's outer wrapper, and that of the wrapper within it."""
MAX_PATH, MAX_DIGITS = 255, 18
"""Most characters of a layer's path, the limit of a store, and most digits of a number in it, those of an int64."""
MODULE_ORDER = ("self_attn", "mlp", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Modules of a layer in the order in which Llama runs them; other modules follow in the order of their names."""
MAX_FACTOR = 2**27
"""Most numbers in one factor, 1 GiB in float64; rank 256 over a vocabulary of 262,144 has half as many."""


class StoredTensor(NamedTuple):
    """Type, shape and byte position of a tensor in an adapter's safetensors file."""

    dtype: str
    """Name of the type in safetensors, e.g. `BF16`."""
    shape: tuple[int, ...]
    start: int
    """Position of its first byte in the file."""


class Branch(NamedTuple):
    """LoRA factors of one layer in a file, not read yet: A (rank, d_in) and B (d_out, rank).

    Those of experts are stacked: A (expert x rank, d_in), and B (d_out, rank x expert).
    """

    path: str
    """Path in the plain model, as in runs: of the module, or of the experts' parameter."""
    down: StoredTensor
    up: StoredTensor
    extras: frozenset[str]
    """Kinds of further tensors of the layer: `B_bias`, `magnitude_vector` (of DoRA); and `embedding` or `experts`."""


def read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return type, shape and place of every tensor of an adapter's file by its key; no values are read.

    Raises
    ------
    FileNotFoundError
        If there is no safetensors file; a pickle is never read.
    ValueError
        If the file isn't regular, or is truncated or otherwise damaged.
    """
    path = folder / WEIGHTS
    if not path.exists():
        is_pickled = (folder / PICKLED).is_file()
        pickled = f" but {PICKLED!r}, a pickle, which is never loaded" if is_pickled else ""
        raise FileNotFoundError(
            f"adapter {str(folder)!r} has no {WEIGHTS!r}{pickled}; load it where you trust it and save it again with "
            "PEFT's `save_pretrained(folder, safe_serialization=True)`"
        )
    # The NumPy side of safetensors (0.8) has no bfloat16 and can't hand out raw bytes, so the header is read here.
    header, first = read_tensor_header(path)
    try:
        with safe_open(path, framework="np"):
            pass  # it compares the header with the file's length, so that offsets can be trusted below
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}; copy or save the adapter again") from error
    return {
        key: StoredTensor(facts["dtype"], tuple(facts["shape"]), first + facts["data_offsets"][0])
        for key, facts in header.items()
    }


def read_factor(file: BinaryIO, tensor: StoredTensor) -> Float64[np.ndarray, "row column"]:
    """Return a tensor's values from an open file, float64; all axes after the first are flattened into one."""
    from lorascope.stores.format.stored_array import widen_block  # imports xarray, which a refused adapter doesn't need

    name, bits = DTYPES[tensor.dtype]
    file.seek(tensor.start)
    values = np.fromfile(file, bits, count=int(np.prod(tensor.shape))).reshape(tensor.shape[0], -1)
    wide = widen_block(values, "bfloat16") if name == "bfloat16" else values
    return wide.astype(np.float64)


def hash_adapter(folder: Path) -> str:
    """Return the SHA-256, in hexadecimal, of an adapter's weights in float32, as runs store it in their provenance.

    It doesn't depend on the type that the weights are kept in, or on where they are in the file.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_tensors`; ValueError also if a weight is of a type that isn't in `DTYPES`.
    """
    trained = tuple(read_settings(folder).get("modules_to_save") or ())
    stored = {
        key.removeprefix(PREFIX): tensor
        for key, tensor in read_tensors(folder).items()
        if belongs_to_adapter(key, trained)
    }
    digest = hashlib.sha256()
    with (folder / WEIGHTS).open("rb") as file, np.errstate(over="ignore"):
        for name, tensor in sorted(stored.items()):
            if tensor.dtype not in DTYPES:
                raise ValueError(f"adapter {str(folder)!r}: {name!r} is of type {tensor.dtype!r}; save it in float32")
            digest.update(canonical_json([name, "float32", list(tensor.shape)]) + b"\n")
            digest.update(read_factor(file, tensor).astype("<f4").tobytes())
    return digest.hexdigest()


def require_captured(folder: Path, run: "Run", name: str, *, option: str) -> bool:
    """Raise ValueError if a folder's weights, given as `option`, aren't those of the run's adapter of this name.

    Returns whether the run knows its adapter's hash; one that doesn't isn't refused.
    """
    stored = run.attributes.get("provenance", {}).get("adapters", {}).get(name, {}).get("sha256")
    if stored is not None and (sha256 := hash_adapter(folder)) != stored:
        raise ValueError(
            f"`{option}` is {str(folder)!r}, another adapter: its hash is {sha256[:16]}, that of {name!r} in "
            f"{run.place.name!r} is {stored[:16]}; give the captured adapter's folder"
        )
    return stored is not None


def narrow_factor(values: Float64[np.ndarray, "..."], dtype: str) -> np.ndarray:
    """Return values in a stored type, bfloat16 as bits (uint16); raise FloatingPointError if one overflows."""
    with np.errstate(over="raise"):
        if dtype != "BF16":
            return np.ascontiguousarray(values, DTYPES[dtype][1])
        bits = np.ascontiguousarray(values, "<f4").view("<u4").astype(np.uint64)
    narrow = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # ties go to the even one
    if (np.isfinite(values) & ((narrow & 0x7F80) == 0x7F80)).any():
        raise FloatingPointError("overflow encountered in bfloat16")
    return narrow.astype("<u2")


def group_tensors(
    keys: Mapping[str, StoredTensor], settings: Mapping[str, Any]
) -> tuple[list[Branch], list[str], list[Problem]]:
    """Return layers' LoRA factors (`Branch`) in layer order, keys of other weights, and problems with the rest."""
    layers: dict[str, dict[str, StoredTensor]] = {}
    first: dict[tuple[str, str], str] = {}
    others, adapters = [], set()
    parameters, problems = _expert_parameters(keys, settings)
    for key, tensor in keys.items():
        plain = key.removeprefix(PREFIX)
        match = TENSOR_KEY.fullmatch(plain)
        if match is None and ".lora_" in plain:
            problems.append(Problem(plain, "unknown", "a part of a LoRA variant that can't be measured from A and B"))
        elif match is None:
            others.append(plain)
        else:
            adapters.add(match["adapter"])
            path = parameters.get(match["path"], BASE_LAYER.sub("", match["path"]))
            if not path:
                continue
            part = match["part"].removeprefix("embedding_") + ("_bias" if match["leaf"] == "bias" else "")
            if (before := first.setdefault((path, part), key)) != key:
                both, message = sorted((before, key)), f"there are two tensors for lora_{part}; save the adapter again"
                problems.append(Problem(" and ".join(both), "twice", message))
            parts = layers.setdefault(path, {})
            parts[part] = tensor
            if match["part"].startswith("embedding_"):
                parts["embedding"] = tensor
    if len(adapters) > 1:
        names = ", ".join(sorted(repr(name or "") for name in adapters))
        problems.append(Problem("", "several", f"the keys name several adapters ({names}); save each by itself"))
    message = f"a layer's path has at most {MAX_PATH} characters, and no number of more than {MAX_DIGITS} digits"
    branches = []
    for path, parts in sorted(layers.items(), key=lambda layer: _layer_order(layer[0])):
        if len(path) > MAX_PATH or any(len(name) > MAX_DIGITS for name in path.split(".") if name.isdecimal()):
            problems.append(Problem(path[:MAX_PATH], "path", message))
        elif {"A", "B"} <= parts.keys():
            extras = parts.keys() - {"A", "B"} | ({"experts"} if path in parameters.values() else set())
            branches.append(Branch(path, parts["A"], parts["B"], frozenset(extras)))
        else:
            present = ", ".join(sorted(parts))
            problems.append(Problem(path, "missing", f"lora_A and lora_B belong together, and there is only {present}"))
    return branches, sorted(others), problems


def _expert_parameters(keys: Iterable[str], settings: Mapping[str, Any]) -> tuple[dict[str, str], list[Problem]]:
    """Return {path of each wrapper of experts in the file: path of its parameter, or empty}, and why it isn't known.

    A file doesn't name parameters: PEFT wraps the module of experts once for each, `down_proj` outside.
    """
    ends = tuple(f".{target}" for target in settings.get("target_parameters") or ())
    matches = (TENSOR_KEY.fullmatch(key.removeprefix(PREFIX)) for key in keys if ends)
    wrappers: dict[str, list[str]] = {}
    for path in sorted({match["path"] for match in matches if match}, key=len):
        if (module := BASE_LAYER.sub("", path)).endswith(".experts"):
            wrappers.setdefault(module, []).append(path)
    parameters: dict[str, str] = {}
    problems = []
    for module, paths in wrappers.items():
        names = [name for name in EXPERT_PARAMETERS if f".{module}.{name}".endswith(ends)]
        if paths != [module, f"{module}.base_layer"][: len(names)]:
            message = (
                f"it has {len(paths)} pairs of lora_A and lora_B, and `target_parameters` names {len(names)} of its "
                f"weights {' and '.join(EXPERT_PARAMETERS)}; use the configuration that was saved with these weights"
            )
            problems.append(Problem(module, "parameters", message))
            names = [""] * len(paths)
        parameters |= {path: name and f"{module}.{name}" for path, name in zip(paths, names, strict=True)}
    return parameters, problems


def nesting_problems(branches: Iterable[Branch], settings: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a `Problem` for each module of experts whose two pairs of A and B can't be of its two weights."""
    stacked = [branch for branch in branches if "experts" in branch.extras]
    sizes = {branch.path: (math.prod(branch.down.shape[1:]), math.prod(branch.up.shape[:1])) for branch in stacked}
    counts = {b.path: math.prod(b.down.shape[:1]) / module_rank(settings, b.path) for b in stacked}
    for path, inner in sizes.items():
        other = f"{path.removesuffix('.gate_up_proj')}.down_proj"
        outer = sizes.get(other)
        if outer is not None and inner not in ((outer[1], 2 * outer[0]), (2 * outer[1], outer[0])):
            message = f"(d_in, d_out) of A and B are {inner} in it and {outer} in down_proj, which don't fit each other"
            yield Problem(path, "shapes", f"{message}; save the adapter again with PEFT")
        elif outer is not None and counts[path] != counts[other]:
            message = f"rows of A by rank are {counts[path]:g} experts in it and {counts[other]:g} in down_proj"
            yield Problem(path, "rank", f"{message}; use the configuration that was saved with these weights")


def branch_problems(branch: Branch, settings: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a `Problem` for each reason why a layer's A and B can't be multiplied, or don't fit the settings."""
    for name, tensor in (("lora_A", branch.down), ("lora_B", branch.up)):
        if tensor.dtype not in DTYPES:
            allowed = ", ".join(kind for kind, _ in DTYPES.values())
            message = f"{name} is of type {tensor.dtype!r}; allowed are {allowed}: save it in one of them"
            yield Problem(branch.path, "dtype", message)
    down, up, rank = branch.down.shape, branch.up.shape, module_rank(settings, branch.path)
    fits = min(len(down), len(up)) >= 2 and len(down) == len(up) and down[0] == up[1] and set(up[2:]) <= {1}
    if not fits or 0 in (*down, *up):
        message = (
            f"lora_A has shape {down} and lora_B {up}, which don't fit; allowed are (rank, d_in, ...) and "
            "(d_out, rank, 1, ...), none empty and no groups: gather shards before saving"
        )
        yield Problem(branch.path, "shape", message)
    elif max(math.prod(down), math.prod(up)) > MAX_FACTOR:
        message = f"lora_A has shape {down} and lora_B {up}; allowed are {MAX_FACTOR} numbers in each: look at the file"
        yield Problem(branch.path, "size", message)
    elif down[0] % rank or (down[0] != rank and "experts" not in branch.extras):
        message = (
            f"lora_A has {down[0]} rows, but `r` and `rank_pattern` of the configuration give rank {rank}; "
            "use the configuration that was saved with these weights"
        )
        yield Problem(branch.path, "rank", message)


def raise_problems(problems: Iterable[Problem], folder: Path) -> None:
    """Raise one ValueError that lists all problems of the adapter in `folder`, if there are any."""
    if reasons := join_problems(problems):
        raise ValueError(f"adapter {str(folder)!r} can't be measured: {reasons}")


def _layer_order(path: str) -> list[tuple[int, int, str]]:
    """Return a sort key of a layer's path: by its numbers, then in the order in which Llama runs its modules."""
    places = {name: place for place, name in enumerate(MODULE_ORDER)}
    names = path.split(".")
    return [(int(n), 0, "") if n.isdecimal() else (-1, places.get(n, len(places)), n) for n in names]
