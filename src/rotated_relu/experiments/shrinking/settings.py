"""What is to be shrunk and how, and the settings of training that follow from it; nothing is read or built here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import RunError
from ...core.plain_data import typed
from ...core.run_directory import Run, as_written, read_json
from ..stages.train import override

if TYPE_CHECKING:
    from ...core.preprocessing import Preprocessing
    from ...training import Config

LR, LR_BATCH = 0.02, 128  # see docs/shrink.md for the rule and where it comes from
WARMUP = 0.02
FIRST_PART = 0.5  # of the epochs: with all channels, while the budget chooses
START, END, WINDOW = 0.04, 0.85, 0.1  # of the first part
CHOOSING, TRAINING_ON = "shrink", "finetune"  # folders of the two trainings
SMALL = 64  # pixels: shifted by an eighth, as CIFAR is by 4 of 32
PREPARATION = ("mean", "std", "image_size", "resize", "interpolation")
BUDGETS = ("keep", "speedup")  # settings in which the runs of one page may differ
OF_THE_RUN = ("weights", "data", "model_options", "renames", *PREPARATION)


@dataclass(frozen=True)
class Shrinking:
    """What is to be shrunk, and by how much.

    Attributes:
        model: See :func:`rotated_relu.training.brought.parse`.
        weights: A file, or the name of published weights; see :func:`rotated_relu.training.brought.bring`.
        data: Short name, name on the Hub, or folder of images.
        source: Instead of these: the directory of a run, whose smallest network is shrunk further. ``model`` may then
            name its code, which is thereby allowed to run.
        keep: Share of the multiply-accumulates that may remain, above 0 and at most 1.
        epochs: Passes over the training images in all.
        model_options: Keyword arguments of the network's builder.
        renames: Module names in the file of weights to those in the network.
        mean: Per channel, of pixels in [0, 1]; None takes what belongs to the weights.
        std: Likewise.
        image_size: Height and width; None takes what belongs to the weights, else that of the images.
        resize: Length that the shorter side gets before the middle is cut out; None takes what belongs to the weights,
            else whole pictures are squeezed.
        interpolation: Of that; None takes what belongs to the weights, else ``bilinear``.
        lr: At the top of the schedule; None is 0.02 per 128 images of a batch.
        batch_size: Images per step.
        distill: Part of the loss in which the small network learns from the original, 0 to 1.
        temperature: Of that part.
        validation: Images held out of the training set where the data has no validation images of its own: below 1 a
            share, from 1 on a count.
        flip: Mirror training images at random; None does so with colour images.
        crop_padding: Shift them by up to so many pixels; None is an eighth of the size of small colour images, else 0.
        random_resized_crop: Train on random sections of them, scaled to the image size; None does as the run did that
            is shrunk further, else not.
        ema: Decay of a moving average of the small network's weights, which is what is kept; 0 is none.
        precision: ``auto``, ``bf16``, ``fp16`` or ``32``; see :mod:`rotated_relu.training.precision`.
        compile: Run the networks through ``torch.compile`` in training.
        seed: Of order and augmentation.
        round_to: Widths that are left are multiples of it; whole branches go too. See
            :func:`rotated_relu.select_channels`.
        speedup: How many times faster the network is to be, at least 1, in place of ``keep``.
        engine: In what.
        engine_batch_size: At which batch size.
        latency_table: File of measured times; they are measured if None.

    Raises:
        RunError: If parts of what is shrunk are missing, or given beside a run that has them; or the share is none.
    """

    model: str = ""
    weights: str = ""
    data: str = ""
    source: str | None = None
    keep: float = 0.5
    epochs: int = 20
    model_options: dict[str, Any] = field(default_factory=dict)
    renames: dict[str, str] = field(default_factory=dict)
    mean: list[float] | None = None
    std: list[float] | None = None
    image_size: int | None = None
    resize: int | None = None
    interpolation: str | None = None
    lr: float | None = None
    batch_size: int = 128
    distill: float = 0.9
    temperature: float = 4.0
    validation: float = 0.1
    flip: bool | None = None
    crop_padding: int | None = None
    random_resized_crop: bool | None = None
    ema: float = 0.0
    precision: str = "auto"
    compile: bool = False
    seed: int = 0
    round_to: int = 1
    speedup: float | None = None
    engine: str = "onnxruntime"
    engine_batch_size: int = 64
    latency_table: str | None = None

    def __post_init__(self) -> None:
        if self.speedup is not None and not 1 <= self.speedup < float("inf"):
            raise RunError(f"the speed-up must be at least 1 (2 is twice as fast), got {self.speedup}")
        if self.speedup is None and self.latency_table is not None:
            raise RunError("a latency table is for a speed-up: give --speedup as well")
        if not 0 < self.keep <= 1:
            raise RunError(f"the share of the MACs to keep is above 0 and at most 1, got {self.keep:g}")
        if self.source is None:
            lacking = [name for name in ("model", "weights", "data") if not getattr(self, name)]
            if lacking:
                raise RunError(f"nothing to shrink: give {', '.join(lacking)}, or the directory of a run")
            return
        given = [name for name in OF_THE_RUN if getattr(self, name)]
        if given:
            raise RunError(
                f"{self.source} is shrunk with its own {given[0].replace('_', ' ')}; leave that out"
            )

    @property
    def budget_name(self) -> str:
        """Folder of its run among those of other budgets: ``keep-0.5``, ``speedup-2``."""
        return f"keep-{self.keep:g}" if self.speedup is None else f"speedup-{self.speedup:g}"

    @property
    def budget_words(self) -> str:
        """``50 % of the MACs``, ``2 times as fast``."""
        return budget_words(self.keep, self.speedup)

    def located(self) -> Shrinking:
        """The same with files and folders by their absolute path: it means the same wherever it is continued.

        Raises:
            UnknownNameError, RotationError: If there is no such model.
        """
        from ...training.brought import parse

        return dataclasses.replace(
            self,
            model=parse(self.model, self.model_options).name if self.model else "",
            weights=_place(self.weights),
            data=_place(self.data),
            source=None if self.source is None else _place(self.source),
            latency_table=None if self.latency_table is None else _place(self.latency_table),
        )


def budget_words(keep: float, speedup: float | None) -> str:
    """What is asked for, in words."""
    return f"{100 * keep:g} % of the MACs" if speedup is None else f"{speedup:g} times as fast"


def _place(name: str) -> str:
    return str(Path(name).resolve()) if name and Path(name).exists() else name


def holds(run: Run, wanted: Shrinking) -> bool:
    """Whether a run holds this shrinking, begun or done.

    Args:
        run: The run directory.
        wanted: With its places (:meth:`Shrinking.located`).

    Raises:
        RunError: If it holds anything else.
    """
    if not run.has("shrinking"):
        if run.has("config"):
            raise RunError(f"{run.path} holds a run of another kind; choose another directory")
        return False
    different = differing(wanted, settings_of(run))
    if different and not _has_trained(run):
        return False  # nothing is lost: the command was corrected
    if different:
        raise RunError(
            f"{run.path} holds a shrinking with other settings ({', '.join(different)}); choose another directory, or "
            "repeat the first settings to go on with it"
        )
    return True


def _has_trained(run: Run) -> bool:
    return run.has("compact") or Run(run.path / CHOOSING).checkpoints.is_dir()


def differing(wanted: Shrinking, known: dict[str, Any]) -> list[str]:
    """Names of the settings that are not those of a record."""
    asked = dataclasses.asdict(wanted)
    if wanted.precision == "auto":
        known = {**known, "precision": "auto"}  # a run keeps what it began with
    return sorted(key for key in asked.keys() | known.keys() if asked.get(key) != known.get(key))


def settings_of(run: Run) -> dict[str, Any]:
    """What a run was asked for; a setting that came later than the run has its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(Shrinking)}
    plain = {name: value for name, value in defaults.items() if value is not dataclasses.MISSING}
    with as_written(run.file("shrinking")):
        found: dict[str, Any] = typed(dict[str, Any], record_of(run)["settings"], "settings")
    return {**plain, **found}


