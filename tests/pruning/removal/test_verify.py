"""The certificate: it looks at the network itself, on the user's inputs, in float64, and finds what is wrong."""

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import CertificateError
from rotated_relu.core.modules import Call
from rotated_relu.pruning.removal.verify import certify

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    """Two layers; subclasses say what happens around them."""

    def __init__(self):
        super().__init__()
        self.inner, self.act, self.outer = nn.Linear(6, 8), rr.RotatedReLU(8, channel_dim=-1), nn.Linear(8, 3)

    def hidden(self, x):
        return self.act(self.inner(x))

    def forward(self, x):
        return self.outer(self.hidden(x))


def half_dead(kind):
    torch.manual_seed(0)
    net = kind()
    with torch.no_grad():
        net.act.slope.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 1.5, 2.0]))
    return net


def compacted(kind, inputs=X):
    net = half_dead(kind)
    result = rr.compact(net, inputs, threshold=0.0)
    assert result.model.inner.out_features == 4
    return net, result


class ByWidth(nn.Module):
    """Computes something else in a narrower network: the certificate has to notice."""

    def forward(self, x):
        return x / x.shape[-1] ** 0.5


class Masked(Base):
    def __init__(self):
        super().__init__()
        self.scale = ByWidth()

    def forward(self, x):
        scores = self.outer(self.scale(self.hidden(x)))
        return scores.masked_fill(torch.tensor([True, True, False]), self.fill)


@pytest.mark.parametrize("fill", [-1e9, float("-inf"), torch.finfo(torch.float32).min])
def test_masked_scores_do_not_hide_a_difference(fill):
    net = half_dead(Masked)
    net.fill = fill
    result = rr.compact(net, X, threshold=0.0)
    assert result.plan.frozen  # it was noticed, and left at full width
    with torch.no_grad():
        assert torch.allclose(net.eval()(X)[:, 2], result.model.eval()(X)[:, 2], atol=1e-6)


class Log(Base):
    """NaN wherever an input is negative."""

    def __init__(self):
        super().__init__()
        self.scale = ByWidth()

    def forward(self, power):
        return self.outer(self.scale(self.hidden(power.log())))


def test_a_network_that_is_nan_on_random_numbers_is_tried_on_others():
    net = half_dead(Log)
    result = rr.compact(net, X.abs() + 0.1, threshold=0.0)
    assert result.plan.frozen
    assert len(result.certificate.inputs) == 4


class OneOutputIsNaN(Base):
    def forward(self, x):
        h = self.hidden(x)
        return self.outer(h), (self.outer(h) - 1e9).log()


class AllIsInfinite(Base):
    def forward(self, x):
        return self.outer(self.hidden(x)) / 0.0


@pytest.mark.parametrize(("kind", "which"), [(OneOutputIsNaN, 1), (AllIsInfinite, 0)])
def test_an_output_that_is_never_finite_is_no_evidence(kind, which):
    with pytest.raises(
        CertificateError, match=f"NaN or infinity for most of output {which} on all inputs tried"
    ):
        rr.compact(half_dead(kind), X, threshold=0.0)


class SomeInfinite(Base):
    def forward(self, x):
        return self.outer(self.hidden(x)).masked_fill(torch.tensor([True, False, False]), float("-inf"))


class IntegersAndFlags(Base):
    def forward(self, x):
        scores = self.outer(self.hidden(x))
        return scores.argmax(1), scores > 0


class ViewsOfInputs(Base):
    def forward(self, x):
        return {"first": x[:, :2], "deep": [(self.outer(self.hidden(x)), None)], "input": x}


class WritesIntoInput(Base):
    def forward(self, x):
        x *= 2
        return self.outer(self.hidden(x))


class FloatConstants(Base):
    def __init__(self):
        super().__init__()
        self.matrix = torch.randn(3, 3)
        self.register_buffer("wide", torch.ones(3, dtype=torch.float64))

    def forward(self, x):
        return (self.outer(self.hidden(x)) @ self.matrix).double() * self.wide


class Float32Norm(Base):
    def forward(self, x):
        y = F.layer_norm(x.float(), (6,)).type(x.dtype)
        return self.outer(self.hidden(y)).float()


class Autocast(Base):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.outer(self.hidden(x)).float()


class BatchStatistics(Base):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, track_running_stats=False)

    def forward(self, x):
        return self.norm(self.outer(self.hidden(x)))


