"""FastNAS of NVIDIA's Model Optimizer: widths found by a search under a limit on the floating point operations.

Used as its notebook for ResNet-20 does: the training images set the batch norms of each candidate, and candidates are
scored by their accuracy on validation images; a subset, as its documentation advises. Widths are multiples of 8, not of
16 as in the notebook, where at most 40 % of ResNet-20 could go.
Source: nvidia-modelopt's guide on pruning and ``examples/pruning/cifar_resnet.ipynb``.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.extras import needs
from ...training.trained import write_tensors

CALIBRATION_BATCHES = 50  # as in the notebook


class FastNas:
    """Searches anew for each level; what it found is kept, for a search takes minutes.

    Args:
        net: A network without slopes.
        example_inputs: For one forward pass.
        divisor: Widths are multiples of it.
        batches: Of normalised training images, for the statistics of batch norms; read once per candidate.
        score: Accuracy of a network; the larger the better.
        path: Folder of what was found.

    Raises:
        MissingPackageError: If Model Optimizer is not installed.
    """

    def __init__(
        self,
        net: nn.Module,
        example_inputs: Tensor,
        divisor: int,
        batches: Callable[[], Iterable[Tensor]],
        score: Callable[[nn.Module], float],
        path: Path,
    ) -> None:
        needs("modelopt", "torchprofile")
        self._net, self._inputs, self._divisor = net, example_inputs, divisor
        self._batches, self._score, self._path = batches, score, path

    def at(self, level: float) -> nn.Module | None:
        """See :class:`~.prune.Pruner`."""
        from safetensors.torch import load_file

        kept = self._path / f"{level:g}.safetensors"
        if not kept.is_file():
            found = self._searched(level)
            self._path.mkdir(parents=True, exist_ok=True)
            write_tensors(kept, {name: value.contiguous() for name, value in found.state_dict().items()})
        return of_widths(self._net, load_file(kept))

    def _searched(self, level: float) -> nn.Module:
        import modelopt.torch.prune as mtp

        space = mtp.fastnas.FastNASConfig()
        for layer, name in (("nn.Conv2d", "channel_divisor"), ("nn.BatchNorm2d", "feature_divisor")):
            space[layer]["*"][name] = self._divisor
        with contextlib.ExitStack() as quiet:
            quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
            quiet.enter_context(contextlib.redirect_stderr(io.StringIO()))
            quiet.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            found, _ = mtp.prune(
                model=copy.deepcopy(self._net),
                mode=[("fastnas", space)],
                constraints={"flops": f"{100 * (1 - level):g}%"},
                dummy_input=self._inputs,
                config={
                    "data_loader": list(self._batches()),
                    "collect_func": _itself,
                    "score_func": self._score,
                    "max_iter_data_loader": CALIBRATION_BATCHES,
                },
            )
        return found.eval()  # type: ignore[no-any-return]


def _itself(batch: Tensor) -> Tensor:
    return batch


def of_widths(net: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """A copy of a network whose convolutions, batch norms and linear layers are as wide as the tensors say.

    Args:
        net: Of the same layers.
        state: Its tensors by name.
    """
    net = copy.deepcopy(net)
    for path, module in net.named_modules():
        weight = state.get(f"{path}.weight")
        if weight is None or not isinstance(module, (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)):
            continue
        _set_widths(module, weight)
        for name in ("weight", "bias"):
            if getattr(module, name) is not None:
                setattr(module, name, nn.Parameter(torch.empty_like(state[f"{path}.{name}"])))
        for name in ("running_mean", "running_var"):
            if getattr(module, name, None) is not None:
                setattr(module, name, torch.empty_like(state[f"{path}.{name}"]))
    net.load_state_dict(state)
    return net.eval()


def _set_widths(module: Any, weight: Tensor) -> None:
    if isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = len(weight), weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    else:
        module.num_features = len(weight)
