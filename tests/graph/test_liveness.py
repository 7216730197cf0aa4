"""Liveness: sound on any network, and as sharp as brute force on tiny ones."""

import pytest
import torch
import torchvision
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import SlopeError
from rotated_relu.graph.capture import capture
from rotated_relu.graph.liveness import analyse
from rotated_relu.pruning.removal.surgery import named_states
from support import nets


def liveness(net, *inputs, arbitrary=True):
    return analyse(capture(net, inputs), named_states(net), arbitrary=arbitrary)


def randomise_irrelevant(net, relevant):
    """Replace everything that was called irrelevant by random numbers, in place; returns how many numbers."""
    generator = torch.Generator().manual_seed(7)
    changed = 0
    for name, value in named_states(net).items():
        if name in relevant:
            free = ~relevant[name]
            noise = (
                torch.rand(value.shape, generator=generator, dtype=value.dtype) + 0.5
            )  # positive: variances too
            value.data[free] = noise[free]
            changed += int(free.sum())
    return changed


CASES = [
    (nets.Chain, {"act1": [0, 3], "act2": [1]}, (1, 3, 16, 16)),
    (
        nets.Residual,
        {"act": [0, 1], "block1.act1": [2, 3], "block1.act2": [0, 4], "block2.act2": [5]},
        (1, 3, 8, 8),
    ),
    (nets.PreActivation, {"act1": [0, 1, 2], "act2": [3, 4]}, (1, 3, 8, 8)),
    (nets.OptionA, {"act": [1], "act2": [0, 3]}, (1, 3, 8, 8)),
    (nets.LiteralView, {"act": [0, 7]}, (1, 3, 8, 8)),
    (nets.Concat, {"act_a": [0], "act_b": [1, 2]}, (1, 3, 8, 8)),
    (nets.Depthwise, {"act1": [0, 1], "act2": [1, 2]}, (1, 3, 8, 8)),
    (nets.Grouped, {"act1": [0, 1, 2], "act2": [6, 7]}, (1, 3, 8, 8)),
    (nets.Shuffle, {"act": [0, 5]}, (1, 3, 8, 8)),
    (nets.SharedLayer, {"act0": [0, 1], "act1": [0, 2], "act2": [0, 3]}, (1, 3, 8, 8)),
    (nets.Tokens, {"act": [0, 5, 6]}, (1, 4, 5)),
    (nets.ScaledTokens, {"act": [1, 2]}, (1, 4)),
]


def prepared(case):
    build, dead, shape = case
    torch.manual_seed(0)
    net = nets.awake(build())
    for name, channels in dead.items():
        nets.kill(net, name, channels)
    return net, torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
def test_sound_output_does_not_move_by_one_bit(case):
    net, x = prepared(case)
    relevant = liveness(net, x.float()).relevant
    net = net.double()
    with torch.no_grad():
        before = net(x)
        assert randomise_irrelevant(net, relevant) > 0
        assert torch.equal(net(x), before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "mobilenet_v3_small",
        "shufflenet_v2_x0_5",
        "densenet121",
        "squeezenet1_1",
        "swin_t",
        "efficientnet_b0",
    ],
)
def test_sound_on_torchvision_with_half_of_the_slopes_dead(name):
    torch.manual_seed(0)
    net = nets.awake(
        rr.rotate(
            getattr(torchvision.models, name)(weights=None), torch.randn(1, 3, 64, 64), init="published"
        )
    )
    for slope in rr.slopes(net).values():
        slope.data[torch.rand(slope.numel()) < 0.5] = 0
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    relevant = liveness(net, x.float()).relevant
    net = net.double()
    with torch.no_grad():
        before = net(x)
        assert randomise_irrelevant(net, relevant) > 1000
        assert torch.equal(net(x), before)


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c[0] in (nets.ScaledTokens, nets.Depthwise)],
    ids=lambda case: case[0].__name__,
)
def test_sharp_every_relevant_entry_can_move_the_output(case):
    """Brute force: change each single entry; the output moves if and only if the entry was called relevant."""
    net, x = prepared(case)
    relevant = liveness(net, x.float(), arbitrary=False).relevant
    net = net.double()
    samples = 3 * torch.randn(64, *x.shape[1:], dtype=torch.float64)  # enough that no ReLU hides a change
    with torch.no_grad():
        before = net(samples)
        for name, parameter in net.named_parameters():
            flat = parameter.view(-1)
            moved = torch.zeros(flat.numel(), dtype=torch.bool)
            for position in range(flat.numel()):
                kept = flat[position].clone()
                for value in (-7.0, 7.0):  # two signs: a ReLU may hide one
                    flat[position] = kept + value
                    moved[position] |= not torch.equal(net(samples), before)
                flat[position] = kept
            assert torch.equal(moved, relevant[name].view(-1)), name


def test_two_zeros_in_a_row_do_not_excuse_each_other():
    """out = w2 * (w1 * x) with w1 = w2 = 0: each alone may take any value, both together may not."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    for layer in net:
        layer.weight.data.zero_()
    alone = liveness(net, torch.randn(1, 1), arbitrary=False).relevant
    assert not alone["0.weight"].any()
    assert not alone["1.weight"].any()
    together = liveness(net, torch.randn(1, 1), arbitrary=True).relevant
    assert together["0.weight"].any() or together["1.weight"].any()


def test_batch_norm_bias_keeps_a_channel_alive_whose_input_is_zero():
    """A filter of zeros still gives beta - gamma * mean / std, a constant that is read."""
    net = nets.awake(
        nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    )
    net[0].weight.data[2] = 0
    relevant = liveness(net, torch.randn(1, 3, 4, 4)).relevant
    assert relevant["3.weight"][:, 2].all()
    assert relevant["1.running_mean"][2]
    net[1].weight.data[2] = 0
    net[1].bias.data[2] = 0
    relevant = liveness(net, torch.randn(1, 3, 4, 4)).relevant
    assert not relevant["3.weight"][:, 2].any()
    assert not relevant["0.weight"][2].any()
    assert relevant["1.bias"][2].all()  # another value would matter


def test_an_operation_without_a_rule_is_reported_and_sound():
    class Sorts(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.last = nn.Linear(4, 4), rr.RotatedReLU(4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(torch.sort(self.act(self.first(x)), dim=1).values)

    net = Sorts().eval()
    nets.kill(net, "act", [0, 1])
    found = liveness(net, torch.randn(2, 4))
    assert found.unhandled == {"sort": 1}
    assert found.relevant["last.weight"].all()
    assert not found.relevant["first.weight"][:2].any()


def test_values_that_are_not_finite_are_named():
    net = nn.Sequential(nn.Linear(2, 2))
    net[0].bias.data[0] = float("nan")
    with pytest.raises(SlopeError, match=r"0\.bias holds NaN or infinite"):
        liveness(net, torch.randn(1, 2))
