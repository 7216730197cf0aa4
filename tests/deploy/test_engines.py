"""The table of engines, and an engine of one's own."""

import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

import rotated_relu as rr
from rotated_relu.core.compiler import need_compiler
from rotated_relu.core.errors import ArgumentError, MissingPackageError, UnknownNameError
from rotated_relu.deploy import engines
from rotated_relu.deploy.engines import ENGINES, Engine, engine_named, graph_runner, register_engine, runner
from rotated_relu.deploy.fastest import fastest_layout
from rotated_relu.deploy.sessions import arrays


@pytest.fixture
def table(monkeypatch):
    """A table of engines that the test may change."""
    monkeypatch.setattr(engines, "ENGINES", dict(ENGINES))
    return engines.ENGINES


def reference_engine(name="reference", packages=("onnx",)):
    """ONNX's own interpreter."""

    def start(content, inputs, threads):
        session = ReferenceEvaluator(onnx.load_from_string(content))
        feed = dict(zip(session.input_names, arrays(inputs), strict=True))
        return lambda: session.run(None, feed)

    return Engine(name, "graph", start, lambda: onnx.__version__, packages)


def test_an_engine_of_ones_own_runs_and_is_measured(table):
    register_engine(reference_engine())
    net, x = nn.Linear(3, 2), torch.randn(4, 3)
    (found,) = runner(net, x, engine="reference")()
    torch.testing.assert_close(torch.from_numpy(found), net(x))
    assert rr.measure(net, x, engine="reference", repeats=1).engine == f"reference {onnx.__version__}"


def test_a_missing_package_of_an_engine_is_named(table):
    register_engine(reference_engine("other", ("no_such_package", "onnx")))
    with pytest.raises(
        MissingPackageError, match=r"^no_such_package is not installed: pip install no_such_package$"
    ):
        engine_named("other")


def test_graphs_run_in_engines_for_graphs_only():
    message = "unknown engine that runs graphs 'torch': known: onnxruntime, openvino"
    with pytest.raises(UnknownNameError, match=message):
        graph_runner(b"", torch.zeros(1), engine="torch")
    with pytest.raises(UnknownNameError, match=message):
        fastest_layout(nn.Linear(2, 2), torch.zeros(1, 2), engine="torch")


@pytest.mark.parametrize("threads", [0, -1, 1.5])
def test_threads_that_make_no_sense(monkeypatch, threads):
    monkeypatch.setattr(engines, "to_onnx", lambda *_, **__: pytest.fail("exported"))
    for run in (rr.measure, runner):
        with pytest.raises(ArgumentError, match=rf"threads must be an integer .*, got {threads}"):
            run(nn.Linear(2, 2), torch.zeros(1, 2), threads=threads)
    with pytest.raises(ArgumentError, match="threads must be an integer"):
        graph_runner(b"", torch.zeros(1), engine="onnxruntime", threads=threads)


class Threads(nn.Module):
    """Returns how many threads torch uses."""

    def forward(self, x):
        return x + torch.get_num_threads()


def test_torch_runs_on_as_many_threads_as_asked():
    before = torch.get_num_threads()
    assert runner(Threads(), torch.zeros(1), engine="torch", threads=before + 1)() == before + 1
    assert runner(Threads(), torch.zeros(1), engine="torch")() == before
    assert torch.get_num_threads() == before


def test_runner_is_frozen():
    net = nn.Linear(2, 1, bias=False)
    run = runner(net, torch.ones(1, 2), engine="torch")
    before = run().clone()
    with torch.no_grad():
        net.weight.zero_()
    assert torch.equal(run(), before)


class Wide(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(3, width)

    def forward(self, x):
        return self.linear(x).relu()


def test_every_network_of_a_class_is_compiled():
    # by default Dynamo stops at eight networks of one class, here at two, and runs the next ones uncompiled
    graphs = torch._dynamo.utils.counters["stats"]
    need_compiler("cpu")  # compiles once, to see whether that works
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=2):
        before = graphs["unique_graphs"]
        for width in (2, 3, 4, 5):
            run = runner(Wide(width), torch.ones(1, 3), engine="torch.compile")
            assert run().shape == (1, width)
    assert graphs["unique_graphs"] - before == 4


@pytest.mark.parametrize(
    "changes", [{"name": 3}, {"kind": "tpu"}, {"start": None}, {"version": "1"}, {"packages": "onnx"}]
)
def test_what_is_no_engine_is_refused_when_it_is_made(changes):
    given = {"name": "mine", "kind": "graph", "start": lambda *_: print, "version": lambda: "1", **changes}
    with pytest.raises(ArgumentError, match=f"Engine: {next(iter(changes))} must be"):
        Engine(**given)


def test_what_an_engine_starts_has_to_be_callable(table, tmp_path):
    register_engine(Engine("mine", "module", lambda *_: None, lambda: "1"))
    net, x = nn.Linear(3, 2), torch.randn(4, 3)
    for use in (
        lambda: runner(net, x, engine="mine"),
        lambda: rr.calibrate(net, x, engine="mine", cache=tmp_path),
    ):
        with pytest.raises(ArgumentError, match="what the engine 'mine' starts must be a function, got None"):
            use()
