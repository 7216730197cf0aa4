"""One self-contained HTML page from plain data; no torch inside."""

from .build import build
from .schema import ReportData

__all__ = ["ReportData", "build"]
