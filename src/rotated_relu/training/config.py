"""Everything that decides a training run, as frozen dataclasses with a JSON round trip.

Requires: plain values.
Ensures: a :class:`Config` that exists has sensible values; each bad one is named before any work is done.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ..errors import RotatedReLUError, UnknownNameError

OPTIMISERS = ("sgd", "adam")
SCHEDULES = ("cosine", "one-cycle", "constant")
PRECISIONS = ("bf16", "32")
PENALTY_FORMS = ("subgradient", "proximal")
NORMALISATIONS = ("dataset", "imagenet", "none")
Made = TypeVar("Made")


class ConfigError(RotatedReLUError, ValueError):
    """A setting of a training run has a value that cannot work."""


@dataclass(frozen=True)
class ModelConfig:
    """Which network.

    Attributes:
        name: One of :func:`rotated_relu.models.names`.
        rotated: Put slopes on the activations.
        options: Further arguments of the builder, for example ``{"dropout": 0.3}``.
    """

    name: str = "resnet20"
    rotated: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _need(bool(self.name), "model.name", self.name, "the name of a model")


@dataclass(frozen=True)
class DataConfig:
    """Which images, how they are split, and how training images are varied.

    Attributes:
        name: Short name, name on the Hub, or local folder.
        validation: Below 1 a share of the training images, from 1 on a count.
        split_seed: Of the validation split; the same for all methods that are compared.
        image_size: Resize all images to this height and width, or None.
        normalisation: ``dataset``, ``imagenet`` or ``none``.
        flip: Mirror training images at random.
        crop_padding: Shift training images by up to this many pixels.
    """

    name: str = "cifar10"
    validation: float = 0.1
    split_seed: int = 0
    image_size: int | None = None
    normalisation: str = "dataset"
    flip: bool = True
    crop_padding: int = 4

    def __post_init__(self) -> None:
        _need(bool(self.name), "data.name", self.name, "the name of a dataset or a folder")
        _need(self.validation > 0, "data.validation", self.validation, "a share or a count above 0")
        _need(self.crop_padding >= 0, "data.crop_padding", self.crop_padding, "0 or more")
        _need(self.image_size is None or self.image_size > 0, "data.image_size", self.image_size, "above 0")
        _one_of("data.normalisation", self.normalisation, NORMALISATIONS)


@dataclass(frozen=True)
class OptimiserConfig:
    """How the weights move.

    Attributes:
        name: ``sgd`` or ``adam``.
        lr: Largest learning rate of the schedule.
        momentum: Of SGD.
        nesterov: Nesterov's form of it.
        weight_decay: L2, on all parameters.
        decay_slopes: Whether it acts on the slopes too, as published.
    """

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_slopes: bool = True

    def __post_init__(self) -> None:
        _one_of("optimiser.name", self.name, OPTIMISERS)
        _need(self.lr > 0, "optimiser.lr", self.lr, "above 0")
        _need(0 <= self.momentum < 1, "optimiser.momentum", self.momentum, "at least 0 and below 1")
        _need(self.weight_decay >= 0, "optimiser.weight_decay", self.weight_decay, "0 or more")
        _need(
            not self.nesterov or self.momentum > 0,
            "optimiser.nesterov",
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
    """

    name: str = "cosine"
    warmup: float = 0.0
    start_factor: float = 0.1

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


@dataclass(frozen=True)
class Config:
    """One training run.

    Attributes:
        model: Which network.
        data: Which images.
        optimiser: How the weights move.
        schedule: How the learning rate moves.
        epochs: Passes over the training images.
        batch_size: Images per step.
        precision: ``bf16`` (autocast) or ``32``.
        channels_last: Keep images and weights channels-last in memory.
        label_smoothing: Of the cross entropy.
        slope_l1: Strength s of the L1 penalty on the slopes; 0 is none.
        slope_l1_ramp: Shares of the run between which the strength rises from 0 to ``slope_l1``.
        penalty_form: ``subgradient`` (as published) or ``proximal`` (dead slopes are exactly 0).
        seed: Of weights, slopes, order and augmentation.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    epochs: int = 30
    batch_size: int = 128
    precision: str = "bf16"
    channels_last: bool = True
    label_smoothing: float = 0.0
    slope_l1: float = 0.0
    slope_l1_ramp: tuple[float, float] = (0.0, 0.0)
    penalty_form: str = "subgradient"
    seed: int = 0

    def __post_init__(self) -> None:
        _need(self.epochs > 0, "epochs", self.epochs, "above 0")
        _need(self.batch_size > 1, "batch_size", self.batch_size, "above 1 (batch norm needs two images)")
        _one_of("precision", self.precision, PRECISIONS)
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
            self.slope_l1 == 0 or self.model.rotated,
            "slope_l1",
            self.slope_l1,
            "0 for a network without slopes",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as JSON holds it."""
        return _plain(dataclasses.asdict(self))  # type: ignore[no-any-return]

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
