"""The call sites of gates in a network: where each is called, how wide it is, along which dimension.

A *call site* is one place in a module's forward that is executed: a gate called twice by it has two, so has one in a
loop of two rounds. A module that is itself called twice has its sites once, as it has its weights once.

Requires: recordings of the same network, in eval mode and, where it runs, in train mode. Ensures: each site once,
in execution order, those that only one mode has included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..core.errors import RotationError
from .channel_dims import read_as
from .gates import Gate
from .recording import SCRIPT, Call, Position, Run

Key = tuple[str, Position | str, int]


@dataclass(eq=False)
class Site:
    """One call site of a gate.

    Attributes:
        owner: Qualified name of the module whose ``forward`` makes the call.
        module: Qualified name of the gate module; '' if the gate is no module.
        function: Name of the torch function whose result is the gate's.
        channels: Number of channels; 0 if their dimension is not known.
        channel_dim: Dimension that holds them.
        rank: Number of dimensions of what the gate returns.
        dtype: Of what it returns.
        device: Of what it returns.
        gates: Its executions.
        widths: Their numbers of channels.
        name: What the module with its slopes is called.
        place: The name through which its owner calls the gate module, where the owner is an ``nn.Sequential``.
        scope: The owner's method that counts the call; '' for its ``forward``. See :mod:`.checkpoints`.
    """

    owner: str
    module: str
    function: str
    channels: int
    channel_dim: int
    rank: int
    dtype: torch.dtype
    device: torch.device
    gates: list[Gate] = field(default_factory=list)
    widths: set[int] = field(default_factory=set)
    name: str = ""
    place: str = ""
    scope: str = ""

    def __str__(self) -> str:
        where = (
            f"module {self.module}"
            if self.module
            else f"{self.function} in {self.owner or 'the root module'}"
        )
        width = f"{self.channels} channels" if self.channels else f"{self.rank} dimensions"
        return f"{where} ({width}{', ' + self.name if self.name and self.name != self.module else ''})"

    @property
    def call(self) -> Call:
        """The last step of its first execution."""
        return self.gates[0].call


def owner_run(gate: Gate) -> Run:
    """The run whose code called a gate."""
    if gate.run is not None and gate.run.parent is not None:
        return gate.run.parent
    return gate.call.run


def level(gate: Gate) -> int:
    """Whether the positions of a gate's call in the code of its owner are the first or the second."""
    return 0 if owner_run(gate) is gate.call.run else 1


def merge_sites(recordings: Iterable[Sequence[Gate]]) -> list[Site]:
    """The sites behind the gates of several recordings."""
    recordings = [list(gates) for gates in recordings]
    recomputed = {
        (owner_run(gate).name, gate.call.positions[level(gate)][:1])
        for gates in recordings
        for gate in gates
        if gate.call.inside[level(gate)] is not None
    }
    sites: dict[Key, Site] = {}
    for gates in recordings:
        rounds: Counter[tuple[Any, ...]] = Counter()
        times = Counter((owner_run(gate), gate.run.module) for gate in gates if gate.run is not None)
        for gate in gates:
            run = owner_run(gate)
            position: Position | str = gate.call.positions[level(gate)]
            if gate.run is not None and gate.run.place:
                position = gate.run.place
            elif gate.run is not None and times[run, gate.run.module] == 1:
                position = gate.run.name  # whatever is around the call, it is the only one of this module
            elif (run.name, position[:1]) in recomputed:
                position = position[:1]  # in one mode the way to the call leads through a checkpoint
            round_ = rounds[run, position]
            rounds[run, position] += 1
            site = _site(gate, run)
            known = sites.setdefault((run.name, position, round_), site)
            known.widths.add(site.channels)
            known.gates.append(gate)
    return list(sites.values())


def check_widths(sites: Iterable[Site]) -> None:
    """Raise unless each site has one width.

    Raises:
        RotationError: Naming the sites that have several from call to call.
    """
    several = [site for site in sites if len(site.widths) > 1]
    if several:
        listed = "; ".join(
            f"{site} is called with {', '.join(map(str, sorted(site.widths - {site.channels})))} channels too"
            for site in several
        )
        raise RotationError(
            f"{listed}: one set of slopes cannot serve both; leave them plain with "
            f"exclude={[site.name for site in several]!r}, or give each call its own activation module"
        )


def _site(gate: Gate, run: Run) -> Site:
    output = gate.output
    dim = _channel_dim(gate)
    return Site(
        owner=run.name,
        module=gate.run.name if gate.run is not None else "",
        function=gate.call.func.name if gate.call.name == SCRIPT else gate.call.name,
        channels=0 if dim is None else output.shape[dim],
        channel_dim=dim or 0,
        rank=len(output.shape),
        dtype=output.dtype,
        device=output.device,
        place=gate.run.place if gate.run is not None else "",
    )


def _channel_dim(gate: Gate) -> int | None:
    """Where the layer before wrote the channels, else where those behind read them; None if neither is known."""
    output = gate.output
    rank = len(output.shape)
    for dim in (output.dim, gate.source.dim):
        if dim is not None and -rank <= dim < rank and (rank == 1 or dim % rank != 0 or _unbatched(gate)):
            return dim
    if rank <= 2:
        return rank - 1 if rank else None
    found = read_as(output)
    return found[0] if len(found) == 1 else None


def _unbatched(gate: Gate) -> bool:
    return gate.source.dim == 0


def set_channel_dims(sites: Iterable[Site], channel_dim: int | Mapping[str, int] | None) -> None:
    """Apply what the user says of channel dimensions: a number for all that are not known, or one by site name."""
    for site in sites:
        given = channel_dim if not site.channels else None
        if isinstance(channel_dim, Mapping):
            given = next(
                (channel_dim[key] for key in (site.name, site.module, site.owner) if key in channel_dim), None
            )
        if given is None:
            continue
        assert isinstance(given, int)
        if not -site.rank <= given < site.rank:
            raise RotationError(f"channel_dim={given} does not fit {site}: it has {site.rank} dimensions")
        site.channel_dim, site.channels = given, site.gates[0].output.shape[given]
