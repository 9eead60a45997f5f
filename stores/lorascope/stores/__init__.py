"""Runs on disk: the store that capture writes and analysis reads (format version 2, `docs/store-format.md`)."""

from typing import TYPE_CHECKING

from .on_demand import import_on_demand

if TYPE_CHECKING:
    from .checking.verify import Verdict, verify
    from .copying.pull import pull
    from .errors import Problem, StoreError
    from .format.spec import Adapter, Component, ExpertBlock, RunSpec
    from .format.stored_array import widen
    from .places.place import Place, open_place
    from .reading.read import open_run
    from .reading.run import Run
    from .reading.state import clear_torn, run_state
    from .writing.create import create_run, resume_run
    from .writing.write import RowWritten, RunWriter

__all__ = [
    "Adapter",
    "Component",
    "ExpertBlock",
    "Place",
    "Problem",
    "RowWritten",
    "Run",
    "RunSpec",
    "RunWriter",
    "StoreError",
    "Verdict",
    "clear_torn",
    "create_run",
    "open_place",
    "open_run",
    "pull",
    "resume_run",
    "run_state",
    "verify",
    "widen",
]

import_on_demand(__name__)
