"""Train the compacted network of a run on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...core import messages
from ...core.messages import Say
from ...core.run_directory import Run, is_first_process, read_json, replacing, write_json
from ..run_networks import RunNetworks
from .evaluate import keep_accuracy
from .retire import retire
from .train import NO_PENALTY, override

if TYPE_CHECKING:
    from torch import nn

    from ...training import Config

LR_SHARE = 0.1  # of the training's largest learning rate


@dataclass(frozen=True)
class Finetuned:
    """What :func:`finetune_run` did.

    Attributes:
        model: The network, on the CPU, in eval mode.
        before: Validation accuracy of the compacted network, in percent; None in all processes but the first.
        after: That of the fine-tuned one.
    """

    model: nn.Module
    before: float | None = None
    after: float | None = None


def finetune_run(
    loaded: RunNetworks,
    *,
    epochs: int,
    lr: float | None = None,
    device: str = "auto",
    progress: str = "none",
    say: Say = messages.say,
) -> Finetuned:
    """Fine-tune the compacted network of a run and save it beside the compacted one.

    Settings and metrics of the epochs are kept beside it, in ``finetune.json`` and ``finetune_metrics.csv``; the
    validation accuracies before and after in ``evaluation.json``.

    Args:
        loaded: The run.
        epochs: Passes over the training images.
        lr: Largest learning rate; see :func:`finetune_config` for that without it.
        device: What to train on.
        progress: ``bar``, ``lines`` or ``none``.
        say: Called with the files that are deleted.

    Raises:
        RunError: If the run is in use, cannot be written to, or has not been pruned.
        DivergedError: If the loss becomes NaN or infinite.
    """
    with loaded.run.claimed():
        net = _finetune(loaded, finetune_config(loaded.config, epochs, lr), device, progress, say)
    if not is_first_process():
        return Finetuned(net)
    nets = {"compact": loaded.network("compact"), "finetuned": net}
    return Finetuned(net, *(keep_accuracy(loaded, key, one, "validation") for key, one in nets.items()))


def _finetune(loaded: RunNetworks, config: Config, device: str, progress: str, say: Say) -> nn.Module:
    from ...pruning.removal import load_compacted, save
    from ...training import build_model
    from ...training import finetune as train_on

    run = loaded.run
    result = load_compacted(run.need("compact"), build_model(loaded.config, loaded.image_format))
    scratch = _scratch(run, config)
    net = train_on(result.model, config, loaded.images, scratch.path, progress=progress, device=device)
    if not is_first_process():
        return net
    save(replace(result, model=net), run.file("finetuned"), metadata=loaded.metadata)
    with replacing(run.file("finetune_metrics")) as beside:
        shutil.copyfile(scratch.file("metrics"), beside)
    # Last: who finds settings finds what was made with them.
    write_json(run.file("finetune_config"), config.to_dict())
    retire(run, "finetuned", say)
    run.discard_folder(scratch.path.name)
    return net


def finetune_config(config: Config, epochs: int, lr: float | None = None) -> Config:
    """How to train the compacted network of a run.

    Args:
        config: Settings of the training before. Without a penalty on the slopes they are those of a first training
            where only slopes trained before: the weights are still random. Else a cosine from a smaller learning rate.
        epochs: Passes over the training images.
        lr: Largest learning rate, in place of the one that follows from ``config``.
    """
    fresh = config.trains == "slopes"
    changes: dict[str, Any] = (
        {"trains": "weights"} if fresh else {"schedule.name": "cosine", "schedule.warmup": 0.0}
    )
    share = 1.0 if fresh else LR_SHARE
    changes["optimizer.lr"] = share * config.optimizer.lr if lr is None else lr
    # Where the training logged to is not asked for again, and the run may be somebody else's.
    return override(config, {**changes, "epochs": epochs, "log.wandb": None, **NO_PENALTY})


def _scratch(run: Run, config: Config) -> Run:
    """Where the epochs are kept until all are done; emptied if it holds those of other settings."""
    path = run.path / "finetune"
    if not is_first_process():
        return Run(path)
    settings = Run(path).file("config")
    known = type(config).from_dict(read_json(settings)).identity() if settings.is_file() else None
    if known != config.identity():
        run.discard_folder(path.name)
    scratch = Run.create(path)
    write_json(settings, config.to_dict())
    return scratch
