"""Parameters, multiply-accumulates, file size and peak memory of a network."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..core.modules import Call, Inputs, as_inputs, check_runs
from ..core.state import trial

PEAK_METHOD = {
    "cpu": "parameters and buffers plus the largest sum of live tensors during one eager forward pass",
    "cuda": "torch.cuda.max_memory_allocated over one eager forward pass",
}


def count_parameters(net: nn.Module) -> int:
    """Number of parameters, each shared one once."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_weights(net: nn.Module) -> dict[str, int]:
    """Weights of each convolution and linear layer, biases left out: {module name: count}."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return {name: module.weight.numel() for name, module in net.named_modules() if isinstance(module, kinds)}


def count_macs(net: nn.Module, example_inputs: Inputs) -> dict[str, int]:
    """Multiply-accumulates for one example, per module: {module name: count}, in order of execution.

    Counts convolutions, matrix products and attention by torch's own flop counter, wherever they are called
    from: a functional call counts for the module whose ``forward`` makes it ('' is the root). Elementwise
    work is not counted.
    """
    inputs = as_inputs(example_inputs)
    with trial(net), _plain_kernels(), _without_gradients(net):
        check_runs(net, inputs)
        counter = FlopCounterMode(display=False)
        with counter:
            inputs.run(net)
    root = type(net).__name__
    totals: dict[str, int] = {}
    for path, operations in counter.get_flop_counts().items():
        if path != "Global":
            totals[path.removeprefix(root).removeprefix(".")] = sum(operations.values())
    own = {name: total - _children(name, totals) for name, total in totals.items()}
    batch = max(inputs.batch_size, 1)
    return {name: flops // (2 * batch) for name, flops in own.items() if flops}


@contextlib.contextmanager
def _without_gradients(net: nn.Module) -> Iterator[None]:
    """The counter stumbles over views of parameters that ask for gradients, such as an expanded class token."""
    wanting = [parameter for parameter in net.parameters() if parameter.requires_grad]
    try:
        for parameter in wanting:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Run attention and recurrent layers as matrix products: the counter does not know every fused kernel."""
    fast, mkldnn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)  # torch.backends.mkldnn.flags sets others besides, with a warning
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(mkldnn)


def _children(name: str, totals: dict[str, int]) -> int:
    """Flops of the nearest counted descendants, whose sum is already in the total of ``name``."""
    prefix = f"{name}." if name else ""
    below = [other for other in totals if other != name and other.startswith(prefix)]
    return sum(totals[other] for other in below if not any(_is_under(other, between) for between in below))


def _is_under(name: str, ancestor: str) -> bool:
    return name.startswith(f"{ancestor}.") if ancestor else False


def file_bytes(net: nn.Module) -> int:
    """Size of the state dict as one safetensors file, in bytes; tied tensors are stored once."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, value in net.state_dict().items():
        if not isinstance(value, Tensor):
            continue
        identity = (value.data_ptr(), value.shape)
        if value.numel() and identity in seen:
            continue
        seen.add(identity)
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return len(save(tensors))


def peak_memory(net: nn.Module, example_inputs: Inputs) -> tuple[int, str]:
    """Peak bytes of one forward pass, weights and inputs included, and the method in words.

    On the CPU the peak is the largest sum of tensors alive at once, so it is exact and the same on every
    machine, but leaves out scratch space inside an operation.
    """
    inputs = as_inputs(example_inputs)
    own = inputs.copied()
    with trial(net):
        check_runs(net, inputs)
        if own.device.type == "cuda":
            return _peak_on_gpu(net, own), PEAK_METHOD["cuda"]
        ledger = _Ledger([*net.parameters(), *net.buffers(), *own.tensors])
        with ledger:
            net(*own.args, **own.kwargs)
    return ledger.peak, PEAK_METHOD["cpu"]


def _peak_on_gpu(net: nn.Module, own: Call) -> int:
    """Without what is there beside network and inputs, such as the copy of its state."""
    before = torch.cuda.memory_allocated(own.device)
    torch.cuda.reset_peak_memory_stats(own.device)
    net(*own.args, **own.kwargs)
    grown = torch.cuda.max_memory_allocated(own.device) - before
    known = {id(value): value.nbytes for value in [*net.parameters(), *net.buffers(), *own.tensors]}
    return grown + sum(known.values())


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages of live tensors; a finaliser takes each off when it is freed."""

    def __init__(self, known: Iterable[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._storages: set[int] = set()
        self._note(known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._note(tree_leaves(result))
        return result

    def _note(self, values: Iterable[Any]) -> None:
        for value in values:
            if not isinstance(value, Tensor):
                continue
            storage = value.untyped_storage()
            address, size = storage._cdata, storage.nbytes()
            if address not in self._storages:
                self._storages.add(address)
                self.live += size
                weakref.finalize(storage, self._forget, address, size)
        self.peak = max(self.peak, self.live)

    def _forget(self, address: int, size: int) -> None:
        self._storages.discard(address)
        self.live -= size
