"""The browser page about runs: its index, its server, and its plain files for any web server."""

from .bundle import write_bundle
from .view import View, view

__all__ = ["View", "view", "write_bundle"]
