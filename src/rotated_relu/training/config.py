"""Everything that decides a training run: the one place that its settings, their bounds and their words stand in.

Requires: plain values.
Ensures: a :class:`Config` that exists has sensible values; each bad one is named before any work is done. The command
line (:mod:`rotated_relu.cli.settings`) makes an option of every field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import Field

from ..core.criteria import TrainingScore, Unit
from .settings import LARGEST, Allowed, ConfigError, Flag, from_plain, settings, to_plain

__all__ = [
    "BudgetConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DistillConfig",
    "KeepConfig",
    "LogConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ScaleConfig",
    "ScheduleConfig",
]

# How a run is carried out, not what it computes: these may change when it is resumed.
CIRCUMSTANCES = ("keep", "log", "scale.devices", "scale.nodes", "data.workers")
# Settings of runs of 0.1.0 to their names of today.
RENAMED = {"optimiser": "optimizer", "slope_pull": "total_shrinkage", "pulled": "penalized"}

Count = Annotated[int, Gt(0), Le(LARGEST)]
NoLess = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
BelowOne = Annotated[float, Ge(0), Lt(1)]
Side = Annotated[int, Gt(0), Le(2**14)]  # of an image, in pixels
Seed = Annotated[int, Ge(0), Le(LARGEST)]


@settings("model")
class ModelConfig:
    """Which network."""

    name: Annotated[str, MinLen(1), Allowed("the name of a model"), Flag(("--model",))] = "resnet20"
    """One of ours or of torchvision's; or timm/NAME, file.py:function or package.module:function."""
    rotated: Annotated[bool, Flag(("--rotated/--relu",))] = True
    """Put slopes on the activations; without, it is the plain network."""
    slope_init: Literal["published", "ones"] = "published"
    """Where slopes start: published (random, of both signs) or ones (the network starts as the plain one)."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the network's builder, for example ``{"dropout": 0.3}``."""


@settings("data")
class DataConfig:
    """Which images, how they are split, and how training images are varied."""

    name: Annotated[str, MinLen(1), Allowed("the name of a dataset or a folder"), Flag(("--data",))] = (
        "cifar10"
    )
    """Images: a short name (mnist5k needs no download), a name on the Hub, or a folder."""
    validation: Annotated[float, Gt(0), Le(LARGEST), Allowed("a share or a count above 0")] = 0.1
    """Training images that are held back to choose with: below 1 a share of them, from 1 on a count."""
    own_validation: Annotated[bool, Flag(("--own-validation/--held-out-validation",))] = False
    """Choose with the set's own validation images where it has some, instead of with training images. A set without
    test images then gives half of them to choose with and half to test on."""
    split_seed: Seed = 0
    """Of the choice of the validation images; the same for all networks that are compared."""
    image_size: Side | None = None
    """Resize all images to this height and width."""
    resize: Side | None = None
    """Length that the shorter side of an image gets before the middle of the image size is cut out, as is usual for
    photographs; left out, whole images are squeezed into the image size."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """How images are resized."""
    normalisation: Literal["dataset", "imagenet", "none", "given"] = "dataset"
    """Mean and deviation that pixels are scaled by: those of the dataset, those of ImageNet, none, or given."""
    mean: list[float] | None = None
    """Of pixels in [0, 1], one number per channel; with the normalisation given."""
    std: list[float] | None = None
    """Standard deviation, likewise."""
    flip: bool = True
    """Mirror training images at random."""
    crop_padding: Annotated[int, Ge(0), Le(2**14)] = 4
    """Shift training images by up to this many pixels."""
    random_resized_crop: Annotated[bool, Flag(("--random-resized-crop/--whole-images",))] = False
    """Train on random sections of each image, scaled to the image size; test on its middle. Not from memory."""
    storage: Literal["auto", "memory", "disk", "stream"] = "auto"
    """Where images wait to be used: memory (decoded once), disk (decoded when needed), stream (read in the order in
    which they come, nothing is kept), or auto: memory if they fit into the memory limit, else disk."""
    memory_limit: Annotated[float, Gt(0)] = 4.0
    """GiB of decoded images that auto still holds in memory."""
    workers: Annotated[int, Ge(0), Le(1024)] = 2
    """Processes (threads, when streaming) that decode images from disk."""
    shuffle_buffer: Count = 10_000
    """Images of a stream among which the next one is drawn."""
    length: Count | None = None
    """Training images per epoch of a stream that does not know how many it has; or fewer than it has."""

    def __post_init__(self) -> None:
        stream, sections = self.storage == "stream", self.random_resized_crop
        _need(
            self.length is None or stream,
            "data.length",
            self.length,
            "left out unless data.storage is 'stream'",
        )
        size, known = self.image_size, self.image_size is not None
        _need(
            not stream or known, "data.image_size", size, "given for a stream: its images may differ in size"
        )
        _need(
            not stream or self.validation >= 1,
            "data.validation",
            self.validation,
            "a count for a stream: its first images are held back",
        )
        _need(
            not sections or self.storage != "memory",
            "data.storage",
            self.storage,
            "'auto', 'disk' or 'stream' for random_resized_crop: it decodes each image anew",
        )
        _need(not sections or known, "data.image_size", size, "given for random_resized_crop")
        enough = self.resize is None or (size is not None and self.resize >= size)
        _need(enough, "data.resize", self.resize, "at least data.image_size, which is cut out of it")
        own = self.own_validation
        _need(
            not (stream and own),
            "data.own_validation",
            own,
            "false for a stream: its first images are held back",
        )
        given = self.mean is not None and self.std is not None and len(self.mean) == len(self.std)
        _need(
            given == (self.normalisation == "given"),
            "data.mean and data.std",
            (self.mean, self.std),
            "one number per channel each with normalisation 'given', and left out without",
        )


@settings("optimizer")
class OptimizerConfig:
    """How the weights move."""

    name: Annotated[Literal["sgd", "adam", "adamw"], Flag(("--optimizer",))] = "sgd"
    """SGD, Adam, or AdamW, whose weight decay does not go through the moments."""
    lr: Annotated[float, Gt(0)] = 0.1
    """Largest learning rate of the schedule."""
    momentum: BelowOne = 0.9
    """Of SGD: share of the former step that is added to each."""
    nesterov: bool = False
    """Nesterov's form of momentum."""
    weight_decay: NoLess = 1e-4
    """L2 on all parameters that train."""
    decay_slopes: bool = True
    """Whether weight decay acts on the slopes too, as published."""

    def __post_init__(self) -> None:
        _need(
            not self.nesterov or self.momentum > 0,
            "optimizer.nesterov",
            self.nesterov,
            "false without momentum",
        )


