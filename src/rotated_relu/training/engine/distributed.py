"""The processes that train one network together: started by ``torchrun``, connected by Lightning Fabric.

Fabric brings device, precision, DDP and FSDP; nothing here moves gradients.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...core.compiler import need_compiler
from ...core.devices import DEVICES, device_type
from ...core.errors import UnknownNameError
from ...core.extras import needs, only_the_version
from ...core.run_directory import process_count
from ..config import Config, ConfigError, ScaleConfig
from ..precision import with_precision

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = {"bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}


def launched(scale: ScaleConfig) -> tuple[int, int]:
    """Processes per machine and machines, as ``torchrun`` started them; both 1 without it.

    Raises:
        ConfigError: If the settings ask for other numbers; says how to start them.
    """
    world, local = process_count(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    found = (local, world // local)
    wanted = (scale.devices or found[0], scale.nodes or found[1])
    if wanted != found:
        raise ConfigError(
            f"scale asks for {wanted[0]} devices on {wanted[1]} nodes, but {found[0]} on {found[1]} were started; "
            f"start them with: torchrun --nnodes {wanted[1]} --nproc-per-node {wanted[0]} -m rotated_relu.cli "
            f"{' '.join(sys.argv[1:]) or 'train ...'}"
        )
    return found


def check_device(device: str) -> None:
    """Refuse a device that this machine has not.

    Raises:
        UnknownNameError: If there is no such kind.
        ConfigError: If torch finds none of it.
    """
    if device not in DEVICES:
        raise UnknownNameError("device", device, DEVICES)
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not found.get(device, True):
        raise ConfigError(f"device is {device!r}, but torch finds none on this machine; take 'auto' or 'cpu'")


def check_compiler(device: str) -> None:
    """Refuse to compile for a device where that does not work.

    Raises:
        UnknownNameError, ConfigError: As :func:`check_device`.
        CompilerError: If nothing can be compiled for it here.
    """
    check_device(device)
    need_compiler(device_type(device))


def check_hardware(device: str, compiled: bool) -> None:
    """Refuse what a training cannot run on; errors are those of :func:`check_device` and :func:`check_compiler`."""
    (check_compiler if compiled else check_device)(device)


def start(config: Config, device: str) -> Fabric:
    """Connect the processes; on return each knows its device."""
    check_hardware(device, config.compile)
    devices, nodes = launched(config.scale)
    needs("lightning_fabric")
    quieten_lightning()
    with only_the_version("torchmetrics"):  # all that Fabric wants of it
        from lightning_fabric import Fabric

    fabric = Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=nodes,
        strategy=_strategy(config, devices * nodes),
        **_precision(config, device),
    )
    fabric.launch()
    if devices * nodes > 1:
        # Left to the interpreter's end, gloo's threads may outlive what they use, and the process aborts.
        atexit.register(_leave)
    return fabric


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _precision(config: Config, device: str) -> dict[str, Any]:
    precision = with_precision(config, device).precision
    if precision != "fp16":
        return {"precision": PRECISIONS[precision]}
    from lightning_fabric.plugins.precision import MixedPrecision

    kind = "cuda" if device_type(device) == "cuda" else "cpu"
    # Given as a plugin, since by name Fabric turns fp16 on the CPU into bf16.
    return {"plugins": MixedPrecision("16-mixed", kind, torch.amp.GradScaler(kind))}


def _strategy(config: Config, world: int) -> Any:
    if world == 1:
        return "auto"
    if config.scale.strategy == "ddp":
        return "ddp"
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    # FSDP in PyTorch's present form: parameters divided over all processes, gathered block by block.
    return ModelParallelStrategy(
        lambda net, mesh: _divided(net, mesh["data_parallel"]),
        data_parallel_size=world,
        tensor_parallel_size=1,
    )


def _divided(net: nn.Module, mesh: Any) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for parent in net.modules():
        if isinstance(parent, nn.ModuleList | nn.Sequential):
            for block in parent:
                # Blocks of several layers; a single layer is too little to be gathered on its own.
                if len(list(block.parameters(recurse=True))) > 2:
                    fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net


class Collectives:
    """What all processes of a run must agree on between two steps; with one process it costs nothing."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.rank, self.size = fabric.global_rank, fabric.world_size
        # On the CPU whatever the gradients travel on: it must not wait for the accelerator's queue.
        self._group: Any = torch.distributed.new_group(backend="gloo") if self.size > 1 else None

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def largest(self, *numbers: int) -> list[int]:
        """Each number's largest value in any process; of flags, whether any holds."""
        if self.size == 1:
            return list(numbers)
        found = torch.tensor(numbers, dtype=torch.int32)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX, group=self._group)
        largest: list[int] = found.tolist()
        return largest

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, float64 on the CPU."""
        total = values.detach().double().cpu()
        if self.size > 1:
            torch.distributed.all_reduce(total, group=self._group)
        return total

    def each(self, values: Tensor) -> Tensor:
        """The values of every process, one row each, float64 on the CPU."""
        own = values.detach().double().cpu()
        rows = [torch.empty_like(own) for _ in range(self.size)]
        if self.size > 1:
            torch.distributed.all_gather(rows, own, group=self._group)
            return torch.stack(rows)
        return own.unsqueeze(0)

    def share_buffers(self, net: nn.Module) -> None:
        """Give all processes the first one's batch statistics."""
        if self.size > 1:
            for buffer in net.buffers():
                torch.distributed.broadcast(buffer, src=0)


def quieten_lightning() -> None:
    """Keep messages for programmers of training loops away from users of this one."""
    for logger in ("lightning_fabric", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning_fabric")


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts, where it is divided over the processes."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()
