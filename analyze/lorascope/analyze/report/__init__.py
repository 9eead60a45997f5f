"""The report: one self-contained HTML page about one run or several, and the paragraph that it opens with."""

from .page import page_path, paragraph, write_report

__all__ = ["page_path", "paragraph", "write_report"]
