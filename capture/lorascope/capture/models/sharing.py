"""Parameter sharing: groups of neighbouring layers with one set of base weights between them.

It is done to a model in memory and never saved: safetensors refuses tensors that share their memory. Layers are tied by
the identity of their parameters, which `to`, `copy.deepcopy` and PEFT keep, and which a move onto the meta device and
`load_state_dict(assign=True)` lose.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Literal

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .device import is_offloaded
from .source import check_sharing
from .weights import base_tensors, plain_path, state_tensors


def share_layers(
    model: Any, share: int, *, shared_layers: int = 16, share_from: Literal["first", "mean"] = "first"
) -> None:
    """Make the model's last layers share weights, in groups of `share` neighbours; unused weights are freed.

    A layer stays a module of its own, with its place, its cache and any LoRA that it is given later. All its parameters
    and saved buffers (norms and biases too) become those of its group's first layer. Nothing is changed unless all of
    it can be.

    Parameters
    ----------
    model
        A plain model, before PEFT wraps it; on the meta device too.
    share
        Layers of a group; 1 leaves the model as it is.
    shared_layers
        How many of the last layers are put into groups, a multiple of `share`.
    share_from
        Where a group gets its weights from: its `first` layer, or the `mean` over its layers, taken in float32
        and rounded to the weights' own type.

    Raises
    ------
    ValueError
        If these settings name no sharing; if the model has an adapter, quantised or offloaded weights, too few layers
        or none that can be found, or shares weights between layers already; or if the layers of a group differ in
        their modules, or in the shapes or devices of their weights.

    References
    ----------
    arXiv 2501.03152, section 4.4: share_2, share_4 and share_8 of the last 16 layers. The paper doesn't say whose
    weights a group gets.
    """
    check_sharing(share, shared_layers, share_from)
    if share == 1:
        return
    if hasattr(model, "peft_config") or any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ValueError("the model has an adapter; let the base model share its layers before it is attached")
    labelled = getattr(getattr(model, "config", None), "quantization_config", None) is not None
    if labelled or not all(map(_is_plain, model.parameters())):
        raise ValueError("the model's weights are quantised, which can't be shared; load it unquantised")
    if is_offloaded(model):
        raise ValueError("some of the model's weights are offloaded and can't be shared; load it without `device_map`")
    path, layers = _require_layers(model, shared_layers)
    starts = range(len(layers) - shared_layers, len(layers), share)
    groups = [[*layers[start : start + share]] for start in starts]
    for start, group in zip(starts, groups, strict=True):
        for place, layer in enumerate(group):
            if difference := _why_not_shareable(group[0], layer):
                raise ValueError(f"layers {start} and {start + place} of `{path}` can't share weights: {difference}")
    for group in groups:
        if share_from == "mean":
            _set_to_mean(group)
        for name, tensor in state_tensors(group[0]).items():
            module, _, local = name.rpartition(".")
            for layer in group[1:]:
                setattr(layer.get_submodule(module), local, tensor)


def layer_sharing(model: nn.Module) -> dict[str, int]:
    """Return how a model's layers share weights: `share` layers per group, and `shared_layers` in all groups.

    This looks at the parameters, not at any setting; in a model under PEFT, at those of its base. `share` is 1 and
    `shared_layers` 0 if no two layers have all parameters in common.

    Raises
    ------
    ValueError
        If layers are tied in another way than `share_layers` ties them.
    """
    path, layers = next(_layer_lists(model), ("", []))
    parameters: list[set[Any]] = [set() for _ in layers]
    for key, tensor in base_tensors(model).items():
        number, _, name = key.removeprefix(f"{path}.").partition(".")
        if key.startswith(f"{path}.") and isinstance(tensor, nn.Parameter):
            parameters[int(number)].add((name, id(tensor)))
    keys = [frozenset(ids or {place}) for place, ids in enumerate(parameters)]
    sizes = [len([*group]) for _, group in groupby(keys)]
    tied = [size for size in sizes if size > 1]
    if not tied and len({*keys}) == len(keys):
        return {"share": 1, "shared_layers": 0}
    if len({*tied}) != 1 or sizes[-len(tied) :] != tied or len({*keys}) != len(sizes):
        which = [keys.index(key) for key in keys]
        raise ValueError(
            f"layers of `{path}` share weights irregularly (each layer's set is that of layer {which}); only the last "
            "layers may, in groups of one size, as `share_layers` ties them"
        )
    return {"share": tied[0], "shared_layers": sum(tied)}


def _layer_lists(model: nn.Module) -> Iterator[tuple[str, Sequence[nn.Module]]]:
    """Yield (path in the plain model, layers) of each outermost `ModuleList`, the longest first."""
    lists = {path: module for path, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [path for path in lists if not any(path.startswith(f"{other}.") for other in lists)]
    for path in sorted(outer, key=lambda path: len(lists[path]), reverse=True):
        yield plain_path(path), [*lists[path]]


def _require_layers(model: nn.Module, shared_layers: int) -> tuple[str, Sequence[nn.Module]]:
    """Return path and modules of the model's longest ModuleList; raise ValueError if it is short, unclear or tied."""
    kind, lists = type(model).__name__, [*_layer_lists(model)]
    if not lists:
        raise ValueError(f"the model, a {kind}, has no list of layers (`torch.nn.ModuleList`) that could share weights")
    path, layers = lists[0]
    if len(lists) > 1 and len(lists[1][1]) == len(layers):
        both = f"{len(layers)} modules in `{path}` and as many in `{lists[1][0]}`"
        raise ValueError(
            f"the model, a {kind}, has {both}: which are its layers isn't known, so it can't share weights"
        )
    if len(layers) < shared_layers:
        raise ValueError(f"`shared_layers` is {shared_layers}, but the model, a {kind}, has only {len(layers)} layers")
    owners: dict[int, int] = {}
    for place, layer in enumerate(layers):
        for parameter in layer.parameters():
            if (first := owners.setdefault(id(parameter), place)) != place:
                raise ValueError(f"layers {first} and {place} of `{path}` share weights already; load the model again")
    return path, layers


