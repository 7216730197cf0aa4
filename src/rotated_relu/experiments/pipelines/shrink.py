"""A trained network in, a smaller one out: from weights and data to network, ONNX file, measurements and page.

The stages, each of which goes on where it was stopped:

1. **Bring.** The network is built and filled, and its accuracy on the validation images is taken. One that guesses is
   refused: its weights or its preprocessing are not what they should be.
2. **Choose.** Slopes of 1, the same function; in the first part of the epochs a budget takes slopes to exactly 0.
3. **Remove.** What depends on them goes; the result is verified.
4. **Train on.** The small network, for the rest of the epochs, along the same learning rate schedule.
5. **Deliver.** Export, measurements beside the original, test accuracy of both, read once, and the page.

A trained network may have seen every training image, those that are held out here too. So nothing is *chosen* by
accuracy: the budget decides how much goes, and the validation images only tell how it fares.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core import messages
from ...core.environment import environment
from ...core.errors import RunError
from ...core.formatting import plural
from ...core.messages import Say
from ...core.run_directory import Run, read_json, write_json
from ..report.collect import report_run
from ..run_networks import RunNetworks
from ..stages.evaluate import evaluate_run, keep_accuracy, kept_accuracies
from ..stages.export import export_run
from ..stages.measure import measure_run
from ..stages.train import override

if TYPE_CHECKING:
    from torch import nn

    from ...pruning.removal import Compacted
    from ...training import Config
    from ...training.brought import Brought
    from ...training.data.splits import ImageData

LR, LR_BATCH = 0.02, 128  # see docs/shrink.md for the rule and where it comes from
WARMUP = 0.02
FIRST_PART = 0.5  # of the epochs: with all channels, while the budget chooses
START, END, WINDOW = 0.04, 0.85, 0.1  # of the first part
BATCH_SIZES = (1, 64)
ROUNDS = 30
SMALL = 64  # pixels: shifted by an eighth, as CIFAR is by 4 of 32
CHANCE_ERRORS = 3.0  # standard errors above guessing that a trained network must reach


@dataclass(frozen=True)
class Shrinking:
    """What is to be shrunk, and by how much.

    Attributes:
        model: See :func:`rotated_relu.training.brought.parse`.
        weights: A file, or the name of published weights; see :func:`rotated_relu.training.brought.bring`.
        data: Short name, name on the Hub, or folder of images.
        keep: Share of the multiply-accumulates that may remain, above 0 and at most 1.
        epochs: Passes over the training images in all.
        model_options: Keyword arguments of the network's builder.
        renames: Module names in the file of weights to those in the network.
        mean: Per channel, of pixels in [0, 1]; None takes what belongs to the weights.
        std: Likewise.
        image_size: Height and width; None takes what belongs to the weights, else that of the images.
        lr: At the top of the schedule; None is 0.02 per 128 images of a batch.
        batch_size: Images per step.
        distill: Part of the loss in which the small network learns from the original, 0 to 1.
        temperature: Of that part.
        validation: Images held out of the training set: below 1 a share, from 1 on a count.
        flip: Mirror training images at random; None does so with colour images.
        crop_padding: Shift them by up to so many pixels; None is an eighth of the size of small colour images, else 0.
        precision: ``bf16``, ``fp16`` or ``32``.
        seed: Of order and augmentation.
    """

    model: str
    weights: str
    data: str
    keep: float = 0.5
    epochs: int = 20
    model_options: dict[str, Any] = field(default_factory=dict)
    renames: dict[str, str] = field(default_factory=dict)
    mean: list[float] | None = None
    std: list[float] | None = None
    image_size: int | None = None
    lr: float | None = None
    batch_size: int = 128
    distill: float = 0.9
    temperature: float = 4.0
    validation: float = 0.1
    flip: bool | None = None
    crop_padding: int | None = None
    precision: str = "bf16"
    seed: int = 0


def shrink_run(
    wanted: Shrinking,
    out: Path,
    *,
    device: str = "auto",
    progress: str = "none",
    command: str | None = None,
    say: Say = messages.say,
) -> dict[str, Any]:
    """Shrink a trained network into a run directory; the same call again goes on where it was stopped.

    Args:
        wanted: What and how much. Code that ``wanted.model`` names is executed.
        out: The run directory; made if need be.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        progress: ``bar``, ``lines`` or ``none``.
        command: What made it, for the page.
        say: Called with what is about to be done.

    Returns:
        What ``summary.json`` holds.

    Raises:
        RunError: If ``out`` holds another run, or the network does no better than guessing.
        RotationError, PlanError, FileFormatError: If network and weights cannot be brought together.
        DataError: If the images cannot be read.
    """
    run = Run.create(out)
    if run.has("summary") and _same(run, wanted):
        found: dict[str, Any] = read_json(run.file("summary"))
        return found
    started = time.monotonic()
    loaded = _brought(wanted, run, say)
    config = loaded.config
    original = loaded.network("trained")
    if not run.has("compact"):
        with run.claimed():
            _shrink(original, config, loaded, device, progress, say)
    _keep_seconds(run, time.monotonic() - started)
    return _delivered(loaded, wanted, command, say)


# --- bring -----------------------------------------------------------------------------------------------------------


def _brought(wanted: Shrinking, run: Run, say: Say) -> RunNetworks:
    """The run with the original in it: its settings, its weights, and its accuracy on the validation images."""
    from ...training.brought import parse
    from ...training.brought.trust import trust

    architecture = parse(wanted.model, wanted.model_options)
    trust(architecture.name)
    loaded = RunNetworks(run)
    if not _same(run, wanted):
        say(f"reading the network {wanted.model} and the images of {wanted.data}")
        with run.claimed():
            _write_original(dataclasses.replace(wanted, model=architecture.name), run, say)
    return loaded


def _same(run: Run, wanted: Shrinking) -> bool:
    """Whether the run holds this shrinking, begun or done.

    Raises:
        RunError: If it holds anything else.
    """
    from ...training.brought import parse

    if not run.has("shrinking"):
        if run.has("config"):
            raise RunError(f"{run.path} holds a run of another kind; choose another directory")
        return False
    name = parse(wanted.model, wanted.model_options).name
    asked = {
        **dataclasses.asdict(wanted),
        "model": name,
        "data": _place(wanted.data),
        "weights": _place(wanted.weights),
    }
    known = read_json(run.file("shrinking"))["settings"]
    different = sorted(key for key in asked.keys() | known.keys() if asked.get(key) != known.get(key))
    if different:
        raise RunError(
            f"{run.path} holds a shrinking with other settings ({', '.join(different)}); choose another directory, or "
            "repeat the first settings to go on with it"
        )
    return True


def _place(name: str) -> str:
    """A file or folder in full, so that it means the same from wherever the run is continued; a name stays."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def _write_original(wanted: Shrinking, run: Run, say: Say) -> None:
    from ...training import evaluate_model
    from ...training.brought import bring, parse
    from ...training.images import load_data, record_provenance
    from ...training.trained import write_weights

    wanted = dataclasses.replace(wanted, data=_place(wanted.data), weights=_place(wanted.weights))
    architecture = parse(wanted.model, wanted.model_options)
    config = _config(wanted, None)
    images = load_data(config)
    brought = bring(architecture, wanted.weights, images.num_classes, renames=wanted.renames)
    if brought.preprocessing is not None and (wanted.mean is None or wanted.image_size is None):
        config = _config(wanted, brought)
        images = load_data(config)
    config = override(config, _augmentation(wanted, images))
    accuracy = evaluate_model(brought.net, images.validation)
    say(f"the network that was brought: {accuracy:.2f} % of {len(images.validation)} validation images")
    _refuse_guessing(accuracy, images, wanted)
    record_provenance(run, images)
    write_weights(run, brought.net)
    write_json(run.file("evaluation"), {"trained": {"validation": accuracy}})
    # These make it a run: what comes before is not there for anybody else until they are.
    write_json(run.file("config"), config.to_dict())
    write_json(run.file("shrinking"), {"settings": dataclasses.asdict(wanted), "seconds": 0.0})


