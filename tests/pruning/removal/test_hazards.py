"""Networks that random search found, reduced: each broke liveness or compaction once."""

import contextlib
import copy
import warnings

import pytest
import torch
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import CaptureError, CertificateError, NothingRemovedWarning
from rotated_relu.core.modules import Call
from rotated_relu.pruning.removal.verify import certify
from support import network_checks


def checked(net, *shapes):
    """All checks of the random networks on one by hand; returns the compaction."""
    torch.manual_seed(0)
    inputs = tuple(torch.randn(2, *shape, dtype=torch.float64) for shape in shapes)
    net.eval()
    verdict = network_checks.check(net, inputs, 0.1)
    assert verdict.good, verdict
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingRemovedWarning)
        return rr.compact(net, tuple(value[:1].float() for value in inputs))


class TiedConvolutions(nn.Module):
    """Two modules, one weight: torch.export reads it under the second name only."""

    def __init__(self):
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 4, 1), rr.RotatedReLU(4)
        self.first, self.act1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), rr.RotatedReLU(4)
        self.second, self.act2 = nn.Conv2d(4, 4, 3, padding=1), rr.RotatedReLU(4)
        self.second.weight = self.first.weight
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.act1(self.first(self.act(self.stem(x))))
        return self.head(self.act2(self.second(x)))


def test_tied_weights_are_cut_once_and_stay_tied():
    net = TiedConvolutions()
    net.act.slope.data[0] = net.act1.slope.data[0] = net.act2.slope.data[0] = 0  # dead in both calls
    net.act1.slope.data[1] = 0  # dead in one
    small = checked(net, (3, 6, 6)).model
    assert small.first.weight is small.second.weight
    assert small.first.weight.shape == (3, 3, 3, 3)
    assert small.second.bias.shape == (3,)


def test_a_dead_transposed_convolution_has_its_own_output_size():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), rr.RotatedReLU(4), nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1, dilation=2),
        nn.GELU(), nn.Conv2d(3, 3, 1), nn.LayerNorm([3, 10, 12]), rr.RotatedReLU(3), nn.Conv2d(3, 2, 1),
    )  # fmt: skip
    net[1].slope.data.zero_()
    with torch.no_grad():
        net[2].bias.zero_()
    assert checked(net, (3, 4, 5)).model[2].weight.numel() == 0


class TwoWays(nn.Module):
    """A table that is narrow along height and width, before a module that fixes both."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 1, 6, 10))
        self.resize, self.act = nn.Upsample(scale_factor=2, mode="nearest"), rr.RotatedReLU(1)

    def forward(self, x):
        return self.act(self.resize(self.table * 1.0)[:, :, :4, :6] + x)


def test_a_region_narrow_along_two_dimensions_is_no_region():
    assert checked(TwoWays(), (1, 4, 6)).plan.regions == []


class CheckedNorm(nn.Module):
    """An instance norm compares its input with its own attribute."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 6, 1), rr.RotatedReLU(6)
        self.norm, self.head = nn.InstanceNorm2d(6, affine=True, track_running_stats=True), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.head(self.norm(self.act(self.conv(x))))


def test_an_instance_norm_knows_its_new_width():
    net = CheckedNorm()
    net.act.slope.data[:4] = 0
    with torch.no_grad():
        net.norm.weight[:4] = net.norm.bias[:4] = net.norm.running_mean[:4] = 0
    result = checked(net, (3, 4, 4))
    assert result.model.norm.num_features == 2
    assert result.plan.frozen == []


class MoreRows(nn.Module):
    """Takes a larger image for more images, which is another network: its size is not tried."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 4, 1), rr.RotatedReLU(4), nn.Linear(64, 2)

    def forward(self, x):
        return self.fc(self.act(self.conv(x)).reshape(-1, 64))


def test_a_size_that_the_original_takes_for_another_batch_is_no_evidence():
    net = MoreRows()
    net.act.slope.data[1] = 0
    result = checked(net, (3, 4, 4))
    assert result.model.fc.in_features == 48
    assert [shapes for (shapes,) in result.certificate.inputs] == [[1, 3, 4, 4], [1, 3, 4, 4], [3, 3, 4, 4]]


class Undefined(nn.Module):
    """Gives NaN where its input is negative."""

    def __init__(self):
        super().__init__()
        self.fc, self.act, self.head = nn.Linear(3, 4), rr.RotatedReLU(4), nn.Linear(4, 3)

    def forward(self, x):
        return torch.log(self.head(self.act(self.fc(x))))


def test_a_certificate_of_nan_is_no_certificate():
    torch.manual_seed(0)
    net = Undefined().eval()
    net.head.bias.data += 2.0  # most outputs are finite
    net.act.slope.data[1] = 0
    result = rr.compact(net, torch.randn(1, 3))
    broken = copy.deepcopy(result.model)
    broken.head.bias.data -= 1000.0  # now all outputs are NaN
    with pytest.raises(CertificateError, match="differs"):
        certify(
            lambda: contextlib.nullcontext(copy.deepcopy(net)), broken, Call(torch.randn(8, 3)), result.plan
        )


class AnyRank(nn.Module):
    """One linear layer for vectors, tokens and the rows of images."""

    def __init__(self):
        super().__init__()
        self.fc, self.act, self.head = nn.Linear(4, 6), rr.RotatedReLU(6, -1), nn.Linear(6, 2)

    def forward(self, tokens, image):
        return self.head(self.act(self.fc(tokens))), self.head(self.act(self.fc(image)))


def test_a_linear_layer_called_on_tensors_of_other_ranks():
    net = AnyRank()
    net.act.slope.data[:2] = 0
    small = checked(net, (5, 4), (3, 2, 4)).model
    assert small.fc.weight.shape == (4, 4)
    assert small.head.weight.shape == (2, 4)


class CountsPixels(nn.Module):
    """A constant that is 0 for images of one pixel, log(n) for others: nothing can be said about all sizes."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 4, 1), rr.RotatedReLU(4), nn.Linear(3, 2)

    def forward(self, x):
        return self.act(self.conv(x)).mean((2, 3)), self.fc(torch.zeros_like(x).logsumexp((2, 3)))


