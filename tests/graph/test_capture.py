"""Capturing: in-place operations, aliases, constants, and errors that say where."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensorMode

from rotated_relu.core.errors import CaptureError, ShapeError
from rotated_relu.graph.capture import capture, op_name


def ops(net: nn.Module, *shape: int) -> list[str]:
    return [op_name(node) for node in capture(net, torch.randn(shape)).nodes if node.op == "call_function"]


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        y = self.conv(x)
        F.relu_(y)  # the return value is ignored: later consumers of y see the change
        return y + 1


def test_in_place_becomes_functional_and_later_readers_follow():
    graph = capture(InPlace(), torch.randn(1, 2, 4, 4))
    relu = next(node for node in graph.nodes if op_name(node) == "relu")
    add = next(node for node in graph.nodes if op_name(node) == "add")
    assert add.args[0] is relu


class Partial(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        y = self.conv(x)
        y[:, 0] = 0  # a write through a view
        return y


def test_write_through_a_view_is_functionalised():
    names = ops(Partial(), 1, 2, 4, 4)
    assert "select_scatter" in names
    assert not any(name.endswith("_") for name in names)


class InPlaceAfterDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.drop = nn.Conv2d(2, 2, 1), nn.Dropout(0.5)

    def forward(self, x):
        y = self.conv(x)
        z = self.drop(y)  # in eval mode the very same tensor
        z.relu_()
        return y


def test_in_place_on_an_identity_alias_reaches_the_original():
    graph = capture(InPlaceAfterDropout(), torch.randn(1, 2, 4, 4))
    assert [op_name(node) for node in graph.outputs] == ["relu"]


class Mask(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        mask = x.new_zeros(4)
        mask[1:3] = 1  # in-place on a constant: it is simply executed
        return self.linear(x) * mask


def test_constants_made_from_shapes_are_not_varying():
    graph = capture(Mask(), torch.randn(2, 4))
    assert all(
        node not in graph.varying for node in graph.nodes if op_name(node) in ("new_zeros", "slice", "fill_")
    )


def test_training_flags_are_restored():
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).train()
    net[1].eval()
    capture(net, torch.randn(1, 1, 2, 2))
    assert net.training
    assert net[0].training
    assert not net[1].training


def test_wrong_shape_says_which_shape():
    with pytest.raises(
        ShapeError, match=r"does not run on the example inputs \(\(1, 3, 8, 8\) torch.float32\)"
    ):
        capture(nn.Conv2d(4, 4, 3), torch.randn(1, 3, 8, 8))


def test_wrong_device_says_which_device():
    with FakeTensorMode(allow_non_fake_inputs=True):
        elsewhere = torch.empty(1, 3, 8, 8, device="cuda")  # says so without such a device
    with pytest.raises(ShapeError, match="example input 0 is on cuda:0, the model on cpu"):
        capture(nn.Conv2d(3, 4, 3), elsewhere)


def test_inputs_without_values_are_refused():
    with pytest.raises(ShapeError, match=r"example_inputs are on the meta device, which holds no values"):
        capture(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8, device="meta"))


def test_inputs_of_another_kind_are_refused():
    with pytest.raises(ShapeError, match=r"must be a tensor, a tuple of positional arguments, .* got set"):
        capture(nn.Conv2d(3, 4, 3), {torch.zeros(1)})


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Data()

    def forward(self, x):
        return self.inner(x)


class Data(nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # Python control flow on data
            return x
        return -x


def test_what_cannot_be_exported_names_the_module():
    with pytest.raises(CaptureError, match=r"torch\.export cannot capture Branch.*in inner, Data\.forward"):
        capture(Branch(), torch.randn(1, 2))


def test_settings_of_torch_are_as_before():
    before = torch.fx.config.do_not_emit_stack_traces
    capture(nn.Linear(3, 2), torch.randn(1, 3))
    assert torch.fx.config.do_not_emit_stack_traces is before
    with pytest.raises(CaptureError):
        capture(Branch(), torch.randn(1, 3))
    assert torch.fx.config.do_not_emit_stack_traces is before
