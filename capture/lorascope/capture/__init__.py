"""Capture: a model with its adapter, run over data, into a store. Needs `lorascope[capture]`."""

from .adapter import attach_adapter
from .capture import capture
from .config import CaptureConfig, FinetuneConfig
from .finetune import finetune
from .hooks import CaptureError
from .items import read_items
from .js import jensen_shannon
from .model import load_model
from .preflight import AdapterError
from .stream import Progress

__all__ = [
    "AdapterError",
    "CaptureConfig",
    "CaptureError",
    "FinetuneConfig",
    "Progress",
    "attach_adapter",
    "capture",
    "finetune",
    "jensen_shannon",
    "load_model",
    "read_items",
]