@pytest.mark.parametrize(
    "kind",
    [
        SomeInfinite,
        IntegersAndFlags,
        ViewsOfInputs,
        WritesIntoInput,
        FloatConstants,
        Float32Norm,
        Autocast,
        BatchStatistics,
    ],
)
def test_unusual_networks_are_compared_in_float64(kind):
    _, result = compacted(kind)
    assert result.certificate.dtype == "float64"
    assert result.certificate.max_relative_difference < 1e-12


class OwnKernel(Base):
    """Takes float32 alone, as a kernel of its own would."""

    def forward(self, x):
        h = self.hidden(x)
        if h.dtype != torch.float32:
            raise TypeError("this kernel takes float32 alone")
        return self.outer(h)


def test_what_does_not_run_in_float64_is_compared_as_it_is_and_says_so():
    _, result = compacted(OwnKernel)
    assert (result.certificate.dtype, result.certificate.tolerance) == ("float32", 1e-4)
    assert "float32, limit 0.0001" in repr(result.certificate)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_compared_in_float64_too(dtype):
    net = half_dead(Base).to(dtype)
    result = rr.compact(net, X.to(dtype), threshold=0.0)
    assert result.certificate.dtype == "float64"
    assert result.model.inner.weight.dtype == dtype
    assert net.inner.weight.dtype == dtype


def test_the_users_inputs_are_tried_first():
    class Rare(Base):
        def forward(self, x):
            y = self.outer(self.hidden(x))
            # Only inputs of hundreds reach the second path, and no random number does.
            return torch.where((x > 100).all(), self.wrong * y, y)

    net = half_dead(Rare)
    net.wrong = 1.0
    result = rr.compact(net, X + 1000, threshold=0.0)
    assert result.certificate.inputs[0] == [[4, 6]]
    broken = copy.deepcopy(result.model)
    broken.wrong = 2.0
    with pytest.raises(CertificateError, match="differs"):
        certify(lambda: contextlib.nullcontext(copy.deepcopy(net)), broken, Call(X + 1000), result.plan)


class Closure(Base):
    def __init__(self):
        super().__init__()
        self.function = lambda x: self.act(self.inner(x))

    def forward(self, x):
        return self.outer(self.function(x))


def test_a_copy_that_still_leads_to_the_original_is_refused():
    """The lambda of every copy calls the layers of the original: the copy alone would look right."""
    net = half_dead(Closure)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(CertificateError, match="still uses weights of the original"):
        rr.compact(net, X, threshold=0.0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Noise(Base):
    def forward(self, x):
        return self.outer(self.hidden(x)) + torch.rand(3)


def test_the_same_random_numbers_in_both_networks():
    _, result = compacted(
        type("Noise", (Base,), {"forward": lambda self, x: self.outer(self.hidden(x)) + torch.rand(3)})
    )
    assert result.certificate.max_relative_difference < 1e-12


class Memory(Base):
    """What one call leaves for the next shifts channels: a single call would show nothing."""

    def __init__(self):
        super().__init__()
        self.register_buffer("memory", torch.zeros(8))

    def forward(self, x):
        h = self.hidden(x)
        out = self.outer(h + self.memory.roll(4))
        self.memory = 0.5 * self.memory + h.mean(0)
        return out


def test_what_a_call_leaves_for_the_next_counts():
    net = half_dead(Memory)
    result = rr.compact(net, X, threshold=0.0)
    assert not net.memory.any()
    assert not result.model.memory.any()
    for _ in range(3):
        with torch.no_grad():
            assert torch.allclose(net.eval()(X), result.model.eval()(X), atol=1e-6)


class RaisesLater(Base):
    def forward(self, x):
        if x.dtype == torch.float64 or torch._dynamo.is_compiling() or self.broken:
            raise ValueError("out of order")
        return self.outer(self.hidden(x))


def test_the_exception_of_a_trial_is_named_and_chained():
    net = half_dead(RaisesLater)
    net.broken = True
    with pytest.raises(CertificateError, match="does not run: out of order") as error:
        certify(
            lambda: contextlib.nullcontext(net),
            copy.deepcopy(net),
            Call(X),
            rr.compact(half_dead(Base), X).plan,
        )
    assert isinstance(error.value.__cause__, ValueError)


def test_outputs_without_a_tensor_are_refused():
    class Silent(Base):
        def forward(self, x):
            self.outer(self.hidden(x))

    with pytest.raises(rr.RotatedReLUError, match="no tensor"):
        rr.compact(half_dead(Silent), X, threshold=0.0)
