"""What a rotated network still is and does: compiled, folded, saved, hooked, wrapped."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import RotationError, UnknownNameError
from support.rotations import FUNCTIONS, ROWS, Calls, Nested, outputs


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x, *rest, embed=False, **more):
        hidden = F.relu(self.a(x))
        return hidden if embed else self.b(F.relu(hidden - 0.1))


def test_arguments_pass_as_before():
    net = rr.rotate(Embedding(), ROWS)
    assert net(ROWS, 1, 2, embed=True, other=None).shape == (4, 8)


def test_compiles_as_one_graph():
    net = rr.rotate(Nested(), ROWS).eval()
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, backend="eager")
    torch.testing.assert_close(outputs(compiled, ROWS), outputs(net, ROWS))
    exported = torch.export.export(net, (ROWS,), strict=True).module()
    torch.testing.assert_close(outputs(exported, ROWS), outputs(net, ROWS))


@pytest.mark.parametrize("name", ["F.relu", "quick gelu", "tanh gelu", "silu in place"])
def test_composed_gates_compile_as_one_graph(name):
    net = rr.rotate(Calls(FUNCTIONS[name]), ROWS).eval()
    for slope in rr.slopes(net).values():
        slope.data.uniform_(0.5, 2)
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, backend="eager")
    torch.testing.assert_close(outputs(compiled, ROWS), outputs(net, ROWS))


@pytest.mark.parametrize("make", [lambda: Calls(F.relu), lambda: Calls(FUNCTIONS["silu"]), Nested])
def test_folded_for_training_computes_the_same(make):
    net = rr.rotate(make(), ROWS, init="published").train()
    want = net(ROWS)
    want.sum().backward()
    gradients = [slope.grad.clone() for slope in rr.slopes(net).values()]
    net.zero_grad()
    rr.fast_training(net, ROWS)
    got = net(ROWS)
    torch.testing.assert_close(got, want)
    got.sum().backward()
    for one, slope in zip(gradients, rr.slopes(net).values(), strict=True):
        torch.testing.assert_close(one, slope.grad)


def test_saved_and_loaded_into_a_network_without_slopes(tmp_path):
    for make in (lambda: Calls(F.relu), lambda: Calls(FUNCTIONS["silu"]), Nested):
        net = rr.rotate(make(), ROWS)
        for slope in rr.slopes(net).values():
            slope.data[:3] = 0.0
        result = rr.compact(net, ROWS, threshold=0.1)
        loaded = rr.load(rr.save(result, tmp_path / "small.safetensors"), make())
        assert torch.equal(outputs(loaded.eval(), ROWS), outputs(result.model.eval(), ROWS))


def test_state_dicts_of_rotated_networks_fit_each_other():
    one, other = rr.rotate(Nested(), ROWS, init="published"), rr.rotate(Nested(), ROWS)
    other.load_state_dict(one.state_dict())
    assert torch.equal(outputs(one.eval(), ROWS), outputs(other.eval(), ROWS))
    plain = Nested()
    missing = one.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(name.endswith(".slope") for name in missing.missing_keys)


def test_hooks_of_a_swapped_gate_stay_and_can_be_removed():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    seen = []
    handle = net[1].register_forward_hook(lambda module, args, output: seen.append(output))
    rr.rotate(net, ROWS)
    seen.clear()
    net[1].slope.data.fill_(3.0)
    net(ROWS)
    assert len(seen) == 1
    assert torch.equal(seen[0], 3 * F.relu(net[0](ROWS)))
    handle.remove()
    net(ROWS)
    assert len(seen) == 1


def test_starts():
    net = rr.rotate(nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 2)), ROWS, init="published")
    assert {1.0, -1.0} == set(net[1].slope.sign().tolist())
    with pytest.raises(UnknownNameError, match="start of slopes 'twos'"):
        rr.rotate(nn.Sequential(nn.Linear(6, 8), nn.ReLU()), ROWS, init="twos")


def test_data_parallel_networks_are_rotated_inside():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
    wrapped = nn.DataParallel(net)
    assert rr.rotate(wrapped, ROWS) is wrapped
    assert list(rr.slopes(net)) == ["1.slope"]


@pytest.fixture
def one_process(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_distributed_networks_are_rotated_before_they_are_wrapped(one_process):
    wrapped = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(6, 8), nn.ReLU()))
    with pytest.raises(RotationError, match=r"DistributedDataParallel.*rotate the network first"):
        rr.rotate(wrapped, ROWS)
    net = nn.parallel.DistributedDataParallel(rr.rotate(Nested(), ROWS))
    net(ROWS).sum().backward()
    assert all(slope.grad is not None for slope in rr.slopes(net.module).values())


def test_a_compiled_network_is_rotated_inside():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    compiled = torch.compile(net, backend="eager")
    compiled(ROWS)
    assert rr.rotate(compiled, ROWS) is compiled
    net[1].slope.data.zero_()
    torch.testing.assert_close(compiled(ROWS), net(ROWS))
