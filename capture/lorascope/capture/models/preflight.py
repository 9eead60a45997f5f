"""Checks of adapters in a model before anything is written: problems that prevent a capture, and notes for a reader."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from peft.tuners.lora import Embedding, LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

from lorascope.stores import Problem
from lorascope.stores.format.spec import block_path

from .branches import delta_form
from .components import adapted_modules, exclusion_reason, find_components
from .device import is_offloaded
from .experts import block_output, parameter_path
from .passes import evaluating, restoring_modes, stream_passes
from .refusal import (
    adapter_tensors,
    idle_layers,
    is_residual,
    lora_layers,
    peft_type,
    raise_for_problems,
    weight_problems,
)
from .sharing import layer_sharing
from .weights import plain_path


class Note(NamedTuple):
    """A remark on model, adapters or data that a reader of a run should know."""

    kind: str
    """One of `zero`, `residual`, `quantised`, `skipped`, `training`, `base`, `data`, `changes`."""
    message: str
    places: tuple[str, ...]
    """Layers or weights that the note is about."""


class Preflight(NamedTuple):
    """Result of `inspect`: problems that prevent a capture, notes for a reader, and layers to skip."""

    problems: tuple[Problem, ...]
    """Reasons why they can't be captured; `require` raises one error of all."""
    notes: tuple[Note, ...]
    """Remarks for a reader of the run."""
    skipped: tuple[str, ...]
    """Paths of layers that have no token axis in a probe, or whose block another component already stands for; they
    must not become components."""


def finite_notes(not_finite: Iterable[tuple[str, int]]) -> list[Note]:
    """Return a note if weights of the base hold numbers that aren't finite, by (name, number of these); else []."""
    by_name = dict(not_finite)
    message = (
        f"{sum(by_name.values())} numbers in {len(by_name)} of the base model's weights are NaN or infinite, and so "
        "are the states that they reach; get the weights again"
    )
    return [Note("base", message, tuple(by_name)[:100])] if by_name else []


def inspect(
    model: nn.Module,
    adapters: Sequence[str],
    *,
    stream: str = "adapted",
    allow_zero: bool = False,
    probe: Mapping[str, Any] | None = None,
) -> Preflight:
    """Check these adapters of a model before a capture; return problems, notes and layers to skip.

    The model stays as it is.

    Parameters
    ----------
    model
        With the adapters in it.
    adapters
        Names of the adapters to be captured.
    stream
        `adapted`, `base` or `pair`.
    allow_zero
        Whether an adapter that changes nothing (all lora_B zero) is accepted.
    probe
        Arguments of a forward pass over at least two tokens, with `input_ids` of shape (sequence, position). One pass
        without capture then shows which layers have no token axis or don't run once.
    """
    problems = [*_model_problems(model)]
    for name in adapters:
        problems += inspect_adapter(model, name, stream=stream, allow_zero=allow_zero)
    if problems or not isinstance(model, PeftModel):
        return Preflight(tuple(problems), (), ())
    changed = {path: module for name in adapters for path, (_, module) in adapted_modules(model, name).items()}
    excluded = {path: why for path, module in changed.items() if (why := exclusion_reason(path, module))}
    modules: dict[str, Any] = {path: module for path, module in changed.items() if path not in excluded}
    base: Any = model.get_base_model()
    blocks = {path: str(block_path(path)) for path, module in modules.items() if isinstance(module, ParamWrapper)}
    outer = {block: path for path, block in reversed(blocks.items())}
    why = "in stream 'pair' it has the numbers of its block's other parameter, which stands for the whole block"
    skipped = {path: why for path, block in blocks.items() if stream == "pair" and outer[block] != path}
    if probe is not None:
        modules |= {path: base.get_submodule(block) for path, block in blocks.items()}
        problems, pooled = inspect_calls(model, modules, probe, adapters, stream)
        skipped |= dict.fromkeys(pooled, "its output isn't one vector per token")
    reasons = excluded | skipped
    for name in adapters:
        if not problems and not find_components(model, name, skip=skipped):
            whys = "; ".join(dict.fromkeys(reasons.values()))
            problems.append(Problem(name, "nothing", f"none of the layers that it changes can be captured: {whys}"))
    notes = () if problems else tuple(_adapter_notes(model, adapters, reasons))
    return Preflight(tuple(problems), notes, tuple(skipped))


