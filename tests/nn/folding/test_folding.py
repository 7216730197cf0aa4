"""The fast form of a network: the same function, parameters and training as the plain one, with less kept."""

import copy
import pickle
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import rotated_relu as rr
from rotated_relu.core.errors import CaptureError, FastFormUndoneWarning
from rotated_relu.nn.folding import as_plain, is_fast
from rotated_relu.nn.folding.consumers import choose
from rotated_relu.nn.folding.modules import Consumer, FoldedRotated, FoldedRotatedReLU, FusedRotatedReLU
from rotated_relu.nn.folding.scale import scale_channels
from rotated_relu.nn.models.preact import PreActBlock, PreActBottleneck, PreActResNet
from rotated_relu.nn.models.resnet import CifarResNet
from rotated_relu.nn.models.wide import WideResNet
from support.nets import (
    Chain,
    Concat,
    Depthwise,
    Grouped,
    OptionA,
    Residual,
    ScaledTokens,
    SharedLayer,
    Shuffle,
    Tokens,
)


class MaxPooled(nn.Module):
    """One gate behind a max-pool, one behind an average pool and a flattening of 3 x 3 pixels."""

    def __init__(self):
        super().__init__()
        self.conv1, self.act1, self.max = nn.Conv2d(3, 4, 3, padding=1), rr.RotatedReLU(4), nn.MaxPool2d(2)
        self.conv2, self.act2 = nn.Conv2d(4, 6, 3, padding=1), rr.RotatedReLU(6)
        self.mean, self.fc = nn.AvgPool2d(2, padding=1), nn.Linear(6 * 3 * 3, 5)

    def forward(self, x):
        x = self.act2(self.conv2(self.max(self.act1(self.conv1(x)))))
        return self.fc(torch.flatten(self.mean(x), 1))


class ReadInTraining(nn.Module):
    """A head that only training runs reads an inner activation as it is, like GoogLeNet's."""

    def __init__(self):
        super().__init__()
        self.conv1, self.act, self.conv2 = nn.Conv2d(3, 4, 3), rr.RotatedReLU(4), nn.Conv2d(4, 5, 3)

    def forward(self, x):
        x = self.act(self.conv1(x))
        y = self.conv2(x).mean((2, 3))
        return y + x.mean((1, 2, 3))[:, None] if self.training else y


class SharedGate(nn.Module):
    """One rotated activation called twice."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.act = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), rr.RotatedReLU(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.act(self.conv2(self.act(self.conv1(x)))).mean((2, 3)))


class FunctionalReader(nn.Module):
    """A convolution called as a function, by a module that is no convolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 1), rr.RotatedReLU(4)
        self.kernel = nn.Parameter(torch.randn(5, 4, 1, 1))

    def forward(self, x):
        return F.conv2d(self.act(self.conv(x)), self.kernel).mean((2, 3))


class TwoReaders(nn.Module):
    """Two branches read one gate; the same weight serves two layers."""

    def __init__(self):
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 4, 3, padding=1), rr.RotatedReLU(4)
        self.one, self.two = nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(4, 5, 3, padding=2, dilation=2)
        self.two.weight = self.one.weight

    def forward(self, x):
        x = self.act(self.stem(x))
        return (self.one(x) * self.two(x)).mean((2, 3))


class Volumes(nn.Module):
    """Channels-first signals and volumes; a grouped 1-d convolution."""

    def __init__(self):
        super().__init__()
        self.a, self.act_a = nn.Conv1d(3, 8, 3), rr.Rotated(nn.SiLU(), 8)
        self.b, self.act_b = nn.Conv1d(8, 6, 3, groups=2), rr.Rotated(nn.LeakyReLU(0.1), 6)
        self.c = nn.Conv3d(6, 5, 1)

    def forward(self, x):
        x = self.act_b(self.b(self.act_a(self.a(x))))
        return self.c(F.pad(x[..., None, None], (0, 0, 1, 1))).mean((2, 3, 4))