def record_of(run: Run) -> dict[str, Any]:
    """What ``shrinking.json`` holds: the ``settings``, and the ``seconds`` so far.

    Raises:
        RunError: If it holds something else.
    """
    found: dict[str, Any] = read_json(run.file("shrinking"), dict[str, Any])
    with as_written(run.file("shrinking")):
        typed(float, found["seconds"], "seconds")
    return found


# --- as settings of a training ---------------------------------------------------------------------------------------


def training_config(wanted: Shrinking, known: Preprocessing | None = None) -> Config:
    """The original as a run: which network on which images, trained how.

    Args:
        wanted: What was asked for.
        known: Preprocessing that belongs to the weights; what was asked for goes before it.

    Raises:
        RunError: If sections of images are asked for, and it is not known what is seen of those that are tested on.
    """
    from ...training import Config

    data: dict[str, Any] = {"name": wanted.data, "validation": wanted.validation, "own_validation": True}
    data |= _preprocessing(wanted, known)
    if wanted.random_resized_crop:
        _check_sections(data["image_size"], data["resize"])
        data["random_resized_crop"] = True
    lr = LR * wanted.batch_size / LR_BATCH if wanted.lr is None else wanted.lr
    return Config.from_dict(
        {
            "model": {"name": wanted.model, "rotated": False, "options": wanted.model_options},
            "data": data,
            "optimizer": {"lr": lr, "nesterov": True, "weight_decay": 1e-4},
            "schedule": {"name": "cosine", "warmup": WARMUP},
            "distill": {"weight": wanted.distill, "temperature": wanted.temperature},
            "epochs": wanted.epochs,
            "batch_size": wanted.batch_size,
            "precision": wanted.precision,
            "compile": wanted.compile,
            "seed": wanted.seed,
        }
    )


