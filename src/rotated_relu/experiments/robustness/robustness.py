"""Accuracy of one network on clean and on attacked images, and its local Lipschitz constant."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.errors import AttackError, DataError
from ...training.data.splits import Split
from ...training.data.storage import StreamedSplit
from .gradient_sign import fgsm, pgd
from .lipschitz import local_lipschitz
from .pixels import OnPixels, fixed


@dataclass(frozen=True)
class AttackSettings:
    """What the attacker may do. The defaults are those of the paper.

    Attributes:
        eps: Largest change of a pixel, in units of [0, 1] (0.031 is 7.9 grey levels).
        steps: Of PGD and of the search for the Lipschitz constant.
        random_start: Whether PGD begins at a random place within eps; the other search always does.
        seed: Of random starts.
        batch_size: Images at a time. Random starts are drawn anew for each batch, by the seed and its place.
    """

    eps: float = 0.031
    steps: int = 60
    random_start: bool = False
    seed: int = 0
    batch_size: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.eps <= 1:
            raise AttackError(
                f"eps is {self.eps:g}, but must be above 0 and at most 1, in units of [0, 1] pixels"
            )
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise AttackError(f"{name} is {getattr(self, name)}, but must be 1 or more")

    @property
    def step(self) -> float:
        """Change of a pixel per step: a fifth of eps."""
        return self.eps / 5

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain data, the step included."""
        return {**asdict(self), "step": self.step}


@dataclass(frozen=True)
class Robustness:
    """How one network stood the attacks.

    Attributes:
        clean: Accuracy on the images as they are, percent.
        fgsm: After FGSM, percent.
        pgd: After PGD, percent; of the first images only if asked so.
        lipschitz: Mean local Lipschitz constant of the images that PGD saw, nats per unit of [0, 1] pixels.
    """

    clean: float
    fgsm: float
    pgd: float
    lipschitz: float


def choose_images(split: Split | StreamedSplit, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random images of a split in a random order, the same for the same seed; fewer gives the first of them.

    Args:
        split: What to choose from; of a stream all images are read once.
        count: How many, at most all.
        seed: Of the choice.

    Returns:
        uint8 images (count, C, H, W) and int64 labels (count,).

    Raises:
        DataError: If the split is a stream that does not say how many images it has.
    """
    total = len(split)
    if not total:
        raise DataError("the test images come as a stream of unknown length; set data.storage to 'disk'")
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]
    if isinstance(split, Split):
        return split.images[chosen], split.labels[chosen]
    order = chosen.argsort()
    found, seen = [], 0
    for images, labels in split.batches(500):
        inside = chosen[(chosen >= seen) & (chosen < seen + len(labels))].sort().values - seen
        found.append((images[inside], labels[inside]))
        seen += len(labels)
    images, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    back = order.argsort()
    return images[back], labels[back]


def robustness(
    net: OnPixels,
    images: Tensor,
    labels: Tensor,
    settings: AttackSettings,
    *,
    pgd_images: int | None = None,
    advance: Callable[[int], None] = lambda passes: None,
) -> Robustness:
    """Attack one network.

    Args:
        net: The network with its normalisation, in float32.
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        settings: What the attacker may do.
        pgd_images: Images, the first ones, for PGD and the Lipschitz constant; all if None.
        advance: Called with the number of passes (one image through the network and back) that have been done.

    Raises:
        MissingPackageError: If the attack library is not installed.
        AttackError: If the network's scores are not finite.
    """
    size, count, eps = settings.batch_size, len(labels), settings.eps
    iterated = count if pgd_images is None else min(pgd_images, count)
    correct = {"clean": 0, "fgsm": 0, "pgd": 0}
    for pixels, truth in _batches(net, images, labels, size):
        correct["clean"] += _correct(net, pixels, truth)
        correct["fgsm"] += _correct(net, fgsm(net, pixels, truth, eps), truth)
        advance(len(truth))
    lipschitz: list[Tensor] = []
    steps, step, random_start = settings.steps, settings.step, settings.random_start
    for place, (pixels, truth) in enumerate(_batches(net, images[:iterated], labels[:iterated], size)):
        seed = settings.seed + place
        moved = pgd(net, pixels, truth, eps, steps=steps, step=step, random_start=random_start, seed=seed)
        correct["pgd"] += _correct(net, moved, truth)
        advance(len(truth) * steps)
        lipschitz.append(local_lipschitz(net, pixels, eps, steps=steps, step=step, seed=seed))
        advance(len(truth) * steps)
    shares = {name: 100 * right / (iterated if name == "pgd" else count) for name, right in correct.items()}
    return Robustness(**shares, lipschitz=_finite_mean(lipschitz))


def passes(count: int, pgd_images: int | None, steps: int) -> int:
    """How many passes :func:`robustness` makes in all, as it reports them."""
    return count + 2 * steps * (count if pgd_images is None else min(pgd_images, count))


def _batches(net: OnPixels, images: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels in [0, 1] and labels on the network's device."""
    device = net.mean.device
    for start in range(0, len(labels), size):
        chosen = slice(start, start + size)
        yield images[chosen].to(device).float() / 255, labels[chosen].to(device)


def _finite_mean(parts: list[Tensor]) -> float:
    mean = float(torch.cat(parts).cpu().double().mean())
    if not math.isfinite(mean):
        raise AttackError("the local Lipschitz constant is not finite: the network's scores are too large")
    return mean


@torch.no_grad()
def _correct(net: OnPixels, pixels: Tensor, labels: Tensor) -> int:
    with fixed(net):
        scores = net(pixels)
    if not bool(scores.isfinite().all()):
        raise AttackError("the network's scores are not finite on test images; train it again")
    return int((scores.argmax(1) == labels).sum())
