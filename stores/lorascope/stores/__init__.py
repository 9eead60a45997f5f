"""Runs on disk: the store that capture writes and analysis reads (format version 1, `docs/store-format.md`)."""

from typing import TYPE_CHECKING

from .on_demand import import_on_demand

if TYPE_CHECKING:
    from .public import *  # noqa: F403

__all__ = [  # noqa: F405
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

import_on_demand(__name__, __all__)
