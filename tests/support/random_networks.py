"""Random networks from a grammar of the operations that real architectures are made of.

A network is described by a :class:`Program`: a few inputs and a list of steps, each an operation's name and four small
integers. *Every* program is valid: integers pick operands, widths and options modulo what is possible, and a step that
cannot be applied is skipped. So hypothesis shrinks a failure by dropping steps and lowering integers, and a seed or
one line of JSON reproduces it. Everything is deterministic.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rotated_relu import Rotated, RotatedReLU, rotate, slopes

PICKS = 4  # integers of a step
LARGEST = 23  # each in 0 .. 23
WIDTHS = (4, 6, 8, 2, 3, 5)
MAX_ENTRIES = 2500  # a value larger than this (per example) is not built further upon
KILL_RATES = (0.3, 0.5, 0.0, 0.9, 1.0, 0.7)
THRESHOLD = 0.1


@dataclass(frozen=True)
class Program:
    """A network in data.

    Attributes:
        inputs: Names of inputs, see :data:`INPUTS`.
        steps: Operation name and :data:`PICKS` integers each.
        seed: Of all weights and slopes.
        form: Picks the structure of the output, how many values go, and whether weights are sparse.
    """

    inputs: tuple[str, ...] = ("image",)
    steps: tuple[tuple[str, tuple[int, ...]], ...] = ()
    seed: int = 0
    form: int = 0

    def to_json(self) -> str:
        """One line that :meth:`from_json` reads."""
        return json.dumps(
            [list(self.inputs), [[op, *picks] for op, picks in self.steps], self.seed, self.form]
        )

    @classmethod
    def from_json(cls, text: str) -> Program:
        inputs, steps, seed, form = json.loads(text)
        return cls(tuple(inputs), tuple((s[0], tuple(s[1:])) for s in steps), seed, form)

    @classmethod
    def from_seed(cls, seed: int, length: tuple[int, int] = (3, 14)) -> Program:
        """A random program; the same for the same seed, for ever."""
        draw = random.Random(seed)
        inputs = draw.choice(INPUT_SETS)
        steps = tuple(
            (draw.choice(OPERATIONS), tuple(draw.randint(0, LARGEST) for _ in range(PICKS)))
            for _ in range(draw.randint(*length))
        )
        return cls(inputs, steps, seed, draw.randint(0, 63))


INPUTS: dict[str, tuple[int, ...]] = {
    "image": (3, 8, 8),
    "gray": (1, 6, 10),
    "image7": (4, 7, 7),
    "tokens": (5, 6),
    "vector": (6,),
}
INPUT_SETS: tuple[tuple[str, ...], ...] = (
    ("image",),
    ("image",),
    ("tokens",),
    ("image", "vector"),
    ("image", "image"),
    ("gray",),
    ("image7",),
    ("image", "tokens"),
    ("vector",),
)


# --- how a network is put together ---------------------------------------------------------------------------------

# Module name or plain function, positions of its operands among the values, number of its results.
Call = tuple[Any, tuple[int, ...], int]


class RandomNetwork(nn.Module):
    """Runs the calls of a program in order; a call that returns several values appends them all."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.calls: list[Call] = []
        self.returned: list[int] = []
        Builder(self, program).build()

    def forward(self, *inputs: Tensor) -> Any:
        values = list(inputs)
        for what, positions, count in self.calls:
            function = getattr(self, what) if isinstance(what, str) else what
            result = function(*[values[position] for position in positions])
            # A chunk of a larger image may have more parts than that of the example.
            values.extend(result[:count] if isinstance(result, (tuple, list)) else [result])
        outputs = [values[position] for position in self.returned]
        if len(outputs) == 1:
            return outputs[0]
        if self.program.form % 3 == 1:
            return {f"output{number}": value for number, value in enumerate(outputs)}
        if self.program.form % 3 == 2:
            return outputs[0], {"rest": outputs[1:]}
        return tuple(outputs)


