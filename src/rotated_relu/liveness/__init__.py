"""Which channels, and which single weights, a network's output depends on."""

from .reach import Liveness, analyse

__all__ = ["Liveness", "analyse"]
