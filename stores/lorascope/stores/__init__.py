"""Runs on disk: the store that capture writes and analysis reads (format version 1, `docs/store-format.md`)."""

from .compact import compact
from .create import create_run, resume_run
from .errors import Problem, StoreError
from .layout import Adapter, Component, RunSpec
from .place import Place, open_place
from .pull import pull
from .read import Run, open_run
from .state import clear_torn, run_state
from .verify import Verdict, verify
from .widen import widen
from .write import RowWritten, RunWriter

__all__ = [
    "Adapter",
    "Component",
    "Place",
    "Problem",
    "RowWritten",
    "Run",
    "RunSpec",
    "RunWriter",
    "StoreError",
    "Verdict",
    "clear_torn",
    "compact",
    "create_run",
    "open_place",
    "open_run",
    "pull",
    "resume_run",
    "run_state",
    "verify",
    "widen",
]
