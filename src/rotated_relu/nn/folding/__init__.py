"""The fast form of a rotated network for training: slopes act on the weights of their consumers."""

from __future__ import annotations

from .compiled import compile_training
from .switch import as_plain, fast_training, is_fast, plain_training

__all__ = ["as_plain", "compile_training", "fast_training", "is_fast", "plain_training"]
