"""Names of the devices to compute on. torch is imported when it is asked, so that ``--help`` does without."""

from __future__ import annotations

AUTO = "auto"
DEVICES = (AUTO, "cpu", "cuda", "mps")


def device_type(device: str) -> str:
    """What ``auto`` stands for on this machine, in the order in which Lightning Fabric looks; others are as named.

    Args:
        device: One of :data:`DEVICES`.
    """
    import torch

    if device != AUTO:
        return device
    if torch.backends.mps.is_available():
        return "mps"
    return "cuda" if torch.cuda.is_available() else "cpu"
