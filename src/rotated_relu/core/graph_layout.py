"""How channels are laid out in an exported graph, and where a layout was found to be the fastest; plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .arguments import checked_fields, kind_of
from .errors import ArgumentError


@checked_fields("round_to")
@dataclass(frozen=True)
class GraphLayout:
    """What is open when a graph is narrowed.

    Attributes:
        name: What messages, tables and JSON call it.
        round_to: Widths are multiples of it, filled up with channels whose weights are 0.
        narrowing_bias: An addition or a norm becomes narrow if that saves more than ``1 / narrowing_bias`` of what the
            selection costs, by the count of multiply-accumulates; 0 never, ``inf`` always.
        convolution_limit: Widest tensor, in channels, from which a 1x1 convolution selects; above it a gather does.
        enabled: False leaves the graph as torch exported it.

    Raises:
        ArgumentError: If the name is empty, ``round_to`` is no integer of at least 1, or another number is
            negative or NaN.
    """

    name: str
    round_to: int = 1
    narrowing_bias: float = 1.0
    convolution_limit: int = 192
    enabled: bool = True

    def __post_init__(self) -> None:
        if not self.name:
            raise ArgumentError("a layout needs a name: messages and tables show it")
        if not isinstance(self.round_to, int) or self.round_to < 1:
            raise ArgumentError(
                f"layout {self.name!r}: round_to must be an integer of at least 1, got {kind_of(self.round_to)}"
            )
        for field in ("narrowing_bias", "convolution_limit"):
            if not getattr(self, field) >= 0:
                raise ArgumentError(
                    f"layout {self.name!r}: {field} must be at least 0, got {getattr(self, field)}"
                )

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Tuned:
    """What was timed to choose a compaction.

    Attributes:
        engine: In what: ``onnxruntime``, ``openvino``, ``torch`` or ``torch.compile``.
        batch_sizes: At which batch sizes.
        layout: The layout of the exported graph that was fastest; None for engines that run modules.
    """

    engine: str
    batch_sizes: tuple[int, ...]
    layout: GraphLayout | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which has no infinity."""
        layout = None if self.layout is None else asdict(self.layout)
        if layout is not None:
            layout["narrowing_bias"] = str(layout["narrowing_bias"])
        return {"engine": self.engine, "batch_sizes": list(self.batch_sizes), "layout": layout}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Tuned:
        """Inverse of :meth:`to_dict`.

        Raises:
            KeyError, TypeError, ValueError: If the data is something else.
        """
        layout = data["layout"]
        if layout is not None:
            layout = GraphLayout(**{**layout, "narrowing_bias": float(layout["narrowing_bias"])})
        return cls(str(data["engine"]), tuple(map(int, data["batch_sizes"])), layout)