class Permuted(nn.Module):
    """ConvNeXt's layout: a gate on channels first, a linear layer on channels last."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.drop = nn.Conv2d(3, 6, 3), rr.Rotated(nn.GELU(), 6), nn.Dropout(0.25)
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        return self.fc(self.drop(self.act(self.conv(x))).permute(0, 2, 3, 1)).mean((1, 2))


def images(size=8, batch=4):
    return torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def tokens(width, batch=4):
    return torch.randn(batch, 7, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# Network, example inputs, and counted by hand: (gate, consumer) pairs that fold, gates that do not.
CASES = {
    "post_activation": (lambda: CifarResNet(1), images(), 4, 2),  # conv2 of 3 blocks and fc; act2 of 2 blocks
    "pre_activation": (lambda: PreActResNet(PreActBlock, 1), images(), 6, 0),
    "bottleneck": (lambda: PreActResNet(PreActBottleneck, 1), images(), 9, 0),
    "wide": (lambda: WideResNet(10, 1, dropout=0.3), images(), 8, 0),  # 6 convolutions and 2 shortcuts
    "fcnn": (lambda: rr.models.fcnn(in_features=192, hidden=9), images(), 1, 0),
    "chain": (Chain, images(16), 1, 1),
    "residual": (Residual, images(), 3, 2),
    "option_a": (OptionA, images(), 1, 1),
    "concat": (Concat, images(), 0, 2),
    "depthwise": (Depthwise, images(), 2, 0),
    "grouped": (Grouped, images(), 2, 0),
    "shuffle": (Shuffle, images(), 0, 1),
    "shared_layer": (SharedLayer, images(), 1, 2),
    "shared_gate": (SharedGate, images(), 0, 1),
    "two_consumers": (TwoReaders, images(), 2, 0),
    "functional_reader": (FunctionalReader, images(), 0, 1),
    "max_pool": (MaxPooled, images(), 1, 1),
    "read_in_training": (ReadInTraining, images(), 0, 1),
    "volumes": (Volumes, tokens(9).transpose(1, 2)[:, :3], 2, 0),
    "permuted": (Permuted, images(), 1, 0),
    "gelu_tokens": (Tokens, tokens(5), 1, 0),
    "affine_between": (ScaledTokens, tokens(4)[:, 0], 0, 1),
}


def made(case, seed=0):
    build, x, _, _ = CASES[case]
    torch.manual_seed(seed)
    return build().double(), x


def train(net, x, steps=20):
    """SGD with momentum and weight decay on two batches that alternate, with the penalty on the slopes."""
    torch.manual_seed(2)
    batches = [x, torch.randn_like(x)]
    labels = torch.randint(3, (len(x),))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-3)
    net.train()
    for step in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(batches[step % 2]), labels) + 1e-2 * rr.slope_l1(net)
        loss.backward()
        optimizer.step()
    return net


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_end_in_the_same_parameters(case):
    net, x = made(case)
    fast = rr.fast_training(copy.deepcopy(net), x)
    keys = list(fast.state_dict())
    train(net, x), train(fast, x)
    assert keys == list(net.state_dict())
    for (name, plain), (other, value) in zip(
        net.state_dict().items(), fast.state_dict().items(), strict=True
    ):
        assert name == other
        assert plain.isfinite().all()
        torch.testing.assert_close(
            plain, value, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert is_fast(fast)
    torch.testing.assert_close(fast.eval()(x), rr.plain_training(fast)(x), rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_what_folds_is_what_the_arithmetic_allows(case):
    net, x = made(case)
    choice = choose(net, x)
    assert (len(choice.folds), len(choice.fused)) == CASES[case][2:]


def test_a_slope_that_is_zero_still_learns():
    net, x = made("residual")
    for slope in rr.slopes(net).values():
        slope.data[::2] = 0
    train(net, x, steps=1)
    assert all(bool((slope[::2] != 0).all()) for slope in rr.slopes(net).values())
    other, _ = made("residual")
    for slope in rr.slopes(other).values():
        slope.data[::2] = 0
    train(rr.fast_training(other, x), x, steps=1)
    torch.testing.assert_close(net.state_dict(), other.state_dict(), rtol=0, atol=1e-12)


def test_undoing_leaves_no_trace():
    net, x = made("residual")
    before = {name: (type(module), set(vars(module)), repr(module)) for name, module in net.named_modules()}
    rr.fast_training(net, x)
    assert isinstance(net.block1.act1, FoldedRotatedReLU)
    assert isinstance(net.block1.act2, FusedRotatedReLU)
    assert isinstance(net.block1.act1, rr.RotatedReLU)
    assert isinstance(net.block1.conv2, Consumer)
    assert isinstance(net.block1.conv2, nn.Conv2d)
    assert rr.plain_training(net) is net
    assert before == {
        name: (type(module), set(vars(module)), repr(module)) for name, module in net.named_modules()
    }
    assert not net._forward_pre_hooks
    assert not net._forward_hooks


def test_twice_is_once():
    net, x = made("residual")
    rr.fast_training(rr.fast_training(net, x), x)
    assert len(net._forward_pre_hooks) == 1
    assert not is_fast(rr.plain_training(net))


def test_a_network_without_slopes_is_returned_as_it_is():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    assert rr.fast_training(net, torch.zeros(1, 3)) is net
    assert not net._forward_pre_hooks


def test_a_network_that_cannot_be_captured_stays_plain():
    class Branching(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    net = Branching(nn.Linear(3, 3), rr.RotatedReLU(3, -1), nn.Linear(3, 3))
    with pytest.raises(CaptureError):
        rr.fast_training(net, torch.ones(1, 3))
    assert not is_fast(net)


# --- a part of the network, copies, pickles -----------------------------------------------------------------------


def test_a_part_called_on_its_own_computes_what_it_should():
    net, x = made("residual")
    net.eval()
    expected, expected_block = net.block1.act1(net.stem(x)), net.block1(net.stem(x))
    rr.fast_training(net, x)
    assert torch.equal(net.block1.act1(net.stem(x)), expected)
    torch.testing.assert_close(net.block1(net.stem(x)), expected_block, rtol=0, atol=1e-12)


def test_after_an_exception_a_part_is_plain_again():
    net, x = made("residual")
    rr.fast_training(net, x)
    expected = as_plain(net).act(x[:, :1].expand(-1, 8, -1, -1))
    with pytest.raises(RuntimeError):
        net(x[:, :2])
    assert torch.equal(net.act(x[:, :1].expand(-1, 8, -1, -1).clone()), expected)


def test_a_copy_is_bound_to_its_own_slopes():
    net, x = made("residual")
    rr.fast_training(net, x)
    baseline = copy.deepcopy(net)
    assert baseline.block1.conv2._source is baseline.block1.act1
    before = net(x)
    for slope in rr.slopes(baseline).values():
        slope.data.mul_(2)
    assert torch.equal(net(x), before)
    torch.testing.assert_close(baseline(x), as_plain(baseline)(x), rtol=0, atol=1e-12)


def test_a_copied_part_computes_what_it_should():
    net, x = made("residual")
    rr.fast_training(net, x)
    part, plain = copy.deepcopy(net.block1), as_plain(net).block1
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(part(x), plain(x), rtol=0, atol=1e-12)


def test_pickles_like_any_module():
    net, x = made("residual")
    rr.fast_training(net, x)
    baseline = pickle.loads(pickle.dumps(net))
    assert torch.equal(baseline(x), net(x))
    assert is_fast(baseline)


def test_loads_the_state_of_a_plain_network():
    net, x = made("residual", seed=5)
    fast = rr.fast_training(made("residual")[0], x)
    fast.load_state_dict(net.state_dict())
    torch.testing.assert_close(fast(x), net(x), rtol=0, atol=1e-12)


def test_functional_call_uses_the_slopes_that_it_is_given():
    net, x = made("gelu_tokens")
    rr.fast_training(net, x)
    doubled = {"act.slope": net.act.slope.detach() * 2}
    plain = as_plain(net)
    torch.testing.assert_close(
        torch.func.functional_call(net, doubled, (x,)), torch.func.functional_call(plain, doubled, (x,))
    )


# --- what others do with a network --------------------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_recomputes_the_same(reentrant):
    class Checkpointed(Residual):
        def forward(self, x):
            x = self.act(self.stem(x))
            for block in (self.block1, self.block2):
                x = checkpoint(block, x, use_reentrant=reentrant) if self.training else block(x)
            return self.fc(x.mean((2, 3)))

    torch.manual_seed(0)
    net, x = Checkpointed().double(), images()
    fast = rr.fast_training(copy.deepcopy(net), x)
    train(net, x, steps=3), train(fast, x, steps=3)
    torch.testing.assert_close(net.state_dict(), fast.state_dict(), rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["residual", "post_activation", "grouped", "gelu_tokens"])
def test_compiles_to_the_same_function_and_gradients(case):
    net, x = made(case)
    fast = rr.fast_training(copy.deepcopy(net), x)
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    for one in (net, compiled):
        one(x).square().sum().backward()
    for (name, plain), other in zip(net.named_parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(plain.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")


def saved_bytes(compute):
    """Of the distinct tensors that autograd keeps for the backward pass."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = compute()
    return sum(kept.values()), out


