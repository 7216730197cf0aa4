"""Compaction: keep masks, plan, surgery, certificate, files."""

from .checkpoint import load, load_compacted, read_plan, save
from .compact import Compacted, compact
from .plan import Plan
from .verify import Certificate

__all__ = ["Certificate", "Compacted", "Plan", "compact", "load", "load_compacted", "read_plan", "save"]
