"""Removal of channels: plan, surgery, certificate, files."""

from .checkpoint import load, load_compacted, read_plan, save
from .compact import Compacted, remove_channels
from .plan import Plan
from .verify import Certificate

__all__ = [
    "Certificate", "Compacted", "Plan", "load", "load_compacted", "read_plan", "remove_channels", "save",
]  # fmt: skip
