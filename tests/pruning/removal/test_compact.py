"""Compaction: exact, complete, explained; the input model untouched. Widths and counts are worked out by hand."""

import contextlib
import copy

import pytest
import torch
import torchvision
from torch import nn

import rotated_relu as rr
from rotated_relu import RotatedReLU
from rotated_relu.core.counting import count_weights
from rotated_relu.core.errors import (
    CertificateError,
    CompactionError,
    NothingRemovedWarning,
    ShapeError,
    SlopeError,
)
from rotated_relu.core.modules import Call
from rotated_relu.experiments.paper.graph import paper_layers
from rotated_relu.pruning.removal.verify import certify
from support import nets


def weights(net):
    return sum(count_weights(net).values())


def image(size=8, batch=1):
    return torch.randn(batch, 3, size, size)


def compacted(net, inputs, **kwargs):
    """Compact and check what holds for every network."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    result = rr.compact(net, inputs, **kwargs)
    assert result.certificate.max_relative_difference <= 1e-9
    assert list(result.model.state_dict()) == list(before)
    assert type(result.model) is type(net)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), f"the input model changed: {name}"
    return result


# --- each hazard, with its widths worked out -----------------------------------------------------------------------


def test_chain_loses_filters_readers_norms_and_slopes():
    net = nets.awake(nets.Chain())
    nets.kill(net, "act1", [0, 3])
    nets.kill(net, "act2", [1])
    small = compacted(net, image(16)).model
    assert small.conv1.weight.shape == (6, 3, 3, 3)
    assert small.bn1.weight.shape == small.bn1.running_var.shape == small.act1.slope.shape == (6,)
    assert small.conv2.weight.shape == (5, 6, 3, 3)
    assert small.fc.weight.shape == (5, 5 * 36)  # 16 -> 14 -> 12 -> pooled 6 x 6 = 36 features a channel
    assert (small.conv1.out_channels, small.bn1.num_features, small.conv2.in_channels) == (6, 6, 6)
    assert small.fc.in_features == 180


def test_negative_slopes_stay_on_their_side_of_a_max_pool():
    net = nets.awake(nets.Chain())
    net.act2.slope.data = torch.tensor([-1.0, 1.0, -0.5, 0.0, 2.0, -2.0])
    assert compacted(net, image(16)).model.act2.slope.tolist() == [-1.0, 1.0, -0.5, 2.0, -2.0]


def test_residual_stage_with_unequal_widths():
    """Stream channels: 0, 1 die at the stem, 0, 4 after block 1, 5 after block 2: each is alive somewhere but 0."""
    net = nets.awake(nets.Residual())
    for name, dead in {
        "act": [0, 1],
        "block1.act1": [2, 3, 4],
        "block1.act2": [0, 4],
        "block2.act2": [0, 5],
    }.items():
        nets.kill(net, name, dead)
    small = compacted(net, image()).model
    assert small.stem.weight.shape[0] == 6  # 8 - 2
    assert small.block1.conv1.weight.shape[:2] == (5, 6)
    assert small.block1.conv2.weight.shape[:2] == (6, 5)
    assert small.block2.conv1.weight.shape[:2] == (8, 6)
    assert small.block2.conv2.weight.shape[:2] == (6, 8)
    assert small.fc.weight.shape == (5, 6)
    assert small.block1.act2.slope.shape == (7,)  # the stream itself is 7 wide: all but channel 0


def test_preactivation_stream_keeps_its_width():
    net = nets.awake(nets.PreActivation())
    nets.kill(net, "act1", [0, 1, 2])
    nets.kill(net, "act2", [3, 4])
    small = compacted(net, image()).model
    assert small.stem.weight.shape[0] == 6
    assert small.conv1.weight.shape[:2] == (4, 3)
    assert small.conv2.weight.shape[:2] == (6, 4)
    assert small.act1.slope.shape == (3,)


def test_padding_shortcut_becomes_a_full_width_region():
    net = nets.awake(nets.OptionA())
    nets.kill(net, "act", [1])
    nets.kill(net, "act2", [0, 3])
    result = compacted(net, image())
    assert [region.name for region in result.plan.regions] == ["shortcut"]
    assert result.model.conv.weight.shape[:2] == (6, 3)
    assert result.model.stem.weight.shape[0] == 3
    assert result.model.act2.slope.shape == (6,)


def test_width_written_into_forward_is_held_with_its_reason():
    net = nets.awake(nets.LiteralView())
    nets.kill(net, "act", [0, 7])
    result = compacted(net, image())
    assert result.model.conv.weight.shape[0] == 6  # the layer still shrinks
    assert result.model.fc.weight.shape == (5, 6)
    assert result.model.act.slope.shape == (8,)  # the tensor between does not
    (held,) = [held for held in result.plan.held if held.name == "conv"]
    assert held.channels == 2
    assert "view in the model's forward" in held.reason


def test_concatenation():
    net = nets.awake(nets.Concat())
    nets.kill(net, "act_a", [0])
    nets.kill(net, "act_b", [1, 2])
    small = compacted(net, image()).model
    assert small.a.weight.shape[0] == 3
    assert small.b.weight.shape[0] == 4
    assert small.head.weight.shape[:2] == (5, 7)


def test_depthwise_channel_dies_with_either_slope():
    net = nets.awake(nets.Depthwise())
    nets.kill(net, "act1", [0, 1])
    nets.kill(net, "act2", [1, 2])
    small = compacted(net, image()).model
    assert small.depthwise.weight.shape == (5, 1, 3, 3)  # 8 - {0, 1, 2}
    assert small.depthwise.groups == 5
    assert small.expand.weight.shape[0] == 5
    assert small.project.weight.shape[1] == 5


def test_a_group_goes_when_all_of_it_is_dead():
    net = nets.awake(nets.Grouped())
    nets.kill(net, "act1", [0, 1, 2])  # group 0 whole, group 1 half
    nets.kill(net, "act2", [6, 7])  # group 3 whole
    small = compacted(net, image()).model
    assert small.conv2.weight.shape == (4, 2, 3, 3)
    assert small.conv2.groups == 2
    assert small.conv1.weight.shape[0] == 3  # 3, 4, 5 are alive; 2 stays in the tensor as a zero


def test_channel_shuffle_is_exact():
    net = nets.awake(nets.Shuffle())
    nets.kill(net, "act", [0, 5])
    small = compacted(net, image()).model
    assert small.conv1.weight.shape[0] == 6
    assert small.conv2.weight.shape[1] == 6


def test_a_layer_called_twice_keeps_what_either_call_needs():
    net = nets.awake(nets.SharedLayer())
    nets.kill(net, "act0", [0, 1])
    nets.kill(net, "act1", [0, 2])
    nets.kill(net, "act2", [0, 3])
    small = compacted(net, image()).model
    assert small.conv.weight.shape[:2] == (5, 5)  # channel 0 is dead in both calls, the others in one
    assert small.conv.bias.shape == (5,)


def test_tokens_and_attention():
    net = nets.awake(nets.Tokens())
    nets.kill(net, "act", [0, 5, 6])
    small = compacted(net, torch.randn(2, 4, 5)).model
    assert small.fc1.weight.shape == (9, 8)
    assert small.fc2.weight.shape == (8, 9)
    assert small.act.slope.shape == (9,)


def test_bare_parameters_follow_their_wire():
    net = nets.ScaledTokens()
    nets.kill(net, "act", [1, 2])
    small = compacted(net, torch.randn(2, 4)).model
    assert small.scale.shape == (6,)
    assert small.fc1.weight.shape == (6, 4)


def test_two_inputs_and_nested_outputs():
    net = nets.awake(nets.TwoInputs())
    nets.kill(net, "act", [0, 1, 2])
    small = compacted(net, (image(), torch.randn(1, 2))).model
    assert small.image.weight.shape[0] == 5
    assert small.gate.weight.shape == (5, 8)  # the gate of a dead channel is not read either
    assert small.head.weight.shape[:2] == (4, 5)


# --- whole layers dead ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_every_filter_of_a_layer_dead(bias):
    net = nets.awake(nets.Chain(bias))
    nets.kill(net, "act1", list(range(8)))
    small = compacted(net, image(16)).model
    assert small.conv1.weight.numel() == 0
    assert small.conv2.weight.numel() == 0  # it only ever writes its bias, through the norm a constant
    assert small(image(16, batch=4)).shape == (4, 5)


def test_residual_branch_dead_leaves_the_shortcut():
    net = nets.awake(nets.Residual())
    nets.kill(net, "block1.act1", list(range(8)))
    small = compacted(net, image()).model
    assert small.block1.conv1.weight.numel() == small.block1.conv2.weight.numel() == 0
    assert small.block2.conv1.weight.shape[:2] == (8, 8)


def test_last_activation_dead_leaves_the_bias_of_the_head():
    net = nets.awake(nets.Residual())
    nets.kill(net, "block2.act2", list(range(8)))
    result = compacted(net, image())
    assert weights(result.model) == 0
    assert torch.equal(result.model(image()), net.fc.bias.expand(1, 5))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "padding", "dilation"), [(3, 1, 1), (5, 0, 1), (3, 2, 2), (3, "same", 1)])
def test_dead_layer_has_the_output_size_of_its_convolution(stride, kernel, padding, dilation):
    if padding == "same" and stride != 1:
        pytest.skip("torch has no strided 'same' convolution")
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), rr.RotatedReLU(4), nn.Conv2d(4, 4, kernel, stride, padding, dilation),
        rr.RotatedReLU(4), nn.Conv2d(4, 2, 1),
    )  # fmt: skip
    net[1].slope.data.zero_()
    compacted(net, image(17))


# --- the networks that the library is for --------------------------------------------------------------------------


def half_dead(net, rate=0.5):
    generator = torch.Generator().manual_seed(1)
    for slope in rr.slopes(net).values():
        slope.data[torch.rand(slope.numel(), generator=generator) < rate] = (
            0.05  # under the default threshold
        )
    return nets.awake(net)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["resnet20", "fcnn", "wrn_16_4"])
def test_our_networks(name, rate):
    torch.manual_seed(0)
    net = half_dead(getattr(rr.models, name)(), rate)
    inputs = torch.randn(1, 1, 28, 28) if name == "fcnn" else image(32)
    result = compacted(net, inputs)
    assert weights(result.model) < weights(net)
    if name != "wrn_16_4":  # without pre-activation everything that the paper counts can go
        assert weights(result.model) <= paper_layers(net, inputs, 0.1).count().alive_weights


@pytest.mark.slow
def test_preactivation_bottleneck_network():
    net = half_dead(rr.models.preact_resnet164())
    assert weights(compacted(net, image(32)).model) < weights(net)


@pytest.mark.parametrize("layer", ["layer1.0.act1", "layer2.1.act2", "layer3.2.act1"])
def test_single_layer_dead_in_resnet20(layer):
    net = nets.awake(rr.models.resnet20())
    net.get_submodule(layer).slope.data.zero_()
    result = compacted(net, image(32))
    assert weights(result.model) <= paper_layers(net, image(32), 0.1).count().alive_weights


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16_bn"])
def test_torchvision(name):
    torch.manual_seed(0)
    inputs = image(32)
    net = half_dead(rr.rotate(getattr(torchvision.models, name)(weights=None), inputs, init="published"))
    result = compacted(net, inputs)
    for kind in ("Conv2d", "Linear", "BatchNorm2d"):
        before = [n for n, m in net.named_modules() if type(m).__name__ == kind]
        changed = {layer.name for layer in result.plan.layers if layer.kind == kind}
        assert set(before) <= changed | {"fc", "classifier.6"} or kind == "Linear"
    if name != "vgg16_bn":
        assert weights(result.model) <= paper_layers(net, inputs, 0.1).count().alive_weights


# --- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("round_to", [4, 8])
def test_widths_rounded_up_are_exact_and_multiples(round_to):
    net = half_dead(rr.models.resnet20(), 0.4)
    small = compacted(net, image(32), round_to=round_to).model
    for name, layer in small.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel():
            assert layer.out_channels % round_to == 0, name
            assert layer.in_channels % round_to == 0 or layer.in_channels == 3, name


def test_rounding_keeps_no_more_than_the_original_had():
    net = nets.awake(nets.Chain())
    nets.kill(net, "act1", [0])
    nets.kill(net, "act2", [0, 1, 2])
    with pytest.warns(NothingRemovedWarning):  # 8 and 6 channels are less than one multiple of 16
        small = compacted(net, image(16), round_to=16).model
    assert (small.conv1.out_channels, small.conv2.out_channels) == (8, 6)
    assert small.fc.in_features == 216  # 112 of 216 would be enough, but a gather has to save at least half


@pytest.mark.slow
def test_rounding_leaves_no_adapters_in_a_residual_stage_of_similar_widths():
    net = half_dead(rr.rotate(torchvision.models.resnet18(weights=None), image(32), init="published"), 0.5)
    exact, rounded = rr.compact(net, image(32)).plan, rr.compact(net, image(32), round_to=16).plan
    adapters = [sum(1 for layer in plan.layers if layer.read or layer.write) for plan in (exact, rounded)]
    assert adapters[0] > 20
    assert adapters[1] == 0


def test_rounding_gathers_where_it_saves_more_than_half():
    net = nets.awake(nets.Chain())
    nets.kill(net, "act2", [0, 1, 2, 3])
    small = compacted(net, image(16), round_to=16).model
    assert small.fc.in_features == 80  # 2 channels x 36 = 72, rounded up to 5 x 16, of 216


def test_threshold_is_strict_and_recorded():
    net = nets.ScaledTokens()
    net.act.slope.data = torch.tensor([0.05, -0.05, 0.2, 1, 1, 1, 1, 1.0])
    result = compacted(net, torch.randn(1, 4), threshold=0.2)
    assert result.plan.slopes == {"act.slope": {"total": 8, "alive": 6}}
    assert result.model.act.slope.tolist() == pytest.approx([0.2, 1, 1, 1, 1, 1])


def test_nothing_dead_warns():
    with pytest.warns(NothingRemovedWarning):
        rr.compact(nets.ScaledTokens(), torch.randn(1, 4), threshold=0.0)


def test_compacting_twice():
    net = nets.awake(nets.Residual())
    nets.kill(net, "block1.act1", [0])
    once = compacted(net, image()).model
    once.block2.act1.slope.data[:3] = 0
    once.block1.act2.slope.data[:2] = 0
    twice = rr.compact(once, image())
    assert twice.certificate.max_relative_difference <= 1e-9
    assert weights(twice.model) < weights(once)


def test_frozen_parameters_and_modes_stay_as_they_were():
    net = nets.Chain().train()
    net.bn1.eval()
    net.conv1.weight.requires_grad_(False)
    nets.kill(net, "act1", [0])
    small = rr.compact(net, image(16)).model
    assert small.training
    assert not small.bn1.training
    assert not small.conv1.weight.requires_grad
    assert small.conv2.weight.requires_grad
    assert net.training


# --- life afterwards -----------------------------------------------------------------------------------------------


def small_resnet():
    net = half_dead(rr.models.resnet20())
    return rr.compact(net, image(32)).model


def test_trains_on_loss_falls_and_batch_norm_moves():
    torch.manual_seed(0)
    net = small_resnet().train()
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    statistics = net.bn1.running_mean.clone()
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert not torch.equal(net.bn1.running_mean, statistics)


@pytest.mark.slow
def test_compiles():
    net = small_resnet().eval()
    x = image(32, 2)
    with torch.no_grad():
        assert torch.equal(torch.compile(net, backend="aot_eager")(x), net(x))


@pytest.mark.slow
def test_exports_with_any_batch():
    net = small_resnet().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (image(32, 2),), dynamic_shapes=({0: batch},))
    x = image(32, 5)
    with torch.no_grad():
        assert torch.allclose(program.module()(x), net(x), atol=1e-6)


def test_deep_copies_and_moves_its_adapters():
    net = small_resnet().eval()
    baseline = copy.deepcopy(net)
    x = image(32)
    with torch.no_grad():
        assert torch.equal(baseline(x), net(x))
        assert baseline.double()(x.double()).dtype == torch.float64
    moved = net.to("meta")
    assert all(buffer.device.type == "meta" for buffer in moved.buffers())


# --- bad input -----------------------------------------------------------------------------------------------------


def test_threshold_that_kills_everything_says_the_largest_slope():
    net = nets.ScaledTokens()
    net.act.slope.data.fill_(0.5)
    with pytest.raises(SlopeError, match=r"threshold 2 kills every slope.*largest \|slope\| is 0\.5"):
        rr.compact(net, torch.randn(1, 4), threshold=2.0)


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf")])
def test_threshold_has_to_be_a_number(threshold):
    with pytest.raises(SlopeError, match="threshold must be"):
        rr.compact(nets.ScaledTokens(), torch.randn(1, 4), threshold=threshold)


@pytest.mark.parametrize("round_to", [0, -8, 2.0])
def test_round_to_has_to_be_a_positive_integer(round_to):
    with pytest.raises(CompactionError, match="round_to must be a positive integer"):
        rr.compact(nets.ScaledTokens(), torch.randn(1, 4), round_to=round_to)


def test_slopes_that_are_not_finite_name_the_layer():
    net = nets.ScaledTokens()
    net.act.slope.data[3] = float("nan")
    with pytest.raises(SlopeError, match=r"act\.slope: 1 of 8"):
        rr.compact(net, torch.randn(1, 4))


def test_wrong_example_input():
    with pytest.raises(ShapeError, match=r"\(1, 5\)"):
        rr.compact(nets.ScaledTokens(), torch.randn(1, 5))


def test_a_difference_is_refused_and_names_the_layer():
    net = nets.awake(nets.Residual())
    nets.kill(net, "block1.act1", [0])
    result = rr.compact(net, image())
    broken = copy.deepcopy(result.model)
    broken.block2.conv1.weight.data[0, 0, 0, 0] += 1.0
    with pytest.raises(CertificateError, match=r"differs .*first seen at the output of block2\.conv1"):
        certify(lambda: contextlib.nullcontext(copy.deepcopy(net)), broken, Call(image()), result.plan)


def test_a_network_that_does_not_run_names_the_module():
    net = nets.awake(nets.Residual())
    nets.kill(net, "block1.act1", [0])
    result = rr.compact(net, image())
    broken = copy.deepcopy(result.model)
    broken.block2.conv1.weight.data = broken.block2.conv1.weight.data[:, :2]
    with pytest.raises(CertificateError, match=r"does not run \(in block2\.conv1\)"):
        certify(lambda: contextlib.nullcontext(copy.deepcopy(net)), broken, Call(image()), result.plan)


class _Table(nn.Module):
    """A small network reads a table of coordinates and adds the result as a bias (Swin V2's position bias)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(5, 2), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2, 8), RotatedReLU(8, channel_dim=-1), nn.Linear(8, 3))

    def forward(self, x):
        return x + self.mlp(self.table)


def test_a_table_that_a_layer_reads_keeps_all_that_is_read():
    torch.manual_seed(0)
    net = _Table().eval()
    net.mlp[1].slope.data = torch.tensor([1.0, 0, 1, 0, 1, 0, 1, 0])
    result = rr.compact(net, torch.randn(2, 5, 3), 0.1)
    assert result.model.table.shape == (5, 2)
    assert result.model.mlp[0].weight.shape == (4, 2)  # half of the 8 slopes are alive
    assert result.plan.frozen == []