def inspect_adapter(model: nn.Module, name: str, *, stream: str = "adapted", allow_zero: bool = False) -> list[Problem]:
    """Return a list of the problems that keep this adapter from being measured; empty if it can be measured.

    Training mode is no problem, since capture sets eval mode itself. In stream `base` the adapter needn't be active.
    """
    if not isinstance(model, PeftModel):
        kind = type(model).__name__
        message = f"the model is a plain {kind} without an adapter; give a `PeftModel`, not merged or unloaded"
        for inner in ("_orig_mod", "module"):  # of `torch.compile`, and of wrappers that distribute a model
            if isinstance(getattr(model, inner, None), PeftModel):
                message = f"the model is a {kind}, which hides a `PeftModel`; give that, `model.{inner}`"
        return [Problem(name, "plain", message)]
    if name not in model.peft_config:
        return [Problem(name, "unknown", f"the model has no such adapter; it has {sorted(model.peft_config)}")]
    config: Any = model.peft_config[name]
    if (kind := peft_type(config)) != "LORA":
        return [Problem(name, "method", f"`peft_type` is {kind!r}; only 'LORA' can be captured")]
    layers = lora_layers(model)
    if not any(name in layer._get_available_adapters() for layer in layers.values()):
        return [Problem(name, "no-layers", "no layer of the model carries this adapter; look at its `target_modules`")]
    problems = [problem for path, layer in layers.items() for problem in _layer_problems(path, layer, name, stream)]
    scalings = [layer.scaling[name] for layer in layers.values() if name in layer.scaling]
    if scalings and not any(scalings) and not allow_zero:
        message = "it is 0 on every layer, so the adapter changes nothing; look at its file, or pass `allow_zero`"
        problems.append(Problem("lora_alpha", "zero", message))
    if is_residual(config) and layer_sharing(model)["share"] > 1:
        message = "its init changes the base weights, which layers share here: each would change the others'"
        problems.append(Problem("init_lora_weights", "init", message))
    if config.bias != "none":
        message = f"`bias` is {config.bias!r}, so the adapter trains the base's own biases; only 'none' can be captured"
        problems.append(Problem(name, "bias", message))
    if getattr(config, "layer_replication", None):
        message = "`layer_replication` makes another base of the model; it can't be captured"
        problems.append(Problem(name, "replication", message))
    return problems + weight_problems(adapter_tensors(model, name), allow_zero=allow_zero)


def require_adapter(model: nn.Module, *, allow_zero: bool = False) -> str:
    """Return the name of the model's active adapter; raise AdapterError if it can't be measured.

    Raises
    ------
    AdapterError
        If there is any problem: all of them in one line.
    """
    name = "default"  # of a model without adapters, which `inspect_adapter` refuses
    if isinstance(model, PeftModel):
        active = [adapter for layer in lora_layers(model).values() for adapter in layer.active_adapters]
        name = next(iter([*active, *model.peft_config]), name)
    raise_for_problems(inspect_adapter(model, name, allow_zero=allow_zero), name)
    return name


def captured_adapters(model: Any, stream: str, *, allow_zero: bool) -> tuple[str, ...]:
    """Return the names of the adapters to capture: all in stream `base`, else only the active one.

    Raises AdapterError if the active one can't be measured.
    """
    if stream == "base" and isinstance(model, PeftModel):
        return tuple(model.peft_config)
    return (require_adapter(model, allow_zero=allow_zero),)