def continued_config(wanted: Shrinking, former: Config) -> Config:
    """The same network on the same images as in a former run, trained as asked."""
    model, data = former.model, former.data
    own = training_config(
        dataclasses.replace(
            wanted,
            source=None,
            model=model.name,
            weights="of the run",
            data=data.name,
            random_resized_crop=None,
        )
    )
    given = {
        "data.flip": wanted.flip,
        "data.crop_padding": wanted.crop_padding,
        "data.random_resized_crop": wanted.random_resized_crop,
    }
    if wanted.random_resized_crop and not data.random_resized_crop:
        _check_sections(data.image_size, data.resize)
    changes = {name: value for name, value in given.items() if value is not None}
    return override(dataclasses.replace(own, model=model, data=data), changes)


def _check_sections(image_size: int | None, resize: int | None) -> None:
    """A network that learns from sections sees proportions kept, and so must the images be that are tested on."""
    if image_size is None or resize is None:
        raise RunError(
            "random sections of the training images are scaled with their proportions, so the others must be too: give "
            "--image-size and --resize, the length that the shorter side gets before the middle is cut out (256 for "
            "224 is usual; the image size itself for square images that are seen whole)"
        )


def _preprocessing(wanted: Shrinking, known: Preprocessing | None) -> dict[str, Any]:
    """How pictures become numbers."""
    mean, std = wanted.mean, wanted.std
    if known is not None:
        mean, std = mean or list(known.mean), std or list(known.std)
    kind = "dataset" if mean is None and std is None else "given"
    made: dict[str, Any] = {"normalisation": kind, "mean": mean, "std": std}
    size, resize, how = wanted.image_size, wanted.resize, wanted.interpolation
    if known is not None:
        size, how = size or known.image_size[0], how or known.interpolation
        if resize is None and known.resize is not None:
            # At another size the same part of the picture is seen.
            resize = round(known.resize * size / known.image_size[0])
    return {**made, "image_size": size, "resize": resize, "interpolation": how or "bilinear"}


def augmentation(wanted: Shrinking, image_shape: Sequence[int]) -> dict[str, Any]:
    """How training images are varied: as is usual for photographs; not at all where a mirror image is another thing."""
    channels, height, width = image_shape
    small = channels == 3 and max(height, width) <= SMALL
    padding = height // 8 if small and not wanted.random_resized_crop else 0  # a section is shifted already
    return {
        "data.flip": channels == 3 if wanted.flip is None else wanted.flip,
        "data.crop_padding": padding if wanted.crop_padding is None else wanted.crop_padding,
    }


def parts(epochs: int) -> tuple[int, int]:
    """Epochs with all channels, and epochs of the small network; a single epoch has only the first."""
    first = max(1, round(FIRST_PART * epochs))
    return first, epochs - first


def phases(
    config: Config, keep: float, ema: float = 0.0, budget: dict[str, Any] | None = None
) -> tuple[Config, Config | None]:
    """Settings of the two trainings, which share one learning rate schedule.

    Args:
        config: Of the whole.
        keep: Share of the multiply-accumulates that may remain.
        ema: Decay of the moving average in the last of them: what is kept is the end.
        budget: Further settings of the budget, in place of those of multiply-accumulates.
    """
    first, second = parts(config.epochs)
    share = first / config.epochs
    choosing = override(
        config,
        {
            "epochs": first,
            "schedule.part": [0.0, share],
            "model.rotated": True,
            "model.slope_init": "ones",
            "budget": {
                "keep": keep,
                "unit": "macs",
                "start": START,
                "end": END,
                "window": WINDOW,
                **(budget or {}),
            },
            "ema": 0.0 if second else ema,
        },
    )
    if not second:
        return choosing, None
    return choosing, override(config, {"epochs": second, "schedule.part": [share, 1.0], "ema": ema})
