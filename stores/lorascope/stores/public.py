"""The public objects of `lorascope.stores`, which gives each of them when it is first asked for."""

from .checking.verify import Verdict as Verdict
from .checking.verify import verify as verify
from .copying.compact import compact as compact
from .copying.pull import pull as pull
from .errors import Problem as Problem
from .errors import StoreError as StoreError
from .format.spec import Adapter as Adapter
from .format.spec import Component as Component
from .format.spec import RunSpec as RunSpec
from .format.widen import widen as widen
from .places.place import Place as Place
from .places.place import open_place as open_place
from .reading.read import open_run as open_run
from .reading.run import Run as Run
from .reading.state import clear_torn as clear_torn
from .reading.state import run_state as run_state
from .writing.create import create_run as create_run
from .writing.create import resume_run as resume_run
from .writing.write import RowWritten as RowWritten
from .writing.write import RunWriter as RunWriter