@settings("schedule")
class ScheduleConfig:
    """How the learning rate moves, per step."""

    name: Annotated[Literal["cosine", "one-cycle", "constant", "steps"], Flag(("--schedule",))] = "cosine"
    """How the learning rate moves: cosine (down to 0), one-cycle (up, then cosine to 0), constant, or steps (a tenth
    from 60 % of the run on, a hundredth from 80 %)."""
    warmup: BelowOne = 0.0
    """Share of the run in which the learning rate rises to its largest value."""
    start_factor: Share = 0.1
    """Where that rise begins, as a share of the largest learning rate."""
    part: Annotated[tuple[float, float], Flag(shown=False)] = (0.0, 1.0)
    """From where to where this training goes of the schedule, as shares of it: one that is carried out in two
    trainings, with a compaction between them, is (0, 0.5) of the first and (0.5, 1) of the second."""

    def __post_init__(self) -> None:
        rises = self.name != "one-cycle" or self.warmup > 0
        _need(rises, "schedule.warmup", self.warmup, "above 0 for one-cycle")
        start, end = self.part
        _need(0 <= start < end <= 1, "schedule.part", self.part, "start and end, 0 <= start < end <= 1")


@settings("distill")
class DistillConfig:
    """How much is learned from a teacher, where there is one: see :func:`rotated_relu.distillation_loss`."""

    weight: Annotated[Share, Flag(shown=False)] = 0.0
    """The teacher's part of the loss; 0 is none."""
    temperature: Annotated[float, Gt(0), Flag(shown=False)] = 4.0
    """By which both scores are divided."""


