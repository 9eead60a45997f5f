"""Reasons to refuse an adapter: weights that can't be measured, and signs that it was made for another model.

PEFT loads an adapter with `strict=False`: keys that fit nowhere at most warn, and the output stays the base's own. So
PEFT first adapts a twin of the model on the meta device, which has every name and shape and no numbers.
"""

import copy
import reprlib
import warnings
from collections.abc import Iterable, Mapping
from textwrap import shorten
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import CONFIG_NAME
from peft.utils.constants import EMBEDDING_LAYER_NAMES
from torch import nn
from torch.distributed.fsdp import FSDPModule

from lorascope.capture.errors import AdapterError
from lorascope.stores import Problem, adapter_settings
from lorascope.stores.errors import join_problems
from lorascope.stores.expressions import check_patterns

from .device import copy_without_hooks, is_offloaded
from .experts import EXPERT, parameter_path
from .shards import plain_class, whole
from .tensor_plan import split_layers
from .weights import plain_path, state_tensors

UNREPEATED = ("pissa_niter", "lora_ga")
"""Inits whose base isn't the same after loading: PEFT draws PiSSA's fast SVD again and skips LoRA-GA, silently."""

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
"""Types of weights that can be measured."""
MAX_LOFTQ = 100
"""Rounds of LoftQ's init, which a load repeats; its paper takes 5."""


def raise_for_problems(problems: Iterable[Problem], what: str) -> None:
    """Raise one `AdapterError` that names all problems of an adapter; do nothing if there are no problems."""
    if reasons := join_problems(problems, unnamed=what):
        raise AdapterError(f"adapter {what!r} can't be captured: {reasons}")


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Return path in the plain model -> PEFT's LoRA layer, in module order; of experts, their parameter's path."""
    return {
        parameter_path(plain_path(path), module): module
        for path, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def peft_type(config: Any) -> str:
    """Return the method's name in an adapter's configuration, e.g. `LORA`."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def adapter_tensors(model: nn.Module, name: str) -> dict[str, torch.Tensor]:
    """Return an adapter's own weights in the model, by the keys of its file without PEFT's prefix."""
    with warnings.catch_warnings():
        # PEFT mistakes the bias of a lora_B (`lora_bias`) for a weight that was saved in part.
        warnings.filterwarnings("ignore", r"Adapter .* LoRA tensor\(s\) have invalid shape")
        state = get_peft_model_state_dict(model, state_tensors(model), adapter_name=name, save_embedding_layers=False)
    return {plain_path(key): whole(tensor) for key, tensor in state.items()}


def weight_problems(tensors: Mapping[str, torch.Tensor], *, allow_zero: bool) -> list[Problem]:
    """Return problems with an adapter's weights: types that can't be measured, NaN, or all lora_B zero.

    Weights on the meta device have no values, so they have no problems.
    """
    own = {key: tensor.dtype for key, tensor in tensors.items() if ".lora_" in key}
    if odd := {key: str(dtype) for key, dtype in own.items() if dtype not in DTYPES}:
        message = f"its weights are of {', '.join(sorted({*odd.values()}))}; allowed are {', '.join(map(str, DTYPES))}"
        return [Problem(key, "dtype", message) for key in odd]
    problems = [
        Problem(key, "nan", "the adapter holds NaN or infinite weights")
        for key, tensor in tensors.items()
        if not tensor.is_meta and not torch.isfinite(tensor).all()
    ]
    idle = idle_layers(tensors)
    if idle and not allow_zero and all(idle.values()):
        message = "all lora_B are zero, so the adapter changes nothing; train it first, or pass `allow_zero`"
        problems.append(Problem("lora_B", "zero", message))
    return problems


def idle_layers(tensors: Mapping[str, torch.Tensor]) -> dict[str, bool]:
    """Return path of each LoRA layer -> whether it adds nothing, because its A or B, and any bias, are zero."""
    idle: dict[str, bool] = {}
    for key, up in tensors.items():
        for part in ("lora_B", "lora_embedding_B"):
            path, separator, rest = key.partition(f".{part}")
            if separator and rest != ".bias":
                down, bias = tensors.get(f"{path}.{part[:-1]}A{rest}"), tensors.get(f"{path}.{part}.bias")
                idle[path] = (_is_all_zero(up) or _is_all_zero(down)) and (bias is None or _is_all_zero(bias))
    return idle


