"""The network that is to be shrunk: brought, tried on images, and written down as a run.

Ensures: a network that guesses is refused, and leaves nothing behind; the files that make a directory a run come last.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.errors import RunError
from ...core.messages import Say
from ...core.run_directory import Run, as_written, replacing, write_json
from ..run_networks import RunNetworks
from ..stages.evaluate import kept_accuracies
from ..stages.train import override
from .settings import Shrinking, augmentation, continued_config, training_config

if TYPE_CHECKING:
    from torch import nn

    from ...training import Config
    from ...training.data.splits import ImageData

HELD_OUT = "held out of the training images"
CHANCE_ERRORS = 3.0  # standard errors above guessing that a trained network must reach
# What runs from one original have in common; the config comes last.
SHARED = ("weights", "teacher", "provenance", "config")


def write_original(wanted: Shrinking, run: Run, say: Say, device: str = "auto") -> None:
    """Bring the network and make a run of it.

    Args:
        wanted: With its places; code that it names may run.
        run: An empty run directory, claimed.
        say: Called with what was found.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``: where it will be trained.

    Raises:
        RunError: If the network does no better than guessing.
        RotationError, PlanError, FileFormatError: If network and weights cannot be brought together.
        DataError: If the images cannot be read.
    """
    from ...training.brought import bring, known_preprocessing, parse
    from ...training.images import load_data
    from ...training.precision import with_precision
    from ...training.trained import write_weights

    if wanted.source is not None:
        _take_from_run(RunNetworks(Run.open(wanted.source)), wanted, run, say, device)
        return
    say(f"reading the network {wanted.model} and the images of {wanted.data}")
    architecture = parse(wanted.model, wanted.model_options)
    # Before the images: photographs have many sizes, and the weights may know which one they want.
    known = known_preprocessing(architecture, wanted.weights)
    config = training_config(wanted, known)
    images = load_data(config)
    config = override(config, augmentation(wanted, images.image_shape))
    net = bring(architecture, wanted.weights, images.num_classes, renames=wanted.renames)
    accuracy = _tried(net, images, say, told=wanted.mean is not None or known is not None)
    write_weights(run, net)
    record(run, wanted, with_precision(config, device), images, accuracy)


def _take_from_run(source: RunNetworks, wanted: Shrinking, run: Run, say: Say, device: str) -> None:
    """The newest network of another run, and what it learns from: the first original while its weights are there."""
    from ...training.precision import with_precision
    from ...training.trained import stored_network

    which = source.newest()
    if wanted.model and wanted.model != source.config.model.name:
        raise RunError(f"{source.run.path} holds {source.config.model.name}, not {wanted.model}")
    say(f"reading the {which} network of {source.run.path}")
    net, images = source.network(which), source.images
    accuracy = _tried(net, images, say, told=True)
    first = _first_original(source, which)
    if first is not None:
        stored_network(first, source.run, source.config)  # refused now, not when the copy is read
    if wanted.distill:
        say(f"it learns from {'itself as it is now' if first is None else f'the network in {first}'}")
    if first is not None:
        _copy(first, run.file("teacher"))
    _copy(source.run.need("weights" if which == "trained" else which), run.file("weights"))
    config = with_precision(continued_config(wanted, source.config), device)
    record(run, wanted, config, images, accuracy)


def _first_original(source: RunNetworks, which: str) -> Path | None:
    """Weights of the network that the source came from, however many times it was shrunk."""
    known = (name for name in ("teacher", "weights") if which != "trained" and source.run.has(name))
    return next((source.run.file(name) for name in known), None)


def _copy(old: Path, new: Path) -> None:
    with replacing(new) as beside:
        shutil.copyfile(old, beside)


def _tried(net: nn.Module, images: ImageData, say: Say, *, told: bool) -> float:
    """Accuracy on the validation images, in percent; guessing is refused.

    Args:
        net: As it was brought.
        images: Prepared for it.
        say: Told the accuracy.
        told: As for :func:`refuse_guessing`.
    """
    from ...training import evaluate_model

    outputs = check_outputs(net, images)
    accuracy = evaluate_model(net, images.validation)
    say(
        f"the network that was brought: {accuracy:.2f} % of {len(images.validation)} validation images, "
        f"{validation_images(images)}"
    )
    refuse_guessing(accuracy, images, outputs, told=told)
    return accuracy


def check_outputs(net: nn.Module, images: ImageData) -> int:
    """How many classes the network tells apart.

    Raises:
        ShapeError: If it does not run on the images, or returns no scores.
        RunError: If there are fewer than the images have.
    """
    import torch

    from ...core.modules import as_inputs
    from ...core.state import check_fit
    from ...training.outputs import class_scores

    examples = images.format.noise(2)
    check_fit(net, as_inputs(examples))
    with torch.no_grad():
        outputs = class_scores(net(examples)).shape[1]
    if outputs < images.num_classes:
        raise RunError(
            f"the network has {outputs} outputs, and the images are of {images.num_classes} classes; bring one "
            "that was trained on them"
        )
    return outputs


def validation_images(images: ImageData) -> str:
    """Where the validation images come from, and what their accuracy is worth."""
    own = images.provenance.get("validation")
    return own or f"{HELD_OUT}, which the network may have seen: it says little"


def record(run: Run, wanted: Shrinking, config: Config, images: ImageData, accuracy: float) -> None:
    """Write what belongs to the original beside its weights."""
    from ...training.images import record_provenance

    record_provenance(run, images)
    write_json(run.file("evaluation"), {"trained": {"validation": accuracy}})
    # These make it a run: what comes before is not there for anybody else until they are.
    write_json(run.file("config"), config.to_dict())
    begin(run, wanted)


def begin(run: Run, wanted: Shrinking) -> None:
    """Write what was asked for."""
    write_json(run.file("shrinking"), {"settings": dataclasses.asdict(wanted), "seconds": 0.0})


def copy_original(sibling: Run, wanted: Shrinking, run: Run) -> None:
    """Begin a run with the original of another one, which was brought with the same settings but for the budget."""
    with as_written(sibling.file("evaluation")):
        known = kept_accuracies(sibling)["trained"]
    write_json(run.file("evaluation"), {"trained": known})
    for name in SHARED:
        if sibling.has(name):
            _copy(sibling.file(name), run.file(name))
    begin(run, wanted)


def refuse_guessing(accuracy: float, images: ImageData, outputs: int, *, told: bool) -> None:
    """A trained network does better than always naming the most frequent class.

    Args:
        accuracy: On the validation images, in percent.
        images: With them.
        outputs: Of the network.
        told: Whether it is known how pictures become numbers: said, or belonging to the weights.

    Raises:
        RunError: If this one does not.
    """
    labels = images.validation.labels
    share = float(labels.bincount().max()) / len(labels)
    error = math.sqrt(share * (1 - share) / len(labels))
    # With few images even a network that is always right is within the error. Half of what guessing gets wrong, right,
    # is no guessing; nor is all of it, where the images are of one class.
    bar = 100 * min(share + CHANCE_ERRORS * error, (1 + share) / 2)
    if accuracy <= bar and accuracy < 100:
        given = "are those of the weights" if told else "were not given: --mean, --std and --image-size"
        more = "" if outputs == images.num_classes else f" (it has {outputs} outputs)"
        raise RunError(
            f"the network that was brought gets {accuracy:.1f} % right, and naming one class gets {100 * share:.1f} %: "
            f"it is not trained on these {images.num_classes} classes in this order{more}, or it does not see what it "
            f"was trained on (mean, std and size {given}); put that right first"
        )
