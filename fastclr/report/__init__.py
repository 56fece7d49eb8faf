"""The report of a run: one HTML file on how training went, what was learnt, and how it was configured."""

from fastclr.report.blocks import Missing
from fastclr.report.comparison import write_comparison
from fastclr.report.pages import write_report

__all__ = ["Missing", "write_comparison", "write_report"]
