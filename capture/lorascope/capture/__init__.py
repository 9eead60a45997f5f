"""Capture: a model with its adapter, run over data, into a store. Needs `lorascope[capture]`."""

from typing import TYPE_CHECKING

from lorascope.stores.on_demand import import_on_demand

if TYPE_CHECKING:
    from .against import layer_sums, model_nll
    from .capture import capture
    from .compare_adapters import compare_adapters
    from .config import CaptureConfig, FinetuneConfig
    from .errors import AdapterError, CaptureError, Interrupted
    from .merged import check_merge, compare_merged
    from .models.adapter import attach_adapter
    from .models.model import load_model
    from .planning.plan import Plan, plan
    from .recording.progress import CaptureProgress
    from .recording.reduce import jensen_shannon
    from .samples.sources import read_items
    from .training.callback import MiubCallback
    from .training.finetune import finetune

__all__ = [
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
    "check_merge",
    "compare_adapters",
    "compare_merged",
    "finetune",
    "jensen_shannon",
    "layer_sums",
    "load_model",
    "model_nll",
    "plan",
    "read_items",
]

import_on_demand(__name__)
