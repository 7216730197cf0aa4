"""Train a network into a run directory; resume where a stopped run left off."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data import ImageData, Split, load_images
from ..errors import RunError
from ..rotate import slopes
from ..run import Run, read_json, read_metrics, replacing, write_json
from .config import Config

VALIDATION_BATCH = 500
PROGRESS = ("bar", "lines", "none")


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


class ShuffledBatches:
    """Batches of a split, in an order drawn from seed and epoch; incomplete ones are dropped.

    Whole batches are gathered from the one tensor that holds the split: there is no per-image work.
    """

    def __init__(self, split: Split, batch_size: int, seed: int) -> None:
        self.split, self.batch_size, self.seed = split, min(batch_size, len(split)), seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.split) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        from .module import epoch_seed

        generator = torch.Generator().manual_seed(epoch_seed(self.seed, self.epoch))
        order = torch.randperm(len(self.split), generator=generator)
        for index in range(len(self)):
            chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
            yield self.split.images[chosen], self.split.labels[chosen]


class OrderedBatches:
    """Batches of a split in order."""

    def __init__(self, split: Split, batch_size: int = VALIDATION_BATCH) -> None:
        self.split, self.batch_size = split, batch_size

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.split.batches(self.batch_size)


def load_data(config: Config) -> ImageData:
    """The images that a configuration asks for.

    Raises:
        DataError: If they cannot be found or read.
    """
    data = config.data
    return load_images(
        data.name,
        data.validation,
        data.split_seed,
        image_size=data.image_size,
        normalisation=data.normalisation,
    )


def build_model(config: Config, images: ImageData) -> nn.Module:
    """The network that a configuration asks for, freshly initialised from its seed.

    Image channels, and the input width of the fully connected network, follow the images.
    """
    from ..models import create
    from ..models.registry import OWN

    options: dict[str, Any] = dict(config.model.options)
    channels, height, width = images.image_shape
    name = config.model.name
    if name == "fcnn":
        options.setdefault("in_features", channels * height * width)
    elif name in OWN:
        options.setdefault("in_channels", channels)
    torch.manual_seed(config.seed)
    example = torch.zeros(1, channels, height, width)
    return create(name, images.num_classes, config.model.rotated, example_inputs=example, **options)


def fit(
    config: Config,
    run_dir: str | Path,
    *,
    images: ImageData | None = None,
    progress: str = "lines",
    device: str = "auto",
) -> Fitted:
    """Train the network that ``config`` describes, into ``run_dir``.

    Repeating the call on a stopped run goes on after its last finished epoch and ends with the same weights
    as a run that was never stopped; on a finished run it only reads the result. The test split is not
    touched.

    Args:
        config: The run.
        run_dir: Directory to write to; made if need be.
        images: The images, if they are loaded already; else loaded as ``config.data`` says.
        progress: ``bar``, ``lines`` (one per epoch) or ``none``.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        RunError: If the directory cannot be written to, or holds a run with another configuration.
        DivergedError: If the loss becomes NaN or infinite; the last good checkpoint is kept.
        KeyboardInterrupt: On Ctrl-C; the run can be resumed.
    """
    run = Run.create(run_dir)
    _claim(run, config)
    images = load_data(config) if images is None else images
    net = build_model(config, images)
    if run.has("weights"):
        return Fitted(_read_weights(net, run), config, read_metrics(run.need("metrics")), run)
    write_json(run.path / "provenance.json", images.provenance)
    _write_slopes(run, net, "start")
    train(net, config, images, run, progress=progress, device=device)
    _write_slopes(run, net, "end")
    _write_weights(run, net)
    return Fitted(net, config, read_metrics(run.need("metrics")), run)


def finetune(
    net: nn.Module,
    config: Config,
    images: ImageData,
    run_dir: str | Path | None = None,
    *,
    progress: str = "none",
    device: str = "auto",
) -> nn.Module:
    """Train any network on, in place, as ``config`` says; return it in eval mode.

    Args:
        net: For example a compacted network; ``config.model`` is not read.
        config: How to train.
        images: What to train on.
        run_dir: Where to write metrics and checkpoints, and to resume from; nothing is written if None.
        progress: ``bar``, ``lines`` or ``none``.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
    """
    run = None if run_dir is None else Run.create(run_dir)
    torch.manual_seed(config.seed)
    train(net, config, images, run, progress=progress, device=device)
    return net


def train(
    net: nn.Module, config: Config, images: ImageData, run: Run | None, *, progress: str, device: str
) -> None:
    """Run Lightning's trainer over ``net`` in place; leave it on the CPU in eval mode."""
    import lightning

    from .module import Classifier

    batches = ShuffledBatches(images.train, config.batch_size, config.seed)
    steps = len(batches) * config.epochs
    module = Classifier(net, config, images.mean, images.std, steps)
    if config.channels_last:
        net.to(memory_format=torch.channels_last)
    with warnings.catch_warnings():
        _quieten_lightning()
        trainer = lightning.Trainer(
            accelerator=device,
            devices=1,
            max_epochs=config.epochs,
            precision="bf16-mixed" if config.precision == "bf16" else "32-true",
            callbacks=_callbacks(run, batches, progress),
            enable_progress_bar=progress == "bar",
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=False,
            num_sanity_val_steps=0,
            default_root_dir=run.path if run else None,
        )
        _run_trainer(trainer, module, batches, OrderedBatches(images.validation), _resume_from(run))
    net.cpu().eval()


