"""Each kind of layer that owns a weight: cut where that is exact, else named in ``plan.held`` with its reason."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as spectral_norm_hook
from torch.nn.utils import weight_norm as weight_norm_hook

import rotated_relu as rr
from rotated_relu.core.counting import count_macs


def gate(width, dead, dim=1):
    """Slopes of 1 but for the first ``dead``, along a dimension."""
    module = rr.RotatedReLU(width, channel_dim=dim)
    module.slope.data = (torch.arange(width) >= dead).float()
    return module


def compacted(net, x):
    """Compact, and check against the network itself in float32, and that a file brings it back."""
    net.eval()
    result = rr.compact(net, x)
    with torch.no_grad():
        assert torch.allclose(net(x), result.model(x), rtol=1e-4, atol=1e-5)
    return result


def held(result):
    return {(one.name, one.channels): one.reason for one in result.plan.held}


@pytest.mark.parametrize("normed", [parametrizations.weight_norm, weight_norm_hook])
def test_weight_norm_loses_outputs_and_says_why_inputs_stay(normed):
    torch.manual_seed(0)
    net = nn.Sequential(
        normed(nn.Conv1d(3, 8, 3)), gate(8, 3), normed(nn.Conv1d(8, 6, 3)), gate(6, 2), nn.Conv1d(6, 2, 1)
    )
    result = compacted(net, torch.randn(2, 3, 12))
    first, second = result.model[0], result.model[2]
    # The norm of an output's weights is over all 8 inputs, so that 3 zeros are read along with the 5 live channels.
    assert (first.weight.shape, second.weight.shape) == ((5, 3, 3), (4, 8, 3))
    assert (first.out_channels, second.in_channels, second.out_channels) == (5, 8, 4)
    assert result.model[4].weight.shape == (2, 4, 1)
    assert held(result) == {("2", 3): "a weight norm of its weight takes all inputs"}
    assert sum(p.numel() for p in result.model.parameters()) == (5 * 9 + 5 + 5) + 5 + (4 * 24 + 4 + 4) + 4 + (
        8 + 2
    )


def test_weight_norm_of_a_compacted_network_is_saved_and_trains(tmp_path):
    def build():
        torch.manual_seed(0)
        weighted = parametrizations.weight_norm(nn.Linear(5, 8))
        return nn.Sequential(weighted, gate(8, 3), nn.Linear(8, 2))

    x = torch.randn(4, 5)
    result = compacted(build(), x)
    loaded = rr.load(rr.save(result, tmp_path / "small.safetensors"), build())
    assert torch.equal(loaded(x), result.model(x))
    loaded.train()(x).sum().backward()
    assert loaded[0].parametrizations.weight.original1.grad.shape == (5, 5)


def test_a_weight_norm_over_inputs_lets_inputs_go():
    net = nn.Sequential(
        nn.Conv1d(3, 8, 1), gate(8, 3), parametrizations.weight_norm(nn.Conv1d(8, 6, 3), dim=1), gate(6, 2),
        nn.Conv1d(6, 2, 1),
    )  # fmt: skip
    result = compacted(net, torch.randn(2, 3, 12))
    assert result.model[2].weight.shape == (6, 5, 3)
    assert held(result) == {("2", 2): "a weight norm of its weight takes all outputs"}


def test_groups_behind_a_weight_norm_go_whole():
    net = nn.Sequential(
        nn.Conv1d(3, 8, 1), gate(8, 4), parametrizations.weight_norm(nn.Conv1d(8, 8, 3, groups=4)), gate(8, 4),
        nn.Conv1d(8, 2, 1),
    )  # fmt: skip
    small = compacted(net, torch.randn(2, 3, 12)).model
    assert (small[2].groups, small[2].weight.shape) == (2, (4, 2, 3))


@pytest.mark.parametrize(
    ("normed", "named"),
    [
        (lambda layer: parametrizations.weight_norm(layer, dim=None), "_weight_norm"),
        (parametrizations.spectral_norm, "_SpectralNorm"),
        (spectral_norm_hook, "SpectralNorm"),
    ],
)
def test_a_norm_over_the_whole_weight_keeps_it_and_is_named(normed, named):
    net = nn.Sequential(normed(nn.Linear(5, 8)), gate(8, 3), nn.Linear(8, 2))
    result = compacted(net, torch.randn(2, 5))
    assert result.model[0].weight.shape == (8, 5)
    ((name, channels),) = held(result)
    assert (name, channels) == ("0", 3)
    assert named in held(result)[name, channels]


def test_masks_of_torch_prune_are_cut_with_their_weight():
    layer = nn.Linear(5, 8)
    prune.l1_unstructured(layer, "weight", 0.3)
    small = compacted(nn.Sequential(layer, gate(8, 3), nn.Linear(8, 2)), torch.randn(2, 5)).model
    assert small[0].weight_orig.shape == small[0].weight_mask.shape == (5, 5)


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.inner, self.gate = nn.Linear(5, 8), gate(8, 3, -1)
        self.rnn = kind(8, 4, batch_first=True, **options)
        width = self.rnn(torch.zeros(1, 1, 8))[0].shape[-1]
        self.outer, self.last, self.head = nn.Linear(width, 6), gate(6, 2, -1), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.last(self.outer(self.rnn(self.gate(self.inner(x)))[0])))


@pytest.mark.parametrize(
    ("kind", "options", "gates"),
    [
        (nn.LSTM, {}, 4),
        (nn.GRU, {}, 3),
        (nn.RNN, {}, 1),
        (nn.RNN, {"nonlinearity": "relu", "bias": False}, 1),
        (nn.LSTM, {"bidirectional": True, "num_layers": 2}, 4),
        (nn.LSTM, {"proj_size": 3}, 4),
    ],
)
def test_a_recurrent_layer_loses_dead_inputs(kind, options, gates):
    torch.manual_seed(0)
    result = compacted(Recurrent(kind, **options), torch.randn(2, 7, 5))
    small = result.model
    assert small.rnn.input_size == 5
    assert small.rnn.weight_ih_l0.shape == (4 * gates, 5)
    if options.get("bidirectional"):
        assert small.rnn.weight_ih_l0_reverse.shape == (4 * gates, 5)
    assert small.inner.weight.shape == (5, 5)
    assert result.plan.unhandled == {}
    assert result.plan.held == []


def test_multiply_accumulates_of_a_recurrent_layer():
    """7 steps, 4 gates of 4 units, 8 inputs of which 5 live, and 4 states."""
    work = compacted(Recurrent(nn.LSTM), torch.randn(1, 7, 5)).plan.work["rnn"]
    assert work == [7 * 16 * (8 + 4), 7 * 16 * (5 + 4)]


def test_a_recurrent_cell_is_named():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.gate, self.cell = nn.Linear(5, 8), gate(8, 3, -1), nn.GRUCell(8, 4)

        def forward(self, x):
            state = x.new_zeros(len(x), 4)
            for step in x.unbind(1):
                state = self.cell(self.gate(self.inner(step)), state)
            return state

    assert held(compacted(Steps(), torch.randn(2, 3, 5))) == {("inner", 3): "width fixed by gru_cell in cell"}


class TwoNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.gate = nn.Conv2d(3, 8, 1), gate(8, 2)
        self.layer, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.again, self.norm_again = nn.Sequential(self.layer), self.norm
        self.first, self.second, self.outer = gate(8, 2), gate(8, 2), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.first(self.norm(self.layer(self.gate(self.inner(x)))))
        return self.outer(self.second(self.norm_again(self.again(x))))


def test_a_layer_under_two_names_is_cut_once_and_stays_one(tmp_path):
    x = torch.randn(2, 3, 6, 6)
    result = compacted(TwoNames(), x)
    small = result.model
    assert small.again[0] is small.layer
    assert small.norm_again is small.norm
    assert small.layer.weight.shape == (6, 6, 3, 3)
    assert small.norm.num_features == 6
    loaded = rr.load(rr.save(result, tmp_path / "small.safetensors"), TwoNames()).eval()
    assert torch.equal(loaded(x), small.eval()(x))


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder's transposed weight."""

    def __init__(self):
        super().__init__()
        self.encoder, self.gate = nn.Linear(5, 8), gate(8, 3)

    def forward(self, x):
        return F.linear(self.gate(self.encoder(x)), self.encoder.weight.t())


