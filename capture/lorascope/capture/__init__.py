"""Capture: a model with its adapter, run over data, into a store. Needs `lorascope[capture]`."""

from typing import TYPE_CHECKING

from lorascope.stores.on_demand import import_on_demand

if TYPE_CHECKING:
    from .public import *  # noqa: F403

__all__ = [  # noqa: F405
    "AdapterError",
    "CaptureConfig",
    "CaptureError",
    "CaptureProgress",
    "FinetuneConfig",
    "Interrupted",
    "MiubCallback",
    "Plan",
    "attach_adapter",
    "capture",
    "finetune",
    "jensen_shannon",
    "load_model",
    "plan",
    "read_items",
]

import_on_demand(__name__, __all__)