def test_compiled_for_training_a_graph_has_a_budget_of_memory(monkeypatch):
    """The compiler itself takes seconds: in its place stands one that notes the setting and runs the graph."""
    from torch._functorch import config

    noted = []

    def compile_fx(graph, inputs):
        noted.append(config.activation_memory_budget)
        return graph.forward

    fake = types.ModuleType("torch._inductor.compile_fx")
    fake.compile_fx = compile_fx
    monkeypatch.setitem(sys.modules, "torch._inductor.compile_fx", fake)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), rr.RotatedReLU(6))
    before = config.activation_memory_budget
    compiled = rr.compile_training(net)
    x = torch.randn(2, 4)
    torch.testing.assert_close(compiled(x), net(x))
    assert len(noted) == 1
    assert noted[0] < before == config.activation_memory_budget


@pytest.mark.slow
def test_compiled_for_training_it_computes_the_same_and_keeps_less():
    torch.manual_seed(0)
    net = CifarResNet(1, widths=(8,)).double()
    compiled = rr.compile_training(copy.deepcopy(net))
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    sizes = []
    for one in (net, compiled):
        size, out = saved_bytes(lambda one=one: one(x))
        out.square().sum().backward()
        sizes.append(size)
    for plain, other in zip(net.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(plain.grad, other.grad)
    # Kept at least: the input, and of each of three norms what it normalises; 8 channels of 16 x 16 for 4 images.
    assert 4 * 16 * 16 * (3 + 3 * 8) * 8 <= sizes[1] < 0.7 * sizes[0]


def test_a_compiled_wrapper_is_looked_through():
    net, x = made("grouped")
    wrapped = torch.compile(net, backend="eager")
    assert rr.fast_training(wrapped, x) is wrapped
    assert is_fast(net)
    rr.plain_training(wrapped)
    assert not is_fast(net)


def test_under_autocast_activations_are_bfloat16_and_results_near():
    torch.manual_seed(0)
    net = CifarResNet(1)
    x = images().float()
    fast = rr.fast_training(copy.deepcopy(net), x)
    seen = []
    fast.layer1[0].act2.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    exact = net.double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        loss = (fast(x).float() - exact.float()).abs().max()
    assert seen == [torch.bfloat16]
    assert float(loss.detach()) < 0.05 * float(exact.detach().abs().max())
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in fast.parameters())


