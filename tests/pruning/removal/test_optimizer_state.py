"""Compaction takes the optimizer along: the next step is the original's step on the entries that were kept."""

import copy

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import CompactionError
from rotated_relu.pruning.removal.surgery import kept_part
from support import nets

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "plain sgd": lambda p: torch.optim.SGD(p, 0.05),
    "adam": lambda p: torch.optim.Adam(p, 1e-2, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2, betas=(0.8, 0.9)),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-2, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
    "nadam": lambda p: torch.optim.NAdam(p, 1e-2),
    "asgd": lambda p: torch.optim.ASGD(p, 1e-2),
    "rprop": lambda p: torch.optim.Rprop(p, 1e-2),
}
CASES = nets.DEAD | {"bare parameter": (nets.ScaledTokens, {"act": [1, 2]}, (4, 4))}


def step(net, optimizer, x):
    """One step with the batch norms frozen: before them the gradient of a bias is nothing but rounding."""
    net.train()
    for module in net.modules():
        module.training &= not isinstance(module, nn.BatchNorm2d)
    loss = (net(x) - 1).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def trained(case, make):
    """A float64 network with some slopes at zero, after three steps, and its optimizer with two groups."""
    build, dead, shape = CASES[case]
    torch.manual_seed(0)
    net = nets.awake(build()).double()
    slopes = list(rr.slopes(net).values())
    rest = [p for p in net.parameters() if all(p is not slope for slope in slopes)]
    optimizer = make([{"params": rest}, {"params": slopes, "lr": 0.001}])
    for _ in range(3):
        step(net, optimizer, torch.randn(shape, dtype=torch.float64))
    for name, channels in dead.items():
        nets.kill(net, name, channels)
    return net, optimizer, torch.randn(shape, dtype=torch.float64)


def check_next_step(net, optimizer, x):
    before = copy.deepcopy(optimizer.state_dict())
    result = rr.compact(net, x[:1], 1e-12, optimizer=optimizer)
    dead = {name: slope.detach() == 0 for name, slope in rr.slopes(result.model).items()}
    assert type(result.optimizer) is type(optimizer)
    for old, new in zip(optimizer.param_groups, result.optimizer.param_groups, strict=True):
        assert {k: v for k, v in old.items() if k != "params"} == {
            k: v for k, v in new.items() if k != "params"
        }
        assert len(old["params"]) == len(new["params"])
    assert str(optimizer.state_dict()) == str(before)  # not touched
    step(result.model, result.optimizer, x)
    step(net, optimizer, x)
    cuts = {cut.name: cut for cut in result.plan.cuts}
    original = dict(net.named_parameters())
    for name, value in result.model.named_parameters():
        expected = kept_part(original[name], cuts[name]) if name in cuts else original[name]
        if (
            name in dead
        ):  # a dead slope that holds a place in a wider tensor: the filter before it is gone, and with it
            value, expected = value[~dead[name]], expected[~dead[name]]  # what could have revived it
        assert torch.allclose(value, expected, rtol=1e-9, atol=1e-12), name
    return result


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_next_step_is_the_originals(kind):
    check_next_step(*trained("residual", OPTIMIZERS[kind]))


@pytest.mark.parametrize("case", CASES)
def test_next_step_on_every_kind_of_network(case):
    check_next_step(*trained(case, OPTIMIZERS["adam"]))


def test_momentum_is_cut_by_hand():
    """Channel 1 of the hidden layer goes: row 1 of fc1's momentum, column 1 of fc2's."""
    net = nets.ScaledTokens()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    step(net, optimizer, torch.randn(4, 4))
    nets.kill(net, "act", [1])
    result = rr.compact(net, torch.randn(1, 4), optimizer=optimizer)
    rest = [0, 2, 3, 4, 5, 6, 7]

    def momentum(holder, module, name):
        return holder.state[module.get_parameter(name)]["momentum_buffer"]

    for name, pick in {
        "fc1.weight": lambda m: m[rest],
        "fc2.weight": lambda m: m[:, rest],
        "scale": lambda m: m[rest],
    }.items():
        assert torch.equal(
            momentum(result.optimizer, result.model, name), pick(momentum(optimizer, net, name))
        )


def test_adafactor_keeps_its_factored_moments():
    """Row means have shape (out, 1): they follow the rows. Column means of fewer rows differ: no equality."""
    net, optimizer, x = trained("bare parameter", lambda p: torch.optim.Adafactor(p, 1e-2))
    result = rr.compact(net, x[:1], 1e-12, optimizer=optimizer)
    state = result.optimizer.state[result.model.fc1.weight]
    assert state["row_var"].shape == (6, 1)
    assert state["col_var"].shape == (1, 4)
    step(result.model, result.optimizer, x)


def test_tied_weights_have_one_state():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act = nn.Linear(4, 4), rr.RotatedReLU(4, -1)
            self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.head(self.act(self.b(self.a(x))))

    torch.manual_seed(0)
    net = Tied().double()
    optimizer = OPTIMIZERS["adam"](net.parameters())
    x = torch.randn(4, 4, dtype=torch.float64)
    step(net, optimizer, x)
    nets.kill(net, "act", [0])
    result = check_next_step(net, optimizer, x)
    assert result.model.a.weight is result.model.b.weight


def test_a_second_compaction_takes_the_optimizer_along_again():
    net, optimizer, x = trained("residual", OPTIMIZERS["adam"])
    once = check_next_step(net, optimizer, x)
    nets.kill(once.model, "block2.act1", [0, 1])
    check_next_step(once.model, once.optimizer, x)


def test_no_optimizer_no_optimizer():
    net, _, x = trained("padded", OPTIMIZERS["plain sgd"])
    assert rr.compact(net, x[:1]).optimizer is None


def test_the_optimizer_of_another_network_is_refused():
    net, _, x = trained("padded", OPTIMIZERS["plain sgd"])
    stranger = torch.optim.SGD(nets.OptionA().parameters(), 0.1)
    with pytest.raises(
        CompactionError, match=r"parameter 0 of the optimizer's group 0, \[4, 3, 3, 3\], is none"
    ):
        rr.compact(net, x[:1], optimizer=stranger)


def test_state_that_cannot_be_cut_is_named():
    net, _, x = trained("padded", OPTIMIZERS["plain sgd"])
    optimizer = torch.optim.LBFGS(net.parameters(), 0.1, max_iter=2)
    optimizer.step(lambda: (net(x) - 1).square().mean())
    with pytest.raises(
        CompactionError, match=r"LBFGS keeps .* which cannot be cut with it: make a new optimizer"
    ):
        rr.compact(net, x[:1], optimizer=optimizer)
