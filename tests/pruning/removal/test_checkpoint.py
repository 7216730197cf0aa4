"""Saving and loading: bitwise the same output in a fresh process, never a pickle, one clear error per defect."""

import json
import pathlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import ArgumentError, FileFormatError, PlanError
from rotated_relu.pruning.removal import checkpoint as files
from support import nets


@pytest.fixture
def saved(tmp_path):
    """A compacted network with padding shortcut, gathers and scatters, saved; and its output on fixed input."""
    torch.manual_seed(0)
    net = nets.awake(nets.OptionA())
    nets.kill(net, "act", [1])
    nets.kill(net, "act2", [0, 3])
    result = rr.compact(net, torch.randn(1, 3, 8, 8))
    path = rr.save(result, tmp_path / "small.safetensors")
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        return path, x, result.model(x)


@pytest.mark.slow
def test_fresh_process_gives_bitwise_the_same_output(saved, tmp_path):
    path, x, expected = saved
    save_file({"x": x, "expected": expected}, tmp_path / "data.safetensors")
    script = f"""
import torch, rotated_relu as rr
from support import nets
from safetensors.torch import load_file
data = load_file({str(tmp_path / "data.safetensors")!r})
torch.manual_seed(99)
fresh = nets.OptionA().eval()
with torch.no_grad():
    assert torch.equal(rr.load({str(path)!r}, fresh)(data["x"]), data["expected"])
assert "pickle" not in getattr(rr.load, "__code__").co_names
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_loads_into_the_unrotated_original(tmp_path):
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 3))
    x = torch.randn(1, 3, 9, 9)
    import copy

    fresh = copy.deepcopy(plain)
    net = rr.rotate(plain, x)
    net[1].slope.data[:5] = 0
    result = rr.compact(net, x)
    loaded = rr.load(rr.save(result, tmp_path / "a.safetensors"), fresh)
    assert not rr.slopes(fresh)  # the network that was passed in is not changed
    assert loaded[0].weight.shape == (3, 3, 3, 3)
    with torch.no_grad():
        assert torch.equal(loaded(x), result.model(x))


def test_activations_that_stayed_plain_stay_plain(tmp_path):
    """Our ResNets leave the stem's ReLU plain; rotating a fresh ReLU network puts slopes there too."""
    net = rr.models.resnet20(rotated=True).eval()
    nets.kill(net, "layer1.0.act1", [0, 1])
    x = torch.randn(1, 3, 32, 32)
    result = rr.compact(net, x)
    path = rr.save(result, tmp_path / "r20.safetensors")
    loaded = rr.load(path, rr.models.resnet20(rotated=False)).eval()
    with torch.no_grad():
        assert torch.equal(loaded(x), result.model(x))


def test_a_network_trained_on_after_compaction_round_trips(saved, tmp_path):
    path, x, _ = saved
    loaded = files.load_compacted(path, nets.OptionA())
    with torch.no_grad():
        loaded.model.fc.bias.add_(1.0)
    again = rr.load(rr.save(loaded, tmp_path / "b.safetensors"), nets.OptionA()).eval()
    with torch.no_grad():
        assert torch.equal(again(x), loaded.model.eval()(x))


def test_half_precision_stays_half_precision(tmp_path):
    net = nets.awake(nets.Residual())
    nets.kill(net, "act", [0])
    result = rr.compact(net, torch.randn(1, 3, 8, 8))
    result.model.bfloat16()
    loaded = rr.load(rr.save(result, tmp_path / "c.safetensors"), nets.Residual())
    assert loaded.stem.weight.dtype == torch.bfloat16


def test_the_header_is_readable_json(saved):
    with safe_open(saved[0], framework="pt") as file:
        plan = json.loads(file.metadata()["rotated_relu.plan"])
    assert plan["format"] == 4
    assert plan["slopes"]["act2.slope"] == {"total": 8, "alive": 6}


@pytest.mark.parametrize("metadata", ["text", -1, {"count": 3}, {4: "four"}])
def test_metadata_that_is_no_text_is_refused_and_nothing_written(metadata, tmp_path):
    net = nn.Sequential(nn.Linear(3, 4), rr.RotatedReLU(4), nn.Linear(4, 2))
    with torch.no_grad():
        net[1].slope[0] = 0
    result = rr.compact(net, torch.randn(2, 3))
    with pytest.raises(ArgumentError, match="save: metadata must be a mapping of text or None"):
        rr.save(result, tmp_path / "small.safetensors", metadata=metadata)
    assert not list(tmp_path.iterdir())


def test_truncated_file(saved):
    path = saved[0]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FileFormatError, match="truncated, corrupt, or no safetensors file"):
        rr.load(path, nets.OptionA())