def inspect_calls(
    model: nn.Module, modules: Mapping[str, nn.Module], probe: Mapping[str, Any], adapters: Sequence[str], stream: str
) -> tuple[list[Problem], list[str]]:
    """Run `model` once on `probe`; return problems with how `modules` ran, and paths without a token axis.

    The pass is the last of the stream's.

    Each module should run once, and output a tensor with the tokens in the probe's layout. Training modes are kept.
    """
    n_sequences, n_positions = probe["input_ids"].shape
    shapes: dict[str, list[tuple[int, ...] | str]] = {path: [] for path in modules}

    def keep_shape(path: str, module: nn.Module, args: Any, output: Any) -> None:
        """Forward hook: add the output's shape without features, or its type's name if it is no tensor, to `shapes`."""
        output = block_output(output) if hasattr(module, "experts") else output
        is_tensor = isinstance(output, torch.Tensor)
        shapes[path].append(tuple(output.shape[:-1]) if is_tensor else type(output).__name__)

    handles = [module.register_forward_hook(partial(keep_shape, path)) for path, module in modules.items()]
    try:
        with evaluating(model), stream_passes(stream, adapters)[-1].enabled(model), torch.no_grad():
            model(**probe)
    finally:
        for handle in handles:
            handle.remove()
    problems: list[Problem] = []
    pooled: list[str] = []
    for path, calls in shapes.items():
        if len(calls) != 1:
            message = f"it ran {len(calls)} times in one pass, not once: as a fused kernel or a shared layer makes it"
            problems.append(Problem(path, "calls", message))
        elif isinstance(calls[0], str):
            problems.append(Problem(path, "output", f"its output is a {calls[0]}, not a tensor"))
        elif math.prod(calls[0]) != n_sequences * n_positions:
            pooled.append(path)
        elif calls[0] not in {(n_sequences, n_positions), (n_sequences * n_positions,)}:
            # Every number would be right, but stored under another token.
            message = f"its output has tokens as {calls[0]}; only layers that keep (sequence, position) can be captured"
            problems.append(Problem(path, "order", message))
    return problems, pooled


def _model_problems(model: nn.Module) -> Iterator[Problem]:
    """Yield problems of the model itself: compiled code, stuck training mode, a frozen layer with two LoRA layers."""
    for path, module in model.named_modules():
        if module._compiled_call_impl is not None or "_orig_mod" in module._modules:
            message = "the model is compiled, and compiled code skips hooks; capture it as it was before"
            yield Problem(plain_path(path) or type(module).__name__, "compiled", message)
            break
    with restoring_modes(model):
        model.eval()
        stubborn = [path for path, module in model.named_modules() if module.training]
    for path in stubborn:
        message = "a module stays in training mode after `eval()`; dropout would add noise to every delta"
        yield Problem(plain_path(path), "training", message)
    first_paths: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, LoraLayer):
            first = first_paths.setdefault(id(module.base_layer), plain_path(path))
            if first != plain_path(path):
                message = f"it shares its frozen layer with {first!r}, so that its hook can't distinguish them"
                yield Problem(plain_path(path), "shared", message)


