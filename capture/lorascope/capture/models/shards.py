"""Weights and layers that are split over processes, by tensor parallel or FSDP2, as transformers loads them."""

import logging
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard
from transformers.distributed.configuration_utils import DistributedConfig

TENSOR = "tp"
"""Name that transformers gives the axis of a mesh of processes over which layers are split."""


class Shards(NamedTuple):
    """Place of this process among those over which tensor parallel splits layers, each with some of the features."""

    group: Any
    """Process group of torch."""
    rank: int
    size: int

    def own_features(self, d_out: int) -> slice:
        """Return the slice of a layer's `d_out` output features that this process computes."""
        width = d_out // self.size
        return slice(self.rank * width, (self.rank + 1) * width)


def distribution(tensor_parallel: int, fully_shard: bool) -> DistributedConfig | None:
    """Return how transformers distributes a model over the processes of torchrun; None for one that is whole in each.

    Raises
    ------
    ValueError
        If the processes aren't a multiple of `tensor_parallel`, or nothing can be sharded over one process.
    """
    n_ranks = dist.get_world_size() if dist.is_initialized() else 1
    if n_ranks % tensor_parallel:
        raise ValueError(
            f"`tensor_parallel` is {tensor_parallel}, but {n_ranks} processes run; start a multiple of "
            f"{tensor_parallel}, as by `torchrun --nproc-per-node {tensor_parallel} -m lorascope ...`"
        )
    if fully_shard and n_ranks == 1:
        raise ValueError(
            "`fully_shard` shards weights over processes, but only one runs; start several, as by "
            "`torchrun --nproc-per-node 8 -m lorascope ...`"
        )
    if fully_shard:
        return DistributedConfig(fsdp_size=n_ranks)
    if tensor_parallel == 1:
        return None
    # It warns that weights are gathered over two axes, one after the other.
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    return DistributedConfig(tp_size=tensor_parallel, dp_replicate_size=n_ranks // tensor_parallel)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor whose parts are on several processes as a plain one, and any other tensor as it is.

    All of these processes must call this, in the same order.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    with torch.no_grad():
        plain: torch.Tensor = tensor.full_tensor()
    return plain


def output_shards(layer: nn.Module) -> Shards | None:
    """Return how a linear layer's output features are split over processes; None if every process has them all."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, DTensor) or TENSOR not in (names := weight.device_mesh.mesh_dim_names or ()):
        return None
    placement = weight.placements[names.index(TENSOR)]
    return _place(weight) if isinstance(placement, Shard) and placement.dim == 0 else None


def layer_shards(model: nn.Module) -> Shards | None:
    """Return this process's place among those over which a model's layers are split; None if it has whole layers."""
    for parameter in model.parameters():
        if isinstance(parameter, DTensor) and TENSOR in (parameter.device_mesh.mesh_dim_names or ()):
            return _place(parameter)
    return None


def _place(tensor: DTensor) -> Shards:
    """Return this process's place among those over which tensor parallel splits a tensor."""
    mesh = tensor.device_mesh[TENSOR]
    return Shards(mesh.get_group(), mesh.get_local_rank(), mesh.size())


def plain_class(model: nn.Module) -> type[nn.Module]:
    """Return a model's class, or the class that it had before FSDP2 gave it another one."""
    kind: type[nn.Module] = type(model)
    return kind.__bases__[1] if issubclass(kind, FSDPModule) else kind


def is_sharded(model: nn.Module) -> bool:
    """Return whether some of a model's weights are split over processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def is_fully_sharded(model: nn.Module) -> bool:
    """Return whether FSDP2 splits some of a model's weights over several processes, which then make passes together."""
    return any(isinstance(module, FSDPModule) for module in model.modules()) and any(
        not placement.is_replicate() and n_processes > 1 and name != TENSOR
        for parameter in model.parameters()
        if isinstance(parameter, DTensor)
        for placement, n_processes, name in zip(
            parameter.placements,
            parameter.device_mesh.shape,
            parameter.device_mesh.mesh_dim_names or [None] * parameter.device_mesh.ndim,
            strict=True,
        )
    )