def test_channels_last_stays_channels_last():
    net, x = made("residual")
    net = rr.fast_training(net.to(memory_format=torch.channels_last), x)
    seen = []
    for module in net.modules():
        if isinstance(module, (rr.Rotated, nn.Conv2d)):
            module.register_forward_hook(
                lambda m, i, output: seen.append(output.is_contiguous(memory_format=torch.channels_last))
            )
    net(x.contiguous(memory_format=torch.channels_last))
    assert len(seen) == 10
    assert all(seen)


def test_distributed_data_parallel_reduces_the_same_gradients(tmp_path):
    import torch.distributed as dist

    net, x = made("residual")
    fast = rr.fast_training(copy.deepcopy(net), x)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(fast)
        train(net, x, steps=3), train(wrapped, x, steps=3)
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(net.state_dict(), fast.state_dict(), rtol=0, atol=1e-9)


def test_a_hook_that_replaces_a_fused_output_is_obeyed():
    """The consumer may only bypass the very tensor that the gate returned."""
    net, x = made("residual")
    net.eval()
    fast = rr.fast_training(copy.deepcopy(net), x)
    for one in (net, fast):
        one.block1.act2.register_forward_hook(lambda module, inputs, output: output * 3)
    torch.testing.assert_close(fast(x), net(x), rtol=0, atol=1e-12)


