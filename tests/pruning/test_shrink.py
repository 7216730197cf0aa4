"""A trained network in, a smaller one out: what is kept, what is compared, what is refused."""

import copy

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import DataError, SlopeError
from rotated_relu.pruning.shrink import WARMUP, rate_factor


def trained():
    """A small network that tells which quarter of the plane a point is in, trained until it can."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for x, y in batches(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


def batches(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        x = torch.randn(64, 2, generator=generator)
        made.append((x, (x[:, 0] > 0).long() * 2 + (x[:, 1] > 0).long()))
    return made


def accuracy(net):
    x, y = batches(1, seed=2)[0]
    return 100 * float((net(x).argmax(1) == y).float().mean())


@pytest.fixture(scope="module")
def net():
    return trained()


@pytest.mark.slow
@pytest.mark.parametrize("teacher", [False, True])
def test_half_of_the_macs_go_and_the_accuracy_stays(net, teacher):
    before = copy.deepcopy(net.state_dict())
    shrunk = rr.shrink(net, batches(10), accuracy, keep=0.5, steps=100, teacher=teacher)
    # 2 * 32 + 32 * 32 + 32 * 4 = 1216 multiplications, of which at most half remain.
    first, second = shrunk.model[0].out_features, shrunk.model[2].out_features
    macs = 2 * first + first * second + second * 4
    assert macs <= 608
    assert shrunk.macs_kept == pytest.approx(macs / 1216)
    assert shrunk.original_score == accuracy(net)
    assert shrunk.score == accuracy(shrunk.model) >= shrunk.original_score - 8
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not shrunk.model.training
    assert shrunk.compacted.certificate.max_relative_difference <= 1e-9


def test_what_it_returns_can_be_saved_and_loaded(net, tmp_path):
    shrunk = rr.shrink(net, batches(10), keep=0.6, steps=20)
    path = rr.save(shrunk.compacted, tmp_path / "small.safetensors")
    x = torch.randn(3, 2)
    loaded = rr.load(path, copy.deepcopy(net))
    with torch.no_grad():
        assert torch.equal(loaded(x), shrunk.model(x))
    assert shrunk.score is None


def test_any_task_by_a_loss_of_ones_own():
    """Regression, batches that are dicts, examples given."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))
    data = [{"x": torch.randn(8, 3), "y": torch.randn(8, 1)} for _ in range(3)]
    seen = []

    def loss(network, batch):
        return (network(batch["x"]) - batch["y"]).square().mean()

    shrunk = rr.shrink(
        net, data, keep=0.5, steps=12, unit="channels", loss=loss, example_inputs=torch.zeros(2, 3),
        optimizer=lambda parameters: torch.optim.SGD(parameters, 0.01), step_done=lambda n, _: seen.append(n),
    )  # fmt: skip
    assert shrunk.model[0].out_features == 8
    assert seen == list(range(1, 13))


def test_it_is_compacted_when_the_last_slope_is_zero(net):
    """end + window = 0.5 of 20 steps: from step 11 on the loss sees the small network."""
    widths = []

    def loss(network, batch):
        widths.append(network[0].weight.shape[0])
        return nn.functional.cross_entropy(network(batch[0]), batch[1])

    rr.shrink(net, batches(4), keep=0.5, steps=20, loss=loss, start=0.0, end=0.4, window=0.1)
    assert set(widths[:10]) == {32}
    assert max(widths[10:]) < 32


def test_the_rate_rises_shortly_and_falls_to_zero():
    # At the end of the warm-up the whole rate; half way of the rest the cosine is at a half; then zero.
    assert rate_factor(0.0) == pytest.approx(1 / 11)
    assert rate_factor(WARMUP) == 1
    assert rate_factor((1 + WARMUP) / 2) == pytest.approx(0.5)
    assert rate_factor(1.0) == pytest.approx(0)


@pytest.mark.parametrize(
    ("loader", "options", "error", "says"),
    [
        ([], {}, DataError, "no batch"),
        ([torch.zeros(2, 2)], {}, DataError, "give a loss of your own"),
        ([(torch.zeros(2, 2), torch.zeros(2))], {"keep": 0.0}, SlopeError, "keep must be above 0"),
        ([(torch.zeros(2, 2), torch.zeros(2))], {"loss": sum, "teacher": True}, SlopeError, "default loss"),
        ([{"x": 1}], {"loss": sum}, DataError, "example_inputs= is needed"),
    ],
)
def test_refused_before_any_work(net, loader, options, error, says):
    with pytest.raises(error, match=says):
        rr.shrink(net, loader, **{"steps": 4, **options})


def test_a_loss_that_is_not_finite_stops_it(net):
    with pytest.raises(SlopeError, match="at step 1; lower the learning rate"):
        rr.shrink(
            net, batches(1), steps=2, loss=lambda network, batch: network(batch[0]).sum() * float("nan")
        )


class Remembers(nn.Module):
    """Keeps what it computed last, with its history: a tensor that torch does not copy."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)
        self.kept = None

    def forward(self, x):
        self.kept = self.first(x).relu()
        return self.last(self.kept)


def test_a_network_that_keeps_computed_tensors_is_shrunk():
    torch.manual_seed(0)
    net, batch = Remembers(), (torch.randn(8, 6), torch.randint(3, (8,)))
    net(batch[0])
    assert not net.kept.is_leaf
    shrunk = rr.shrink(net, [batch], keep=0.6, steps=20, teacher=True)
    assert shrunk.macs_kept <= 0.6
    assert shrunk.model(batch[0]).shape == (8, 3)
