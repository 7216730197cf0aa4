"""Operations of the user's own: sound without rules, sharp with them, and mistakes named."""

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import OperationError, RuleFailedWarning, UnknownNameError
from rotated_relu.graph.channel_rules.table import RULES
from rotated_relu.graph.zero_patterns.table import PATTERNS


@torch.library.custom_op("rotated_relu_tests::double", mutates_args=())
def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


@torch.library.custom_op("rotated_relu_tests::relu", mutates_args=())
def shifted(x: torch.Tensor) -> torch.Tensor:
    """Called like torch's own, but f(0) = 1."""
    return x + 1


@torch.library.custom_op("rotated_relu_tests::scale", mutates_args=())
def scale(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(batch, channels, length) times (channels,)."""
    return x * weight[:, None]


@torch.library.custom_op("rotated_relu_tests::bump", mutates_args=("x",))
def bump(x: torch.Tensor) -> None:
    x.add_(1)


bump.register_fake(lambda x: None)
for operation in (double, shifted):
    operation.register_fake(torch.empty_like)
scale.register_fake(lambda x, weight: torch.empty_like(x))


class Double(nn.Module):
    """With a parameter: one without would stay at full width inside, behind adapters."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return double(x) * self.factor


class Shifted(Double):
    def forward(self, x):
        return shifted(x) * self.factor


class Bumped(Double):
    def forward(self, x):
        y = x.clone()
        bump(y)
        return y * self.factor


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8) + 1)

    def forward(self, x):
        return scale(x, self.weight)


@pytest.fixture(autouse=True)
def forget_registrations():
    before = dict(PATTERNS), dict(RULES)
    yield
    for table, rows in zip((PATTERNS, RULES), before, strict=True):
        table.clear()
        table.update(rows)


def compacted(call):
    """conv 3 -> 8, half of it dead, then the call, then conv 8 -> 2."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(3, 8, 1, bias=False), rr.RotatedReLU(8), call, nn.Conv1d(8, 2, 1)).eval()
    net[1].slope.data = torch.tensor([0.0, 0, 0, 0, 1, 1, -1, 1])
    x = torch.randn(2, 3, 5)
    result = rr.compact(net, x)
    assert torch.allclose(net(x), result.model(x), atol=1e-6)
    return result


def widths(net):
    """Channels that the first layer computes, that the tensor between has, and that the last layer reads."""
    return net[0].out_channels, len(net[1].slope), net[3].in_channels


def test_without_rules_everything_is_reachable_and_the_operation_is_listed():
    result = compacted(Double())
    # The four dead channels come out of the unknown operation as possibly alive, so the last layer reads all eight.
    assert widths(result.model) == (4, 8, 8)
    assert result.plan.unhandled == {"rotated_relu_tests::double": 1}
    (held,) = result.plan.held
    assert (held.name, held.channels) == ("0", 4)
    assert held.reason == "width fixed by rotated_relu_tests::double in 2"


def test_an_operation_called_like_one_of_torch_is_not_taken_for_it():
    result = compacted(Shifted())
    assert widths(result.model) == (4, 8, 8)
    assert result.plan.unhandled == {"rotated_relu_tests::relu": 1}


def test_an_operation_that_changes_its_argument_is_seen():
    result = compacted(Bumped())
    assert widths(result.model) == (4, 8, 8)  # 1 where the channels were dead
    assert result.plan.unhandled == {"auto_functionalized_v2": 1}


@pytest.mark.parametrize("name", [double, torch.ops.rotated_relu_tests.double, "rotated_relu_tests::double"])
def test_like_a_known_operation_it_is_cut(name):
    rr.register_operation(name, like="abs")
    result = compacted(Double())
    assert widths(result.model) == (4, 4, 4)
    assert result.plan.unhandled == {}
    assert result.plan.held == []


def test_rules_of_its_own_cut_its_weight_too():
    def channels(context, node):
        x, weight = node.args
        context.same(x, 0, node, 0)
        context.same(x, 1, node, 1)
        context.same(weight, 0, node, 1)

    rr.register_operation(scale, zero_pattern=lambda x, weight: x * weight[:, None], channels=channels)
    result = compacted(Scale())
    assert widths(result.model) == (4, 4, 4)
    assert result.model[2].weight.shape == (4,)


def test_a_dimension_that_a_rule_does_not_mention_keeps_its_width():
    rr.register_operation(double, zero_pattern=lambda x: x, channels=lambda context, node: None)
    assert widths(compacted(Double()).model) == (
        4,
        8,
        4,
    )  # dead channels are known, but not removed between


def test_a_zero_pattern_alone_leaves_the_widths():
    rr.register_operation(double, zero_pattern=lambda x: x)
    result = compacted(Double())
    assert widths(result.model) == (4, 8, 4)
    assert result.plan.held[0].reason == "width fixed by rotated_relu_tests::double in 2"


def test_a_wrong_zero_pattern_is_refused_by_the_certificate():
    rr.register_operation(shifted, like="abs")  # claims f(0) = 0
    with pytest.raises(rr.errors.CertificateError):
        compacted(Shifted())


@pytest.mark.parametrize("rule", ["zero_pattern", "channels"])
def test_a_rule_that_fails_is_warned_about_and_recorded(rule):
    def broken(*arguments):
        raise KeyError("no such thing")

    rr.register_operation(double, like="abs")
    rr.register_operation(double, **{rule: broken})
    with pytest.warns(RuleFailedWarning, match="double in 2: KeyError: 'no such thing'"):
        result = compacted(Double())
    (failure,) = result.plan.failed_rules
    assert "rotated_relu_tests::double in 2" in failure
    assert widths(result.model) == ((4, 8, 8) if rule == "zero_pattern" else (4, 8, 4))


def test_failed_rules_travel_with_the_plan():
    rr.register_operation(double, like="abs")
    rr.register_operation(double, channels=lambda context, node: 1 / 0)
    with pytest.warns(RuleFailedWarning):
        plan = compacted(Double()).plan
    assert rr.Plan.from_dict(plan.to_dict()).failed_rules == plan.failed_rules


def test_mistakes_are_named():
    with pytest.raises(UnknownNameError, match="did you mean"):
        rr.register_operation(double, like="abss")
    with pytest.raises(OperationError, match="not both"):
        rr.register_operation(double, like="abs", zero_pattern=lambda x: x)
    with pytest.raises(OperationError, match="give like="):
        rr.register_operation(double)
    with pytest.raises(OperationError, match="no operation that a captured graph could name"):
        rr.register_operation(lambda x: x, like="abs")
