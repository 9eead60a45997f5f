"""Capture: a model with its adapter, run over data, into a store. Needs `lorascope[capture]`."""

from .adapter import attach_adapter
from .capture import capture
from .config import CaptureConfig, FinetuneConfig
from .errors import CaptureError
from .finetune import finetune
from .interrupt import Interrupted
from .items import read_items
from .js import jensen_shannon
from .model import load_model
from .plan import Plan, plan
from .preflight import AdapterError
from .stream import Progress

__all__ = [
    "AdapterError",
    "CaptureConfig",
    "CaptureError",
    "FinetuneConfig",
    "Interrupted",
    "Plan",
    "Progress",
    "attach_adapter",
    "capture",
    "finetune",
    "jensen_shannon",
    "load_model",
    "plan",
    "read_items",
]
