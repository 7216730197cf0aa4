"""Train a network into a run directory; resume where a stopped run left off."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core import progress as shown
from ..core.arguments import checked
from ..core.errors import CaptureError, RunError
from ..core.messages import say
from ..core.run_directory import Run, is_first_process, read_json, read_metrics, write_json
from ..nn.folding import fast_training, plain_training
from ..nn.slopes import slopes
from .config import Config
from .data.splits import ImageData
from .engine.batches import BatchShard, TrainBatches
from .engine.checkpoints import differences
from .engine.distributed import check_hardware, quieten_lightning, start, whole
from .engine.logs import logs_for
from .engine.loop import Loop
from .engine.memory_layout import lay_out, with_safe_layout
from .engine.optimizers import training_only
from .engine.progress import Progress
from .engine.step import Stepper
from .engine.sync_norm import synchronised
from .images import load_data, record_provenance, resolved
from .precision import with_precision
from .trained import build_model, trained_network, write_tensors, write_weights


@dataclass(frozen=True)
class Fitted:
    """What :func:`fit` returns.

    Attributes:
        net: The trained network, on the CPU, in eval mode.
        config: The run's configuration.
        history: The rows of ``metrics.csv``; accuracies in percent.
        run: The run directory.
    """

    net: nn.Module
    config: Config
    history: list[dict[str, float]]
    run: Run

    @property
    def validation_accuracy(self) -> float:
        """Percent, after the last epoch."""
        return self.history[-1]["validation_accuracy"]


@checked()
def fit(
    config: Config,
    run_dir: str | Path,
    *,
    images: ImageData | None = None,
    progress: str = "lines",
    device: str = "auto",
) -> Fitted:
    """Train the network that ``config`` describes, into ``run_dir``.

    Repeating the call on a stopped or killed run goes on from its last checkpoint and ends with the same weights as a
    run that was never stopped (on the CPU bit for bit); on a finished run it only reads the result. The test split is
    not touched. Under ``torchrun`` all processes call this; the first one writes the files.

    Args:
        config: The run.
        run_dir: Directory to write to; made if need be. All machines must see it.
        images: The images, if they are loaded already; else loaded as ``config.data`` says.
        progress: ``bar``, ``lines`` (one per epoch), ``none``, or ``auto``: a bar in a terminal, else lines.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        RunError: If the directory cannot be written to, is in use by another process, or holds a run with another
            configuration or an unreadable checkpoint.
        DivergedError: If the loss becomes NaN or infinite; the last good checkpoint is kept.
        CompilerError: If it is to be compiled (``config.compile``), and nothing can be here.
        KeyboardInterrupt: On Ctrl-C, and :class:`Terminated` on TERM; the run can be resumed.
    """
    run = _opened(run_dir)
    config = with_precision(resolved(config), device, _precision_of(run))
    if run.has("weights"):
        _compare(run, config)
        net = trained_network(run, config)
        return Fitted(net, config, _history(run), run)
    with run.claimed(), _begun(run, config):
        net = _trained(run, config, images, progress, device)
    return Fitted(net, config, _history(run), run)


def _precision_of(run: Run) -> str | None:
    """What a run that goes on began with."""
    return Config.from_dict(read_json(run.file("config"))).precision if run.has("config") else None


def _trained(run: Run, config: Config, images: ImageData | None, progress: str, device: str) -> nn.Module:
    """The network, trained to the end, with all files of its run written."""
    check_hardware(device, config.compile)
    images = load_data(config, offline=_read_a_folder(run, config)) if images is None else images
    net = build_model(config, images)
    if is_first_process():
        record_provenance(run, images)
        _write_slopes(run, net, "start")
    train(net, config, images, run, progress=progress, device=device)
    if is_first_process():
        _write_slopes(run, net, "end")
        write_weights(run, net)
    return net


def _read_a_folder(run: Run, config: Config) -> bool:
    """Whether a run that goes on read a folder when it began: its name is not looked up on the Hub then.

    Raises:
        RunError: If that folder is not there any more.
    """
    path = run.file("provenance")
    known = read_json(path, dict[str, Any]) if path.is_file() else {}
    if known.get("source") != "folder":
        return False
    if not Path(config.data.name).expanduser().is_dir():
        raise RunError(
            f"{run.path} was trained on the folder {config.data.name}, which is not there any more: put it back, from "
            "the directory in which the training began if that is no absolute path"
        )
    return True


@contextlib.contextmanager
def _begun(run: Run, config: Config) -> Iterator[None]:
    """Within the ``with`` block the settings are written; one that fails before its first checkpoint takes them back.

    A wrong model, a missing device or a broken image must not leave a directory that refuses the corrected command.
    What was there before stays, and so does all that Ctrl-C or a kill leaves.
    """
    if not is_first_process():
        yield
        return
    _compare(run, config)
    fresh = not run.has("config")
    write_json(run.file("config"), config.to_dict())
    try:
        yield
    except Exception:
        if fresh and not run.checkpoints.is_dir():
            run.discard("config", "provenance", "slopes")
        raise


def _history(run: Run) -> list[dict[str, float]]:
    """The rows of ``metrics.csv`` of a trained run.

    Raises:
        RunError: If they are missing or damaged.
    """
    path = run.file("metrics")
    try:
        rows = read_metrics(path)
        complete = bool(rows) and "validation_accuracy" in rows[-1]
    except RunError:
        complete = False
    if not complete:
        raise RunError(
            f"{path} is missing or damaged, though the run is trained: put back a copy, or train in another directory; "
            f"its network is whole: rotated-relu evaluate {run.path}"
        )
    return rows


@checked()
def finetune(
    net: nn.Module,
    config: Config,
    images: ImageData,
    run_dir: str | Path | None = None,
    *,
    progress: str = "none",
    device: str = "auto",
    teacher: nn.Module | None = None,
) -> nn.Module:
    """Train any network on, in place, as ``config`` says; return it in eval mode.

    Args:
        net: For example a compacted network; ``config.model`` is not read.
        config: How to train.
        images: What to train on.
        run_dir: Where to write metrics and checkpoints, and to resume from; nothing is written if None.
        progress: ``auto``, ``bar``, ``lines`` or ``none``.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        teacher: What it learns from beside the labels, as ``config.distill`` says.
    """
    if run_dir is None:
        train(net, config, images, None, progress=progress, device=device, teacher=teacher)
        return net
    run = _opened(run_dir)
    with run.claimed():
        train(net, config, images, run, progress=progress, device=device, teacher=teacher)
    return net


def train(
    net: nn.Module,
    config: Config,
    images: ImageData,
    run: Run | None,
    *,
    progress: str,
    device: str,
    teacher: nn.Module | None = None,
) -> None:
    """Run the loop over ``net`` in place, from the run's checkpoint if any; leave it on the CPU in eval mode."""
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        quieten_lightning()
        fabric = start(config, device)
        several = fabric.world_size > 1
        divided = several and config.scale.strategy == "fsdp"
        # FSDP replaces the parameters: it works on a copy, whose result is put back.
        trained = copy.deepcopy(net) if divided else net
        # Folded weights read slopes from another layer, which FSDP may not have gathered.
        if config.fast and not divided:
            stack.enter_context(_fast(trained, images))
        if several and config.scale.sync_batch_norm:
            stack.enter_context(synchronised(trained, fabric.device))
        # After folding, whose capture tells parameters from constants by whether they want gradients.
        stack.enter_context(training_only(trained, config.trains))
        loop = loop_over(trained, config, images, run, fabric, progress, stack, teacher)
        loop.train()
        if loop.stepper.average is not None:
            loop.stepper.average.apply()
        loop.together.share_buffers(trained)
        if trained is not net:
            net.load_state_dict({key: whole(value).cpu() for key, value in trained.state_dict().items()})
    net.cpu().eval()
    net.zero_grad(set_to_none=True)