def _is_all_zero(tensor: torch.Tensor | None) -> bool:
    """Return whether all of a tensor's numbers are zero; False for None and on the meta device."""
    return tensor is not None and not tensor.is_meta and not tensor.any()


def is_residual(config: LoraConfig) -> bool:
    """Return whether an adapter's init (PiSSA, OLoRA ...) changed the base weights, by its configuration."""
    return adapter_settings.has_residual_init(vars(config))


def init_problems(model: nn.Module, config: LoraConfig, n_adapters: int) -> list[Problem]:
    """Return the problem with an adapter's init, if it changed base weights and loading can't repeat that; else []."""
    message = None
    iterations = (config.loftq_config or {}).get("loftq_iter", 1) if isinstance(config.loftq_config, dict) else 1
    if type(iterations) is not int or not 1 <= iterations <= MAX_LOFTQ:
        message = f"its `loftq_iter` is {reprlib.repr(iterations)}; allowed are 1 to {MAX_LOFTQ}"
    elif str(config.init_lora_weights).startswith(UNREPEATED):
        message = (
            f"{config.init_lora_weights!r} changed the base weights in a way that loading doesn't repeat; save it "
            "with PEFT's `path_initial_model_for_weight_conversion`"
        )
    elif is_residual(config) and n_adapters > 1:
        message = "its init changes the base weights, under every other adapter too; capture it alone"
    elif is_residual(config) and is_offloaded(model):
        message = (
            "its init changes the base weights, and some of them are offloaded; load the model without `device_map`"
        )
    return [] if message is None else [Problem("init_lora_weights", "init", message)]


def split_problems(config: LoraConfig) -> list[Problem]:
    """Return problems with an adapter where the base's weights are split over processes, by its configuration."""
    reasons = {
        "use_dora": "DoRA reads the norms of the frozen weights" if config.use_dora else None,
        "init_lora_weights": "its init changes the base weights" if is_residual(config) else None,
        "target_parameters": "PEFT adds it to the frozen weights" if config.target_parameters else None,
        "modules_to_save": "it copies whole modules of the base" if config.modules_to_save else None,
        "trainable_token_indices": "it copies the base's embedding" if config.trainable_token_indices else None,
    }
    return [
        Problem(place, "split", f"{reason}, which are split over processes here; capture it in one process")
        for place, reason in reasons.items()
        if reason
    ]


def part_problems(model: nn.Module) -> list[Problem]:
    """Return problems with LoRA layers whose parts, such as `lora_A`, FSDP2 shards on their own.

    A pass without the adapter leaves them out, while another process may wait for them in a pass with it.
    """
    sharded = [plain_path(path) for path, module in model.named_modules() if isinstance(module, FSDPModule)]
    message = "FSDP2 shards parts of it on their own, which not every pass runs; call `fully_shard` on whole blocks"
    return [
        Problem(layer, "split", message)
        for layer in lora_layers(model)
        if any(path.startswith(f"{layer}.") for path in sharded)
    ]


def plan_problems(model: nn.Module, keys: Iterable[str]) -> list[Problem]:
    """Return problems with layers that tensor parallel splits in a way that PEFT doesn't follow.

    `keys` are those of an adapter's file, or paths of layers.
    """
    styles = {path: style for path, style, _ in split_layers(model)}
    paths = sorted({plain_path(key).partition(".lora_")[0] for key in keys})
    message = "tensor parallel splits it by {!r}, which PEFT's LoRA doesn't follow (only 'colwise' and 'rowwise'); "
    return [
        Problem(path, "split", message.format(styles[path]) + "use `fully_shard` or one process")
        for path in paths
        if styles.get(path, "colwise") not in {"colwise", "rowwise"}
    ]


