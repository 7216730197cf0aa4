"""The published networks: parameter counts derived by hand, where the slopes sit, equal starts, names."""

import pytest
import torch
from torch import nn

from rotated_relu.core.errors import UnknownNameError
from rotated_relu.nn import models
from rotated_relu.nn.activation import Rotated, RotatedReLU
from rotated_relu.nn.models import ChannelPadShortcut


def parameters(net):
    return sum(parameter.numel() for parameter in net.parameters())


def norm(channels):
    return 2 * channels


def post_activation(blocks, classes):
    """Stem 3x3 from 3 to 16 with norm; per block two 3x3 convolutions with norm; linear with bias."""
    total, width_before = 27 * 16 + norm(16), 16
    for width in (16, 32, 64):
        total += 9 * width_before * width + norm(width) + 9 * width * width + norm(width)
        total += (blocks - 1) * 2 * (9 * width * width + norm(width))
        width_before = width
    return total + 64 * classes + classes


def pre_activation(blocks):
    """As above, with each norm before its convolution, so as wide as what that reads; a norm at the end."""
    total, width_before = 27 * 16 + norm(16), 16
    for width in (16, 32, 64):
        total += norm(width_before) + 9 * width_before * width + norm(width) + 9 * width * width
        total += (blocks - 1) * 2 * (9 * width * width + norm(width))
        width_before = width
    return total + norm(64) + 64 * 10 + 10


def bottleneck(blocks):
    """1x1 down, 3x3, 1x1 up to four times the width; a 1x1 shortcut where the width changes."""
    total, before = 27 * 16, 16
    for width in (16, 32, 64):
        for _ in range(blocks):
            total += (
                norm(before)
                + before * width
                + norm(width)
                + 9 * width * width
                + norm(width)
                + width * 4 * width
            )
            total += before * 4 * width if before != 4 * width else 0
            before = 4 * width
    return total + norm(256) + 256 * 10 + 10


def wide(blocks, widen):
    """Two 3x3 convolutions per block, norms before them; a 1x1 shortcut where the width changes."""
    total, before = 27 * 16, 16
    for width in (16 * widen, 32 * widen, 64 * widen):
        for _ in range(blocks):
            total += norm(before) + 9 * before * width + norm(width) + 9 * width * width
            total += before * width if before != width else 0
            before = width
    return total + norm(before) + before * 10 + 10


# Slopes: post-activation, two activations of the block's width per block. Pre-activation, the first of a
# stage's activations is as wide as the stage before.
CASES = [
    (models.resnet20, post_activation(3, 10), 3 * 2 * (16 + 32 + 64)),
    (models.resnet32, post_activation(5, 10), 5 * 2 * 112),
    (models.resnet44, post_activation(7, 10), 7 * 2 * 112),
    (models.resnet56, post_activation(9, 10), 9 * 2 * 112),
    (models.resnet110, post_activation(18, 10), 18 * 2 * 112),
    (models.preact_resnet110, pre_activation(18), 18 * 2 * 112 - (32 - 16) - (64 - 32)),
    (models.preact_resnet164, bottleneck(18), 18 * 6 * 112 - (64 - 16) - (128 - 64) - (256 - 128)),
    (models.wrn_16_4, wide(2, 4), 2 * 2 * 448 - (64 - 16) - (128 - 64) - (256 - 128)),
    (models.wrn_40_4, wide(6, 4), 6 * 2 * 448 - (64 - 16) - (128 - 64) - (256 - 128)),
    (models.wrn_28_10, wide(4, 10), 4 * 2 * 1120 - (160 - 16) - (320 - 160) - (640 - 320)),
    (models.fcnn, 784 * 500 + 500 + 500 * 10 + 10, 500),
]
PUBLISHED = {
    "resnet20": (269_722, 270_394),
    "preact_resnet110": (1_727_994, 1_731_978),
    "preact_resnet164": (1_703_258, 1_715_114),
    "wrn_16_4": (2_748_890, 2_750_442),
    "wrn_40_4": (8_949_210, 8_954_346),
    "fcnn": (397_510, 398_010),
}