@contextlib.contextmanager
def _fast(net: nn.Module, images: ImageData) -> Iterator[None]:
    """Within the ``with`` block slopes are folded into their consumers' weights, if they can be: less work."""
    # A network that cannot be captured is trained as it is.
    with contextlib.suppress(CaptureError):
        fast_training(net, torch.zeros(2, *images.image_shape))
    try:
        yield
    finally:
        plain_training(net)


def loop_over(
    net: nn.Module,
    config: Config,
    images: ImageData,
    run: Run | None,
    fabric: Any,
    progress: str,
    stack: contextlib.ExitStack,
    teacher: nn.Module | None = None,
) -> Loop:
    """The loop over ``net``, with what shows its progress."""
    laid_out = with_safe_layout(config, net, fabric.device)
    if config.channels_last:
        lay_out(net, laid_out.channels_last)
        if teacher is not None:
            lay_out(teacher, laid_out.channels_last)
    share = BatchShard(fabric.global_rank, fabric.world_size, config.accumulate)
    batches = TrainBatches(images.train, config, share, fabric.device)
    stepper = Stepper(net, laid_out, images, len(batches), fabric, teacher)
    first = fabric.is_global_zero
    kind = shown.resolved(progress) if first else "none"
    logs = logs_for(run, config, say if kind == "lines" else None) if run is not None and first else []
    step_done = stack.enter_context(_bar(kind, config, len(batches)))
    return Loop(stepper, batches, images.validation, config, run, logs, step_done)


@contextlib.contextmanager
def _bar(kind: str, config: Config, steps: int) -> Iterator[Callable[[Progress], None] | None]:
    """A progress bar over all steps; yields what moves it. Lines say more than a bar could: logs write them."""
    if kind != "bar":
        yield None
        return
    with shown.showing(kind), shown.task("training", config.epochs * steps) as bar:

        def step_done(progress: Progress) -> None:
            bar.at(f"epoch {progress.epoch + 1} of {config.epochs}")
            bar.reach(progress.epoch * steps + progress.step)

        yield step_done


def _opened(path: str | Path) -> Run:
    """The run, made and checked by the first process alone."""
    return Run.create(path) if is_first_process() else Run(Path(path))


def _compare(run: Run, config: Config) -> None:
    """Refuse a directory that holds another run; how it is carried out may differ."""
    path = run.file("config")
    if not path.is_file():
        return
    found = resolved(Config.from_dict(read_json(path))).identity()
    if found != config.identity():
        different = ", ".join(differences(found, config.identity()))
        raise RunError(
            f"{run.path} holds a run with other settings ({different}); choose another directory, or repeat the first "
            "settings to go on with it"
        )


def _write_slopes(run: Run, net: nn.Module, when: str) -> None:
    """Add the slopes of now to ``slopes.safetensors``; those of the start are kept across a resume."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = run.file("slopes")
    try:
        kept = {} if not path.is_file() else load_file(path)
    except SafetensorError as error:
        raise RunError(f"{path} is damaged ({error}); delete it, and the run goes on without it") from error
    if when == "start" and any(key.startswith("start/") for key in kept):
        return
    now = {f"{when}/{name}": slope.detach().cpu().clone() for name, slope in slopes(net).items()}
    write_tensors(path, kept | now)
