"""One optimizer step, and one pass over the validation images."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import DivergedError
from ...nn.distillation import distillation_loss
from ...nn.folding import compile_training
from ..config import Config
from ..data.splits import ImageData, Split
from ..outputs import class_scores
from .batches import MicroBatch, as_input
from .clock import Clock
from .distributed import Collectives
from .optimizers import Average, build_optimizer
from .progress import Progress, Totals
from .regularizer import Regularizer
from .schedules import learning_rate_factor
from .seeds import seed_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric

VALIDATION_BATCH = 500


class Task(NamedTuple):
    """What the network is to say of some images.

    Attributes:
        images: As it reads them, shape (N, C, H, W).
        labels: Shape (N,).
        taught: What the teacher says, shape (N, classes); None without one.
    """

    images: Tensor
    labels: Tensor
    taught: Tensor | None


class Stepper:
    """The network with its optimizer, penalty and moving average.

    Args:
        net: The network; moved to the device, and divided over the processes under FSDP.
        config: The run.
        images: Of their training split only mean and std are read.
        steps: Optimizer steps of an epoch.
        fabric: The processes.
        teacher: What the network learns from beside the labels, as ``config.distill`` says; None for the labels alone.

    Attributes:
        net: The network itself, without what wraps it.
        regularizer: What drives slopes to zero.
    """

    def __init__(
        self,
        net: nn.Module,
        config: Config,
        images: ImageData,
        steps: int,
        fabric: Fabric,
        teacher: nn.Module | None = None,
    ) -> None:
        self.config, self.split, self.steps, self.fabric = config, images.train, steps, fabric
        self.net = net
        self._forward = fabric.setup_module(compile_training(net) if config.compile else net)
        self.optimizer: Any = fabric.setup_optimizers(build_optimizer(net, config.optimizer))
        self.regularizer = Regularizer(net, config, images.image_shape, steps * config.epochs)
        self.teacher = None if teacher is None else self._prepared(teacher)
        self.average = Average(net, config.ema) if config.ema else None
        self.together = Collectives(fabric)
        self.clock = Clock()

    def _prepared(self, teacher: nn.Module) -> nn.Module:
        teacher = teacher.to(self.fabric.device).eval()
        return cast(nn.Module, torch.compile(teacher)) if self.config.compile else teacher

    def position(self, progress: Progress) -> float:
        """Share of the run that is done."""
        return self._number(progress) / (self.steps * self.config.epochs)

    def _number(self, progress: Progress) -> int:
        return progress.epoch * self.steps + progress.step

    def learning_rate(self, progress: Progress) -> float:
        """Of the next step."""
        return self.config.optimizer.lr * learning_rate_factor(self.config.schedule, self.position(progress))

    def step(self, pieces: list[MicroBatch], progress: Progress) -> None:
        """Move the weights once, by the mean gradient over all pieces of all processes.

        Raises:
            DivergedError: If the loss is not finite anywhere; the weights have not been touched.
        """
        # Dropout draws from the default generator: seeded here, it needs no state of its own in a checkpoint.
        torch.manual_seed(
            seed_of("step", self.config.seed, progress.epoch, progress.step, self.together.rank)
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(progress)
        broken: Tensor | None = None
        for index, piece in enumerate(pieces):
            images, labels = piece.prepared(self.split, self.config, self.fabric.device)
            self.clock.lap("data")
            task = Task(images, labels, self._taught(images))
            if not self._accumulate(task, len(pieces), index + 1 == len(pieces), progress):
                broken = images if broken is None else broken
        if self.together.largest(broken is not None)[0]:
            raise DivergedError(self._diverged(broken, progress))
        self.clock.lap("other")
        self._update(progress, self._again(task))

    def _accumulate(self, task: Task, parts: int, last: bool, progress: Progress) -> bool:
        """Forward and backward of one piece; whether its loss is finite."""
        with self.fabric.no_backward_sync(self._forward, enabled=not last and self.together.size > 1):
            scores = class_scores(self._forward(task.images)).float()
            loss = self._loss(scores, task)
            self.clock.lap("forward")
            self.fabric.backward(loss / parts, model=self._forward)
            self.clock.lap("backward")
        progress.totals.add(loss, scores, task.labels)
        # Read only now: on an accelerator the backward pass is under way meanwhile.
        return math.isfinite(float(loss.detach()))

    def _taught(self, images: Tensor) -> Tensor | None:
        """What the teacher says of some images; None if nothing is learnt from one."""
        if self.teacher is None or self.config.distill.weight == 0:
            return None
        with torch.no_grad(), self.fabric.autocast():
            return class_scores(self.teacher(self.fabric.strategy.precision.convert_input(images))).float()

    def _loss(self, scores: Tensor, task: Task) -> Tensor:
        """Cross entropy with the labels, and with what the teacher says of the same images."""
        distill, smoothing = self.config.distill, self.config.label_smoothing
        if task.taught is None:
            return F.cross_entropy(scores, task.labels, label_smoothing=smoothing)
        return distillation_loss(
            scores, task.taught, task.labels, distill.weight, distill.temperature, label_smoothing=smoothing
        )

    def _again(self, task: Task) -> Callable[[], float] | None:
        """Gives the loss of some images with the weights as they are then: the mean over all processes.

        None under FSDP, whose slopes are divided: they cannot be left out one block at a time.
        """
        if self.together.size > 1 and self.config.scale.strategy == "fsdp":
            return None

        @torch.no_grad()
        def loss() -> float:
            found = self._loss(self._computed(task.images).float(), task)
            return float(self.together.sum(found)) / self.together.size

        return loss

    def _update(self, progress: Progress, loss: Callable[[], float] | None) -> None:
        position = self.position(progress)
        if self.regularizer.needs_gradients:
            # They may carry fp16's loss scale; what is added or read must not be off by that factor.
            self.fabric.strategy.precision.unscale_gradients(self.optimizer.optimizer)
        if self.regularizer.acts:
            self.regularizer.before(position)
            self.clock.lap("penalty")
        self.optimizer.step()
        self.clock.lap("optimizer")
        if self.regularizer.acts:
            self.regularizer.after(position, self.learning_rate(progress), loss)
            self.clock.lap("penalty")
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self._number(progress))
            self.average.clear(self.regularizer.zeros())
        progress.step += 1
        self.clock.lap("other")

    def check_finite(self, progress: Progress) -> None:
        """Refuse weights that are not finite, so that no checkpoint holds them.

        Raises:
            DivergedError: If there are some, in any process; names the first.
        """
        names = [
            name for name, value in self.net.named_parameters() if not bool(_here(value).isfinite().all())
        ]
        if self.together.largest(bool(names))[0]:
            found = names[0] if names else "a part of them in another process"
            raise DivergedError(
                f"weights are not finite after epoch {progress.epoch + 1}, step {progress.step} ({found}); "
                f"{self._advice(progress)}"
            )

    def _computed(self, images: Tensor) -> Tensor:
        """The network's output by itself, in the precision of the run, without what wraps it."""
        with self.fabric.autocast():
            return class_scores(self.net(self.fabric.strategy.precision.convert_input(images)))

    def _diverged(self, images: Tensor | None, progress: Progress) -> str:
        where = "it began in another process"
        # Under FSDP a layer can only be computed by all processes together.
        if images is not None and self.config.scale.strategy == "fsdp" and self.together.size > 1:
            where = "the layer is not searched for under fsdp"
        elif images is not None:
            where = first_non_finite(self.net, self._computed, images)
        return (
            f"the training loss became NaN or infinite in epoch {progress.epoch + 1}, step {progress.step + 1}; "
            f"{where}; {self._advice(progress)}"
        )

    def _advice(self, progress: Progress) -> str:
        return (
            f"lower the learning rate (now {self.learning_rate(progress):.3g}) or lengthen the warm-up; the last good "
            "checkpoint was kept"
        )

    def validate(self, split: Split, stop: Callable[[], bool]) -> Tensor | None:
        """Sums of loss, correct answers and images over ``split``, with the averaged weights if there are some.

        Each process takes every n-th batch, so that each image counts once, whatever their number.

        Args:
            split: Validation images.
            stop: Asked after every batch, in all processes equally often.

        Returns:
            The sums, or None if it was stopped.
        """
        totals = Totals()
        self.together.share_buffers(self.net)
        self.net.eval()
        try:
            with torch.no_grad(), self.average.applied() if self.average else contextlib.nullcontext():
                for images, labels, counts in self._rounds(split):
                    inputs = as_input(images.to(self.fabric.device), split, self.config)
                    scores = self._computed(inputs).float()
                    labels = labels.to(self.fabric.device)
                    if counts:
                        totals.add(F.cross_entropy(scores, labels), scores, labels)
                    if stop():
                        return None
        finally:
            self.net.train()
            # FSDP leaves the parameters of the last forward pass whole.
            getattr(self.net, "reshard", _nothing)()
        return self.together.sum(totals.sums)

    def _rounds(self, split: Split) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """This process's batches, and whether they count: the last round repeats one where there are too few.

        Under FSDP a forward pass needs all processes.
        """
        size, rank = self.together.size, self.together.rank
        batches = -(-len(split) // VALIDATION_BATCH)
        for start in range(0, batches, size):
            index = start + rank if start + rank < batches else start
            chosen = slice(index * VALIDATION_BATCH, (index + 1) * VALIDATION_BATCH)
            yield split.images[chosen], split.labels[chosen], index == start + rank


def _nothing() -> None: ...


def _here(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that may be divided."""
    local = getattr(tensor, "to_local", None)
    return tensor if local is None else local()


def first_non_finite(net: nn.Module, compute: Callable[[Tensor], Tensor], images: Tensor) -> str:
    """Say which layer of ``net`` first gives a value that is not finite, and whether its weights are at fault."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not bool(output.isfinite().all()):
                broken = [key for key, value in module.named_parameters() if not bool(value.isfinite().all())]
                found.append(
                    f"{name} ({type(module).__name__})"
                    + (f", whose {broken[0]} is not finite" if broken else "")
                )

        return hook

    leaves = [(name, module) for name, module in net.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            compute(images)
    finally:
        for handle in handles:
            handle.remove()
    return f"first layer with a non-finite output: {found[0]}" if found else "every layer's output is finite"
