"""A compaction as plain data: what is cut, which layers gather and scatter, what stayed and why.

Everything is decided here, before anything changes; :mod:`.surgery` only carries it out. A plan survives JSON, so it
travels in the header of a safetensors file and can be applied to a fresh copy of the network.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ...core.arguments import checked_fields
from ...core.criteria import Criterion
from ...core.errors import PlanError
from ...core.plain_data import build

# 1 had no earlier plans and no list for each group of a cut, 2 no splits, 3 no criterion and no failed rules.
FORMAT = 4
Index = list[int] | None


@dataclass
class Cut:
    """Channels of one parameter or buffer that are kept.

    Attributes:
        name: Qualified name.
        shape: Shape before.
        keep: For each dimension the kept positions, or None for all. The second dimension of a grouped convolution's
            weight may have a list for each group that stays; dimensions that are left out stay whole.
    """

    name: str
    shape: list[int]
    keep: list[Index | list[list[int]]]


@dataclass
class LayerPlan:
    """One convolution, linear layer, batch norm or recurrent layer.

    Attributes:
        name: Qualified name of the module.
        kind: Class of the module, such as "Conv2d".
        inputs: Input channels (before, after); the JSON key is "in".
        outputs: Output channels (before, after); the JSON key is "out".
        dim: Dimension of the channels in its input and output.
        read: Positions of its inputs in the tensor that it gets, -1 for zeros; None for all in order.
        write: For each channel of the tensor that it produces, the position in its own output or -1 for zero;
            None for all in order.
        groups: Groups (before, after).
        void: Width of the zeros that it returns if none of its weights is left, else 0.
    """

    name: str
    kind: str
    inputs: list[int]
    outputs: list[int]
    dim: int
    read: Index = None
    write: Index = None
    groups: list[int] = field(default_factory=lambda: [1, 1])
    void: int = 0


@dataclass
class RegionPlan:
    """A parameter-free module that stays at full width between narrow tensors (see ``adapters.FullWidth``)."""

    name: str
    dim: int
    widen: Index
    narrow: Index
    width: int


@dataclass
class SplitPlan:
    """Sizes of a ``torch.split`` that a module keeps as an attribute.

    Attributes:
        name: Qualified name of the module.
        attribute: Name of its attribute, a list or tuple.
        before: The sizes of the parts in the original.
        after: Those of what is left of them.
    """

    name: str
    attribute: str
    before: list[int]
    after: list[int]


@dataclass
class Unprunable:
    """Dead channels that could not be removed.

    Attributes:
        name: Layer whose output channels stay.
        channels: How many.
        reason: The operation that fixes them, and where it is; or why the layer itself cannot be cut.
    """

    name: str
    channels: int
    reason: str


@checked_fields()
@dataclass(repr=False)
class Plan:
    """The whole compaction.

    Attributes:
        threshold: Slopes under it (in absolute value) were set to 0; 0 where another criterion chose, see there.
        round_to: Widths were rounded up to multiples of it.
        slopes: For each slope parameter its size and how many survive the threshold.
        states: Shape of every parameter and buffer of the rotated original.
        layers: Layers that changed.
        cuts: Parameters and buffers that changed.
        regions: Modules that stay at full width.
        splits: Attributes with sizes of parts that changed.
        held: What is dead and could not be removed, and why.
        inputs: Shape and dtype of each example input.
        unhandled: Operations without a zero-pattern rule, with their count (sound, but less sharp).
        failed_rules: Rules that failed, in words, with their count: bugs, sound as well.
        frozen: Modules whose ``forward`` only runs at full width, found by trying.
        work: For each module that multiplies, its multiply-accumulates on the example inputs before, and what would
            remain if everything irrelevant went.
        widths: How the widths were chosen if they were timed: what is fastest where, and why.
        earlier: Plans that were carried out on the network before, oldest first; this one starts where they ended.
        criterion: How it came about which slopes are 0; of a plan from before there was more than one, its threshold.
    """

    threshold: float
    round_to: int
    slopes: dict[str, dict[str, int]]
    states: dict[str, list[int]]
    layers: list[LayerPlan] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    regions: list[RegionPlan] = field(default_factory=list)
    splits: list[SplitPlan] = field(default_factory=list)
    held: list[Unprunable] = field(default_factory=list)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    unhandled: dict[str, int] = field(default_factory=dict)
    failed_rules: dict[str, int] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    work: dict[str, list[int]] = field(default_factory=dict)
    widths: str = ""
    earlier: list[Plan] = field(default_factory=list)
    criterion: Criterion = field(default_factory=Criterion)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with a format version."""
        data = {"format": FORMAT, **asdict(self)}
        for layer in data["layers"]:
            layer["in"], layer["out"] = layer.pop("inputs"), layer.pop("outputs")
        data["earlier"] = [plan.to_dict() for plan in self.earlier]
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Plan:
        """Inverse of :meth:`to_dict`.

        Raises:
            PlanError: If the data is not a plan, or of a newer format.
        """
        version = data.get("format") if isinstance(data, dict) else None
        if type(version) is not int or not 0 < version <= FORMAT:
            raise PlanError(
                f"plan format {version!r} is not known here (newest known: {FORMAT}); update rotated-relu"
            )
        try:
            return build(cls, _fields(data), "the plan")
        except (AttributeError, KeyError, RecursionError, TypeError) as error:
            raise PlanError(f"the plan is incomplete or of another kind: {error}") from error

    def __repr__(self) -> str:
        alive, total = (sum(slope[key] for slope in self.slopes.values()) for key in ("alive", "total"))
        held = f", {sum(one.channels for one in self.held)} dead channels stay" if self.held else ""
        return (
            f"Plan({alive} of {total} slopes alive in {len(self.slopes)} activations, {self.criterion.describe()}; "
            f"{len(self.layers)} layers and {len(self.cuts)} tensors cut{held})"
        )


def _fields(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of a plan from its JSON, of any format."""
    fields = {key: value for key, value in data.items() if key != "format"}
    names = {"in": "inputs", "out": "outputs"}
    fields["layers"] = [
        {names.get(key, key): value for key, value in layer.items()} for layer in data["layers"]
    ]
    fields["earlier"] = [_fields(earlier) for earlier in data.get("earlier", [])]
    fields.setdefault("criterion", {"score": "slope", "threshold": data["threshold"]})
    return fields
