"""Everything that decides a training run, as frozen dataclasses with a JSON round trip.

Requires: plain values.
Ensures: a :class:`Config` that exists has sensible values; each bad one is named before any work is done.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ..core.errors import RotatedReLUError, UnknownNameError

OPTIMISERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "one-cycle", "constant")
PRECISIONS = ("bf16", "fp16", "32", "64")
PENALTY_FORMS = ("subgradient", "proximal")
NORMALISATIONS = ("dataset", "imagenet", "none", "given")
STORAGES = ("auto", "memory", "disk", "stream")
SLOPE_INITS = ("published", "ones")
BUDGET_UNITS = ("macs", "parameters", "channels")
BUDGET_SCORES = ("taylor", "slope")
PULLED = ("slopes", "norms")
STRATEGIES = ("ddp", "fsdp")
TRAINS = ("all", "slopes", "weights")
# How a run is carried out, not what it computes: these may change when it is resumed.
CIRCUMSTANCES = ("keep", "log", "scale.devices", "scale.nodes", "data.workers")
RENAMED = {"optimiser": "optimizer"}  # settings of runs of 0.1.0 to their names of today
Made = TypeVar("Made")


class ConfigError(RotatedReLUError, ValueError):
    """A setting of a training run has a value that cannot work."""


@dataclass(frozen=True)
class ModelConfig:
    """Which network.

    Attributes:
        name: One of :func:`rotated_relu.nn.models.names`; or ``timm/NAME``, ``file.py:function`` or
            ``package.module:function``, see :mod:`rotated_relu.training.brought`.
        rotated: Put slopes on the activations.
        slope_init: ``published`` (random, of both signs) or ``ones`` (the network starts as the plain one).
        options: Further arguments of the builder, for example ``{"dropout": 0.3}``.
    """

    name: str = "resnet20"
    rotated: bool = True
    slope_init: str = "published"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _one_of("model.slope_init", self.slope_init, SLOPE_INITS)
        _need(bool(self.name), "model.name", self.name, "the name of a model")


@dataclass(frozen=True)
class DataConfig:
    """Which images, how they are split, and how training images are varied.

    Attributes:
        name: Short name, name on the Hub, or local folder.
        validation: Below 1 a share of the training images, from 1 on a count.
        split_seed: Of the validation split; the same for all methods that are compared.
        image_size: Resize all images to this height and width, or None.
        normalisation: ``dataset``, ``imagenet``, ``none``, or ``given``: by ``mean`` and ``std``.
        mean: Per channel, of pixels in [0, 1]; with ``given``.
        std: Likewise.
        flip: Mirror training images at random.
        crop_padding: Shift training images by up to this many pixels.
        random_resized_crop: Train on random sections of each image, scaled to ``image_size``; test on its middle. For
            images that are read from disk or streamed.
        storage: ``memory`` (decoded once, all in one tensor), ``disk`` (decoded when needed, by workers), ``stream``
            (read in the order in which they come, nothing is kept), or ``auto``: memory if the decoded images fit into
            ``memory_limit``, else disk.
        memory_limit: GiB of decoded images that may be held.
        workers: Processes (threads, when streaming) that decode images from disk.
        shuffle_buffer: Images of a stream among which the next one is drawn.
        length: Training images per epoch of a stream that does not know how many it has; or fewer than it has.
    """

    name: str = "cifar10"
    validation: float = 0.1
    split_seed: int = 0
    image_size: int | None = None
    normalisation: str = "dataset"
    mean: list[float] | None = None
    std: list[float] | None = None
    flip: bool = True
    crop_padding: int = 4
    random_resized_crop: bool = False
    storage: str = "auto"
    memory_limit: float = 4.0
    workers: int = 2
    shuffle_buffer: int = 10_000
    length: int | None = None

    def __post_init__(self) -> None:
        _need(bool(self.name), "data.name", self.name, "the name of a dataset or a folder")
        _one_of("data.storage", self.storage, STORAGES)
        _need(self.memory_limit > 0, "data.memory_limit", self.memory_limit, "above 0")
        _need(self.workers >= 0, "data.workers", self.workers, "0 or more")
        _need(self.shuffle_buffer > 0, "data.shuffle_buffer", self.shuffle_buffer, "above 0")
        _need(self.length is None or self.length > 0, "data.length", self.length, "above 0")
        _need(
            self.length is None or self.storage == "stream",
            "data.length",
            self.length,
            "left out unless data.storage is 'stream'",
        )
        _need(
            self.storage != "stream" or self.image_size is not None,
            "data.image_size",
            self.image_size,
            "given for a stream: its images may differ in size",
        )
        _need(
            self.storage != "stream" or self.validation >= 1,
            "data.validation",
            self.validation,
            "a count for a stream: its first images are held back",
        )
        _need(
            not self.random_resized_crop or self.storage != "memory",
            "data.storage",
            self.storage,
            "'auto', 'disk' or 'stream' for random_resized_crop: it decodes each image anew",
        )
        _need(
            not self.random_resized_crop or self.image_size is not None,
            "data.image_size",
            self.image_size,
            "given for random_resized_crop",
        )
        _need(self.validation > 0, "data.validation", self.validation, "a share or a count above 0")
        _need(self.crop_padding >= 0, "data.crop_padding", self.crop_padding, "0 or more")
        _need(self.image_size is None or self.image_size > 0, "data.image_size", self.image_size, "above 0")
        _one_of("data.normalisation", self.normalisation, NORMALISATIONS)
        given = self.mean is not None and self.std is not None and len(self.mean) == len(self.std)
        _need(
            given == (self.normalisation == "given"),
            "data.mean and data.std",
            (self.mean, self.std),
            "one number per channel each with normalisation 'given', and left out without",
        )


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights move.

    Attributes:
        name: ``sgd``, ``adam`` or ``adamw`` (Adam whose weight decay does not go through the moments).
        lr: Largest learning rate of the schedule.
        momentum: Of SGD.
        nesterov: Nesterov's form of it.
        weight_decay: L2, on all parameters that train.
        decay_slopes: Whether it acts on the slopes too, as published.
    """

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_slopes: bool = True

    def __post_init__(self) -> None:
        _one_of("optimizer.name", self.name, OPTIMISERS)
        _need(self.lr > 0, "optimizer.lr", self.lr, "above 0")
        _need(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "at least 0 and below 1")
        _need(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "0 or more")
        _need(
            not self.nesterov or self.momentum > 0,
            "optimizer.nesterov",
            self.nesterov,
            "false without momentum",
        )


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate moves, per step.

    Attributes:
        name: ``cosine`` (to 0), ``one-cycle`` (up, then cosine to 0) or ``constant``.
        warmup: Share of the run in which the rate rises from ``start_factor`` of its largest value.
        start_factor: Where the rise begins, as a share of the largest value.
        part: From where to where this training goes of the schedule, as shares of it: one that is carried out in two
            trainings, with a compaction between them, is (0, 0.5) of the first and (0.5, 1) of the second.
    """

    name: str = "cosine"
    warmup: float = 0.0
    start_factor: float = 0.1
    part: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        _one_of("schedule.name", self.name, SCHEDULES)
        _need(0 <= self.warmup < 1, "schedule.warmup", self.warmup, "at least 0 and below 1")
        _need(0 <= self.start_factor <= 1, "schedule.start_factor", self.start_factor, "between 0 and 1")
        _need(
            self.name != "one-cycle" or self.warmup > 0,
            "schedule.warmup",
            self.warmup,
            "above 0 for one-cycle",
        )
        _need(
            0 <= self.part[0] < self.part[1] <= 1,
            "schedule.part",
            self.part,
            "start and end, 0 <= start < end <= 1",
        )


@dataclass(frozen=True)
class DistillConfig:
    """How much is learned from a teacher, where there is one: see :func:`rotated_relu.distillation_loss`.

    Attributes:
        weight: The teacher's part of the loss, 0 to 1; 0 is none.
        temperature: By which both scores are divided.
    """

    weight: float = 0.0
    temperature: float = 4.0

    def __post_init__(self) -> None:
        _need(0 <= self.weight <= 1, "distill.weight", self.weight, "between 0 and 1")
        _need(self.temperature > 0, "distill.temperature", self.temperature, "above 0")


@dataclass(frozen=True)
class BudgetConfig:
    """How much of the network may remain: see :class:`rotated_relu.SlopeBudget`.

    Attributes:
        keep: Share of the ``unit`` that may be kept; 1 is no budget.
        unit: ``macs``, ``parameters`` or ``channels``.
        score: ``taylor`` or ``slope``.
        start: Share of the run after which slopes are chosen.
        end: Share of the run at which all are chosen.
        window: Share of the run that a chosen slope takes to reach zero.
    """

    keep: float = 1.0
    unit: str = "macs"
    score: str = "taylor"
    start: float = 0.2
    end: float = 0.7
    window: float = 0.05

    def __post_init__(self) -> None:
        _need(0 < self.keep <= 1, "budget.keep", self.keep, "a share above 0 and at most 1")
        _one_of("budget.unit", self.unit, BUDGET_UNITS)
        _one_of("budget.score", self.score, BUDGET_SCORES)
        _need(0 <= self.start <= self.end, "budget.start", self.start, "at least 0 and at most budget.end")
        _need(
            self.window > 0 and self.end + self.window <= 1,
            "budget.window",
            self.window,
            f"above 0 and at most 1 - budget.end, {1 - self.end:g}",
        )


@dataclass(frozen=True)
class KeepConfig:
    """When the state of a run is kept, besides after every epoch and at signals.

    Attributes:
        minutes: Longest time between two checkpoints; 0 keeps one after every step.
    """

    minutes: float = 10.0

    def __post_init__(self) -> None:
        _need(self.minutes >= 0, "keep.minutes", self.minutes, "0 or more")


@dataclass(frozen=True)
class LogConfig:
    """Where the epochs' numbers go, besides ``metrics.csv``.

    Attributes:
        tensorboard: Write scalars and slope histograms into ``tb/``.
        wandb: Project of Weights & Biases, or None.
    """

    tensorboard: bool = True
    wandb: str | None = None

    def __post_init__(self) -> None:
        _need(self.wandb is None or bool(self.wandb), "log.wandb", self.wandb, "a project's name or nothing")


@dataclass(frozen=True)
class ScaleConfig:
    """Over how many processes the batch is divided.

    Attributes:
        devices: Processes per machine; None takes what ``torchrun`` started, else one.
        nodes: Machines; None likewise.
        strategy: ``ddp`` (a whole network per process) or ``fsdp`` (parameters divided too, for large networks).
        sync_batch_norm: Take batch statistics over all processes, as one process with the whole batch would.
    """

    devices: int | None = None
    nodes: int | None = None
    strategy: str = "ddp"
    sync_batch_norm: bool = True

    def __post_init__(self) -> None:
        _need(self.devices is None or self.devices > 0, "scale.devices", self.devices, "above 0")
        _need(self.nodes is None or self.nodes > 0, "scale.nodes", self.nodes, "above 0")
        _one_of("scale.strategy", self.strategy, STRATEGIES)


@dataclass(frozen=True)
class Config:
    """One training run.

    Attributes:
        model: Which network.
        data: Which images.
        optimizer: How the weights move.
        schedule: How the learning rate moves.
        keep: When the state is kept.
        log: Where the numbers go.
        scale: Over how many processes.
        trains: ``all``, ``slopes`` (all else stays as drawn) or ``weights`` (slopes stay as they are). What does not
            train gets no gradient, no weight decay and no momentum; batch norms count their statistics all the same.
        epochs: Passes over the training images.
        batch_size: Images per step, over all processes and accumulated parts.
        accumulate: Parts that a batch is divided into, one after the other, where it does not fit at once. Batch norm
            then sees the parts, not the whole.
        precision: ``bf16`` or ``fp16`` (autocast; fp16 with loss scaling), or ``32``, or ``64`` (for
            checks).
        compile: Run the network through ``torch.compile``.
        fast: Train in the form that :func:`rotated_relu.fast_training` gives the network, where it can: the same
            function at the speed of plain ReLU.
        ema: Decay of a moving average of the weights, which is what is validated and saved; 0 is none.
        channels_last: Keep images and weights channels-last in memory.
        label_smoothing: Of the cross entropy.
        slope_l1: Strength s of the L1 penalty on the slopes; 0 is none.
        slope_pull: The same penalty by what it does: how far it moves a slope that the loss does not hold, over the
            whole run, however long that is. Takes the place of ``slope_l1``.
        slope_l1_ramp: Shares of the run between which the strength rises from 0 to its full value.
        penalty_form: ``subgradient`` (as published) or ``proximal`` (dead slopes are exactly 0).
        pulled: What the penalty acts on: ``slopes``, or ``norms``, the scales of the batch norms (Network Slimming, for
            comparison).
        budget: How much of the network may remain; a pull on as many slopes as that takes.
        distill: How much is learned from a teacher, where one is given.
        seed: Of weights, slopes, order and augmentation.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    keep: KeepConfig = field(default_factory=KeepConfig)
    log: LogConfig = field(default_factory=LogConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    trains: str = "all"
    epochs: int = 30
    batch_size: int = 128
    accumulate: int = 1
    precision: str = "bf16"
    compile: bool = False
    fast: bool = True
    ema: float = 0.0
    channels_last: bool = True
    label_smoothing: float = 0.0
    slope_l1: float = 0.0
    slope_pull: float = 0.0
    slope_l1_ramp: tuple[float, float] = (0.0, 0.0)
    penalty_form: str = "subgradient"
    pulled: str = "slopes"
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of("trains", self.trains, TRAINS)
        _need(
            self.trains == "all" or self.model.rotated,
            "trains",
            self.trains,
            "'all' for a network without slopes",
        )
        _need(self.epochs > 0, "epochs", self.epochs, "above 0")
        _need(self.batch_size > 1, "batch_size", self.batch_size, "above 1 (batch norm needs two images)")
        _need(self.accumulate > 0, "accumulate", self.accumulate, "above 0")
        _need(
            self.batch_size % self.accumulate == 0,
            "batch_size",
            self.batch_size,
            f"a multiple of accumulate, {self.accumulate}",
        )
        _one_of("precision", self.precision, PRECISIONS)
        _need(0 <= self.ema < 1, "ema", self.ema, "at least 0 and below 1")
        _need(
            0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "at least 0 and below 1"
        )
        _need(self.slope_l1 >= 0, "slope_l1", self.slope_l1, "0 or more")
        start, end = self.slope_l1_ramp
        _need(
            0 <= start <= end <= 1,
            "slope_l1_ramp",
            self.slope_l1_ramp,
            "start and end, 0 <= start <= end <= 1",
        )
        _one_of("penalty_form", self.penalty_form, PENALTY_FORMS)
        _need(
            self.budget.keep == 1 or self.scale.strategy != "fsdp",
            "budget.keep",
            self.budget.keep,
            "1 with fsdp: the slopes are divided over the processes",
        )
        _need(
            self.ema == 0 or self.scale.strategy != "fsdp",
            "ema",
            self.ema,
            "0 with fsdp: the average is not divided over the processes",
        )
        _one_of("pulled", self.pulled, PULLED)
        _need(self.slope_pull >= 0, "slope_pull", self.slope_pull, "0 or more")
        _need(
            self.slope_l1 == 0 or self.slope_pull == 0,
            "slope_pull",
            self.slope_pull,
            "0 together with slope_l1: they say the same in different units",
        )
        self._check_what_is_pulled_trains()

    def _check_what_is_pulled_trains(self) -> None:
        _need(
            self.pulled == "slopes" or self.trains == "all",
            "pulled",
            self.pulled,
            "'slopes' unless all parameters train",
        )
        if self.model.rotated and self.trains != "weights":
            return
        where = "where slopes do not train" if self.model.rotated else "for a network without slopes"
        for name, value in (("slope_l1", self.slope_l1), ("slope_pull", self.slope_pull)):
            _need(value == 0 or self.pulled == "norms", name, value, f"0 {where}")
        _need(self.budget.keep == 1, "budget.keep", self.budget.keep, f"1 {where}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON holds it."""
        return _plain(dataclasses.asdict(self))  # type: ignore[no-any-return]

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
    def from_dict(cls, data: dict[str, Any]) -> Config:
        """The reverse of :meth:`to_dict`; settings that are left out get their default.

        Raises:
            ConfigError: If a value has the wrong type or cannot work.
            UnknownNameError: If there is no such setting; suggests the nearest.
        """
        return _build(cls, data, "")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _build(kind: type[Made], data: Any, prefix: str) -> Made:
    if not isinstance(data, dict):
        raise ConfigError(
            f"{prefix.rstrip('.') or 'the configuration'} must be a table of settings, got {data!r}"
        )
    hints = get_type_hints(kind)
    data = {RENAMED.get(key, key): value for key, value in data.items()}
    for key in data:
        if key not in hints:
            raise UnknownNameError("setting", f"{prefix}{key}", [f"{prefix}{name}" for name in hints])
    return kind(**{key: _convert(hints[key], value, f"{prefix}{key}") for key, value in data.items()})


def _convert(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return _build(hint, value, f"{name}.")
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple | list) or len(value) != len(get_args(hint)):
            raise ConfigError(f"{name} must be {len(get_args(hint))} numbers, got {value!r}")
        return tuple(_convert(item, part, name) for item, part in zip(get_args(hint), value, strict=True))
    accepted = tuple(get_origin(part) or part for part in (get_args(hint) or (hint,)))
    if hint is not dict and get_origin(hint) is dict:
        accepted = (dict,)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        expected = " or ".join("nothing" if part is type(None) else part.__name__ for part in accepted)
        raise ConfigError(f"{name} must be {expected}, got {value!r}")
    return value


def _need(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {value!r}, but must be {wanted}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UnknownNameError(name, value, known)