def _layer_problems(path: str, layer: LoraLayer, name: str, stream: str) -> Iterator[Problem]:
    """Yield problems of adapter `name` in a LoRA layer, such as merged, inactive, or a delta that can't be stored."""
    carried = layer._get_available_adapters()
    active = [adapter for adapter in layer.active_adapters if adapter in carried]
    if layer.merged_adapters:
        message = f"{layer.merged_adapters} is merged into the base weights; load the base model again"
        yield Problem(path, "merged", message)
    if layer.disable_adapters:
        yield Problem(path, "disabled", "adapters are disabled; call `enable_adapter_layers()`")
    if stream != "base" and name in carried and name not in active:
        yield Problem(path, "active", f"the active adapter is {active}; call `set_adapter({name!r})`")
    elif stream != "base" and set(active) - {name}:
        yield Problem(path, "several", f"{active} are active at once; call `set_adapter({name!r})`")
    if name in carried and isinstance(layer, ParamWrapper) and layer.parameter_name.endswith("_bias"):
        yield Problem(
            path,
            "bias",
            "it is LoRA on a bias of experts, which can't be captured; take an adapter on their weights alone",
        )
    if name not in carried or exclusion_reason(path, layer) is not None:
        return
    source = delta_form(layer, name)
    if isinstance(layer.base_layer, BaseTunerLayer) and not isinstance(layer, ParamWrapper):
        message = "two adapters are wrapped around each other; only one LoRA layer can be captured"
        yield Problem(path, "nested", message)
    if source == "branch" and is_offloaded(layer.base_layer):
        message = "DoRA reads the frozen weights, which are offloaded here; load the model without `device_map`"
        yield Problem(path, "offloaded", message)
    if isinstance(layer, ParamWrapper) and is_offloaded(layer.get_base_layer()):
        message = (
            "PEFT merges it into the experts' weights, which are offloaded here; load the model without `device_map`"
        )
        yield Problem(path, "offloaded", message)
    if stream == "base" and source == "difference":
        variant = "experts"
        if not isinstance(layer, ParamWrapper):
            variant = type(layer.lora_variant[name]).__name__.removesuffix("Variant")
        message = f"the delta of {variant} can't be computed in a base pass; capture stream 'adapted' or 'pair'"
        yield Problem(path, "variant", message)


def _adapter_notes(model: PeftModel, adapters: Sequence[str], reasons: Mapping[str, str]) -> Iterator[Note]:
    """Yield notes on adapters that can be captured: zero weights, changed or quantised base, skipped layers.

    `reasons` has path -> why a layer isn't captured. Facts that a run stores as columns (`fused` ...) get no note.
    """
    names = {plain_path(path): parameter_path(plain_path(path), module) for path, module in model.named_modules()}
    quantised: dict[str, list[str]] = {}
    for name in adapters:
        config: Any = model.peft_config[name]
        idle = idle_layers(adapter_tensors(model, name))
        if zero := tuple(names.get(path, path) for path, is_idle in idle.items() if is_idle):
            message = f"{len(zero)} of {len(idle)} lora_B of {name!r} are zero, so it leaves those layers alone"
            yield Note("zero", message, zero)
        if is_residual(config):
            made = "kasa" if getattr(config, "kasa_config", None) else config.init_lora_weights
            yield Note("residual", f"residual base: the init {made!r} of {name!r} changed the base weights", (name,))
        skipped: dict[str, list[str]] = {}
        for path, (_, module) in adapted_modules(model, name).items():
            if path in reasons:
                skipped.setdefault(reasons[path], []).append(path)
            elif (kind := _quantised_kind(module)) and path not in quantised.get(kind, ()):
                quantised.setdefault(kind, []).append(path)
        for reason, places in skipped.items():
            words = f"which isn't captured: {reason}; the other layers' states are unaffected"
            yield Note("skipped", f"{name!r} changes this too, {words}", tuple(places))
    for kind, places in quantised.items():
        message = f"quantised base ({kind}): its outputs are those of the quantised layer"
        if kind == "Linear8bitLt":
            message += ", which depend on what else is in the batch"
        yield Note("quantised", message, tuple(places))


def _quantised_kind(module: Any) -> str | None:
    """Return the class of a LoRA layer's quantised layer or weight; None if the weights are plain floats."""
    if not isinstance(module, LoraLayer) or isinstance(module, ParamWrapper):  # quantised experts are refused
        return None
    inner: Any = module.get_base_layer()
    weight = getattr(inner, "weight", None)
    if isinstance(inner, nn.Linear | nn.Embedding | Conv1D) or isinstance(module, Embedding):
        known = not type(inner).__module__.startswith("bitsandbytes")
        if known and isinstance(weight, torch.Tensor) and type(weight) not in {torch.Tensor, nn.Parameter, DTensor}:
            return type(weight).__name__
        if known and isinstance(weight, torch.Tensor) and weight.is_floating_point():
            return None
    return type(inner).__name__