def test_a_weight_that_is_read_transposed_too_is_cut_for_both():
    small = compacted(Tied(), torch.randn(2, 5)).model
    assert small.encoder.weight.shape == (5, 5)
    assert (small.encoder.in_features, small.encoder.out_features) == (5, 5)
    assert small.gate.slope.shape == (5,)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.gate = nn.Linear(5, 8), gate(8, 3, -1)
        self.attention, self.outer = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        x = self.gate(self.inner(x))
        return self.outer(self.attention(x, x, x, need_weights=False)[0])


def test_attention_of_torch_checks_its_width_and_is_named():
    result = compacted(Attention(), torch.randn(2, 7, 5))
    assert result.plan.frozen == ["attention"]
    assert "attention, whose forward does not run on narrower tensors" in held(result)["inner", 3]
    assert result.model.inner.weight.shape == (5, 5)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(5, 8), nn.Linear(5, 6)
        self.a, self.b, self.c = gate(8, 3), gate(6, 2), gate(7, 4)
        self.both, self.outer = nn.Bilinear(8, 6, 7), nn.Linear(7, 2)

    def forward(self, x):
        return self.outer(self.c(self.both(self.a(self.left(x)), self.b(self.right(x)))))


def test_bilinear():
    both = compacted(Pair(), torch.randn(2, 5)).model.both
    assert both.weight.shape == (3, 5, 4)
    assert (both.out_features, both.in1_features, both.in2_features) == (3, 5, 4)