def _run_trainer(
    trainer: Any, module: Any, batches: ShuffledBatches, validation: OrderedBatches, checkpoint: str | None
) -> None:
    """Fit; give Ctrl-C back as ``KeyboardInterrupt`` (Lightning would ignore it and exit instead)."""
    from lightning.pytorch.trainer.states import TrainerStatus

    on_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if on_main_thread else None
    try:
        trainer.fit(module, batches, validation, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:
        if trainer.state.status != TrainerStatus.INTERRUPTED:
            raise
        raise KeyboardInterrupt from None
    finally:
        if on_main_thread:
            signal.signal(signal.SIGINT, handler)


def _callbacks(run: Run | None, batches: ShuffledBatches, progress: str) -> list[Any]:
    from lightning.pytorch.callbacks import Callback, RichProgressBar

    from .callbacks import Checkpoints, MetricsFile, TensorBoardLog

    class EpochOrder(Callback):
        """Tells the batches which epoch it is."""

        def setup(self, trainer: Any, module: Any, stage: str) -> None:
            batches.epoch = trainer.current_epoch

        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            batches.epoch = trainer.current_epoch

    found: list[Any] = [EpochOrder()]
    if progress == "bar":
        found.append(RichProgressBar())
    if run is not None:
        found += [
            MetricsFile(run, _say if progress == "lines" else None),
            TensorBoardLog(run),
            Checkpoints(run),
        ]
    return found


def _say(line: str) -> None:
    print(line, flush=True)


def _quieten_lightning() -> None:
    """Keep messages for programmers of training loops away from users of this one."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")


def _resume_from(run: Run | None) -> str | None:
    """The newest checkpoint that can be read, or None."""
    from .callbacks import LAST, PREVIOUS

    if run is None:
        return None
    for name in (LAST, PREVIOUS):
        path = run.checkpoints / name
        if path.is_file() and _readable(path):
            return str(path)
    return None


def _readable(path: Path) -> bool:
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        return False
    return True


def _claim(run: Run, config: Config) -> None:
    """Write ``config.json``, or check that the run that lies there is this one."""
    path = run.file("config")
    wanted = config.to_dict()
    if not path.is_file():
        write_json(path, wanted)
        return
    found = read_json(path)
    if found != wanted:
        different = _differences(found, wanted)
        raise RunError(
            f"{run.path} holds a run with other settings ({', '.join(different)}); choose another directory, "
            "or repeat the first settings to go on with it"
        )


def _differences(found: Any, wanted: Any, prefix: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(found.keys() | wanted.keys())
        return [
            text
            for key in keys
            for text in _differences(found.get(key), wanted.get(key), f"{prefix}.{key}".lstrip("."))
        ]
    return [] if found == wanted else [f"{prefix} {found!r}, asked for {wanted!r}"]


def _write_slopes(run: Run, net: nn.Module, when: str) -> None:
    """Add the slopes of now to ``slopes.safetensors``; those of the start are kept across a resume."""
    from safetensors.torch import load_file, save_file

    path = run.file("slopes")
    kept = {} if not path.is_file() else load_file(path)
    if when == "start" and any(key.startswith("start/") for key in kept):
        return
    now = {f"{when}/{name}": slope.detach().cpu().clone() for name, slope in slopes(net).items()}
    with replacing(path) as beside:
        save_file(kept | now, beside)


def _write_weights(run: Run, net: nn.Module) -> None:
    from safetensors.torch import save_file

    with replacing(run.file("weights")) as beside:
        save_file({key: value.contiguous() for key, value in net.state_dict().items()}, beside)


def _read_weights(net: nn.Module, run: Run) -> nn.Module:
    """Fill ``net`` from ``weights.safetensors``.

    Raises:
        RunError: If the file does not fit the network.
    """
    from safetensors.torch import load_file

    path = run.need("weights")
    try:
        net.load_state_dict(load_file(path))
    except Exception as error:
        raise RunError(f"{path} does not hold the weights of this run's network: {error}") from error
    return net.eval()
