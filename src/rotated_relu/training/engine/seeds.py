"""Randomness as a function of the place in the run, so that no generator's state needs keeping.

Every draw of a training comes from a generator seeded with (seed, epoch, step, process, purpose). A run that goes on
from step k of an epoch therefore draws what the run that was never stopped draws there.
"""

from __future__ import annotations

import hashlib

import torch


def seed_of(purpose: str, *place: int) -> int:
    """A well-mixed 63-bit seed for one purpose at one place of a run."""
    text = "/".join((purpose, *map(str, place)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator_for(purpose: str, *place: int) -> torch.Generator:
    """A CPU generator of its own for one purpose at one place of a run."""
    return torch.Generator().manual_seed(seed_of(purpose, *place))