def example_inputs(program: Program, batch: int = 1, seed: int = 0) -> tuple[Tensor, ...]:
    """Float64 inputs of a program's network."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(batch, *INPUTS[name], generator=generator, dtype=torch.float64) for name in program.inputs
    )


@dataclass
class Builder:
    """Grows a network step by step, running each step so that shapes are known."""

    net: RandomNetwork
    program: Program
    values: list[Tensor] = field(default_factory=list)
    used: set[int] = field(default_factory=set)

    def build(self) -> None:
        torch.manual_seed(self.program.seed)
        self.values = [value.float() for value in example_inputs(self.program)]
        with torch.no_grad():
            for op, picks in self.program.steps:
                RULES[op](self, picks)
            self.finish()
        self.fill()

    def pick(self, which: int, *ranks: int) -> int | None:
        """Position of a value of one of these ranks; low numbers are the newest, so chains are likely."""
        found = [
            position
            for position in reversed(range(len(self.values)))
            if self.values[position].dim() in ranks and self.values[position][0].numel() <= MAX_ENTRIES
        ]
        if not found:
            return None
        return found[0] if which < 16 else found[which % len(found)]

    def run(self, what: Any, positions: tuple[int, ...]) -> list[Tensor] | None:
        """Results of a call, or None if it cannot run, gives something too large or empty, or takes a tensor without
        a batch for one example (what it does with two shows)."""
        operands = [self.values[position] for position in positions]
        try:
            result = what(*operands)
            twice = what(*[torch.cat([value, value]) for value in operands])
        except (RuntimeError, ValueError, IndexError, AssertionError):
            return None
        results = list(result) if isinstance(result, (tuple, list)) else [result]
        results_twice = list(twice) if isinstance(twice, (tuple, list)) else [twice]
        for one, two in zip(results, results_twice, strict=True):
            fits = (
                0 < one[0].numel() <= 2 * MAX_ENTRIES and two.shape[0] == 2 and two.shape[1:] == one.shape[1:]
            )
            if not fits:
                return None
        return results

    def add(self, what: Any, positions: tuple[int, ...], results: list[Tensor]) -> int:
        """Append one call; returns the position of its (first) result."""
        self.net.calls.append((what, positions, len(results)))
        self.used.update(positions)
        self.values.extend(results)
        return len(self.values) - len(results)

    def call(self, what: Any, *positions: int, name: str = "") -> int | None:
        """Append one call if it can run; a module is registered. Returns the position of its (first) result."""
        if isinstance(what, nn.Module):
            what.eval()
        results = self.run(what, positions)
        if results is None:
            return None
        if isinstance(what, nn.Module):
            label = f"{name or type(what).__name__.lower()}{len(self.net.calls)}"
            self.net.add_module(label, what)
            what = label
        return self.add(what, positions, results)

    def finish(self) -> None:
        """At least one rotated gate; a head on what nobody read; the rest of the values stays unread."""
        form = self.program.form
        if not any(isinstance(module, Rotated) for module in self.net.modules()):
            RULES["rotated"](self, (0, 0, 0, 0))
        loose = [p for p in range(len(self.program.inputs), len(self.values)) if p not in self.used]
        loose = loose[-1 - (form // 3) % 3 :] or [len(self.values) - 1]
        heads = []
        for position in loose:
            head = position
            if form % 4 != 3:  # otherwise the value itself is an output
                value = self.values[position]
                if value.dim() == 4:
                    head = self.call(F.relu, position) or head
                    head = self.call(Means((2, 3)), head) or head
                elif value.dim() == 3:
                    head = self.call(Means((1,)), position) or head
                if self.values[head].dim() == 2:
                    head = self.call(nn.Linear(self.values[head].shape[1], 3), head, name="head") or head
            heads.append(head)
        self.net.returned = heads

    def fill(self) -> None:
        """Weights, statistics and slopes, with zeros at several rates, whole layers included."""
        draw = torch.Generator().manual_seed(self.program.seed)
        choose = random.Random(self.program.seed)
        sparse = self.program.form // 4 % 4 == 3
        for name, value in [*self.net.named_parameters(), *self.net.named_buffers()]:
            if not value.is_floating_point():
                continue
            if name.endswith("running_var"):
                value.data.uniform_(0.5, 2.0, generator=draw)
            elif name.endswith("slope"):
                _draw_slopes(value.data, draw, choose.choice(KILL_RATES))
            else:
                scale = (max(value[0].numel(), 1) ** -0.5) if value.dim() > 1 else 1.0
                value.data.uniform_(-2 * scale, 2 * scale, generator=draw)
                if sparse and choose.random() < 0.5:
                    rate = choose.choice((0.3, 0.7, 1.0))
                    value.data[torch.rand(value.shape, generator=draw) < rate] = 0.0
        slopes = [module.slope.data for module in self.net.modules() if isinstance(module, Rotated)]
        if not any(bool((slope.abs() >= THRESHOLD).any()) for slope in slopes):
            slopes[0][0] = -1.0  # compaction refuses a network of which nothing is left
        self.net.eval()


def _draw_slopes(slope: Tensor, draw: torch.Generator, rate: float) -> None:
    sign = torch.where(torch.rand(slope.shape, generator=draw) < 0.5, 1.0, -1.0)
    slope.copy_(sign * (0.5 + torch.rand(slope.shape, generator=draw)))
    dead = torch.rand(slope.shape, generator=draw) < rate
    slope[dead] = torch.where(torch.rand(slope.shape, generator=draw) < 0.5, 0.0, 0.05)[dead]


# --- the rules -----------------------------------------------------------------------------------------------------

Rule = Callable[[Builder, tuple[int, ...]], None]
RULES: dict[str, Rule] = {}


def rule(name: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES[name] = function
        return function

    return register


def choice(options: Any, number: int) -> Any:
    return options[number % len(options)]


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


GATES: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ReLU6, nn.Mish, nn.ELU, nn.Tanh, nn.Identity,
)  # fmt: skip
PLAIN: tuple[Any, ...] = (
    torch.sigmoid, F.relu, torch.tanh, F.softplus, F.hardsigmoid, F.gelu, torch.cos, torch.abs, torch.square,
    torch.nn.functional.hardtanh, torch.exp, torch.neg, F.leaky_relu, torch.atan,
)  # fmt: skip


@rule("rotated")
def _rotated(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4, 3, 2)
    if x is None:
        return
    value = b.values[x]
    dim = 1 if value.dim() in (2, 4) else -1
    gate = choice(GATES, p[1])()
    width = value.shape[dim]
    module = RotatedReLU(width, dim) if isinstance(gate, nn.ReLU) else Rotated(gate, width, dim)
    b.call(module, x, name="gate")


@rule("conv")
def _conv(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4)
    if x is None:
        return
    kernel, padding, stride, dilation, mode = choice(CONVS, p[2])
    module = nn.Conv2d(
        b.values[x].shape[1], choice(WIDTHS, p[1]), kernel, stride, padding, dilation,
        bias=p[3] % 3 != 0, padding_mode=mode,
    )  # fmt: skip
    b.call(module, x, name="conv")


CONVS: tuple[tuple[Any, Any, int, int, str], ...] = (
    (1, 0, 1, 1, "zeros"), (3, 1, 1, 1, "zeros"), (3, 1, 2, 1, "zeros"), (3, 0, 1, 1, "zeros"), (1, 0, 1, 1, "zeros"),
    (3, 2, 1, 2, "zeros"), (3, "same", 1, 1, "zeros"), (3, 1, 1, 1, "reflect"), ((1, 3), (0, 1), 1, 1, "zeros"),
    (3, 1, 1, 1, "circular"), (2, 0, 2, 1, "zeros"), (3, 1, 2, 1, "replicate"), (1, 1, 1, 1, "zeros"),
)  # fmt: skip


@rule("conv_gate")
def _conv_gate(b: Builder, p: tuple[int, ...]) -> None:
    """Convolution, maybe a norm, rotated gate: what most networks consist of."""
    _conv(b, p)
    if p[3] % 2:
        b.call(nn.BatchNorm2d(b.values[-1].shape[1]), len(b.values) - 1, name="norm") if b.values[
            -1
        ].dim() == 4 else None
    _rotated(b, (0, p[3] % 5, 0, 0))


@rule("depthwise")
def _depthwise(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4)
    if x is None:
        return
    width = b.values[x].shape[1]
    multiplier = 2 if p[1] % 4 == 3 and width <= 8 else 1
    module = nn.Conv2d(width, width * multiplier, 3, 1 + p[2] % 2, 1, groups=width, bias=p[3] % 2 == 1)
    b.call(module, x, name="depthwise")


@rule("grouped")
def _grouped(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4)
    if x is None:
        return
    width = b.values[x].shape[1]
    groups = choice(divisors(width)[1:] or [1], p[1])
    module = nn.Conv2d(width, groups * (1 + p[2] % 3), 1 + 2 * (p[3] % 2), padding=p[3] % 2, groups=groups)
    b.call(module, x, name="grouped")


@rule("transposed")
def _transposed(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4)
    if x is None:
        return
    width = b.values[x].shape[1]
    kernel, stride, padding, extra = choice(((2, 2, 0, 0), (3, 1, 1, 0), (3, 2, 1, 1), (1, 2, 0, 0)), p[2])
    groups = choice(divisors(width), p[3]) if p[3] % 3 == 2 else 1
    out = choice(WIDTHS, p[1]) if groups == 1 else groups * (1 + p[1] % 2)
    module = nn.ConvTranspose2d(width, out, kernel, stride, padding, extra, groups, bias=p[3] % 2 == 0)
    b.call(module, x, name="transposed")


@rule("linear")
def _linear(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 2, 3)
    if x is None:
        x = b.pick(p[0], 4)
        if x is None:
            return
        b.call(ChannelsLastLinear(b.values[x].shape[1], choice(WIDTHS, p[1])), x)
        return
    b.call(nn.Linear(b.values[x].shape[-1], choice(WIDTHS, p[1]), bias=p[2] % 3 != 0), x, name="linear")


@rule("norm")
def _norm(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4, 3, 2)
    if x is None:
        return
    value = b.values[x]
    width = value.shape[1]
    if value.dim() == 4:
        groups = choice(divisors(width), p[2])
        kinds = (
            lambda: nn.BatchNorm2d(width), lambda: nn.BatchNorm2d(width, affine=False),
            lambda: nn.GroupNorm(groups, width), lambda: nn.InstanceNorm2d(width, affine=p[2] % 2 == 0),
            lambda: ChannelsLayerNorm(width), lambda: nn.GroupNorm(1, width, affine=False),
            lambda: nn.InstanceNorm2d(width, track_running_stats=True), lambda: nn.LocalResponseNorm(3),
            lambda: nn.LayerNorm(list(value.shape[1:])),
        )  # fmt: skip
    else:
        last = value.shape[-1]
        kinds = (
            lambda: nn.LayerNorm(last), lambda: nn.LayerNorm(last, elementwise_affine=False),
            lambda: nn.RMSNorm(last), lambda: nn.BatchNorm1d(width), lambda: nn.LayerNorm(last, bias=False),
            lambda: Normalised(-1),
        )  # fmt: skip
    b.call(choice(kinds, p[1])(), x, name="norm")


@rule("plain")
def _plain(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4, 3, 2)
    if x is None:
        return
    if p[1] % 6 == 5:
        value = b.values[x]
        dim = choice(tuple(range(1, value.dim())), p[2])
        modules = (nn.PReLU(), nn.PReLU(value.shape[1]), nn.Softmax(dim), nn.GLU(dim), nn.Threshold(0.5, 0.0))
        b.call(choice(modules, p[3]), x)
        return
    b.call(choice(PLAIN, p[2]), x)


@rule("scale")
def _scale(b: Builder, p: tuple[int, ...]) -> None:
    """A layer scale, a learned constant, or a number, multiplied or added."""
    x = b.pick(p[0], 4, 3, 2)
    if x is None:
        return
    shape = [1] * b.values[x].dim()
    dim = choice((1, -1, 0), p[1])
    shape[dim] = b.values[x].shape[dim] if dim else 1
    b.call(choice((Scale, Shift, Blend), p[2])(shape, p[3] % 2 == 1), x)


@rule("number")
def _number(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4, 3, 2)
    if x is not None:
        b.call(Arithmetic(p[1] % len(Arithmetic.KINDS), p[2] % 3 - 1), x)


@rule("add")
def _add(b: Builder, p: tuple[int, ...]) -> None:
    """Add, multiply, maximum or so of two values that broadcast."""
    x = b.pick(p[0], 4, 3, 2)
    if x is None:
        return
    shape = b.values[x].shape
    mates = [
        position
        for position in reversed(range(len(b.values)))
        if position != x
        and b.values[position].dim() == len(shape)
        and all(a == c or c == 1 for a, c in zip(shape[1:], b.values[position].shape[1:], strict=True))
    ]
    if not mates:
        mates = [x]
    functions = (torch.add, torch.add, torch.mul, torch.maximum, torch.sub, Quotient())
    function, mate = choice(functions, p[2]), choice(mates, p[1])
    b.call(torch.add if function is torch.sub and mate == x else function, x, mate)


@rule("residual")
def _residual(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4)
    if x is None:
        return
    width = b.values[x].shape[1]
    out = choice((width, width, width + 2, max(width - 2, 1)), p[1])
    b.call(ResidualBlock(width, out, p[2], p[3] % 2 == 1), x)


@rule("inverted")
def _inverted(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4)
    if x is not None:
        b.call(InvertedResidual(b.values[x].shape[1], choice((6, 8, 4), p[1]), p[2], p[3] % 2 == 1), x)


@rule("squeeze")
def _squeeze(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4)
    if x is not None:
        b.call(SqueezeExcite(b.values[x].shape[1], choice((2, 3, 4), p[1]), p[2]), x)


@rule("concat")
def _concat(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4, 3, 2)
    if x is None:
        return
    value = b.values[x]
    dim = 1 if value.dim() != 3 or p[3] % 4 == 3 else 2
    mates = [
        position
        for position in reversed(range(len(b.values)))
        if b.values[position].dim() == value.dim()
        and all(
            a == c or d == dim
            for d, (a, c) in enumerate(zip(value.shape, b.values[position].shape, strict=True))
        )
    ]
    others = [choice(mates, p[1])] + ([choice(mates, p[2])] if p[2] % 3 == 1 else [])
    if sum(b.values[position].shape[dim] for position in [x, *others]) <= 24:
        b.call(Concat(dim), x, *others)


@rule("split")
def _split(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4, 3, 2)
    if x is None:
        return
    value = b.values[x]
    dim = choice(tuple(range(1, value.dim())), p[1] // 3)
    size = value.shape[dim]
    if size < 2:
        return
    cut = 1 + p[2] % (size - 1)
    kinds = (Split(dim, [cut, size - cut]), Chunk(dim, 2 + p[2] % 2), Halves(dim, cut), Unbind(dim))
    b.call(kinds[p[1] % 3 if p[3] % 6 else 3], x)


@rule("pad")
def _pad(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4, 3, 2)
    if x is None:
        return
    rank = b.values[x].dim()
    amounts = [0] * (2 * (rank - 1))
    where = p[1] % (rank - 1)
    amounts[2 * where : 2 * where + 2] = choice(((1, 1), (2, 0), (0, 1)), p[2])
    modes: tuple[tuple[str, float], ...] = (("constant", 0.0), ("constant", 1.5), ("constant", 0.0))
    mode, fill = choice(modes, p[3])
    if rank == 4 and p[3] % 4 == 3:
        amounts, mode, fill = [1, 1, 1, 0], choice(("reflect", "replicate", "circular"), p[2]), 0.0
    b.call(Pad(amounts, mode, fill), x)


@rule("crop")
def _crop(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4, 3, 2)
    if x is None:
        return
    dim = 1 + p[1] % (b.values[x].dim() - 1)
    size = b.values[x].shape[dim]
    start = p[2] % 2
    b.call(Crop(dim, start, size - (p[2] // 2) % 2, 1 + (p[3] % 4 == 3)), x)


@rule("shuffle")
def _shuffle(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4)
    if x is None:
        return
    groups = choice(divisors(b.values[x].shape[1])[1:] or [1], p[1])
    b.call(choice((Shuffle(groups), nn.ChannelShuffle(groups), InlineShuffle(groups)), p[2]), x)


@rule("pixels")
def _pixels(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4)
    if x is not None:
        b.call(nn.PixelShuffle(2) if p[1] % 2 else nn.PixelUnshuffle(2), x)


@rule("pool")
def _pool(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4)
    if x is None:
        return
    pools = (
        lambda: nn.MaxPool2d(2), lambda: nn.AvgPool2d(2), lambda: nn.MaxPool2d(3, 2, 1),
        lambda: nn.AdaptiveAvgPool2d(1), lambda: nn.AdaptiveAvgPool2d(2), lambda: nn.AdaptiveMaxPool2d(2),
        lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False), lambda: nn.LPPool2d(2, 2),
        lambda: nn.MaxPool2d(2, 1, dilation=2), lambda: nn.MaxPool2d(2, ceil_mode=True), lambda: Means((2, 3), True),
        lambda: Largest((2, 3), True), lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True), lambda: nn.AdaptiveMaxPool2d(1),
        lambda: Blur(b.values[x].shape[1]),
    )  # fmt: skip
    b.call(choice(pools, p[1])(), x, name="pool")


@rule("upsample")
def _upsample(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4)
    if x is None:
        return
    kinds = (
        nn.Upsample(scale_factor=2), nn.Upsample(size=(5, 4), mode="bilinear"), nn.Upsample(size=6),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.Upsample(size=(4, 4), mode="bicubic"),
    )  # fmt: skip
    b.call(choice(kinds, p[1]), x)


@rule("flatten")
def _flatten(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4, 3)
    if x is None or b.values[x][0].numel() > 150:
        return
    b.call(choice((nn.Flatten(), Reshape(), LiteralFlatten(b.values[x][0].numel())), p[1]), x)


@rule("reduce")
def _reduce(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 4, 3)
    if x is None:
        return
    rank = b.values[x].dim()
    dims = (2, 3) if rank == 4 and p[2] % 3 else (1 + p[2] % (rank - 1),)
    b.call(choice((Means, Largest, Sums, Spread, LogSum), p[1])(dims), x)


@rule("tokens")
def _tokens(b: Builder, p: tuple[int, ...]) -> None:
    """Images to tokens, tokens to images, token mixing."""
    x = b.pick(p[0], 4, 3)
    if x is None:
        return
    if b.values[x].dim() == 4:
        if b.values[x].shape[2] * b.values[x].shape[3] <= 25:
            b.call(choice((ToTokens(), PermutedTokens()), p[1]), x)
        return
    length, width = b.values[x].shape[1:]
    kinds = (
        Transposed(), ClassToken(width), Position(length, width), FirstToken(), TokenMix(length, 4),
        Sequence1d(width, 4), ToImage(),
    )  # fmt: skip
    b.call(choice(kinds, p[1]), x)


@rule("attention")
def _attention(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 3)
    if x is None:
        _tokens(b, (p[0], 0, 0, 0))
        x = b.pick(0, 3)
        if x is None:
            return
    width = b.values[x].shape[-1]
    heads = choice([d for d in divisors(width) if d <= 4], p[1])
    kinds = (
        lambda: SelfAttention(width, heads, p[2] % 2 == 1), lambda: FusedAttention(width, heads, p[2]),
        lambda: MatmulAttention(width, heads, 4, p[2]), lambda: EinsumAttention(width, 2, 3),
        lambda: LinearAttention(width, 4),
    )  # fmt: skip
    if p[3] % 5 == 4:
        other = b.pick(23 - p[2], 3)
        assert other is not None
        b.call(CrossAttention(width, b.values[other].shape[-1], heads), x, other)
        return
    b.call(choice(kinds, p[3])(), x)


@rule("mlp")
def _mlp(b: Builder, p: tuple[int, ...]) -> None:
    x = b.pick(p[0], 3, 2)
    if x is not None:
        b.call(Mlp(b.values[x].shape[-1], choice((8, 6, 4), p[1]), p[2], p[3] % 3 != 0), x)


@rule("code")
def _code(b: Builder, p: tuple[int, ...]) -> None:
    """A block that nobody wrote for us, with slopes put in by ``rotate`` at each of its calls."""
    x = b.pick(p[0], 4, 3, 2)
    if x is None:
        return
    value = b.values[x]
    kind, sites = choice(CODE, p[1])
    block = kind(
        value.shape[1] if value.dim() == 4 else value.shape[-1], choice(WIDTHS, p[2]), value.dim() == 4, p[3]
    )
    rotate(block.eval(), torch.cat([value, value + 1]), init="published")
    assert len(slopes(block)) == sites, (kind, slopes(block))
    b.call(block, x)


@rule("again")
def _again(b: Builder, p: tuple[int, ...]) -> None:
    """Call a module once more, on another value or on its own result."""
    names = [what for what, positions, _ in b.net.calls if isinstance(what, str) and len(positions) == 1]
    x = b.pick(p[0], 4, 3, 2)
    if not names or x is None:
        return
    for offset in range(len(names)):  # the first one that takes this shape
        name = names[-1 - (p[1] + offset) % len(names)]
        results = b.run(b.net.get_submodule(name), (x,))
        if results is not None:
            b.add(name, (x,), results)
            return


@rule("tied")
def _tied(b: Builder, p: tuple[int, ...]) -> None:
    """A new layer with the weight of an earlier one, or its transpose."""
    layers = [m for m in b.net.modules() if isinstance(m, (nn.Linear, nn.Conv2d)) and m.weight.numel()]
    if not layers:
        return
    layer = layers[-1 - p[1] % len(layers)]
    for which in range(PICKS):
        x = b.pick((p[0], 0, 17, 20)[which], 4, 3, 2)
        if x is None:
            return
        baseline = Tied(layer, p[2] % 2 == 1) if p[3] % 2 else _twin(layer)
        if b.call(baseline, x) is not None:
            return


def _twin(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Linear):
        baseline: nn.Module = nn.Linear(layer.in_features, layer.out_features)
    else:
        assert isinstance(layer, nn.Conv2d)
        baseline = nn.Conv2d(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
            layer.dilation, layer.groups, padding_mode=layer.padding_mode,
        )  # fmt: skip
    baseline.weight = layer.weight
    return baseline


@rule("constant")
def _constant(b: Builder, p: tuple[int, ...]) -> None:
    """Values that depend on no input: buffers, parameters, tensors made in forward."""
    x = b.pick(p[0], 4, 3, 2)
    if x is not None:
        b.call(choice((Zeros, Ones, Table, Grid), p[1])(b.values[x].shape[1:]), x)


@rule("multiply")
def _multiply(b: Builder, p: tuple[int, ...]) -> None:
    """An image times a gate computed from a vector or another image (squeeze-excite across branches)."""
    x, gate = b.pick(p[0], 4), b.pick(p[1], 2)
    if x is not None and gate is not None:
        b.call(VectorGate(b.values[gate].shape[1], b.values[x].shape[1], p[2]), x, gate)


@rule("hidden")
def _hidden(b: Builder, p: tuple[int, ...]) -> None:
    """A module that nobody calls."""
    b.net.add_module(f"unused{len(b.net.calls)}_{len(b.net._modules)}", nn.Linear(3, 1 + p[0] % 3))


OPERATIONS = (
    "conv_gate", "conv_gate", "conv_gate", "conv", "rotated", "rotated", "depthwise", "grouped", "transposed", "linear",
    "linear", "norm", "norm", "plain", "scale", "number", "add", "add", "residual", "inverted", "squeeze", "concat",
    "concat", "split", "pad", "crop", "shuffle", "pixels", "pool", "upsample", "flatten", "reduce", "tokens",
    "attention", "mlp", "code", "again", "tied", "constant", "multiply", "hidden",
)  # fmt: skip
assert set(OPERATIONS) == set(RULES)


# --- modules -------------------------------------------------------------------------------------------------------


class ChannelsLastLinear(nn.Module):
    """A linear layer over the channels of an image."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)

    def forward(self, x):
        return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelsLayerNorm(nn.Module):
    """ConvNeXt's norm: a layer norm over the channels of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Normalised:
    dim: int

    def __call__(self, x):
        return F.normalize(x, dim=self.dim)


class Scale(nn.Module):
    """``x * scale`` with a parameter or a buffer."""

    def __init__(self, shape: list[int], learned: bool) -> None:
        super().__init__()
        value = torch.ones(shape)
        if learned:
            self.value = nn.Parameter(value)
        else:
            self.register_buffer("value", value)

    def forward(self, x):
        return x * self.value


class Shift(Scale):
    """``x + shift``."""

    def forward(self, x):
        return x + self.value


class Blend(Scale):
    """``x * (1 + scale)``: the zeros of a scale do not make zeros."""

    def forward(self, x):
        return x * (1 + self.value)


@dataclass(frozen=True)
class Arithmetic:
    """Operations with plain numbers, zero among them."""

    kind: int
    number: int
    KINDS = ("add", "mul", "rsub", "div", "pow", "clamp", "inplace", "where", "fill")

    def __call__(self, x):
        kind, number = self.KINDS[self.kind], self.number
        if kind == "add":
            return x + number
        if kind == "mul":
            return x * (number + 0.5 if number else 0)
        if kind == "rsub":
            return number - x
        if kind == "div":
            return x / (number or 2)
        if kind == "pow":
            return x**2
        if kind == "clamp":
            return x.clamp(min=0.3 * number, max=0.9)
        if kind == "inplace":
            y = x.clone()
            y += 1
            y.mul_(0.5)
            return F.relu_(y)
        if kind == "where":
            return torch.where(x > number, x, -x)
        return x.masked_fill(x > 0.5, number)


class Quotient:
    """``a / (1 + |b|)``."""

    def __call__(self, a, b):
        return a / (1 + b.abs())


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut: identity, 1x1, padded or cropped; gate before or after the addition."""

    def __init__(self, width: int, out: int, kind: int, stride: bool) -> None:
        super().__init__()
        middle = WIDTHS[kind % 3]
        step = 2 if stride else 1
        self.kind, self.step, self.out = kind, step, out
        self.conv1, self.norm1, self.act1 = (
            nn.Conv2d(width, middle, 3, step, 1, bias=False),
            nn.BatchNorm2d(middle),
            RotatedReLU(middle),
        )
        self.conv2, self.norm2, self.act2 = (
            nn.Conv2d(middle, out, 3, 1, 1, bias=kind % 5 == 0),
            nn.BatchNorm2d(out),
            RotatedReLU(out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if (out != width or stride) and kind % 2 == 0:
            self.shortcut = nn.Sequential(nn.Conv2d(width, out, 1, step, bias=False), nn.BatchNorm2d(out))
        elif out != width or stride:
            self.shortcut = PadCrop(out - width, step)

    def forward(self, x):
        y = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        if self.kind % 4 == 3:
            return self.shortcut(x) + self.act2(y)
        return self.act2(y + self.shortcut(x))


class PadCrop(nn.Module):
    """Option A: more channels by padding, fewer by cropping."""

    def __init__(self, more: int, step: int) -> None:
        super().__init__()
        self.more, self.step = more, step

    def forward(self, x):
        x = x[:, :, :: self.step, :: self.step]
        if self.more >= 0:
            return F.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return x[:, : self.more]


class InvertedResidual(nn.Module):
    """MobileNet's block: expand, depthwise, squeeze-excite, project, add."""

    def __init__(self, width: int, middle: int, kind: int, squeeze: bool) -> None:
        super().__init__()
        gate = GATES[(0, 2, 3, 5)[kind % 4]]
        self.expand, self.norm1, self.act1 = (
            nn.Conv2d(width, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            Rotated(gate(), middle),
        )
        self.depthwise = nn.Conv2d(middle, middle, 3, padding=1, groups=middle, bias=False)
        self.norm2, self.act2 = nn.BatchNorm2d(middle), Rotated(gate(), middle)
        self.squeeze: nn.Module = SqueezeExcite(middle, 3, kind) if squeeze else nn.Identity()
        self.project, self.norm3 = nn.Conv2d(middle, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x):
        y = self.act2(self.norm2(self.depthwise(self.act1(self.norm1(self.expand(x))))))
        return x + self.norm3(self.project(self.squeeze(y)))


class SqueezeExcite(nn.Module):
    """Multiply by a gate computed from the mean, by convolutions or linear layers."""

    def __init__(self, width: int, middle: int, kind: int) -> None:
        super().__init__()
        self.images = kind % 2 == 0
        if self.images:
            self.down, self.up = nn.Conv2d(width, middle, 1), nn.Conv2d(middle, width, 1)
        else:
            self.down, self.up = nn.Linear(width, middle), nn.Linear(middle, width)
        self.act = RotatedReLU(middle)
        self.gate: Any = (torch.sigmoid, F.hardsigmoid, torch.tanh)[kind % 3]

    def forward(self, x):
        if self.images:
            return x * self.gate(self.up(self.act(self.down(F.adaptive_avg_pool2d(x, 1)))))
        y = self.gate(self.up(self.act(self.down(x.mean((2, 3))))))
        return x * y[:, :, None, None]


class VectorGate(nn.Module):
    """Multiply an image by a gate computed from a vector."""

    def __init__(self, width: int, out: int, kind: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, out)
        self.act: nn.Module = RotatedReLU(out) if kind % 3 == 0 else nn.Sigmoid()

    def forward(self, x, vector):
        y = self.act(self.fc(vector))
        return x * y.view(y.shape[0], y.shape[1], 1, 1)


@dataclass(frozen=True)
class Concat:
    dim: int

    def __call__(self, *values):
        return torch.cat(values, self.dim)


@dataclass
class Split:
    dim: int
    sizes: list[int]

    def __call__(self, x):
        return torch.split(x, self.sizes, self.dim)


@dataclass(frozen=True)
class Chunk:
    dim: int
    parts: int

    def __call__(self, x):
        return x.chunk(self.parts, self.dim)


@dataclass(frozen=True)
class Halves:
    """Two slices that may overlap."""

    dim: int
    cut: int

    def __call__(self, x):
        size = x.shape[self.dim]
        return x.narrow(self.dim, 0, self.cut), x.narrow(self.dim, max(self.cut - 1, 0), size - self.cut)


@dataclass(frozen=True)
class Unbind:
    """A dimension taken apart and stacked again in another order."""

    dim: int

    def __call__(self, x):
        return torch.stack(x.unbind(self.dim)[::-1], self.dim)


@dataclass
class Pad:
    amounts: list[int]
    mode: str
    fill: float

    def __call__(self, x):
        return F.pad(x, self.amounts, self.mode, self.fill if self.mode == "constant" else None)


@dataclass(frozen=True)
class Crop:
    dim: int
    start: int
    end: int
    step: int

    def __call__(self, x):
        index = [slice(None)] * x.dim()
        index[self.dim] = slice(self.start, self.end, self.step)
        return x[tuple(index)]


class Shuffle(nn.Module):
    """ShuffleNet's channel shuffle as torchvision writes it."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x):
        n, c, h, w = x.shape
        x = x.view(n, self.groups, c // self.groups, h, w)
        return torch.transpose(x, 1, 2).contiguous().view(n, c, h, w)


@dataclass(frozen=True)
class InlineShuffle:
    """The same without a module of its own, by flatten."""

    groups: int

    def __call__(self, x):
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class Blur(nn.Module):
    """A fixed depthwise filter, as anti-aliased networks have it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("filter", torch.ones(1, 1, 2, 2) / 4)

    def forward(self, x):
        return F.conv2d(x, self.filter.expand(x.shape[1], 1, 2, 2), groups=x.shape[1], padding=1)


@dataclass(frozen=True)
class Means:
    dims: tuple[int, ...]
    keep: bool = False

    def __call__(self, x):
        return x.mean(self.dims, keepdim=self.keep)


@dataclass(frozen=True)
class Largest(Means):
    def __call__(self, x):
        return x.amax(self.dims, keepdim=self.keep)


@dataclass(frozen=True)
class Sums(Means):
    def __call__(self, x):
        return x.sum(self.dims, keepdim=self.keep)


@dataclass(frozen=True)
class Spread(Means):
    def __call__(self, x):
        return torch.var(x, self.dims, correction=0, keepdim=self.keep)


@dataclass(frozen=True)
class LogSum(Means):
    def __call__(self, x):
        return torch.logsumexp(x, self.dims, keepdim=self.keep)


class Reshape:
    def __call__(self, x):
        return x.reshape(x.shape[0], -1)


@dataclass(frozen=True)
class LiteralFlatten:
    """The number of features is written into the code."""

    features: int

    def __call__(self, x):
        return x.reshape(-1, self.features)


class ToTokens:
    def __call__(self, x):
        return x.flatten(2).transpose(1, 2)


class PermutedTokens(nn.Module):
    def forward(self, x):
        n, c, h, w = x.shape
        return x.permute(0, 2, 3, 1).reshape(n, h * w, c)


class ToImage:
    """Tokens as the pixels of an image of height 1."""

    def __call__(self, x):
        return x.transpose(1, 2).unsqueeze(2)


class Transposed:
    def __call__(self, x):
        return x.transpose(1, 2)


class ClassToken(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x):
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)


class Position(nn.Module):
    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(length, width)
        self.register_buffer("order", torch.arange(length))

    def forward(self, x):
        return x + self.table(self.order)


class FirstToken:
    def __call__(self, x):
        return x[:, 0]


class TokenMix(nn.Module):
    """MLP-Mixer: a small MLP across tokens."""

    def __init__(self, length: int, middle: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = (
            nn.Linear(length, middle),
            Rotated(nn.GELU(), middle, -1),
            nn.Linear(middle, length),
        )

    def forward(self, x):
        return x + self.fc2(self.act(self.fc1(x.transpose(1, 2)))).transpose(1, 2)


class Sequence1d(nn.Module):
    """A one-dimensional convolution along the tokens."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv, self.norm, self.act = (
            nn.Conv1d(width, out, 3, padding=1),
            nn.BatchNorm1d(out),
            RotatedReLU(out),
        )

    def forward(self, x):
        return self.act(self.norm(self.conv(x.transpose(1, 2)))).transpose(1, 2)


class Mlp(nn.Module):
    def __init__(self, width: int, middle: int, gate: int, add: bool) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = (
            nn.Linear(width, middle),
            Rotated(GATES[gate % 4](), middle, -1),
            nn.Linear(middle, width),
        )
        self.add = add

    def forward(self, x):
        y = self.fc2(self.act(self.fc1(x)))
        return x + y if self.add else y


def _layer(width: int, out: int, image: bool) -> nn.Module:
    return nn.Conv2d(width, out, 1) if image else nn.Linear(width, out)


FUNCTIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    F.relu, F.silu, torch.relu, lambda x: x * torch.sigmoid(x), lambda x: x.relu_(), lambda x: F.relu(x) ** 2,
    lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)), lambda x: F.leaky_relu(x, 0.2), lambda x: x.clamp(min=0),
)  # fmt: skip


class Functional(nn.Module):
    """Gates that are functions, or written out; two calls of one of them in a loop."""

    def __init__(self, width: int, out: int, image: bool, kind: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_layer(width, out, image), _layer(out, 4, image)])
        self.last, self.kind = _layer(4, width, image), kind

    def forward(self, x):
        y = x
        for layer in self.layers:
            y = choice(FUNCTIONS, self.kind)(layer(y))
        return x + self.last(y) if self.kind % 2 else self.last(y)


class SharedGate(nn.Module):
    """One gate module for calls of different widths, as in torchvision's residual blocks."""

    def __init__(self, width: int, out: int, image: bool, kind: int) -> None:
        super().__init__()
        self.act = (nn.ReLU(inplace=True), nn.SiLU(), nn.PReLU(), nn.GELU())[kind % 4]
        self.one, self.other = _layer(width, out, image), _layer(out, width, image)

    def forward(self, x, *rest):
        return self.act(self.other(self.act(self.one(x))) + x)


class NestedOwners(nn.Module):
    """A module and its child, called twice, each with calls of the same function."""

    class Child(nn.Module):
        def __init__(self, width: int, image: bool) -> None:
            super().__init__()
            self.layer = _layer(width, width, image)

        def forward(self, x):
            return F.relu(self.layer(x))

    def __init__(self, width: int, out: int, image: bool, kind: int) -> None:
        super().__init__()
        self.first, self.last = _layer(width, out, image), _layer(out, width, image)
        self.child, self.excess = self.Child(out, image), nn.ReLU6() if kind % 2 else nn.ReLU()

    def forward(self, x):
        y = self.child(F.relu(self.first(x)) - 0.3)
        # Added, not subtracted: relu(0 - 0.1) is 0 by its sign, which zero patterns do not know.
        return F.relu(self.last(self.excess(self.child(y) + 0.1)))


class ModeDependent(nn.Module):
    """Another path in train mode, before calls that both modes make."""

    def __init__(self, width: int, out: int, image: bool, kind: int) -> None:
        super().__init__()
        self.one, self.other, self.aux = (
            _layer(width, out, image),
            _layer(out, width, image),
            _layer(width, 3, image),
        )

    def forward(self, x):
        extra = 0.0
        if self.training:
            extra = F.relu(self.aux(x)).mean()
            x = x * torch.rand_like(x[..., :1])
        return self.other(F.relu(self.one(x))) + extra


CODE: tuple[tuple[Any, int], ...] = ((Functional, 2), (SharedGate, 2), (NestedOwners, 4), (ModeDependent, 2))


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.weights = weights

    def forward(self, x):
        return x + self.attention(x, x, x, need_weights=self.weights)[0]


class CrossAttention(nn.Module):
    def __init__(self, width: int, other: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, kdim=other, vdim=other, batch_first=True)

    def forward(self, x, context):
        return self.attention(x, context, context)[0]


class FusedAttention(nn.Module):
    """timm's attention: one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int, kind: int) -> None:
        super().__init__()
        self.heads, self.kind = heads, kind
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, length, width = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.kind % 2:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.kind % 4 == 3)
        else:
            y = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(n, length, width))


class MatmulAttention(nn.Module):
    """Separate projections of other widths, rotated values, a relative position bias."""

    def __init__(self, width: int, heads: int, inner: int, kind: int) -> None:
        super().__init__()
        self.heads, self.inner = heads, inner
        self.q, self.k = nn.Linear(width, heads * inner), nn.Linear(width, heads * inner)
        self.v, self.proj = nn.Linear(width, heads * inner), nn.Linear(heads * inner, width)
        self.act: nn.Module = Rotated(nn.GELU(), heads * inner, -1) if kind % 2 else nn.Identity()
        self.gate: nn.Module = Rotated(nn.Hardswish(), heads * inner, -1) if kind % 3 else nn.Identity()

    def split(self, x):
        return x.unflatten(-1, (self.heads, self.inner)).transpose(1, 2)

    def forward(self, x):
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.act(self.v(x)))
        weights = torch.softmax(torch.matmul(q, k.transpose(-1, -2)) / 2, -1)
        return x + self.proj(self.gate(torch.matmul(weights, v).transpose(1, 2).flatten(2)))


class EinsumAttention(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(heads, width, inner))
        self.key = nn.Parameter(torch.empty(heads, width, inner))
        self.value, self.act, self.proj = (
            nn.Linear(width, 4),
            Rotated(nn.SiLU(), 4, -1),
            nn.Linear(4 * heads, width),
        )

    def forward(self, x):
        q = torch.einsum("nlw,hwi->nhli", x, self.query)
        k = torch.einsum("nlw,hwi->nhli", x, self.key)
        weights = torch.einsum("nhli,nhmi->nhlm", q, k).softmax(-1)
        y = torch.einsum("nhlm,nmv->nlhv", weights, self.act(self.value(x)))
        return self.proj(y.flatten(2))


class LinearAttention(nn.Module):
    """Kernelised attention: no softmax over tokens; widths of keys and values may differ."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(width, inner), nn.Linear(width, inner), nn.Linear(width, 6)
        self.act_q, self.act_k, self.act_v = (
            RotatedReLU(inner, -1),
            RotatedReLU(inner, -1),
            RotatedReLU(6, -1),
        )
        self.proj = nn.Linear(6, width)

    def forward(self, x):
        q, k, v = self.act_q(self.q(x)), self.act_k(self.k(x)), self.act_v(self.v(x))
        return self.proj(q @ (k.transpose(1, 2) @ v))


class Tied(nn.Module):
    """Uses the weight of another layer as a function, straight or transposed."""

    def __init__(self, layer: nn.Module, transposed: bool) -> None:
        super().__init__()
        self.layer, self.transposed = layer, transposed

    def forward(self, x):
        weight = self.layer.weight
        if weight.dim() == 2:
            return F.linear(x, weight.t() if self.transposed else weight)
        if self.transposed:
            return F.conv_transpose2d(x, weight, groups=self.layer.groups)
        return F.conv2d(x, weight, groups=self.layer.groups)


class Zeros(nn.Module):
    def __init__(self, shape: Any) -> None:
        super().__init__()

    def forward(self, x):
        return torch.zeros_like(x)


class Ones(Zeros):
    def forward(self, x):
        return torch.cat([x, torch.ones_like(x)], 1)


class Table(nn.Module):
    """A learned value that depends on no input."""

    def __init__(self, shape: Any) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1, *shape))

    def forward(self, x):
        return self.value.expand(x.shape[0], *[-1] * (x.dim() - 1)).contiguous()


class Grid(Zeros):
    """A coordinate made in forward, as in CoordConv."""

    def forward(self, x):
        grid = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)
        return x + grid
