"""Layers that read a subset of a wider tensor and write into a wider one, computing small in between.

``narrow(module, ...)`` changes the class of a module to a subclass of its own class that gathers before and scatters
after the original forward. Parameters, their names and ``isinstance`` stay. The index buffers are not persistent: they
belong to the plan, not to the state dict.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .gather import gather_channels


class Adapters:
    """Mixin: gather, forward, scatter. Attributes ``read_index`` and ``write_index`` are None where not needed."""

    read_index: Tensor | None
    write_index: Tensor | None
    _adapter_dim: int
    _read_zero: bool = False
    _reads_nothing: bool = False
    _write_zero: bool
    _void_width: int
    training: bool

    def forward(self, x: Tensor, *rest: Any, **options: Any) -> Any:
        """Run the original forward on the channels that it needs; a recurrent layer has initial states besides."""
        # Nothing to compute: the result is known without its input's values.
        if self._void_width:
            return void_output(self, x, self._void_width)
        if self._reads_nothing and not self.training and not torch.compiler.is_exporting():
            # What is captured stays a selection, which liveness and the passes over exported graphs know.
            return _same_everywhere(super().forward, x, self.read_index.shape[0])  # type: ignore[misc, union-attr]
        if self.read_index is not None:
            x = gather_channels(x, self.read_index, self._adapter_dim, "first" if self._read_zero else "none")
        # The user's own forward, on narrow tensors and narrow weights.
        y = super().forward(x, *rest, **options)  # type: ignore[misc]
        return (
            y if self.write_index is None else place(y, self.write_index, self._adapter_dim, self._write_zero)
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by base class: the subclass is made at run time."""
        return _restore, (type(self).__mro__[2], self.__dict__)


def _restore(base: type[nn.Module], state: dict[str, Any]) -> nn.Module:
    module = base.__new__(narrow_class(base))
    module.__dict__.update(state)
    return module


_NARROW: dict[type[nn.Module], type[nn.Module]] = {}