def test_an_embedding_loses_columns():
    net = nn.Sequential(nn.Embedding(11, 8), gate(8, 3, -1), nn.Linear(8, 2))
    result = compacted(net, torch.randint(0, 11, (2, 7)))
    assert result.model[0].weight.shape == (11, 5)
    assert result.model[0].embedding_dim == 5
    assert result.plan.unhandled == {}


def test_an_embedding_bag_is_named():
    net = nn.Sequential(nn.EmbeddingBag(11, 8), gate(8, 3), nn.Linear(8, 2))
    reasons = held(compacted(net, torch.randint(0, 11, (2, 7))))
    assert "embedding_bag in 0" in reasons["0", 3]


class TransposedLinear(nn.Module):
    """GPT-2's ``Conv1D``: a linear layer with weight (inputs, outputs) and its width as an attribute."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.nf, self.nx = outputs, inputs
        self.weight, self.bias = (
            nn.Parameter(torch.randn(inputs, outputs)),
            nn.Parameter(torch.randn(outputs)),
        )

    def forward(self, x):
        shape = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(shape)


class Written(TransposedLinear):
    """Its width is an attribute that nobody knows of."""

    def __init__(self, outputs, inputs):
        super().__init__(outputs, inputs)
        self.columns = outputs

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.size()[:-1], self.columns)


class Product(TransposedLinear):
    def forward(self, x):
        return x @ self.weight + self.bias


class Mlp(nn.Module):
    def __init__(self, kind, dead=4):
        super().__init__()
        self.inner, self.gate, self.outer = kind(8, 5), gate(8, dead, -1), kind(5, 8)

    def forward(self, x):
        return x + self.outer(self.gate(self.inner(x)))


@pytest.mark.parametrize("kind", [TransposedLinear, Product])
def test_a_linear_layer_with_its_inputs_first(kind, tmp_path):
    x = torch.randn(2, 3, 5)
    result = compacted(Mlp(kind), x)
    small = result.model
    assert (small.inner.weight.shape, small.outer.weight.shape) == ((5, 4), (4, 5))
    if kind is TransposedLinear:
        assert (small.inner.nf, small.inner.nx, small.outer.nx) == (4, 5, 4)
    loaded = rr.load(rr.save(result, tmp_path / "small.safetensors"), Mlp(kind))
    assert torch.equal(loaded(x), small(x))
    assert small(torch.randn(4, 6, 5)).shape == (4, 6, 5)


def test_a_dead_linear_layer_with_its_inputs_first_returns_its_bias():
    net = nn.Sequential(Mlp(TransposedLinear, dead=8), nn.Linear(5, 6), gate(6, 1, -1), nn.Linear(6, 2))
    dead = compacted(net, torch.randn(2, 3, 5)).model[0].outer
    assert (dead.weight.numel(), dead.bias.shape) == (0, (5,))


def test_a_width_in_code_that_nobody_knows_of_stays_with_its_reason():
    with pytest.warns(rr.errors.NothingRemovedWarning):
        result = compacted(Mlp(Written), torch.randn(2, 3, 5))
    assert "inner, whose forward does not run on narrower tensors" in held(result)["inner", 4]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 4, 8])
def test_transposed_convolutions(dims, groups):
    """8 channels, the first 4 dead: half of the inputs, outputs and groups."""
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    up = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dims]
    net = nn.Sequential(conv(3, 8, 1), gate(8, 4), up(8, 8, 2, 2, groups=groups), gate(8, 4), conv(8, 2, 1))
    small = compacted(net, torch.randn(2, 3, *[4] * dims)).model
    left = max(1, groups // 2)
    assert small[2].groups == left
    assert small[2].weight.shape == (4, 4 // left, *[2] * dims)
    assert (small[2].in_channels, small[2].out_channels) == (4, 4)


def test_shapes_that_depend_on_values_are_refused_by_the_operation():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.gate, self.outer = nn.Linear(5, 8), gate(8, 3), nn.Linear(5, 2)
            self.register_buffer("kept", torch.arange(8) > 2)

        def forward(self, x):
            return self.outer(self.gate(self.inner(x))[:, self.kept])

    with pytest.raises(
        rr.errors.CaptureError, match="index in the model's forward returns depends on values"
    ):
        rr.compact(Masked(), torch.randn(2, 5))


def test_lazy_layers_get_their_widths_first():
    x = torch.randn(2, 3, 6, 6)
    net = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    net = rr.rotate(net, x)
    net[2].slope.data[:4] = 0
    assert compacted(net, x).model[4].weight.shape == (2, 4 * 16)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_are_counted_as_they_run(kind, gates):
    """5 steps of (8 inputs + 4 states) times the gates of 4 units, whatever fused kernel there is."""
    net = nn.Sequential(kind(8, 4, batch_first=True))
    assert count_macs(net, torch.randn(2, 5, 8)) == {"0": 5 * (8 + 4) * gates * 4}
