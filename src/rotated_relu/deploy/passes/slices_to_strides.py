"""Turn a 1x1 convolution of every n-th pixel into a convolution with stride n.

    conv(x[::n], W) = conv(x, W) with stride n, for kernels of size 1 without padding

Shortcuts of option A (ResNet on CIFAR) are such slices; engines copy the tensor for them.
"""

from __future__ import annotations

import onnx_ir as ir

from .patterns import Node, attribute, constant, pads_space


class SlicesToStrides(ir.passes.InPlacePass):
    """Fold slices into the strides of 1x1 convolutions.

    Requires: weights are initializers.
    Ensures: the same function, bit by bit. Slices that nobody reads any more are left for ``RemoveUnusedNodesPass``.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold the slices in front of every 1x1 convolution."""
        changed = [_fold(node) for node in model.graph if _is_pointwise(node)]
        return ir.passes.PassResult(model, modified=any(changed))


def _is_pointwise(node: Node) -> bool:
    if node.op_type != "Conv" or node.inputs[1].shape is None or pads_space(node):
        return False
    return all(size == 1 for size in node.inputs[1].shape[2:])


def _fold(node: Node) -> bool:
    spatial = len(node.inputs[1].shape) - 2
    strides = attribute(node, "strides", [1] * spatial)
    changed = False
    while (steps := _steps(node.inputs[0].producer(), spatial)) is not None:
        strides = [own * step for own, step in zip(strides, steps, strict=True)]
        node.replace_input_with(0, node.inputs[0].producer().inputs[0])
        changed = True
    if changed:
        node.attributes.add(ir.AttrInt64s("strides", strides))
    return changed


def _steps(node: Node, spatial: int) -> list[int] | None:
    """Step along each spatial axis of a ``Slice`` that takes every n-th pixel from the first to the last."""
    if node is None or node.op_type != "Slice" or len(node.inputs) < 5:
        return None
    starts, ends, axes, steps = (constant(value) for value in node.inputs[1:5])
    if starts is None or ends is None or axes is None or steps is None:
        return None
    to_the_end = (ends >= 2**31 - 1).all()
    if starts.any() or not to_the_end or (axes < 2).any() or (steps < 1).any():
        return None
    found = [1] * spatial
    for axis, step in zip(axes.tolist(), steps.tolist(), strict=True):
        found[axis - 2] = step
    return found
