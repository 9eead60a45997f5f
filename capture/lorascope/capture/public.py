"""The public objects of `lorascope.capture`, which gives each of them when it is first asked for."""

from .adapters.adapter import attach_adapter as attach_adapter
from .capture import capture as capture
from .config import CaptureConfig as CaptureConfig
from .config import FinetuneConfig as FinetuneConfig
from .errors import AdapterError as AdapterError
from .errors import CaptureError as CaptureError
from .errors import Interrupted as Interrupted
from .models.model import load_model as load_model
from .planning.plan import Plan as Plan
from .planning.plan import plan as plan
from .recording.reduce import jensen_shannon as jensen_shannon
from .recording.stream import CaptureProgress as CaptureProgress
from .samples.items import read_items as read_items
from .training.callback import MiubCallback as MiubCallback
from .training.finetune import finetune as finetune
