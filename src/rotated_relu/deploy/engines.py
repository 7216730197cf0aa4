"""The engines that run networks, behind one interface: a table that users can extend.

An engine of kind ``graph`` runs exported ONNX models, one of kind ``module`` the network itself. To add one::

    register_engine(
        Engine(
            "tensorrt",
            kind="graph",
            packages=("tensorrt",),
            version=lambda: tensorrt.__version__,
            start=lambda content, inputs, threads: open_plan(content).runnable(inputs),
        )
    )

``measure``, ``compact(round_to="auto")``, ``fastest_layout`` and the command line then know it by its name.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..core.arguments import checked, checked_fields, need_callable
from ..core.compiler import need_compiler
from ..core.errors import ArgumentError, UnknownNameError
from ..core.extras import EXTRAS, needs
from ..core.modules import Call, Inputs, as_inputs, unwrap
from ..core.state import copy_of
from .conversion import to_onnx
from .sessions import OnnxRuntimeSession, OpenVinoSession
from .timing import Runnable

Kind = Literal["graph", "module"]
MANY = 2**16  # compiled networks of one class
Profile = Callable[[bytes, Call, int | None, int], list[tuple[str, float]]]


@checked_fields()
@dataclass(frozen=True)
class Engine:
    """What runs networks.

    Attributes:
        name: What options and results call it.
        kind: ``graph`` if it runs serialised ONNX models, on the CPU; ``module`` if it runs networks, on the device of
            their inputs.
        start: Called with the model or a frozen network in eval mode, the inputs, and the number of threads (None:
            torch's setting); returns a callable that runs once and returns when the work is done.
        version: Version of the package behind it.
        packages: What must be installed, by the names that are imported.
        profile: Called with a serialised model, its inputs, the number of threads and how many calls to make; returns
            name and time in ms of the operations that ran, in order, as :mod:`.profiling` reads them. None if the
            engine cannot tell.
        ready: Called before the engine is used; raises if something that is no package is missing.

    Raises:
        ArgumentError: If a field is of another kind.
    """

    name: str
    kind: Kind
    start: Callable[[Any, Call, int | None], Runnable]
    version: Callable[[], str]
    packages: tuple[str, ...] = ()
    profile: Profile | None = None
    ready: Callable[[], None] | None = None

    def started(self, program: Any, inputs: Call, threads: int | None) -> Runnable:
        """What ``start`` returns.

        Raises:
            ArgumentError: If that cannot be called.
        """
        run = self.start(program, inputs, threads)
        need_callable(run, f"what the engine {self.name!r} starts")
        return run

    @property
    def label(self) -> str:
        """Name and version, for results."""
        return f"{self.name} {self.version()}"


ENGINES: dict[str, Engine] = {}


@checked()
def register_engine(engine: Engine) -> None:
    """Let an engine be known by its name; one of the same name is replaced."""
    ENGINES[engine.name] = engine


def engine_named(name: str, kind: Kind | None = None) -> Engine:
    """An engine that is ready to run.

    Args:
        name: A key of :data:`ENGINES`.
        kind: Which kind it must be of, if any.

    Raises:
        UnknownNameError: If there is no such engine (of that kind).
        MissingPackageError: If its packages are not installed; names the extra.
        CompilerError: If it compiles, and nothing can be compiled here.
    """
    known = [engine.name for engine in ENGINES.values() if kind in (None, engine.kind)]
    if name not in known:
        raise UnknownNameError("engine" if kind is None else f"engine that runs {kind}s", name, known)
    engine = ENGINES[name]
    needs(*engine.packages)
    if engine.ready is not None:
        engine.ready()
    return engine


@checked("threads")
def runner(
    net: nn.Module, example_inputs: Inputs, *, engine: str = "onnxruntime", threads: int | None = None
) -> Runnable:
    """Return a callable that runs the network once on the inputs, for :func:`.timing.compare_latency`.

    It runs a frozen copy in eval mode, so it does not follow later changes of the network. ``torch.compile`` compiles
    at once, for the shapes of these inputs.

    Raises:
        UnknownNameError: If there is no such engine.
        MissingPackageError: If its packages are not installed.
        ArgumentError: If ``threads`` is no integer of at least 1.
        ExportError: If the engine runs graphs and the network cannot be exported.
    """
    found = engine_named(engine)
    _check_threads(threads)
    inputs = as_inputs(example_inputs)
    program = to_onnx(net, inputs).content if found.kind == "graph" else copy_of(unwrap(net)).eval()
    return found.started(program, inputs, threads)


def graph_runner(
    content: bytes, example_inputs: Inputs, *, engine: str, threads: int | None = None
) -> Runnable:
    """Return a callable that runs a serialised ONNX model once on the inputs.

    Raises:
        UnknownNameError: If there is no such engine that runs graphs.
        MissingPackageError: If its packages are not installed.
        ArgumentError: If ``threads`` is no integer of at least 1.
    """
    found = engine_named(engine, "graph")
    _check_threads(threads)
    return found.started(content, as_inputs(example_inputs), threads)


def _check_threads(threads: int | None) -> None:
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ArgumentError(
            f"threads must be an integer of at least 1, or None for torch's setting, got {threads!r}"
        )


# --- torch ----------------------------------------------------------------------------------------------------------


def _start_torch(net: Any, inputs: Call, threads: int | None) -> Runnable:
    own = inputs.copied()  # once: what is timed is the network alone

    def run() -> object:
        with _threads(threads), torch.inference_mode():
            result = net(*own.args, **own.kwargs)
            if own.device.type == "cuda":
                torch.cuda.synchronize(own.device)
        return result

    return run


def _start_compiled(net: nn.Module, inputs: Call, threads: int | None) -> Runnable:
    """Compile for these inputs, however many networks of the class have been compiled before.

    Dynamo keeps one cache per ``forward`` function: the ninth network of a class would run uncompiled, without an
    error, and the second shape would make graphs dynamic.
    """
    compiled: Any = torch.compile(net, dynamic=False)
    with torch._dynamo.config.patch(recompile_limit=MANY, accumulated_recompile_limit=MANY):
        _start_torch(compiled, inputs, threads)()  # on inputs of its own: a forward may write into them
    return _start_torch(compiled, inputs, threads)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Torch's number of threads for one call."""
    before = torch.get_num_threads()
    if count in (None, before):
        yield
        return
    torch.set_num_threads(int(count or before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- profilers ------------------------------------------------------------------------------------------------------


def _profile_onnxruntime(
    content: bytes, inputs: Call, threads: int | None, calls: int
) -> list[tuple[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        session = OnnxRuntimeSession(content, threads, profile=Path(folder) / "profile")
        run = session.runnable(inputs)
        for _ in range(calls):
            run()
        return session.profiled()


def _profile_openvino(
    content: bytes, inputs: Call, threads: int | None, calls: int
) -> list[tuple[str, float]]:
    session = OpenVinoSession(content, threads, profile=True)
    run = session.runnable(inputs)
    found = []
    for _ in range(calls):
        run()
        found += session.profiled()
    return found


# --- packages -------------------------------------------------------------------------------------------------------


def _version_of(package: str) -> str:
    needs(package)
    return str(import_module(package).__version__)


# --- the table ------------------------------------------------------------------------------------------------------

register_engine(
    Engine(
        "onnxruntime",
        "graph",
        lambda content, inputs, threads: OnnxRuntimeSession(content, threads).runnable(inputs),
        lambda: _version_of("onnxruntime"),
        EXTRAS["onnx"],
        _profile_onnxruntime,
    )
)
register_engine(
    Engine(
        "openvino",
        "graph",
        lambda content, inputs, threads: OpenVinoSession(content, threads).runnable(inputs),
        lambda: _version_of("openvino"),
        (*EXTRAS["onnx"], "openvino"),
        _profile_openvino,
    )
)
register_engine(Engine("torch", "module", _start_torch, lambda: str(torch.__version__)))
register_engine(
    Engine(
        "torch.compile",
        "module",
        _start_compiled,
        lambda: str(torch.__version__),
        ready=lambda: need_compiler("cpu"),
    )
)
