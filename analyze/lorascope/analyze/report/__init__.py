"""The report: one self-contained HTML page about a run or several, and the paragraph that it opens with."""

from .page import page_beside, write_report
from .paragraph import paragraph

__all__ = ["page_beside", "paragraph", "write_report"]