@pytest.mark.parametrize(("build", "plain", "slopes"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_parameter_counts(build, plain, slopes):
    with torch.device("meta"):  # no memory, no arithmetic
        assert parameters(build(rotated=False)) == plain
    assert parameters(build()) == plain + slopes
    if build.__name__ in PUBLISHED:
        assert (plain, plain + slopes) == PUBLISHED[build.__name__]


def test_resnet56_plain_count_is_the_published_one():
    assert post_activation(9, 10) == 853_018


SMALL = ["resnet20", "wrn_16_4", "demo_resnet", "fcnn"]


@pytest.mark.parametrize("name", SMALL)
def test_rotated_and_plain_differ_in_slopes_alone(name):
    torch.manual_seed(3)
    plain = models.create(name, rotated=False)
    torch.manual_seed(3)
    rotated = models.create(name, rotated=True)
    plain_state, rotated_state = plain.state_dict(), rotated.state_dict()
    assert {key for key in rotated_state if not key.endswith(".slope")} == set(plain_state)
    assert [type(module) for module in plain.modules() if isinstance(module, nn.ReLU)]
    for key, value in plain_state.items():
        assert torch.equal(value, rotated_state[key]), key


@pytest.mark.parametrize("name", ["resnet20", "preact_resnet164", "wrn_16_4", "fcnn"])
def test_each_activation_is_called_once(name):
    net = getattr(models, name)().eval()
    calls = {key: 0 for key, module in net.named_modules() if isinstance(module, RotatedReLU)}
    for key, module in net.named_modules():
        if isinstance(module, RotatedReLU):
            module.register_forward_hook(lambda *_, key=key: calls.__setitem__(key, calls[key] + 1))
    channels, size = (1, 28) if name == "fcnn" else (3, 16)
    with torch.no_grad():
        assert net(torch.zeros(1, channels, size, size)).shape == (1, 10)
    assert set(calls.values()) == {1}


@pytest.mark.parametrize("name", ["resnet20", "preact_resnet110", "wrn_16_4"])
def test_stem_and_last_activation_stay_plain(name):
    assert type(getattr(models, name)().relu) is nn.ReLU


def test_the_streams_of_preactivation_networks_carry_no_slope():
    """With all slopes 0 the blocks vanish, and what is left is the path of the shortcuts."""
    net = models.preact_resnet110().eval()
    for module in net.modules():
        if isinstance(module, RotatedReLU):
            nn.init.zeros_(module.slope)
    with torch.no_grad():
        images = torch.randn(2, 3, 16, 16)
        x = net.bn1(net.conv1(images))
        # Two shortcuts: every second pixel, channels 16 to 32 to 64 padded evenly.
        x = nn.functional.pad(x[:, :, ::4, ::4], (0, 0, 0, 0, 8 + 16, 8 + 16))
        expected = net.fc(net.relu(net.bn(x)).mean((2, 3)))
        torch.testing.assert_close(net(images), expected)


def test_wide_shortcut_reads_the_activated_input():
    net = models.wrn_16_4().eval()
    block = net.layer1[0]
    nn.init.zeros_(block.act1.slope)
    with torch.no_grad():
        assert block(torch.randn(1, 16, 8, 8)).abs().max() == 0


def test_channel_pad_shortcut():
    x = torch.arange(2 * 4 * 4, dtype=torch.float32).reshape(1, 2, 4, 4)
    out = ChannelPadShortcut(2, 6, stride=2)(x)
    assert out.shape == (1, 6, 2, 2)
    assert torch.equal(out[:, 2:4], x[:, :, ::2, ::2])
    assert out[:, :2].abs().sum() == 0
    assert out[:, 4:].abs().sum() == 0


def test_weights_are_kaiming_normal_fan_in():
    """Variance 2 / fan-in: the widest layer of WRN-16-4 has 256 * 9 inputs and 589,824 weights."""
    torch.manual_seed(0)
    weight = models.wrn_16_4().layer3[1].conv2.weight
    wanted = 2 / (256 * 9)
    # The sample variance of n normal values has a relative standard deviation of sqrt(2 / n) = 0.0018.
    assert float(weight.detach().var()) == pytest.approx(wanted, rel=0.01)


def test_create_passes_options_on():
    net = models.create("wrn_16_4", 7, rotated=False, dropout=0.25, in_channels=1)
    assert net.fc.out_features == 7
    assert net.conv1.in_channels == 1
    assert net.layer1[0].dropout.p == 0.25


def test_create_knows_torchvision():
    net = models.create("squeezenet1_1", 5, rotated=False)
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert "resnet18" in models.names()


def test_create_rotates_torchvision():
    net = models.create("resnet18", 5, rotated=True, example_inputs=torch.zeros(1, 3, 32, 32))
    found = [module for module in net.modules() if isinstance(module, Rotated)]
    # The stem's, and two per basic block of 2, 2, 2, 2.
    assert sum(module.num_channels for module in found) == 64 + 2 * 2 * (64 + 128 + 256 + 512)


def test_unknown_model_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="resnet20"):
        models.create("resnet_20")


@pytest.mark.parametrize("depth", [15, 4])
def test_wide_depth_must_fit(depth):
    with pytest.raises(ValueError, match="6n"):
        models.WideResNet(depth, 2)