def _augmentation(wanted: Shrinking, images: ImageData) -> dict[str, Any]:
    """How training images are varied: as is usual for photographs; not at all where a mirror image is another thing."""
    channels, height, width = images.image_shape
    small = channels == 3 and max(height, width) <= SMALL
    return {
        "data.flip": channels == 3 if wanted.flip is None else wanted.flip,
        "data.crop_padding": (height // 8 if small else 0)
        if wanted.crop_padding is None
        else wanted.crop_padding,
    }


def _refuse_guessing(accuracy: float, images: ImageData, wanted: Shrinking) -> None:
    """A trained network does better than always naming the most frequent class."""
    labels = images.validation.labels
    share = float(labels.bincount().max()) / len(labels)
    bar = 100 * (share + CHANCE_ERRORS * math.sqrt(share * (1 - share) / len(labels)))
    if accuracy <= bar:
        given = (
            "are those of the weights" if wanted.mean else "were not given: --mean, --std and --image-size"
        )
        raise RunError(
            f"the network that was brought gets {accuracy:.1f} % right, and naming one class gets {100 * share:.1f} %: "
            "it is not trained on these classes in this order, or it does not see what it was trained on (mean, std "
            f"and size {given}); put that right first"
        )


def _config(wanted: Shrinking, brought: Brought | None) -> Config:
    """The original as a run: which network on which images."""
    from ...training import Config

    known = None if brought is None else brought.preprocessing
    mean, std = (
        (wanted.mean, wanted.std) if wanted.mean is not None or known is None else (known.mean, known.std)
    )
    size = wanted.image_size or (None if known is None else known.image_size[0])
    data: dict[str, Any] = {
        "name": wanted.data,
        "validation": wanted.validation,
        "image_size": size,
        "normalisation": "dataset" if mean is None else "given",
        "mean": None if mean is None else list(mean),
        "std": None if std is None else list(std),
    }
    return Config.from_dict(
        {
            "model": {"name": wanted.model, "rotated": False, "options": wanted.model_options},
            "data": data,
            "optimizer": {
                "lr": wanted.lr or LR * wanted.batch_size / LR_BATCH,
                "nesterov": True,
                "weight_decay": 1e-4,
            },
            "schedule": {"name": "cosine", "warmup": WARMUP},
            "distill": {"weight": wanted.distill, "temperature": wanted.temperature},
            "epochs": wanted.epochs,
            "batch_size": wanted.batch_size,
            "precision": wanted.precision,
            "seed": wanted.seed,
        }
    )


# --- choose, remove, train on ----------------------------------------------------------------------------------------


def parts(epochs: int) -> tuple[int, int]:
    """Epochs with all channels, and epochs of the small network; a single epoch has only the first."""
    first = max(1, round(FIRST_PART * epochs))
    return first, epochs - first


def phases(config: Config, keep: float) -> tuple[Config, Config | None]:
    """Settings of the two trainings, which share one learning rate schedule.

    Args:
        config: Of the whole.
        keep: Share of the multiply-accumulates that may remain.
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
            "budget": {"keep": keep, "unit": "macs", "start": START, "end": END, "window": WINDOW},
        },
    )
    if not second:
        return choosing, None
    return choosing, override(config, {"epochs": second, "schedule.part": [share, 1.0]})


def _shrink(
    original: nn.Module, config: Config, loaded: RunNetworks, device: str, progress: str, say: Say
) -> None:
    from ...pruning.removal import save
    from ...training import finetune

    run, images = loaded.run, loaded.images
    keep = float(read_json(run.file("shrinking"))["settings"]["keep"])
    choosing, training_on = phases(config, keep)
    say(
        f"choosing what goes: {plural(choosing.epochs, 'epoch')} with all channels, to {100 * keep:.0f} % of the MACs"
    )
    net = _with_slopes(original, loaded)
    finetune(net, choosing, images, run.path / "shrink", progress=progress, device=device, teacher=original)
    result = _compacted(net, loaded)
    say(f"removed and verified: largest relative difference {result.certificate.max_relative_difference:.2g}")
    small = result.model
    if training_on is not None:
        say(f"training the small network on: {plural(training_on.epochs, 'epoch')}")
        place = run.path / "finetune"
        finetune(small, training_on, images, place, progress=progress, device=device, teacher=original)
    _join_metrics(run, training_on is not None)
    save(dataclasses.replace(result, model=small.eval()), run.file("compact"))
    for folder in ("shrink", "finetune"):
        run.discard_folder(folder)


def _with_slopes(original: nn.Module, loaded: RunNetworks) -> nn.Module:
    """A copy with slopes of 1: the same function."""
    import copy

    from ...nn.rotate import rotate

    return rotate(copy.deepcopy(original), loaded.example_inputs(), init="ones")


def _compacted(net: nn.Module, loaded: RunNetworks) -> Compacted:
    """Without what the slopes of exactly 0 make irrelevant."""
    from ...deploy.autotune import compact

    return compact(net, loaded.example_inputs(), threshold=0.0)


def _join_metrics(run: Run, two: bool) -> None:
    """One row per epoch of both trainings, numbered through."""
    import csv

    from ...core.run_directory import read_metrics, replacing

    rows: list[dict[str, float]] = []
    for folder in ("shrink", "finetune") if two else ("shrink",):
        rows += read_metrics(Run(run.path / folder).file("metrics"))
    names = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(run.file("metrics")) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows({**row, "epoch": number} for number, row in enumerate(rows))


def _keep_seconds(run: Run, more: float) -> None:
    """Wall-clock time over all the calls that it took."""
    known = read_json(run.file("shrinking"))
    write_json(run.file("shrinking"), {**known, "seconds": known["seconds"] + more})


# --- deliver ---------------------------------------------------------------------------------------------------------


def _delivered(loaded: RunNetworks, wanted: Shrinking, command: str | None, say: Say) -> dict[str, Any]:
    """Files, measurements, the test images once per network, summary and page."""
    run = loaded.run
    if not run.has("onnx"):
        say("exporting the small network")
        export_run(loaded, "compact", say=say)
    if not run.has("measure"):
        say("measuring both networks in turn")
        measure_run(loaded, None, BATCH_SIZES, repeats=ROUNDS, say=say)
    keep_accuracy(loaded, "compact", loaded.network("compact"), "validation")
    for weights in ("trained", "compact"):
        if "test" not in kept_accuracies(run).get(weights, {}):
            evaluate_run(loaded, weights, "test")
    summary = _summary(loaded, wanted)
    report_run(loaded, command=command)
    write_json(run.file("summary"), summary)
    return summary


def _summary(loaded: RunNetworks, wanted: Shrinking) -> dict[str, Any]:
    from ...pruning.removal import read_plan

    run = loaded.run
    measured, accuracies = read_json(run.file("measure")), kept_accuracies(run)
    saved = measured["saved"]["compact"]
    speedups = {str(timed["batch_size"]): timed["speedup"]["compact"] for timed in measured["latency"]}
    _, certificate = read_plan(run.file("compact"))
    return {
        "original_test_accuracy": accuracies["trained"]["test"],
        "shrunk_test_accuracy": accuracies["compact"]["test"],
        "original_validation_accuracy": accuracies["trained"]["validation"],
        "shrunk_validation_accuracy": accuracies["compact"]["validation"],
        "macs_kept": 1 - saved["macs"],
        "parameters_kept": 1 - saved["parameters"],
        "latency_speedup": speedups[str(BATCH_SIZES[-1])],
        "latency_batch_size": BATCH_SIZES[-1],
        "latency_speedup_by_batch_size": speedups,
        "engine": measured["engine"],
        "certificate_max_relative_difference": certificate.max_relative_difference,
        "epochs": wanted.epochs,
        "seconds": round(read_json(run.file("shrinking"))["seconds"], 1),
        "settings": read_json(run.file("shrinking"))["settings"],
        "environment": environment(),
    }


def verdict(summary: Mapping[str, Any]) -> str:
    """One line: what it cost and what it gained."""
    change = summary["shrunk_test_accuracy"] - summary["original_test_accuracy"]
    return (
        f"test accuracy {summary['original_test_accuracy']:.2f} % before, {summary['shrunk_test_accuracy']:.2f} % "
        f"after ({change:+.2f} points); {100 * summary['macs_kept']:.1f} % of the MACs and "
        f"{100 * summary['parameters_kept']:.1f} % of the parameters are left; {summary['latency_speedup']:.2f} times "
        f"as fast at batch {summary['latency_batch_size']} in {summary['engine']}"
    )