def _is_plain(tensor: torch.Tensor) -> bool:
    """Return whether a weight is a plain floating-point tensor, not a quantised one."""
    return type(tensor) in {torch.Tensor, nn.Parameter} and tensor.is_floating_point()


def _why_not_shareable(layer: nn.Module, other: nn.Module) -> str | None:
    """Return why two layers can't share weights, as a phrase on the first difference; None if they can."""
    (forms, tensors), (other_forms, other_tensors) = map(_layer_structure, (layer, other))
    for name in (*forms, *other_forms):
        first, second = (known.get(name, "nothing") for known in (forms, other_forms))
        if first != second:
            return f"{name or 'a layer'!r} is {first} in one and {second} in the other"
    for name, tensor in tensors.items():
        # Packed weights that are no parameters, or masks that define a layer.
        if not _is_plain(tensor) and not tensor.is_meta and not torch.equal(tensor, other_tensors[name]):
            return f"the saved buffer {name!r} has no floating-point numbers, and differs"
    return None


def _layer_structure(layer: nn.Module) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Return two dicts to compare layers by: path -> class, or type and shape; and name -> weight."""
    tensors = state_tensors(layer)
    forms = {path: type(module).__qualname__ for path, module in layer.named_modules()}
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        forms[name] = f"{dtype} of shape {tuple(tensor.shape)} on {tensor.device}"
    return forms, tensors


def _set_to_mean(group: Sequence[nn.Module]) -> None:
    """Set the first layer's weights to the mean over the layers of its group, summed in at least float32."""
    first, *others = map(state_tensors, group)
    done: set[int] = set()
    for name, tensor in first.items():
        if id(tensor) in done or not _is_plain(tensor):
            continue
        total = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
        for tensors in others:
            total += tensors[name].detach()
        # Not in place: weights may be in a file that is mapped into memory.
        tensor.data = (total / len(group)).to(tensor.dtype)
        done.add(id(tensor))