def test_a_constant_that_depends_on_the_size_is_refused_with_the_size():
    torch.manual_seed(0)
    net = CountsPixels().eval()
    net.act.slope.data[0] = 0
    with pytest.raises(CertificateError, match=r"differs .* on inputs of shape \[\d, 3, \d+, \d+\]"):
        rr.compact(net, torch.randn(1, 3, 1, 1))


class Nested(nn.Module):
    """Inputs in a dict with a pair inside, word indices among them; outputs in a dict."""

    def __init__(self):
        super().__init__()
        self.words, self.fc, self.act = nn.Embedding(7, 4), nn.Linear(4, 6), rr.RotatedReLU(6, -1)
        self.conv, self.act2 = nn.Conv2d(3, 6, 1), rr.RotatedReLU(6)
        self.head = nn.Linear(6, 2)

    def forward(self, batch):
        image, (text, scale) = batch["image"], batch["pair"]
        pooled = self.act2(self.conv(image)).mean((2, 3))
        words = self.act(self.fc(self.words(text))).mean(1)
        return {"score": self.head(pooled * scale + words), "words": [words.sum(-1)]}


def test_inputs_in_dicts_and_tuples():
    torch.manual_seed(0)
    net = Nested().eval()
    net.act.slope.data[:3] = net.act2.slope.data[1:4] = 0
    batch = {"image": torch.randn(2, 3, 4, 4), "pair": (torch.randint(0, 7, (2, 5)), torch.rand(2, 1))}
    result = rr.compact(net, (batch,))
    assert result.model.fc.weight.shape == (3, 4)
    assert result.model.conv.weight.shape == (3, 3, 1, 1)
    assert result.certificate.inputs[2] == [[3, 3, 4, 4], [3, 5], [3, 1]]
    assert torch.allclose(result.model(batch)["score"], net(batch)["score"], atol=1e-6)


class TwoModes(nn.Module):
    """In training an auxiliary head gives a second output, as in GoogLeNet; compaction looks at eval."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 6, 1), rr.RotatedReLU(6)
        self.head, self.drop = nn.Linear(6, 2), nn.Dropout(0.5)

    def forward(self, x):
        x = self.act(self.conv(x)).mean((2, 3))
        return (self.head(x), self.head(self.drop(x))) if self.training else self.head(x)


def test_a_network_with_more_outputs_in_training():
    torch.manual_seed(0)
    net = TwoModes().train()
    net.act.slope.data[:2] = 0
    small = rr.compact(net, torch.randn(2, 3, 4, 4)).model
    assert small.training
    assert [value.shape for value in small(torch.randn(2, 3, 4, 4))] == [(2, 2), (2, 2)]


class Branches(nn.Module):
    """Python control flow that depends on the input's values cannot be captured."""

    def __init__(self):
        super().__init__()
        self.fc, self.act = nn.Linear(4, 4), rr.RotatedReLU(4, -1)

    def forward(self, x):
        return self.act(self.fc(x)) if x.sum() > 0 else x


def test_control_flow_that_depends_on_values_is_refused_by_name():
    with pytest.raises(
        CaptureError, match=r"cannot capture Branches: .*in the root module, Branches\.forward"
    ):
        rr.compact(Branches(), torch.randn(1, 4))


class TakesATypeOnly(nn.Module):
    """Of the second tensor of ``type_as`` only the type counts; it may have more dimensions than the first."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.last = nn.Linear(4, 8), rr.RotatedReLU(8), nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.act(self.first(x)).type_as(x[:, None, None, :]))


def test_the_other_tensor_of_type_as_has_no_channels():
    result = checked(TakesATypeOnly(), (4,))
    assert result.plan.failed_rules == {}
