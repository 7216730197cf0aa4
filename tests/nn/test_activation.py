"""The activation and the published initialisation."""

import math

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import GateError, ShapeError

LOW, HIGH = math.tan(math.radians(35)), math.tan(math.radians(55))


def phi(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def big_phi(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def truncated_moments() -> tuple[float, float]:
    """Mean and variance of N(1, 3) truncated to [LOW, HIGH], by the textbook formulas."""
    sigma = math.sqrt(3)
    a, b = (LOW - 1) / sigma, (HIGH - 1) / sigma
    z = big_phi(b) - big_phi(a)
    shift = (phi(a) - phi(b)) / z
    return 1 + sigma * shift, 3 * (1 + (a * phi(a) - b * phi(b)) / z - shift**2)


@pytest.fixture(scope="module")
def sample() -> torch.Tensor:
    return rr.rotated_slopes_(torch.empty(200_000, dtype=torch.float64), torch.Generator().manual_seed(3))


def test_support_is_35_to_55_degrees_and_its_mirror(sample):
    magnitude = sample.abs()
    assert pytest.approx(0.7002, abs=1e-4) == LOW
    assert pytest.approx(1.4281, abs=1e-4) == HIGH
    assert float(magnitude.min()) >= LOW
    assert float(magnitude.max()) <= HIGH
    assert float(magnitude.min()) < LOW + 1e-3  # the support is filled to its ends
    assert float(magnitude.max()) > HIGH - 1e-3


def test_both_modes_have_half_of_the_mass(sample):
    share = float((sample > 0).double().mean())
    assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(len(sample))  # four standard errors


def test_moments_of_a_mode_are_those_of_the_truncated_normal(sample):
    mean, variance = truncated_moments()
    for mode in (sample[sample > 0], -sample[sample < 0]):
        assert abs(float(mode.mean()) - mean) < 4 * math.sqrt(variance / len(mode))
        assert float(mode.var()) == pytest.approx(variance, rel=0.02)


def test_distribution_function_matches_by_kolmogorov_smirnov(sample):
    sigma = math.sqrt(3)
    values = sample.abs().sort().values
    low, high = big_phi((LOW - 1) / sigma), big_phi((HIGH - 1) / sigma)
    expected = (torch.special.ndtr((values - 1) / sigma) - low) / (high - low)
    empirical = torch.arange(1, len(values) + 1) / len(values)
    assert float((expected - empirical).abs().max()) < 1.63 / math.sqrt(len(values))  # 1 % level


def test_same_seed_same_slopes():
    torch.manual_seed(5)
    first = rr.RotatedReLU(32).slope.detach().clone()
    torch.manual_seed(5)
    assert torch.equal(first, rr.RotatedReLU(32).slope)
    assert not torch.equal(first, rr.RotatedReLU(32).slope)


def test_forward_multiplies_each_channel_by_its_slope():
    act = rr.RotatedReLU(2)
    act.slope.data = torch.tensor([2.0, -3.0])
    x = torch.tensor([[[[1.0, -1.0]], [[-1.0, 1.0]]]])  # (1, 2, 1, 2)
    assert torch.equal(act(x), torch.tensor([[[[2.0, -0.0]], [[-0.0, -3.0]]]]))


def test_channel_dim_last_for_tokens():
    act = rr.Rotated(nn.GELU(), 3, channel_dim=-1)
    act.slope.data = torch.tensor([0.0, 1.0, 2.0])
    x = torch.randn(2, 5, 3)
    assert torch.equal(act(x), torch.nn.functional.gelu(x) * torch.tensor([0.0, 1.0, 2.0]))


@pytest.mark.parametrize(
    "gate",
    [nn.ReLU(), nn.ReLU6(), nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.Mish(), nn.LeakyReLU(), nn.PReLU()],
)
def test_gates_with_zero_at_zero_are_accepted(gate):
    assert rr.Rotated(gate, 4)(torch.randn(2, 4)).shape == (2, 4)


@pytest.mark.parametrize("gate", [nn.Sigmoid(), nn.Softplus(), nn.Hardsigmoid()])
def test_gates_with_another_value_at_zero_are_refused(gate):
    with pytest.raises(GateError, match=r"gate\(0\) = 0\.\d+, but it must be 0"):
        rr.Rotated(gate, 4)


def test_something_that_is_no_activation_is_refused():
    with pytest.raises(GateError, match="not an elementwise activation"):
        rr.Rotated(nn.Conv2d(3, 3, 3), 3)


def test_no_channels_is_refused():
    with pytest.raises(GateError, match="num_channels=0"):
        rr.RotatedReLU(0)


def test_wrong_width_names_both_shapes():
    with pytest.raises(ShapeError, match=r"4 slopes along dimension 1.*\(2, 5, 3, 3\)"):
        rr.RotatedReLU(4)(torch.zeros(2, 5, 3, 3))


def test_bfloat16_stays_bfloat16():
    """Float32 slopes must not promote the activations under autocast."""
    assert rr.RotatedReLU(4)(torch.randn(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_gradients_match_finite_differences():
    act = rr.RotatedReLU(3).double()
    x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x, a: torch.func.functional_call(act, {"slope": a}, (x,)), (x, act.slope))


def test_a_prelu_may_have_one_parameter_per_channel():
    """prelu(-1) = -w, times the slope: 2 * -0.5 and 3 * -0.25."""
    act = rr.Rotated(nn.PReLU(2), 2)
    act.slope.data = torch.tensor([2.0, 3.0])
    act.gate.weight.data = torch.tensor([0.5, 0.25])
    assert act(torch.tensor([[-1.0, -1.0], [1.0, 1.0]])).tolist() == [[-1.0, -0.75], [2.0, 3.0]]


def test_a_prelu_for_another_width_is_refused():
    with pytest.raises(
        GateError, match=r"parameters for 3 channels, but there are 4 slopes.*num_parameters=4"
    ):
        rr.Rotated(nn.PReLU(3), 4)


def test_built_on_the_meta_device_and_filled_later():
    with torch.device("meta"):
        acts = [rr.RotatedReLU(4), rr.Rotated(nn.PReLU(4), 4)]
        with pytest.raises(GateError, match=r"gate\(0\) = 0\.5"):
            rr.Rotated(nn.Sigmoid(), 4)
    for act in acts:
        assert act.slope.is_meta
        act.to_empty(device="cpu").reset_parameters()
        assert LOW <= float(act.slope.abs().min()) <= HIGH
