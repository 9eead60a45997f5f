"""Runs on disk: the store that capture writes and analysis reads (format version 1, `docs/store-format.md`)."""

from .create import create_run
from .errors import Problem, StoreError
from .layout import Adapter, Component, RunSpec
from .read import Run, open_run
from .verify import Verdict, verify
from .widen import widen
from .write import RunWriter

__all__ = [
    "Adapter",
    "Component",
    "Problem",
    "Run",
    "RunSpec",
    "RunWriter",
    "StoreError",
    "Verdict",
    "create_run",
    "open_run",
    "verify",
    "widen",
]