def fit_problems(model: nn.Module, config: LoraConfig, tensors: Mapping[str, torch.Tensor], name: str) -> list[Problem]:
    """Return problems where an adapter's keys or shapes differ from what PEFT would create for this plain model."""
    try:
        names = [*EMBEDDING_LAYER_NAMES, *(path for path, _ in model.named_modules())]
        check_patterns(adapter_settings.setting_patterns(vars(config), "of the adapter"), names)
    except ValueError as error:
        return [Problem(CONFIG_NAME, "config", str(error))]
    try:
        expected = _expected_shapes(model, config, name)
    except ValueError as error:
        message = f"it fits no layer of this model: {shorten(first_line(error), 160)}"
        return [Problem("target_modules", "no-layers", message)]
    except Exception as error:  # a malformed configuration makes PEFT raise anything
        message = f"PEFT can't apply it: {shorten(first_line(error), 160)} ({type(error).__name__})"
        return [Problem(CONFIG_NAME, "config", message)]
    # PEFT saves the base's embeddings along with an adapter on them, and would load them over the base's own.
    own = state_tensors(model)
    plain = {key: plain_path(key).replace(".base_layer.", ".") for key in tensors.keys() - expected.keys()}
    copies = {key: own[name] for key, name in plain.items() if name in own}
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items() if key not in copies}
    brought = "it brings base weights that aren't this model's (resized or trained), so it was made for another one"
    missing = "it lacks weights that this model needs, so it was made for another one"
    unexpected = "it holds weights that this model has no place for, so it was made for another one"
    other = "its weights have other shapes than this model's layers"
    if (old := [*filter(EXPERT.search, shapes.keys() - expected.keys())]) and not any(map(EXPERT.search, expected)):
        message = "it has one A and B for each expert, whose weights are one here; load it with PEFT and save it again"
        return [Problem(key, "unexpected", message) for key in sorted(old)]
    return [
        *(Problem(key, "base", brought) for key in sorted(copies) if not _same_as_base(copies[key], tensors[key])),
        *(Problem(key, "missing", missing) for key in sorted(expected.keys() - shapes.keys())),
        *(Problem(key, "unexpected", unexpected) for key in sorted(shapes.keys() - expected.keys())),
        *(
            Problem(f"{key}: {shapes[key]}, not {shape}", "shape", other)
            for key, shape in expected.items()
            if key in shapes and shapes[key] != shape
        ),
    ]


def _same_as_base(own: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Return whether a tensor equals the model's own; if the model's is offloaded, only the shapes are compared."""
    return own.shape == tensor.shape and (own.is_meta or torch.equal(own.cpu(), tensor.to(own.dtype)))


def _expected_shapes(model: nn.Module, config: LoraConfig, name: str) -> dict[str, tuple[int, ...]]:
    """Return key -> shape in the file of an adapter that fits, found by adapting a copy on the meta device."""
    # Inits only decide numbers, and some of them need data or libraries.
    plain = copy.copy(config)
    plain.init_lora_weights = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same warnings come again when the model itself is adapted
        twin = PeftModel(_meta_twin(model), plain, adapter_name=name, low_cpu_mem_usage=True)
        state = get_peft_model_state_dict(twin, adapter_name=name, save_embedding_layers=False)
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def _meta_twin(model: Any) -> Any:
    """Return a model with the names and shapes of this one on the meta device."""
    if (kind := plain_class(model)) is not type(model):  # FSDP2's can't be copied
        with torch.device("meta"):
            return kind(copy.deepcopy(model.config))
    memo: dict[int, Any] = {id(tensor): _meta_copy(tensor) for tensor in (*model.parameters(), *model.buffers())}
    # Quantised layers replace linear ones, whose names and shapes PEFT's own parts have.
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.is_floating_point():
            memo[id(module)] = nn.Linear(module.in_features, module.out_features, device="meta")
    return copy_without_hooks(model, memo)


def _meta_copy(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the same shape and type on the meta device."""
    twin = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return nn.Parameter(twin, requires_grad=False) if isinstance(tensor, nn.Parameter) else twin


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, and the next after a colon; its type's name without a message."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