@settings("budget")
class BudgetConfig:
    """How much of the network may remain: see :class:`rotated_relu.SlopeBudget`."""

    keep: Annotated[float, Gt(0), Le(1), Allowed("a share above 0 and at most 1"), Flag(("--keep-macs",))] = (
        1.0
    )
    """Send the least important slopes to zero until this share of the multiply-accumulates (or of the budget's other
    unit) is left; 1 is no budget."""
    unit: Annotated[Unit, Flag(("--budget-unit",))] = "macs"
    """What the share is of; latency is that of the table."""
    table: Annotated[str, MinLen(1), Flag(("--latency-table",)), Allowed("a file")] | None = None
    """File of measured times (see: rotated-relu calibrate), for a budget of latency."""
    score: Annotated[TrainingScore, Flag(("--budget-score",))] = "taylor"
    """What counts as important: taylor (the loss's change to first order) or slope (its size)."""
    start: Annotated[NoLess, Flag(("--budget-start",))] = 0.2
    """Share of the run after which slopes are chosen."""
    end: Annotated[NoLess, Flag(("--budget-end",))] = 0.7
    """Share of the run at which all are chosen."""
    window: Annotated[float, Flag(("--budget-window",))] = 0.05
    """Share of the run that a chosen slope takes to reach zero."""
    round_to: Annotated[int, Gt(0), Flag(("--budget-round-to",))] = 1
    """Leave widths that are multiples of it, such as 8 or 16, in which engines compute; whole branches go too."""

    def __post_init__(self) -> None:
        timed = self.unit != "latency" or self.keep == 1 or self.table is not None
        _need(timed, "budget.table", self.table, "a file of measured times where budget.unit is latency")
        _need(self.start <= self.end, "budget.start", self.start, "at least 0 and at most budget.end")
        _need(
            self.window > 0 and self.end + self.window <= 1,
            "budget.window",
            self.window,
            f"above 0 and at most 1 - budget.end, {1 - self.end:g}",
        )


@settings("keep")
class KeepConfig:
    """When the state of a run is kept, besides after every epoch and at signals."""

    minutes: Annotated[NoLess, Flag(("--keep-minutes",))] = 10.0
    """Longest time between two checkpoints within an epoch; 0 keeps one after every step."""


@settings("log")
class LogConfig:
    """Where the epochs' numbers go, besides ``metrics.csv``."""

    tensorboard: bool = True
    """Write scalars and histograms of the slopes for TensorBoard into ``tb/``."""
    wandb: Annotated[str, MinLen(1), Allowed("a project's name or nothing")] | None = None
    """Project of Weights & Biases to log to as well."""


