"""Rules that failed where they should not: warned about once each, and counted.

A failed rule never makes a result wrong: the operation then counts as one without a rule. But it costs sharpness, and
it is a bug, so it must not be silent.
"""

from __future__ import annotations

import warnings
from collections import Counter

from torch.fx import Node

from ..core.errors import RuleFailedWarning
from ..core.modules import first_line
from .capture import describe


class RuleFailures(Counter[str]):
    """Rule, operation, place and error of each failure, in words, with how often it happened."""

    def note(self, node: Node, kind: str, error: Exception) -> None:
        """Count a failure of the ``kind`` of rule of this node's operation; warn the first time."""
        words = f"{kind} of {describe(node)}: {type(error).__name__}: {first_line(error)}"
        self[words] += 1
        if self[words] == 1:
            warnings.warn(
                f"the {words}; the result stays exact, but less may be removed; please report this, or mend "
                "the rule if you registered it",
                RuleFailedWarning,
                stacklevel=2,
            )
