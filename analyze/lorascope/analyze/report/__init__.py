"""Self-contained HTML pages about runs."""

from .explanation import write_explanation
from .page import page_beside, write_report

__all__ = ["page_beside", "write_explanation", "write_report"]
