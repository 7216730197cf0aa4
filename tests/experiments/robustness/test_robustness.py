"""Attacks on networks whose gradients and constants are derived by hand."""

import math
import sys

import pytest
import torch
from torch import nn

from rotated_relu.core.errors import AttackError, DataError, MissingPackageError
from rotated_relu.experiments.robustness import (
    AttackSettings,
    OnPixels,
    choose_images,
    fgsm,
    local_lipschitz,
    passes,
    pgd,
    robustness,
)
from rotated_relu.training.data.splits import Split

EPS = 0.031


@pytest.fixture
def needs_library():
    pytest.importorskip("torchattack", reason="optional: pip install torchattack")


class TwoLayers(nn.Module):
    """scores = V relu(W x + b) for images of one channel and 1 x 2 pixels."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.one.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 1.0]]))
            self.one.bias.copy_(torch.tensor([0.0, -10.0]))
            self.two.weight.copy_(torch.tensor([[1.0, 4.0], [-1.0, 2.0]]))

    def forward(self, x):
        return self.two(torch.relu(self.one(x.flatten(1))))


def random_net(seed=0):
    """A small network on 3 x 6 x 6 images with four classes, in training mode."""
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4)
    return OnPixels(nn.Sequential(*layers), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def random_images(count=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 6, 6), generator=generator, dtype=torch.uint8)
    images[:, :, 0, 0], images[:, :, 0, 1] = 0, 255  # at both ends of the range
    return images, torch.randint(0, 4, (count,), generator=generator)


def test_normalisation_stands_before_the_network():
    # (0.5 - 0.1) / 0.2 = 2 and (1.0 - 0.5) / 0.25 = 2, into a network that adds up.
    class Sum(nn.Module):
        def forward(self, x):
            return x.sum((1, 2, 3))

    pixels = torch.tensor([0.5, 1.0]).view(1, 2, 1, 1)
    assert OnPixels(Sum(), (0.1, 0.5), (0.2, 0.25))(pixels).item() == pytest.approx(4.0)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("std", [1.0, 0.25])
def test_fgsm_against_a_gradient_by_hand(needs_library, label, std):
    # W x + b is (0.5, -7.1) at x = (0.9, 0.2): the second unit is off, so the scores are (h, -h) with
    # h = x1 - 2 x2, and p0 = 1 / (1 + exp(-2 h)). Cross-entropy: dL/dh = -2 (1 - p0) for label 0, + 2 p0 for label 1,
    # so dL/dx has the signs (-, +) for label 0 and (+, -) for label 1. A positive std changes no sign.
    net = OnPixels(TwoLayers(), (0.0,), (std,))
    pixels = torch.tensor([0.9 * std, 0.2 * std]).view(1, 1, 1, 2)
    sign = torch.tensor([-1.0, 1.0]) if label == 0 else torch.tensor([1.0, -1.0])
    found = fgsm(net, pixels, torch.tensor([label]), EPS)
    assert torch.allclose(found.flatten(), pixels.flatten() + EPS * sign, atol=1e-7)


def test_fgsm_is_clipped_to_pixels_that_exist(needs_library):
    # As above, at x = (0.98, 0.01): up would be 1.011, down -0.021.
    pixels = torch.tensor([0.98, 0.01]).view(1, 1, 1, 2)
    found = fgsm(OnPixels(TwoLayers(), (0.0,), (1.0,)), pixels, torch.tensor([1]), EPS)
    assert found.flatten().tolist() == [1.0, 0.0]


def test_pgd_takes_steps_up_to_the_edge_of_the_ball(needs_library):
    # The gradient's sign is (-, +) throughout, so k steps of eps / 5 move by min(k, 5) / 5 of eps.
    net, pixels = OnPixels(TwoLayers(), (0.0,), (1.0,)), torch.tensor([0.9, 0.2]).view(1, 1, 1, 2)
    for steps, share in ((1, 0.2), (3, 0.6), (9, 1.0)):
        found = pgd(net, pixels, torch.tensor([0]), EPS, steps=steps)
        moved = (found - pixels).flatten()
        assert moved.tolist() == pytest.approx([-share * EPS, share * EPS], abs=1e-6)


@pytest.mark.parametrize("random_start", [False, True])
def test_pgd_never_leaves_the_ball_nor_the_range(needs_library, random_start):
    net, (images, labels) = random_net(), random_images()
    pixels = images.float() / 255
    found = pgd(net, pixels, labels, EPS, steps=8, random_start=random_start)
    assert (found - pixels).abs().max() <= EPS + 1e-7
    assert found.min() >= 0
    assert found.max() <= 1
    assert not torch.equal(found, pixels)
    assert not found.requires_grad


def test_the_random_start_is_seeded_and_leaves_torchs_generator_alone(needs_library):
    net, (images, labels) = random_net(), random_images()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = [
        pgd(net, images.float() / 255, labels, EPS, steps=1, random_start=True, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_attacks_leave_the_network_as_it_was(needs_library):
    net, (images, labels) = random_net(), random_images()
    net.net[0].bias.requires_grad_(False)
    net.net[1].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    flags = [parameter.requires_grad for parameter in net.parameters()]
    robustness(net, images, labels, AttackSettings(steps=2))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert [parameter.requires_grad for parameter in net.parameters()] == flags
    assert all(parameter.grad is None for parameter in net.parameters())
    assert net.training
    assert not net.net[1].training


def test_more_steps_fool_more(needs_library):
    # Labelled by the network's own answer, so that clean accuracy is 100 %.
    net, (images, _) = random_net(), random_images(64)
    net.eval()
    labels = net(images.float() / 255).argmax(1)
    found = robustness(net, images, labels, AttackSettings(eps=0.05, steps=20))
    assert found.clean == 100.0
    assert found.pgd <= found.fgsm < 100.0
    assert found.lipschitz > 0


def test_the_constant_of_a_constant_network_is_zero():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    nn.init.zeros_(net[1].weight)
    assert local_lipschitz(net, torch.rand(4, 3, 2, 2), EPS, steps=3).tolist() == [0.0] * 4


def test_the_constant_of_a_logistic_network_by_hand():
    # Scores (w x, 0) of one pixel x. KL is convex in x' and zero at x, so KL / |x - x'| rises with the distance on
    # either side. At x = 0 only x' > 0 exists, so the maximum is at x' = eps. With p = 1 / 2 and
    # q = 1 / (1 + exp(-w eps)): KL = -(log(2 q) + log(2 (1 - q))) / 2.
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[30.0], [0.0]]))
    q = 1 / (1 + math.exp(-30 * EPS))
    expected = -(math.log(2 * q) + math.log(2 * (1 - q))) / 2 / EPS
    assert local_lipschitz(net, torch.zeros(1, 1, 1, 1), EPS).item() == pytest.approx(expected, rel=1e-4)
    # 30 times the scale of the pixels: the same KL at a thirtieth of the distance.
    with torch.no_grad():
        net[1].weight.mul_(30)
    scaled = local_lipschitz(net, torch.zeros(1, 1, 1, 1), EPS / 30).item()
    assert scaled == pytest.approx(30 * expected, rel=1e-4)


def test_the_order_of_the_divergence():
    # x = 1 allows x' < 1 only. Scores (3 x, 0): p is far from 1 / 2, so KL(p || q) and KL(q || p) differ.
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[3.0], [0.0]]))
    p, q = 1 / (1 + math.exp(-3.0)), 1 / (1 + math.exp(-3.0 * (1 - 0.3)))
    expected = (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))) / 0.3
    assert local_lipschitz(net, torch.ones(1, 1, 1, 1), 0.3).item() == pytest.approx(expected, rel=1e-4)


def test_more_steps_never_find_less():
    net, (images, _) = random_net(), random_images(16)
    found = [local_lipschitz(net, images.float() / 255, EPS, steps=steps) for steps in (1, 4, 12)]
    assert (found[0] <= found[1]).all()
    assert (found[1] <= found[2]).all()
    assert found[2].mean() > 1.05 * found[0].mean()


def test_pgd_and_the_constant_may_use_fewer_images(needs_library):
    net, (images, labels) = random_net(), random_images(30)
    done = []
    settings = AttackSettings(steps=3, batch_size=8)
    some = robustness(net, images, labels, settings, pgd_images=10, advance=done.append)
    alone = robustness(net, images[:10], labels[:10], settings)
    assert sum(done) == passes(30, 10, 3) == 30 + 2 * 3 * 10
    assert (some.pgd, some.lipschitz) == (alone.pgd, pytest.approx(alone.lipschitz))
    assert some.clean == pytest.approx(
        100 * (net.eval()(images / 255).argmax(1) == labels).float().mean().item()
    )


def test_images_are_chosen_by_a_seed_and_fewer_are_the_first():
    images, labels = random_images(50)
    split = Split(images, labels, (0.0,) * 3, (1.0,) * 3)
    ten, twenty = choose_images(split, 10), choose_images(split, 20)
    assert torch.equal(ten[0], twenty[0][:10])
    assert torch.equal(ten[1], twenty[1][:10])
    assert not torch.equal(ten[0], choose_images(split, 10, seed=1)[0])
    everything = choose_images(split, 99)[1]
    assert everything.bincount().tolist() == labels.bincount().tolist()


@pytest.mark.parametrize("count", [1, 20, 701])
def test_the_same_images_are_chosen_from_a_stream(monkeypatch, count):
    from rotated_relu.training.data import storage as stored

    images, labels = random_images(701)
    split = Split(images, labels, (0.0,) * 3, (1.0,) * 3)
    stream = stored.StreamedSplit(None, ("image", "label"), 701, None, (0.0,) * 3, (1.0,) * 3)
    monkeypatch.setattr(stored.StreamedSplit, "batches", lambda self, size: split.batches(size))
    for one, other in zip(choose_images(stream, count), choose_images(split, count), strict=True):
        assert torch.equal(one, other)


def test_a_stream_of_unknown_length():
    from rotated_relu.training.data.storage import StreamedSplit

    with pytest.raises(DataError, match="unknown length"):
        choose_images(StreamedSplit(None, ("image", "label"), 0, None, (), ()), 10)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"eps": 0.0}, "eps is 0, but must be above 0"),
        ({"eps": 8.0}, "eps is 8, but must be above 0 and at most 1"),
        ({"eps": math.nan}, "eps is nan"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_settings_that_make_no_sense(wrong, message):
    with pytest.raises(AttackError, match=message):
        AttackSettings(**wrong)


def test_a_network_whose_scores_are_not_finite():
    net, (images, labels) = random_net(), random_images(4)
    nn.init.constant_(net.net[4].bias, math.nan)
    with pytest.raises(AttackError, match="not finite"):
        robustness(net, images, labels, AttackSettings(steps=1))


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattack", None)  # as if it were not there
    with pytest.raises(MissingPackageError, match=r"pip install 'rotated-relu\[attack\]'"):
        fgsm(random_net(), torch.rand(1, 3, 6, 6), torch.tensor([0]), EPS)
