"""Analysis of a run without its model: MIUB and what qualifies it."""

from .jensen_shannon import jensen_shannon
from .miub import miub

__all__ = ["jensen_shannon", "miub"]
