"""Compaction: keep masks, plan, surgery, certificate, files."""

from .certificate import Certificate
from .compact import Compacted, compact
from .files import load, load_compacted, read_plan, save
from .plan import Plan

__all__ = ["Certificate", "Compacted", "Plan", "compact", "load", "load_compacted", "read_plan", "save"]
