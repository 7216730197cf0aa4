"""What people do with a compacted network: switch modes, train in several processes, compile, export."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import rotated_relu as rr
from support import nets

CASES = nets.DEAD


def compacted(case):
    build, dead, shape = CASES[case]
    torch.manual_seed(0)
    net = nets.awake(build())
    for name, channels in dead.items():
        nets.kill(net, name, channels)
    x = torch.randn(shape)
    return net, rr.compact(net, x[:1]).model, x


@pytest.mark.parametrize("case", CASES)
def test_same_class_same_keys_and_both_modes(case):
    net, small, x = compacted(case)
    assert type(small) is type(net)
    assert list(small.state_dict()) == list(net.state_dict())
    for name, module in net.named_modules():
        if name and not isinstance(module, nets.PadShortcut):  # stands in a wrapper that widens and narrows
            assert isinstance(small.get_submodule(name), type(module)), name
    assert not any(module.training for module in small.modules())
    small.train()
    assert all(module.training for module in small.modules())
    small(x).sum().backward()
    assert all(
        parameter.grad is not None for parameter in small.parameters()
    )  # dead layers included: DDP needs it
    small.load_state_dict(copy.deepcopy(small).state_dict())


@pytest.mark.parametrize("case", CASES)
def test_train_mode_computes_what_the_original_does(case):
    """Batch statistics of a channel do not depend on its neighbours."""
    net, small, x = compacted(case)
    net, small, x = net.double().train(), small.double().train(), x.double()
    with torch.no_grad():
        assert torch.allclose(small(x), net(x), rtol=1e-9, atol=1e-12)


PARALLEL = ("residual", "dead branch")
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, torch.distributed as dist
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel
import test_afterlife
rank = int(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=rank, world_size=2)
for case in test_afterlife.PARALLEL:
    _, small, x = test_afterlife.compacted(case)
    test_afterlife.frozen_norms(small)
    parallel = DistributedDataParallel(small)
    test_afterlife.steps(parallel, x[2 * rank : 2 * rank + 2])
    if rank == 0:
        save_file(small.state_dict(), f"{sys.argv[4]}/{case}.safetensors")
dist.destroy_process_group()
"""


def frozen_norms(net):
    """Train mode, but norms with fixed statistics: those of half a batch would differ from those of the whole."""
    net.train()
    for module in net.modules():
        module.training &= not isinstance(module, nn.BatchNorm2d)


def steps(net, x):
    """Two steps: a parameter without a gradient in the first makes DDP fail in the second."""
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        (net(x) - 1).square().mean().backward()
        optimizer.step()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_take_the_steps_of_one(tmp_path):
    arguments = [str(tmp_path / "meeting"), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(rank), *arguments], env=environment
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    for case in PARALLEL:
        _, small, x = compacted(case)
        frozen_norms(small)
        steps(small, x)
        after = load_file(tmp_path / f"{case}.safetensors")
        for name, value in small.state_dict().items():
            assert torch.allclose(after[name], value, rtol=1e-4, atol=1e-6), (case, name)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_compiled_it_computes_and_trains_the_same(case):
    _, small, x = compacted(case)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(small), backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(x), small(x), rtol=1e-5, atol=1e-6)
    steps(small.train(), x)
    steps(compiled.train(), x)
    for name, value in small.state_dict().items():
        assert torch.allclose(compiled._orig_mod.state_dict()[name], value, rtol=1e-4, atol=1e-5), name


@pytest.mark.slow
def test_compiled_by_inductor():
    _, small, x = compacted("padded")
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(small), fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(x), small(x), rtol=1e-4, atol=1e-5)
    compiled.train()(x).sum().backward()
    small.train()(x).sum().backward()
    for (name, one), other in zip(compiled.named_parameters(), small.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize("case", CASES)
def test_exports_with_any_batch(case):
    _, small, x = compacted(case)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(small, (x,), dynamic_shapes=({0: batch},))
    y = torch.randn(7, *x.shape[1:])
    with torch.no_grad():
        assert torch.allclose(program.module()(y), small(y), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["residual", "dead branch", "tokens"])
def test_half_precision_after_compaction(case):
    net, small, x = compacted(case)
    net, small, x = net.bfloat16(), small.bfloat16(), x.bfloat16()
    with torch.no_grad():
        one, other = net(x), small(x)
    assert one.dtype == other.dtype == torch.bfloat16
    assert torch.allclose(one, other, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_network_in_another_precision_is_compacted_in_it(dtype):
    """The certificate converts copies to float64; the result is in the network's own type."""
    torch.manual_seed(0)
    net = nets.awake(nets.Residual()).to(dtype)
    nets.kill(net, "block1.act1", [0, 1])
    small = rr.compact(net, torch.randn(1, 3, 8, 8, dtype=dtype)).model
    assert small.block1.conv1.weight.shape == (6, 8, 3, 3)
    assert {value.dtype for value in small.state_dict().values() if value.is_floating_point()} == {dtype}
