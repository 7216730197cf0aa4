"""``rotated-relu measure``: what the networks of a run cost, timed side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..run import write_json
from . import console
from .environment import environment
from .networks import Loaded, open_run, reference_key
from .options import RunPath

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor, nn

    from ..latency import Runnable

EXAMPLE = "rotated-relu measure runs/first --against runs/first-relu --batch-size 64"
BATCH_SIZES = (1, 64)
COSTS = ("parameters", "conv_linear_weights", "macs", "file_bytes", "peak_memory_bytes")


def measure(
    run: RunPath,
    against: Annotated[
        str | None, typer.Option(metavar="RUN", help="Another run to compare with.", show_default=False)
    ] = None,
    batch_size: Annotated[
        list[int], typer.Option(min=1, help="Images per timed call; may be given several times.")
    ] = list(BATCH_SIZES),  # noqa: B006 - typer copies it
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds.")] = 30,
    engine: Annotated[
        str, typer.Option(metavar="onnxruntime|torch", help="What runs the networks.")
    ] = "onnxruntime",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: torch's.", show_default=False)] = None,
) -> None:
    """Parameters, MACs, size, memory and latency, before and after; kept in measure.json.

    All networks are timed in turn, so that a busy machine slows all of them alike. The first one is the
    reference: the network of the other run if one is given, else the trained network.
    """
    loaded = open_run(run)
    nets = networks_of(loaded, None if against is None else open_run(against))
    data = measure_networks(
        nets, loaded.example_inputs, batch_size, engine=engine, repeats=repeats, threads=threads
    )
    write_json(loaded.run.file("measure"), data)
    console.show(measurement_table(data))


def networks_of(loaded: Loaded, reference: Loaded | None = None) -> dict[str, nn.Module]:
    """The networks of a run to measure, by the names that reports use; fine-tuning changes no cost."""
    nets = {} if reference is None else {reference_key(reference, loaded): reference.network("trained")}
    nets[loaded.trained_key] = loaded.network("trained")
    if loaded.newest() != "trained":
        nets["compact"] = loaded.network(loaded.newest())
    return nets


def measure_networks(
    nets: Mapping[str, nn.Module],
    example_inputs: Callable[[int], Tensor],
    batch_sizes: Sequence[int] = BATCH_SIZES,
    *,
    engine: str = "onnxruntime",
    repeats: int = 30,
    threads: int | None = None,
) -> dict[str, Any]:
    """Measure networks side by side; the first is what the others are compared with.

    Args:
        nets: Name to network.
        example_inputs: Gives inputs of a batch size.
        batch_sizes: Those to time; the last is the one that verdicts quote.
        engine: ``onnxruntime`` or ``torch``.
        repeats: Timed rounds.
        threads: Of the engine; torch's setting if None.

    Returns:
        Plain data: ``reference`` (name of the first), ``networks`` (name to costs), ``saved`` (name to shares
        of the reference's costs), ``layer_macs`` and ``layer_weights`` (name to layer to count), ``latency``
        (per batch size ``milliseconds`` of each round, ``medians_ms``, ``speedup``), ``engine``,
        ``environment``.
    """
    from ..latency import compare_latency
    from ..measure import count_macs, count_weights, engine_version

    one = example_inputs(1)
    names = list(nets)
    costs = {name: _costs(net, one) for name, net in nets.items()}
    prepared = _prepare(nets, one, engine, threads)
    latency = []
    for size in batch_sizes:
        timed = compare_latency(
            {name: make(example_inputs(size)) for name, make in prepared.items()}, repeats
        )
        speedup = {name: timed.speedup(name, over=names[0]) for name in names[1:]}
        latency.append({"batch_size": size, **timed.to_dict(), "speedup": speedup})
    return {
        "reference": names[0],
        "networks": costs,
        "saved": {name: _saved(costs[name], costs[names[0]]) for name in names[1:]},
        "layer_macs": {name: count_macs(net, one) for name, net in nets.items()},
        "layer_weights": {name: count_weights(net) for name, net in nets.items()},
        "latency": latency,
        "engine": f"{engine} {engine_version(engine)}",
        "environment": environment() | ({} if threads is None else {"threads": threads}),
    }


def _costs(net: nn.Module, one: Tensor) -> dict[str, int]:
    from ..measure import count_macs, count_parameters, count_weights, file_bytes, peak_memory

    return {
        "parameters": count_parameters(net),
        "conv_linear_weights": sum(count_weights(net).values()),
        "macs": sum(count_macs(net, one).values()),
        "file_bytes": file_bytes(net),
        "peak_memory_bytes": peak_memory(net, one)[0],
    }


def _saved(costs: dict[str, int], reference: dict[str, int]) -> dict[str, float]:
    return {key: 1 - costs[key] / reference[key] if reference[key] else 0.0 for key in COSTS}


def _prepare(
    nets: Mapping[str, nn.Module], one: Tensor, engine: str, threads: int | None
) -> dict[str, Callable[[Tensor], Runnable]]:
    """Per network a function from inputs to a callable that runs it on them; each is exported once."""
    from ..errors import UnknownNameError
    from ..export import to_onnx
    from ..measure import ENGINES, runner
    from ..onnx_session import session_runner

    if engine not in ENGINES:
        raise UnknownNameError("engine", engine, ENGINES)
    if engine == "torch":
        return {name: partial(runner, net, engine="torch", threads=threads) for name, net in nets.items()}
    contents = {name: to_onnx(net, one)[0] for name, net in nets.items()}
    return {name: partial(session_runner, content, threads=threads) for name, content in contents.items()}


def measurement_table(data: Mapping[str, Any]) -> Table:
    """Table of :func:`measure_networks`: one column per network."""
    names = list(data["networks"])
    nets = [data["networks"][name] for name in names]
    rows = [
        ("parameters", *(console.count(net["parameters"]) for net in nets)),
        ("MACs per image", *(console.count(net["macs"]) for net in nets)),
        ("file", *(console.kibibytes(net["file_bytes"]) for net in nets)),
        ("peak memory, one image", *(console.kibibytes(net["peak_memory_bytes"]) for net in nets)),
        ("parameters saved", "", *(console.share(data["saved"][name]["parameters"]) for name in names[1:])),
        ("MACs saved", "", *(console.share(data["saved"][name]["macs"]) for name in names[1:])),
    ]
    for timed in data["latency"]:
        size = timed["batch_size"]
        rows.append(
            (f"latency, batch {size}", *(console.milliseconds(timed["medians_ms"][n]) for n in names))
        )
        rows.append((f"speed-up, batch {size}", "", *(f"{timed['speedup'][n]:.2f} x" for n in names[1:])))
    where = data["environment"]
    title = f"{data['engine']}, {where['processor']}, {where['threads']} threads"
    return console.table(title, ("", *names), rows)