def test_a_fused_output_that_was_changed_in_place_is_read_as_changed():
    net, x = made("residual")
    net.eval()
    fast = rr.fast_training(copy.deepcopy(net), x)

    def shift(module, inputs, output):
        output.add_(1)

    for one in (net, fast):
        one.block1.act2.register_forward_hook(shift)
    torch.testing.assert_close(fast(x), net(x), rtol=0, atol=1e-12)


def test_frozen_slopes_and_frozen_weights():
    for kind in ("slope", "weight"):
        net, x = made("residual")
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(not name.endswith(kind))
        fast = rr.fast_training(copy.deepcopy(net), x)
        assert [p.requires_grad for p in fast.parameters()] == [p.requires_grad for p in net.parameters()]
        train(net, x, steps=3), train(fast, x, steps=3)
        torch.testing.assert_close(net.state_dict(), fast.state_dict(), rtol=0, atol=1e-9)


# --- compaction, export, files ------------------------------------------------------------------------------------


def pruned(case="residual"):
    net, x = made(case)
    for slope in rr.slopes(net).values():
        slope.data[:3] = 0.01
    return net.float().eval(), x.float()


def test_compaction_sees_the_plain_form():
    net, x = pruned()
    expected = rr.compact(net, x, 0.1)
    result = rr.compact(rr.fast_training(net, x), x, 0.1)
    assert result.plan.cuts == expected.plan.cuts
    assert not is_fast(result.model)
    assert is_fast(net)
    torch.testing.assert_close(result.model(x), expected.model(x))


def test_a_compacted_network_trains_fast():
    net, x = pruned()
    small = rr.compact(net, x, 0.1).model.double()
    fast = rr.fast_training(copy.deepcopy(small), x.double())
    assert is_fast(fast)
    train(small, x.double(), steps=3), train(fast, x.double(), steps=3)
    torch.testing.assert_close(small.state_dict(), fast.state_dict(), rtol=0, atol=1e-9)


def test_compact_files_load_into_a_fast_network(tmp_path):
    net, x = pruned()
    result = rr.compact(net, x, 0.1)
    rr.save(result, tmp_path / "small.safetensors")
    loaded = rr.load(tmp_path / "small.safetensors", rr.fast_training(pruned()[0], x))
    assert not is_fast(loaded)
    assert torch.equal(loaded.eval()(x), result.model.eval()(x))


