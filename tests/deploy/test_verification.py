"""An engine against torch, with made-up engines; expected numbers by hand."""

import pytest
import torch
from torch import nn

from rotated_relu.core.errors import ExportError
from rotated_relu.core.modules import Call
from rotated_relu.deploy.verification import Checks, verify


class Constant(nn.Module):
    """Returns the same numbers for every example."""

    def __init__(self, *values):
        super().__init__()
        self.register_buffer("values", torch.tensor(values))

    def forward(self, x):
        return self.values.expand(len(x), -1)


def engine_that_returns(*values):
    return lambda call: [torch.tensor(values).expand(call.batch_size, -1)]


def compared(net, *values, tolerance=1e-4):
    checks = Checks(tolerance, (1,))
    return verify(net, Call(torch.zeros(2, 1)), engine_that_returns(*values), "made up", checks)


def test_differences_are_relative_to_the_largest_entry_of_common_size():
    found = compared(Constant(10.0, 0.5), 10.0, 0.4, tolerance=1)
    assert found.absolute == pytest.approx(0.1)
    assert found.relative == pytest.approx(0.01)  # 0.1 / 10
    assert found.batch_sizes == (1, 2)


@pytest.mark.parametrize("mask", [-torch.inf, -1e9, torch.finfo(torch.float32).min])
def test_masked_entries_do_not_hide_a_difference(mask):
    assert compared(Constant(1.0, mask), 1.0, mask).relative == 0
    with pytest.raises(ExportError, match=r"differ by 1 relative \(1 absolute\) at batch size 1"):
        compared(Constant(1.0, mask), 2.0, mask)


def test_rounding_noise_of_float32_is_no_difference():
    # the logarithm of a probability that is 1 up to rounding, beside others
    assert compared(Constant(-1.2e-7, -16.0), 0.0, -16.0).relative == pytest.approx(1.2e-7 / 16)


@pytest.mark.parametrize(
    ("torch_says", "engine_says"), [(torch.nan, 1.0), (1.0, torch.nan), (torch.inf, -torch.inf)]
)
def test_nan_and_infinity_equal_themselves_alone(torch_says, engine_says):
    assert compared(Constant(torch_says, 1.0), torch_says, 1.0).relative == 0
    with pytest.raises(ExportError, match="differ by inf relative"):
        compared(Constant(torch_says, 1.0), engine_says, 1.0)


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        (Checks(float("nan"), (1,)), "tolerance must be a finite number of at least 0, got nan"),
        (Checks(-1.0, (1,)), "tolerance must be a finite number of at least 0, got -1.0"),
        (Checks(1e-4, (1, 0)), "batch sizes must be integers of at least 1, got 0"),
        (Checks(1e-4, (2.5,)), "batch sizes must be integers of at least 1, got 2.5"),
        (Checks(1e-4, (1,), dynamic_size=True), r"no input has rank 4: \(2, 5\) torch.float32"),
    ],
)
def test_settings_that_make_no_sense(checks, message):
    with pytest.raises(ExportError, match=message):
        checks.check(Call(torch.zeros(2, 5)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_larger_images_of_any_dtype_and_place(dtype):
    seen = []

    def engine(call):
        seen.append(tuple(call.tensors[1].shape))
        return [call.tensors[1].double().sum((1, 2, 3))]

    class Sum(nn.Module):
        def forward(self, flag, images):
            return images.double().sum((1, 2, 3))

    call = Call(torch.zeros(2, 1), torch.ones(2, 1, 4, 6).to(dtype))
    found = verify(Sum(), call, engine, "made up", Checks(1e-4, (3,), dynamic_size=True))
    assert found.image_sizes == ((4, 6), (6, 12))
    assert seen == [(3, 1, 4, 6), (2, 1, 4, 6), (2, 1, 6, 12)]