def narrow_class(base: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a layer class that gathers and scatters; one per class."""
    if base not in _NARROW:
        _NARROW[base] = type(f"Narrow{base.__name__}", (Adapters, base), {"__module__": base.__module__})
    return _NARROW[base]


def narrow(
    module: nn.Module,
    dim: int,
    read: Sequence[int] | None,
    write: Sequence[int] | None,
    *,
    width: int,
    void_width: int = 0,
) -> None:
    """Give a module adapters in place.

    Args:
        module: A convolution, linear or batch norm whose parameters have been cut already.
        dim: Dimension of the channels in its input and output.
        read: Positions of its input channels in the tensor that it gets, -1 for zeros, or None for all in order.
        write: For each channel of the tensor that it has to produce, the position in its own output or -1 for zero.
        width: Number of channels of its own output.
        void_width: If positive, the layer computes nothing: it returns zeros (plus its bias) of this width.
    """
    # Index buffers live where the parameters do.
    reference = next(itertools.chain(module.parameters(), module.buffers()))
    module.__class__ = narrow_class(type(module))
    module._read_zero = read is not None and min(read) < 0  # type: ignore[assignment]
    module._reads_nothing = read is not None and max(read) < 0 and _is_torchs_norm(module)  # type: ignore[assignment]
    if read is not None and module._read_zero:
        read = [
            position + 1 for position in read
        ]  # zeros come first: the width of the input is not known here
    for name, index in (("read_index", read), ("write_index", write)):
        value = None if index is None else torch.tensor(_zero_last(index, width), device=reference.device)
        module.register_buffer(name, value, persistent=False)
    module._adapter_dim, module._void_width = dim, void_width  # type: ignore[assignment]
    module._write_zero = write is not None and any(position < 0 for position in write)  # type: ignore[assignment]


def _zero_last(index: Sequence[int], width: int) -> list[int]:
    """-1 points behind the last channel, where :func:`place` puts one channel of zeros."""
    return [width if position < 0 else position for position in index]


def place(y: Tensor, index: Tensor, dim: int, with_zero: bool) -> Tensor:
    """Rearrange channels into a wider tensor; positions that nobody writes are zero."""
    return gather_channels(y, index, dim, "last" if with_zero else "none")


def _is_torchs_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm and nothing else: a forward of its own may look at neighbouring pixels."""
    own: Any = next(kind for kind in type(module).__mro__ if not issubclass(kind, Adapters))
    return issubclass(own, _BatchNorm) and own.forward is _BatchNorm.forward


def _same_everywhere(norm: Callable[[Tensor], Tensor], x: Tensor, width: int) -> Tensor:
    """What a batch norm in eval mode makes of zeros: computed for one pixel, and written to all of them.

    Written, and not expanded: whoever gets it may add to it in place.
    """
    one = norm(x.new_zeros(1, width, *[1] * (x.dim() - 2)))
    return one.expand(x.shape[0], width, *x.shape[2:]).contiguous()  # a trace keeps ``len(x)`` as a number


def void_output(module: Any, x: Tensor, width: int) -> Tensor:
    """What a layer without live inputs or outputs returns: zeros of the right shape, plus its bias if it has one."""
    last = module._adapter_dim == -1
    shape = (*x.shape[:-1], width) if last else (x.shape[0], width, *_spatial(module, x.shape[2:]))
    y = x.new_zeros(shape)
    if module.training and torch.is_grad_enabled():
        y = y + _thread(module, x)
    bias = getattr(module, "bias", None)
    if bias is None or bias.numel() != width:
        return y
    view = [-1] if last else [1, -1] + [1] * (x.dim() - 2)
    shifted: Tensor = y + bias.to(y.dtype).view(view)
    return shifted


def _thread(module: nn.Module, x: Tensor) -> Tensor:
    """Zero, read from nothing: keeps the input and the parameters in autograd's graph, where DDP looks for them all."""
    empty = [value.reshape(-1)[:0].sum().to(x.dtype) for value in (x, *module.parameters(recurse=False))]
    return torch.stack(empty).sum()


def _spatial(module: Any, sizes: Sequence[int]) -> list[int]:
    """Output size of a convolution, by its own arithmetic (also under symbolic shapes)."""
    if module.transposed:
        return [
            (size - 1) * stride - 2 * pad + dilation * (kernel - 1) + extra + 1
            for size, stride, pad, dilation, kernel, extra in zip(
                sizes, module.stride, module.padding, module.dilation, module.kernel_size, module.output_padding,
                strict=True,
            )
        ]  # fmt: skip
    if isinstance(module.padding, str):
        pads = [sum(pair) for pair in zip(*[iter(module._reversed_padding_repeated_twice)] * 2, strict=True)][
            ::-1
        ]
    else:
        pads = [2 * p for p in module.padding]
    return [
        (size + pad - dilation * (kernel - 1) - 1) // stride + 1
        for size, pad, dilation, kernel, stride in zip(
            sizes, pads, module.dilation, module.kernel_size, module.stride, strict=True
        )
    ]


class FullWidth(nn.Module):
    """A parameter-free module that keeps its full width: widen before, narrow after.

    Used around modules with widths written into their code (for example a shortcut that pads channels), so that the
    rest of a stage can be narrow. Has no parameters, hence no state-dict keys.

    Args:
        module: The module as the user wrote it.
        dim: Dimension of the channels.
        widen: For each channel of the module's input, its position in the narrow input or -1 for zero; None if the
            input is not narrow.
        narrow: Positions of the output channels to keep; None for all.
        width: Number of channels of the narrow input.
    """

    widen_index: Tensor | None
    narrow_index: Tensor | None

    def __init__(
        self,
        module: nn.Module,
        dim: int,
        widen: Sequence[int] | None,
        narrow: Sequence[int] | None,
        width: int,
    ) -> None:
        super().__init__()
        self.module = module
        self.dim = dim
        self._zero = widen is not None and any(position < 0 for position in widen)
        for name, index in (("widen_index", widen), ("narrow_index", narrow)):
            value = None if index is None else torch.tensor(_zero_last(index, width))
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Run the wrapped module at its own width."""
        if self.widen_index is not None:
            x = place(x, self.widen_index, self.dim, self._zero)
        y: Tensor = self.module(x)
        return y if self.narrow_index is None else gather_channels(y, self.narrow_index, self.dim)
