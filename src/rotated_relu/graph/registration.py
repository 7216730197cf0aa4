"""Rules for operations that this library does not know, from whoever knows them.

An operation without rules is treated soundly: every entry of its result counts as possibly non-zero and as depending on
every entry of its arguments, and all that it touches keeps its width. ``plan.unhandled`` lists it, ``plan.held`` names
it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ..core.arguments import checked
from ..core.errors import OperationError, UnknownNameError
from .channel_rules.rule_context import RuleContext
from .channel_rules.table import RULES
from .ops import target_name
from .zero_patterns.table import PATTERNS, as_itself

ZeroPattern = Callable[..., Tensor | tuple[Tensor, ...]]
ChannelRule = Callable[[RuleContext, Node], None]


@checked("operation")
def register_operation(
    operation: Any,
    *,
    like: str | None = None,
    zero_pattern: ZeroPattern | None = None,
    channels: ChannelRule | None = None,
) -> None:
    """Say how zeros and channels pass through an operation that is not known here, for this process.

    Example::

        @torch.library.custom_op("mylib::scaled_silu", mutates_args=())
        def scaled_silu(x: torch.Tensor, scale: float) -> torch.Tensor: ...

        rr.register_operation(scaled_silu, like="silu")       # entry by entry, and 0 at 0

    or, where nothing known behaves like it::

        def pattern(x, weight):             # of the operation's own arguments: 0 where certainly zero, else positive
            return x * weight.view(-1, 1)

        def channels(context, node):
            x, weight = node.args
            context.same(x, 0, node, 0)     # dimension 0 of x and of the result: the same batch
            context.same(x, 1, node, 1)     # channels pass ...
            context.same(weight, 0, node, 1)  # ... and go together with the weight's
            context.fix(node, 2)            # this dimension keeps its width

        rr.register_operation(torch.ops.mylib.filter, zero_pattern=pattern, channels=channels)

    A rule is trusted: one that calls something zero that is not makes the certificate of a compaction fail.

    Args:
        operation: What ``torch.library.custom_op`` returned, an operation of ``torch.ops``, or its name
            (``"mylib::scaled_silu"``). It must not change its arguments.
        like: Name of an operation of torch with the same behaviour for the same leading arguments, such as ``"relu"``
            (entry by entry, f(0) = 0), ``"sigmoid"`` (f(0) != 0), ``"add"``, ``"mul"``, ``"linear"``.
        zero_pattern: Takes float32 patterns in place of tensors and returns that of the result, of its shape: torch
            code that is differentiable, never negative, and 0 only where the result is certainly 0. Where it does not
            cover its arguments it raises ``NotImplementedError``.
        channels: Takes a context with ``same(one, dim, other, dim)``, ``fix(tensor, dim)`` and ``size(tensor, dim)``,
            and the node of the captured graph: ``node`` is the result, ``node.args`` are the arguments. Dimensions
            that it does not mention keep their width.

    Raises:
        OperationError: If no rule is given, or ``like`` besides another one, or the operation cannot be named.
        UnknownNameError: If no operation called ``like`` has rules here.
    """
    name = _name(operation)
    if like is not None and (zero_pattern is not None or channels is not None):
        raise OperationError(f"{name}: give either like= or rules of your own, not both")
    if like is None and zero_pattern is None and channels is None:
        raise OperationError(
            f"{name}: give like= (the name of an operation that behaves like it), zero_pattern= or channels="
        )
    if like is not None:
        known = PATTERNS.keys() & RULES.keys() - {"getitem"}
        if like not in known:
            raise UnknownNameError("operation", like, known)
        zero_pattern, channels = _runnable(like), RULES[like]
    if zero_pattern is not None:
        PATTERNS[name] = zero_pattern
    if channels is not None:
        RULES[name] = channels if like is not None else _complete(channels)


def _complete(rule: ChannelRule) -> ChannelRule:
    """The rule, and after it every dimension that it said nothing about is fixed."""

    def complete(context: RuleContext, node: Node) -> None:
        context.mentioned.clear()
        rule(context, node)
        mentioned = set(context.mentioned)
        for key in (node, *node.all_input_nodes):
            for dim in range(context.rank(key)) if context.has(key) else ():
                if (key, dim) not in mentioned:
                    context.fix(key, dim)

    return complete


def _runnable(like: str) -> ZeroPattern:
    """The handler of a known operation; one that runs as itself runs as the known one, not as the new one."""
    handler = PATTERNS[like]
    if handler is not as_itself:
        return handler
    known: ZeroPattern = getattr(torch.ops.aten, like)
    return known


def _name(operation: Any) -> str:
    """Name of an operation in a captured graph."""
    if isinstance(operation, str):
        return operation.removeprefix("aten::")
    target = getattr(operation, "_opoverload", operation)  # what torch.library.custom_op returns
    if not hasattr(target, "_qualified_op_name") and not hasattr(target, "_overloadpacket"):
        raise OperationError(
            f"{operation!r} is no operation that a captured graph could name: pass what torch.library.custom_op "
            "returned, an operation of torch.ops, or its name such as 'mylib::scale'"
        )
    return target_name(target)