def test_a_pickle_is_refused_unopened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return pathlib.Path.touch, (tmp_path / "exploded",)

    torch.save(Bomb(), tmp_path / "evil.safetensors")
    with pytest.raises(FileFormatError, match="no safetensors file"):
        rr.load(tmp_path / "evil.safetensors", nets.OptionA())
    assert not (tmp_path / "exploded").exists()


def test_safetensors_without_a_plan(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(FileFormatError, match="without a compaction plan"):
        rr.load(tmp_path / "foreign.safetensors", nets.OptionA())


def test_missing_file(tmp_path):
    with pytest.raises(FileFormatError, match="does not exist"):
        rr.load(tmp_path / "nothing.safetensors", nets.OptionA())


def test_plan_for_another_network_names_the_first_difference(saved):
    with pytest.raises(
        PlanError, match=r"another network: .*stem\.weight is \[8, 3, 3, 3\] .* \[4, 3, 3, 3\]"
    ):
        rr.load(saved[0], nets.Residual())


def test_plan_of_a_newer_format(saved, tmp_path):
    with safe_open(saved[0], framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    plan = json.loads(metadata["rotated_relu.plan"]) | {"format": 99}
    save_file(tensors, tmp_path / "newer.safetensors", metadata | {"rotated_relu.plan": json.dumps(plan)})
    with pytest.raises(PlanError, match="format 99 is not known here"):
        rr.load(tmp_path / "newer.safetensors", nets.OptionA())


def test_a_failed_write_keeps_what_existed(saved, monkeypatch):
    path = saved[0]
    before = path.read_bytes()
    loaded = files.load_compacted(path, nets.OptionA())

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FileFormatError, match=r"cannot write .*No space left.*has space left"):
        rr.save(loaded, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []


def test_missing_directory_is_named(saved, tmp_path):
    loaded = files.load_compacted(saved[0], nets.OptionA())
    with pytest.raises(FileFormatError, match=r"cannot write .*nowhere"):
        rr.save(loaded, tmp_path / "nowhere" / "x.safetensors")


def killed(net, **dead):
    for name, channels in dead.items():
        nets.kill(net, name.replace("__", "."), channels)
    return net


def trained_a_little(net, x):
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    net(x).square().mean().backward()
    optimizer.step()
    return net.eval()


def test_a_network_compacted_twice_is_one_file(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    once = rr.compact(killed(nets.awake(nets.Residual()), block1__act1=[0], act=[1]), x).model
    killed(trained_a_little(once, x), block2__act1=[0, 1], block1__act2=[2])
    twice = rr.compact(once, x)
    assert len(twice.plan.earlier) == 1
    path = rr.save(twice, tmp_path / "twice.safetensors")
    for start in (nets.Residual(), once):  # the original, or the stage in between
        loaded = files.load_compacted(path, start)
        with torch.no_grad():
            assert torch.equal(loaded.model.eval()(x), twice.model(x))
    killed(loaded.model, block1__act1=[1])  # and again, from the file
    thrice = rr.compact(loaded.model, x)
    again = rr.load(rr.save(thrice, tmp_path / "thrice.safetensors"), nets.Residual()).eval()
    with torch.no_grad():
        assert torch.equal(again(x), thrice.model(x))


def test_a_network_with_a_shared_activation_compacted_twice(tmp_path):
    """A shared activation makes the class of the root a subclass of its own."""

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = torch.nn.Linear(4, 6), torch.nn.Linear(6, 8), torch.nn.Linear(8, 2)
            self.act = torch.nn.ReLU()

        def forward(self, x):
            return self.c(self.act(self.b(self.act(self.a(x)))))

    torch.manual_seed(0)
    fresh, x = Plain().eval(), torch.randn(3, 4)
    net = rr.rotate(fresh, x)
    assert isinstance(net, Plain)
    first, second = rr.slopes(net)
    net.get_parameter(first).data[0] = 0
    once = rr.compact(net, x).model
    once.get_parameter(second).data[:2] = 0
    twice = rr.compact(once, x)
    loaded = rr.load(rr.save(twice, tmp_path / "twice.safetensors"), fresh)
    assert loaded.b.weight.shape == (6, 5)
    with torch.no_grad():
        assert torch.equal(loaded(x), twice.model(x))


def with_plan(saved, tmp_path, change):
    """The saved file with another plan."""
    with safe_open(saved[0], framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    plan = json.loads(metadata["rotated_relu.plan"])
    replaced = change(plan)
    plan = plan if replaced is None else replaced
    save_file(tensors, tmp_path / "changed.safetensors", metadata | {"rotated_relu.plan": json.dumps(plan)})
    return tmp_path / "changed.safetensors"


class OtherWidth(nets.OptionA):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(8, 6)


class OtherSlopes(nets.OptionA):
    def __init__(self):
        super().__init__()
        self.act = rr.RotatedReLU(1)


class MissingLayer(nets.OptionA):
    def __init__(self):
        super().__init__()
        del self.fc


class MoreLayers(nets.OptionA):
    def __init__(self):
        super().__init__()
        self.extra = torch.nn.Linear(2, 3)


class OtherClass(nets.OptionA):
    """The same names and shapes, but a bilinear layer has no channels to gather."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Module()
        self.fc.weight, self.fc.bias = torch.nn.Linear(8, 5).weight, torch.nn.Linear(8, 5).bias


class NoShortcut(nets.OptionA):
    def __init__(self):
        super().__init__()
        del self.shortcut


@pytest.mark.parametrize(
    ("network", "difference"),
    [
        (OtherWidth, r"fc\.weight is \[6, 8\] in the model, \[5, 8\] in the plan"),
        (OtherSlopes, r"act\.slope is \[1\] in the model, \[4\] in the plan"),
        (MissingLayer, r"it has fc\.weight \[5, 8\], the model has no such tensor"),
        (MoreLayers, r"the model has extra\.weight \[3, 2\], the plan does not"),
        (OtherClass, r"fc is a Module in the model, a Linear in the plan"),
        (NoShortcut, r"the model has no module shortcut"),
    ],
)
def test_the_first_difference_is_named(saved, network, difference):
    net = network()
    before = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    with pytest.raises(PlanError, match=r"the plan is for another network: .*" + difference):
        rr.load(saved[0], net)
    assert {name: tuple(value.shape) for name, value in net.state_dict().items()} == before


def test_a_format_of_the_past_is_read(saved, tmp_path):
    def older(plan):
        plan["format"] = 1
        del plan["earlier"], plan["work"], plan["frozen"], plan["splits"]  # fields that came later

    _, x, expected = saved
    loaded = rr.load(with_plan(saved, tmp_path, older), nets.OptionA()).eval()
    with torch.no_grad():
        assert torch.equal(loaded(x), expected)


@pytest.mark.parametrize(
    "damaged", [[], {}, {"format": 2}, {"format": "2"}, {"format": 2, "layers": 3}, ["x"]]
)
def test_a_damaged_plan_is_refused(saved, tmp_path, damaged):
    with pytest.raises(PlanError, match=r"plan format .* is not known|plan is incomplete or of another kind"):
        rr.load(with_plan(saved, tmp_path, lambda plan: damaged), nets.OptionA())


def test_an_unknown_field_is_refused(saved, tmp_path):
    def stranger(plan):
        plan["layers"][0]["twist"] = 1

    with pytest.raises(PlanError, match=r"incomplete or of another kind: .*twist"):
        rr.load(with_plan(saved, tmp_path, stranger), nets.OptionA())


def test_tensors_of_another_compaction_are_refused(saved, tmp_path):
    with safe_open(saved[0], framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["fc.weight"] = torch.zeros(5, 2)
    save_file(tensors, tmp_path / "mixed.safetensors", metadata)
    with pytest.raises(PlanError, match=r"fc\.weight is \(5, 2\), the network needs \(5, 6\)"):
        rr.load(tmp_path / "mixed.safetensors", nets.OptionA())
    del tensors["fc.weight"]
    save_file(tensors, tmp_path / "mixed.safetensors", metadata)
    with pytest.raises(PlanError, match=r"has no tensor fc\.weight"):
        rr.load(tmp_path / "mixed.safetensors", nets.OptionA())


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act, self.head = (
            nn.LazyConv2d(8, 3),
            nn.LazyBatchNorm2d(),
            nn.ReLU(),
            nn.LazyLinear(5),
        )

    def forward(self, x):
        return self.head(self.act(self.norm(self.conv(x))).mean((2, 3)))


def test_a_network_without_widths_gets_them_when_it_loads(tmp_path):
    torch.manual_seed(0)
    net, x = Lazy().eval(), torch.randn(2, 3, 8, 8)
    rr.rotate(net, x)
    next(iter(rr.slopes(net).values())).data[:4] = 0.0
    result = rr.compact(net, x, 0.1)
    path = rr.save(result, tmp_path / "small.safetensors")
    loaded = rr.load(path, Lazy().eval())
    torch.testing.assert_close(loaded(x), result.model(x))
    assert loaded.head.weight.shape == (5, 4)


def test_a_lazy_network_that_takes_other_inputs_is_told_so(tmp_path):
    class Flat(Lazy):
        def forward(self, x):
            return self.head(x.flatten(1) @ torch.ones(7, 4))

    torch.manual_seed(0)
    net, x = Lazy().eval(), torch.randn(2, 3, 8, 8)
    rr.rotate(net, x)
    next(iter(rr.slopes(net).values())).data[:4] = 0.0
    path = rr.save(rr.compact(net, x, 0.1), tmp_path / "small.safetensors")
    with pytest.raises(PlanError, match=r"layers without a width yet.*run it once"):
        rr.load(path, Flat().eval())