@settings("scale")
class ScaleConfig:
    """Over how many processes the batch is divided."""

    devices: Count | None = None
    """Processes per machine, started with torchrun; left out, as many as it started."""
    nodes: Count | None = None
    """Machines, started with torchrun; left out, as many as it started."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """ddp: a whole network per process; fsdp: parameters divided too, for large networks."""
    sync_batch_norm: Annotated[bool, Flag(("--sync-batch-norm/--local-batch-norm",))] = True
    """Take batch statistics over all processes, as one process with the whole batch would."""


@settings()
class Config:
    """One training run."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    keep: KeepConfig = Field(default_factory=KeepConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    scale: ScaleConfig = Field(default_factory=ScaleConfig)
    trains: Annotated[Literal["all", "slopes", "weights"], Flag(group="Slopes")] = "all"
    """What trains: all, slopes (all else stays as drawn) or weights (slopes stay as they are). What does not train gets
    no gradient, no weight decay and no momentum; batch norms count their statistics all the same."""
    epochs: Annotated[Count, Flag(group="Schedule")] = 30
    """Passes over the training images."""
    batch_size: Annotated[int, Gt(1), Le(LARGEST), Allowed("above 1 (batch norm needs two images)")] = 128
    """Images per step, over all processes and parts."""
    accumulate: Count = 1
    """Parts that a batch is divided into, one after the other, where it does not fit at once. Batch norm then sees the
    parts, not the whole."""
    precision: Annotated[Literal["auto", "bf16", "fp16", "32", "64"], Flag(group="Speed")] = "auto"
    """Arithmetic in training: bf16 or fp16 (mixed; fp16 with loss scaling), 32 bits, or 64 for checks. auto is bf16
    where the device computes in it, else fp16 on a GPU and 32 elsewhere; a run keeps what it began with."""
    compile: Annotated[bool, Flag(group="Speed")] = False
    """Run the network through torch.compile."""
    fast: Annotated[bool, Flag(group="Speed")] = True
    """Train with the slopes folded into their consumers' weights (:func:`rotated_relu.fast_training`), where that is
    possible: the same function at the speed of plain ReLU."""
    ema: BelowOne = 0.0
    """Decay of a moving average of the weights, which is what is validated and saved; 0 is none."""
    channels_last: Annotated[bool, Flag(group="Speed")] = True
    """Keep images and weights channels-last in memory."""
    label_smoothing: BelowOne = 0.0
    """Of the cross entropy: share of each label that is spread over all classes."""
    slope_l1: Annotated[NoLess, Flag(("--slope-l1",), "Slopes")] = 0.0
    """Strength of the L1 penalty on the slopes; 0 is none."""
    total_shrinkage: Annotated[NoLess, Flag(("--total-shrinkage", "--slope-pull"), "Slopes")] = 0.0
    """The same penalty by what it does: how far it moves a slope that the loss does not hold, over the whole run,
    however long that is. Takes the place of the strength."""
    slope_l1_ramp: Annotated[
        tuple[float, float],
        Allowed("start and end, 0 <= start <= end <= 1"),
        Flag(("--slope-l1-ramp",), "Slopes"),
    ] = (0.0, 0.0)
    """Shares of the run between which the penalty's strength rises from 0 to its full value."""
    penalty_form: Annotated[Literal["subgradient", "proximal"], Flag(group="Slopes")] = "subgradient"
    """How the penalty acts: subgradient (as published) or proximal (dead slopes are exactly 0)."""
    penalized: Annotated[Literal["slopes", "norms"], Flag(group="Slopes")] = "slopes"
    """What the penalty acts on: slopes, or norms, the scales of the batch norms (Network Slimming, for comparison)."""
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    distill: DistillConfig = Field(default_factory=DistillConfig)
    seed: Annotated[Seed, Flag(group="Schedule")] = 0
    """Of weights, slopes, order and augmentation."""

    def __post_init__(self) -> None:
        plain = not self.model.rotated
        _need(not plain or self.trains == "all", "trains", self.trains, "'all' for a network without slopes")
        parts = self.accumulate
        _need(
            self.batch_size % parts == 0, "batch_size", self.batch_size, f"a multiple of accumulate, {parts}"
        )
        start, end = self.slope_l1_ramp
        ordered = 0 <= start <= end <= 1
        _need(ordered, "slope_l1_ramp", self.slope_l1_ramp, "start and end, 0 <= start <= end <= 1")
        self._check_what_is_divided()
        _need(
            self.slope_l1 == 0 or self.total_shrinkage == 0,
            "total_shrinkage",
            self.total_shrinkage,
            "0 together with slope_l1: they say the same in different units",
        )
        self._check_that_what_is_penalized_trains()

    def _check_what_is_divided(self) -> None:
        if self.scale.strategy != "fsdp":
            return
        keep = self.budget.keep
        _need(keep == 1, "budget.keep", keep, "1 with fsdp: the slopes are divided over the processes")
        _need(self.ema == 0, "ema", self.ema, "0 with fsdp: the average is not divided over the processes")

    def _check_that_what_is_penalized_trains(self) -> None:
        slopes = self.penalized == "slopes"
        _need(
            slopes or self.trains == "all",
            "penalized",
            self.penalized,
            "'slopes' unless all parameters train",
        )
        if self.model.rotated and self.trains != "weights":
            return
        where = "where slopes do not train" if self.model.rotated else "for a network without slopes"
        for name in ("slope_l1", "total_shrinkage"):
            value = getattr(self, name)
            _need(value == 0 or not slopes, name, value, f"0 {where}")
        _need(self.budget.keep == 1, "budget.keep", self.budget.keep, f"1 {where}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON holds it."""
        data: dict[str, Any] = to_plain(self)
        return data

    def identity(self) -> dict[str, Any]:
        """What decides the result: :meth:`to_dict` without the ``CIRCUMSTANCES``, which may change on resuming."""
        data = self.to_dict()
        for name in CIRCUMSTANCES:
            *parents, leaf = name.split(".")
            table = data
            for parent in parents:
                table = table[parent]
            del table[leaf]
        return data

    @classmethod
    def from_dict(cls, data: Any) -> Config:
        """The reverse of :meth:`to_dict`; settings that are left out get their default.

        Raises:
            ConfigError: If a value has the wrong type or cannot work.
            UnknownNameError: If there is no such setting; suggests the nearest.
        """
        if isinstance(data, dict):
            data = {RENAMED.get(key, key): value for key, value in data.items()}
        return from_plain(cls, data)


def _need(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {value!r}, but must be {wanted}")
