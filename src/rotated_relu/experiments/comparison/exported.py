"""onnxsim's structured pruning of the exported graph, carried over to the network, so that it can train on.

onnxsim takes whole output channels of convolutions and linear layers, those with the smallest L2 norm of weights, the
same share of every layer that it can cut. Its graph has batch norms folded in; what it took is read off and set to zero
in the network, from which this package then removes it: the same channels, in a network that trains.
Source: onnxsim's ``apply_structured_pruning``, documented in its own docstring.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.errors import RotationError
from ...core.extras import needs
from ...deploy.conversion import raw_onnx
from .prune import largest_within, macs, removed


class ExportedGraph:
    """Asks onnxsim which channels go.

    Args:
        net: A network with slopes of 1 that stand in for plain activations.
        example_inputs: For one forward pass.

    Raises:
        MissingPackageError: If onnxsim is not installed.
        RotationError: If convolutions of the graph and of the network cannot be matched.
    """

    def __init__(self, net: nn.Module, example_inputs: Tensor) -> None:
        needs("onnx", "onnxsim")
        self._net, self._inputs = net, example_inputs
        self._macs = macs(net, example_inputs)
        self._layers = convolutions(net, example_inputs)
        self._graph = _tagged(raw_onnx(net, example_inputs).content, [width for _, width in self._layers])

    def at(self, level: float) -> nn.Module | None:
        """See :class:`~.prune.Pruner`."""
        return largest_within(self._pruned, (1 - level) * self._macs, self._inputs)

    def _pruned(self, sparsity: float) -> nn.Module | None:
        import onnxsim

        small = onnxsim.apply_structured_pruning(copy.deepcopy(self._graph), sparsity)
        masks: dict[str, Tensor] = {}
        for (norm, width), tags in zip(self._layers, _tags(small), strict=True):
            gone = torch.ones(width, dtype=torch.bool)
            gone[torch.from_numpy(tags.round().astype(np.int64))] = False
            if bool(gone.any()):
                masks |= {f"{norm}.weight": gone, f"{norm}.bias": gone}
        return removed(self._net, masks, self._inputs)


def convolutions(net: nn.Module, example_inputs: Tensor) -> list[tuple[str, int]]:
    """Convolutions in the order in which they run: the batch norm after each, and its width.

    Raises:
        RotationError: If one is not followed by a batch norm of its width: zeros would not go through.
    """
    ran: list[tuple[str, nn.Module]] = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: ran.append((name, module)))
        for name, module in net.named_modules()
        if isinstance(module, (nn.Conv2d, nn.modules.batchnorm._BatchNorm))
    ]
    try:
        with torch.no_grad():
            net(example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for (name, module), (norm, after) in zip(ran, [*ran[1:], ("", nn.Identity())], strict=True):
        if isinstance(module, nn.Conv2d):
            width = module.out_channels
            if getattr(after, "num_features", None) != width:
                raise RotationError(
                    f"{name} is not followed by a batch norm: onnxsim's choice cannot be carried over"
                )
            found.append((norm, width))
    return found


def _tagged(content: bytes, widths: list[int]) -> Any:
    """The graph, with the number of each output channel in place of its bias; only norms of weights choose.

    Raises:
        RotationError: If its convolutions are not those of the network.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(content)
    names = _biases(model)
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    found = [int(known[name].dims[0]) if name in known else 0 for name in names]
    if found != widths:
        raise RotationError(
            f"the exported graph has convolutions of {found} channels with a batch norm folded in, the network of "
            f"{widths}: onnxsim's choice cannot be carried over"
        )
    for name, width in zip(names, widths, strict=True):
        known[name].CopyFrom(numpy_helper.from_array(np.arange(width, dtype=np.float32), name))
    return model


def _tags(model: Any) -> list[Any]:
    """What is left of the numbers, convolution by convolution."""
    from onnx import numpy_helper

    known = {tensor.name: tensor for tensor in model.graph.initializer}
    return [numpy_helper.to_array(known[name]) for name in _biases(model)]


def _biases(model: Any) -> list[str]:
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    return [node.input[2] if len(node.input) > 2 else "" for node in convolutions]
