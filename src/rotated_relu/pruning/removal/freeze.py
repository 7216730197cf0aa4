"""Modules whose own code works at one width only, found by trying.

A ``forward`` may read a width from one tensor and use it on another (``x.shape[1]`` for a reshape, ``q.shape[-1]`` for
a scale). The captured graph does not show that. The certificate notices: the compacted module fails, or computes
something else. Then that module, and all others of its class, keep full width, and compaction starts again.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import nn


def widen(net: nn.Module, module: str | None, frozen: Collection[str]) -> set[str]:
    """Modules to keep at full width, given where a certificate failed; empty if nothing is left to try.

    Args:
        net: The network.
        module: Qualified name of the module where the failure was noticed, or None.
        frozen: Those that are at full width already.

    Returns:
        The nearest enclosing module that is not at full width yet and is no layer of torch itself, with all others of
        its class.
    """
    modules = dict(net.named_modules())
    while module is not None:
        found = modules.get(module)
        if found is not None and module not in frozen and not type(found).__module__.startswith("torch.nn."):
            return {name for name, other in modules.items() if type(other) is type(found)} - set(frozen)
        module = module.rpartition(".")[0] if module else None
    return set()