def test_threshold_search_gives_the_same_scores():
    net, x = pruned()
    fast = rr.fast_training(copy.deepcopy(net), x)

    def score(one):
        with torch.no_grad():
            return round(float(one.eval()(x).sum()), 3)

    kwargs = {"candidates": [0.1, 1.0], "tolerance": 1e9}
    assert rr.find_threshold(net, score, **kwargs) == rr.find_threshold(fast, score, **kwargs)


@pytest.mark.slow
def test_export_sees_the_plain_form(tmp_path):
    net, x = pruned()
    expected = rr.export_onnx(net, x, tmp_path / "plain.onnx")
    report = rr.export_onnx(rr.fast_training(net, x), x, tmp_path / "fast.onnx")
    assert report.folded_slopes == expected.folded_slopes
    exported = torch.export.export(net, (x,), strict=False)
    torch.testing.assert_close(exported.module()(x), net(x))


def test_rotate_goes_back_to_the_plain_form_and_says_so():
    net, x = made("residual")
    rr.fast_training(net, x)
    with (
        pytest.warns(FastFormUndoneWarning, match="call fast_training again"),
        pytest.warns(rr.RotatedReLUWarning, match="nothing rotated"),
    ):
        rr.rotate(net, x)
    assert not is_fast(net)


# --- the fused function -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "dim"), [((3, 4), 1), ((2, 3, 4), 2), ((2, 3, 2, 2), 1), ((4,), 0)])
def test_scale_has_first_and_second_derivatives(shape, dim):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(shape[dim], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x, a: scale_channels(x, a, dim), (x, slope))
    torch.autograd.gradgradcheck(lambda x, a: scale_channels(x, a, dim), (x, slope))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_scale_keeps_dtype_and_layout(dtype, layout):
    x = torch.randn(2, 3, 4, 5, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    slope = torch.randn(3, requires_grad=True)
    y = scale_channels(x, slope, 1)
    y.backward(torch.ones_like(y))
    assert y.dtype == x.grad.dtype == dtype
    assert y.is_contiguous(memory_format=layout)
    assert x.grad.is_contiguous(memory_format=layout)
    assert slope.grad.dtype == torch.float32
    torch.testing.assert_close(slope.grad, x.detach().float().sum((0, 2, 3)), rtol=1e-2, atol=1e-2)


def test_scale_of_an_empty_batch():
    x, slope = torch.zeros(0, 3, 2, 2, requires_grad=True), torch.ones(3, requires_grad=True)
    scale_channels(x, slope, 1).sum().backward()
    assert slope.grad.tolist() == [0, 0, 0]


def kept_between_forward_and_backward(net, x):
    """Bytes of distinct storages that autograd keeps, parameters apart."""
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        net(x)
    return sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in own)


def test_a_fused_gate_between_convolution_and_addition_keeps_one_tensor():
    """Block with plain ReLUs: inputs of conv1, bn1, conv2, bn2 per block. Naive slopes: two more; fast: none."""
    plain, x = CifarResNet(2, rotated=False), images(16).float()
    naive = CifarResNet(2)
    base = kept_between_forward_and_backward(plain, x)
    naive_bytes = kept_between_forward_and_backward(naive, x)
    fast = kept_between_forward_and_backward(rr.fast_training(naive, x), x)
    weights = sum(p.numel() for p in plain.parameters()) * 4
    activations = base
    assert naive_bytes > 1.4 * activations
    assert fast < activations + weights + 10_000  # the scaled weights, and not one activation


def test_double_backward_through_a_fast_network():
    net, x = made("residual")
    fast = rr.fast_training(copy.deepcopy(net), x)
    penalties = []
    for one in (net.eval(), fast.eval()):
        z = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(one(z).square().sum(), z, create_graph=True)
        gradient.square().sum().backward()
        penalties.append([p.grad for p in one.parameters() if p.grad is not None])
    torch.testing.assert_close(*penalties)


def test_gates_of_their_own_kind_fold_too():
    net, x = made("volumes")
    rr.fast_training(net, x)
    assert type(net.act_a) is FoldedRotated
    assert type(net.act_b) is FoldedRotated
