"""Run a network once and note every torch function that it calls: by which module, on what, with which result.

Requires: a network that may be changed by its own forward (pass a copy). Ensures: a :class:`Recording`, whose calls
are in execution order; the network computes what it always does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from ..core.modules import Call as Arguments
from ..core.nested import tensors_in
from .activation import Rotated
from .dispatch import function_name

# They read the shape, dtype and device of a tensor, not what it holds.
_SHAPE_ONLY = ("_like", "new_tensor", "new_empty", "new_full", "new_ones", "new_zeros")
_LAYERS = frozenset(["linear", "conv1d", "conv2d", "conv3d"])
_TORCH = str(Path(torch.__file__).parent)
_CHECKPOINT = str(Path("torch", "utils", "checkpoint.py"))
SCRIPT = "script"  # name of a call of a torch.jit.script function
Position = tuple[tuple[CodeType, int], ...]


@dataclass(eq=False)
class Value:
    """A tensor that depends on the inputs, or on what a layer made of a table, as one call left it.

    Attributes:
        number: Order of creation.
        shape: Its shape.
        dtype: Its dtype.
        device: Its device.
        call: What computed it; None for an input.
        users: Calls that read it.
        dim: Dimension that holds the channels, where known; negative ones count from the end.
        returned: For the result of an in-place call: whether the caller went on with what the call returned.
        kept: ... whether it went on with the argument that was written into.
    """

    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    call: Call | None = None
    users: list[Call] = field(default_factory=list)
    dim: int | None = None
    returned: bool = False
    kept: bool = False


@dataclass(eq=False)
class Run:
    """One execution of a module's forward.

    Attributes:
        name: Qualified name of the module ('' for the root); for a slice of an ``nn.Sequential``, that of the whole.
        module: The module.
        parent: The run that called it.
        training: The module's mode.
        inputs: Tensors among its positional arguments.
        output: What it returned, if that is one tensor.
        events: All torch functions that its own code called: name, the call if it read a :class:`Value`, and order.
        calls: Number of the first call within, and of the first one after.
        place: Qualified name through which an ``nn.Sequential`` called it; '' elsewhere.
        sliced: Whether the module is a slice of the one with its name.
        children: How many modules its code has called so far.
    """

    name: str
    module: nn.Module
    parent: Run | None
    training: bool
    inputs: list[Value] = field(default_factory=list)
    output: Value | None = None
    events: list[tuple[str, Call | None, int]] = field(default_factory=list)
    calls: tuple[int, int] = (0, 0)
    place: str = ""
    sliced: bool = False
    children: int = 0

    def chain(self) -> Iterator[Run]:
        """This run and those around it, innermost first."""
        run: Run | None = self
        while run is not None:
            yield run
            run = run.parent


@dataclass(eq=False)
class Call:
    """One call of a torch function that read a :class:`Value`, or of a layer that reads a table of the network.

    Attributes:
        number: Order of execution.
        func: What was called.
        name: Its name, see :func:`function_name`.
        args: Positional arguments, each tensor that depends on the inputs as a :class:`Value`.
        kwargs: Keyword arguments, likewise.
        run: The run whose code made the call.
        inputs: The values among the arguments.
        outputs: The tensors that it returned.
        in_place: Whether it returned its first argument.
        positions: Places in the code of ``run`` and of the run around it, at which the call was made.
        inside: For the same two runs, how many of these places, from the call outwards, lie within
            ``torch.utils.checkpoint``; None if none does.
        opaque: Whether it stands for a whole module or script function, whose work no torch function showed.
    """

    number: int
    func: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    run: Run
    inputs: list[Value]
    outputs: list[Value] = field(default_factory=list)
    in_place: bool = False
    positions: tuple[Position, Position] = ((), ())
    inside: tuple[int | None, int | None] = (None, None)
    opaque: bool = False

    @property
    def output(self) -> Value | None:
        """What it returned, if that is one tensor."""
        return self.outputs[0] if len(self.outputs) == 1 else None


@dataclass
class Recording:
    """Everything that one forward pass of a network called.

    Attributes:
        calls: In execution order.
        runs: Executions of modules, in the order in which they began.
        output: What the network returned.
        returned: For each watched Python function its executions: number of the first call within, of the first one
            after, and what it returned.
    """

    calls: list[Call] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    output: Any = None
    returned: list[tuple[CodeType, int, int, Value]] = field(default_factory=list)


class Recorder(TorchFunctionMode):
    """Sees every torch function; use through :func:`record`."""

    def __init__(self, net: nn.Module, place: Callable[[Call], None]) -> None:
        super().__init__()
        self.recording = Recording()
        self.place = place
        self.names = {id(module): name for name, module in reversed(list(net.named_modules()))}
        self.sequences = [
            (name, part) for name, part in net.named_modules() if isinstance(part, nn.Sequential)
        ]
        self.stack: list[Run] = []
        self.values: Any = WeakTensorKeyDictionary()
        self.written: Any = WeakTensorKeyDictionary()
        self.count = 0

    # --- tensors -------------------------------------------------------------------------------------------------

    def add(self, tensor: Tensor, call: Call | None = None) -> Value:
        """A new value for a tensor, which may have had another one before it was written into."""
        self.count += 1
        value = Value(self.count, tuple(tensor.shape), tensor.dtype, tensor.device, call)
        self.values[tensor] = value
        self.written.pop(tensor, None)
        return value

    def find(self, tensor: Any) -> Value | None:
        """The value of a tensor that is read now, or None if it does not depend on the inputs."""
        if not isinstance(tensor, Tensor):
            return None
        value: Value | None = self.values.get(tensor)
        if value is not None:
            value.kept |= tensor in self.written
            value.returned |= tensor not in self.written
        return value

    # --- calls ---------------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function_name(func)
        sources = [value for leaf in tree_leaves((args, kwargs)) if (value := self.find(leaf)) is not None]
        template = tree_map(lambda leaf: self.find(leaf) or leaf, (args, kwargs)) if sources else None
        result = func(*args, **kwargs)
        if not self.stack:
            return result
        run = self.stack[-1]
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if template is None and name in _LAYERS and any(isinstance(arg, nn.Parameter) for arg in args):
            template = args, kwargs  # a layer reads a table: a branch without inputs, as of position biases
        if template is None or not tensors or name.endswith(_SHAPE_ONLY[0]) or name in _SHAPE_ONLY:
            self._event(run, name, None)
            return result
        call = Call(len(self.recording.calls), func, name, template[0], template[1], run, sources)
        return self._note(call, result, tensors, args)

    def _note(self, call: Call, result: Any, tensors: list[Tensor], args: Any) -> Any:
        call.in_place = bool(args) and result is args[0]
        call.positions, call.inside = _positions(call.run, sys._getframe(2))
        self._finish(call, tensors)
        if not call.in_place:
            return result
        # Another object for the same memory: what is used from now on tells what the caller goes on with.
        value = call.outputs[0]
        self.written[result] = True
        alias = result.detach()
        self.values[alias] = value
        return alias

    def _finish(self, call: Call, tensors: list[Tensor]) -> None:
        for source in dict.fromkeys(call.inputs):
            source.users.append(call)
        call.outputs = [self.add(tensor, call) for tensor in tensors]
        self._event(call.run, call.name, call)
        self.recording.calls.append(call)
        self.place(call)

    def _event(self, run: Run, name: str, call: Call | None) -> None:
        self.count += 1
        run.events.append((name, call, self.count))

    def note_script(self, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        """A call of a ``torch.jit.script`` function, which no mode sees."""
        sources = [value for leaf in tree_leaves((args, kwargs)) if (value := self.find(leaf)) is not None]
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if not (self.stack and sources and tensors):
            return
        template = tree_map(lambda leaf: self.find(leaf) or leaf, (args, kwargs))
        run = self.stack[-1]
        call = Call(
            len(self.recording.calls), function, SCRIPT, template[0], template[1], run, sources, opaque=True
        )
        call.positions, call.inside = _positions(run, sys._getframe(2))
        self._finish(call, tensors)

    # --- modules -------------------------------------------------------------------------------------------------

    def enter(self, module: nn.Module, args: Any) -> None:
        """Global forward pre-hook."""
        name = self.names.get(id(module))
        whole = self._whole(module) if name is None else None
        parent = self.stack[-1] if self.stack else None
        if parent is not None:
            parent.children += 1
            if name is None and whole is None:  # made in a forward, gone after it: part of the code around it
                self.stack.append(parent)
                return
        run = Run(name or whole or "", module, parent, module.training)
        run.place, run.sliced = _place(parent, module), name is None
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        run.inputs = [value for leaf in tensors if (value := self.values.get(leaf)) is not None]
        run.calls = (len(self.recording.calls), len(self.recording.calls))
        self.recording.runs.append(run)
        self.stack.append(run)

    def _whole(self, module: nn.Module) -> str | None:
        """Name of the ``nn.Sequential`` that a module is a slice of."""
        if type(module).forward is not nn.Sequential.forward or not len(module._modules):
            return None
        parts = module._modules.items()
        return next(
            (
                name
                for name, part in self.sequences
                if all(part._modules.get(key) is own for key, own in parts)
            ),
            None,
        )

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """Global forward hook; called after an exception too."""
        run = self.stack.pop()
        if run.module is not module or not isinstance(output, Tensor):
            return
        run.output = self.values.get(output)
        source = next((leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)), None)
        if run.output is None and run.inputs and source is not None:
            # An autograd function or a script: the module is all that can be seen of it.
            call = Call(
                len(self.recording.calls), module, "module", (run.inputs[0],), {}, run, run.inputs[:1]
            )
            call.opaque = True
            call.positions, call.inside = _positions(run, sys._getframe())
            self._finish(call, [output])
            run.output = call.outputs[0]
        run.calls = (run.calls[0], len(self.recording.calls))


def record(
    net: nn.Module, given: Arguments, place: Callable[[Call], None], watched: Collection[CodeType] = ()
) -> Recording:
    """Run a network once.

    Args:
        net: The network.
        given: The arguments that it is called with.
        place: Told of every call, in order, when its operands and results are known.
        watched: Code of Python functions whose executions are to be noted.
    """
    recorder = Recorder(net, place)
    for tensor in given.tensors:
        recorder.add(tensor)
    with ExitStack() as stack:
        stack.callback(torch_module.register_module_forward_pre_hook(recorder.enter).remove)
        stack.callback(torch_module.register_module_forward_hook(recorder.leave, always_call=True).remove)
        if watched:
            stack.enter_context(_watching(recorder, frozenset(watched)))
        stack.enter_context(_script_functions(recorder))
        stack.enter_context(recorder)
        recorder.recording.output = net(*given.args, **given.kwargs)
    for tensor in tensors_in(recorder.recording.output):
        recorder.find(tensor)
    return recorder.recording


def _place(parent: Run | None, module: nn.Module) -> str:
    """The name through which an ``nn.Sequential`` calls a module: it calls its parts in order, some more than once."""
    if parent is None or type(parent.module).forward is not nn.Sequential.forward:
        return ""
    parts = list(parent.module._modules.items())
    key, part = parts[parent.children - 1] if parent.children <= len(parts) else ("", None)
    return f"{parent.name}.{key}".lstrip(".") if part is module else ""


def _positions(
    run: Run, frame: FrameType | None
) -> tuple[tuple[Position, Position], tuple[int | None, int | None]]:
    """Where in the code of a run, and of the run around it, a call is made, and how much of that is checkpointed."""
    wanted = [run.module] + ([run.parent.module] if run.parent is not None else [])
    found: list[Position] = []
    places: list[tuple[CodeType, int]] = []
    inside: list[int | None] = [None, None]
    while frame is not None and len(found) < len(wanted):
        code = frame.f_code
        if code is _CALL and frame.f_locals.get("self") is wanted[len(found)]:
            found.append(tuple(places))
        else:
            if _TORCH not in code.co_filename:
                places.append((code, frame.f_lasti))
            elif inside[len(found)] is None and code.co_filename.endswith(_CHECKPOINT):
                inside[len(found)] = len(places)
        frame = frame.f_back
    found += [()] * (2 - len(found))
    return (found[0], found[1]), (inside[0], inside[1])


_CALL = nn.Module._call_impl.__code__


@contextmanager
def _watching(recorder: Recorder, codes: frozenset[CodeType]) -> Iterator[None]:
    """Note executions of Python functions."""
    begun: list[int] = []
    calls, returned = recorder.recording.calls, recorder.recording.returned

    def profile(frame: FrameType, event: str, result: Any) -> None:
        if frame.f_code not in codes:
            return
        if event == "call":
            begun.append(len(calls))
        elif event == "return":
            start = begun.pop()
            value = recorder.values.get(result) if isinstance(result, Tensor) else None
            if value is not None:
                returned.append((frame.f_code, start, len(calls), value))

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)


@contextmanager
def _script_functions(recorder: Recorder) -> Iterator[None]:
    """Note calls of script functions: a class of C++, whose calls show in no mode and no profile."""
    kind: Any = torch.jit.ScriptFunction
    original = kind.__call__

    def noting(function: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(function, *args, **kwargs)
        recorder.note_script(function, args, kwargs, result)
        return result

    kind.__call__ = noting
    try:
        yield
    finally:
        kind.__call__ = original


def within_rotated(run: Run) -> bool:
    """Whether a run belongs to an activation that has slopes already."""
    return any(isinstance(around.module, Rotated) for around in run.chain())
