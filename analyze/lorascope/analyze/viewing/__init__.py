"""The page that looks into runs: what it is given, and who gives it."""

from .bundle import write_bundle
from .view import View, view

__all__ = ["View", "view", "write_bundle"]
