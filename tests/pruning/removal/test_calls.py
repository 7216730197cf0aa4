"""Any call as example inputs, and a network that is as it was, through rotate, compact, save, load and the rest."""

import collections
import copy
import dataclasses
import functools
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import rotated_relu as rr
from rotated_relu.core.counting import count_macs
from rotated_relu.core.errors import CaptureError, FileFormatError, PlanError
from rotated_relu.core.nested import tensors_in

X, MASK = torch.randn(2, 6), torch.rand(2, 1)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.act, self.outer = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)

    def hidden(self, x):
        return self.act(self.inner(x))

    def forward(self, x):
        return self.outer(self.hidden(x))


class KeywordsAlone(Base):
    def forward(self, *, values, mask=None, negative=False):
        h = self.hidden(values) if mask is None else self.hidden(values) * mask
        return self.outer(-h if negative else h)


class Optional(Base):
    def forward(self, x, mask=None, extra=None, negative=False):
        h = self.hidden(x) if mask is None else self.hidden(x) * mask
        h = h if extra is None else h * extra[0][:, :1]
        return self.outer(-h if negative else h)


class OfDict(Base):
    def forward(self, batch):
        return self.outer(self.hidden(batch["x"]))


class EmptyBeside(Base):
    def forward(self, x, boxes):
        return self.outer(self.hidden(x)) + boxes.sum()


@dataclasses.dataclass
class Output:
    scores: torch.Tensor
    hidden: torch.Tensor | None = None


Pair = collections.namedtuple("Pair", "scores nothing")


class DataclassOut(Base):
    def forward(self, x):
        return Output(self.outer(self.hidden(x)))


class NestedOut(Base):
    def forward(self, x):
        scores = self.outer(self.hidden(x))
        return {"a": Pair(scores, None), "b": [scores.sum(), "text", {"c": (scores[:, :1],)}]}


CALLS = [
    (KeywordsAlone, {"values": X}),
    (KeywordsAlone, {"values": X, "mask": MASK, "negative": True}),
    (Optional, (X, None, [X, None], True)),
    (Optional, ((X,), {"extra": (X,), "negative": True})),
    (Optional, rr.Call(X, MASK, negative=True)),
    (OfDict, ({"x": X, "unused": MASK},)),
    (EmptyBeside, (X, torch.zeros(0, 4))),
    (DataclassOut, X),
    (NestedOut, X),
]


def half_dead(kind, inputs):
    torch.manual_seed(0)
    net = rr.rotate(kind(), inputs)
    with torch.no_grad():
        net.act.slope[:4] = 0
    return net.eval()


def outputs(net, inputs):
    with torch.no_grad():
        return tensors_in(rr.Call(*inputs.args, **inputs.kwargs).run(net))


def close(one, other):
    return len(one) == len(other) and all(
        torch.allclose(mine, theirs, atol=1e-6) for mine, theirs in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(("kind", "inputs"), CALLS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_call_goes_all_the_way(kind, inputs, tmp_path):
    from rotated_relu.core.modules import as_inputs

    call = as_inputs(inputs)
    before = [value.clone() for value in call.tensors]
    net = half_dead(kind, inputs)
    want = outputs(net, call)
    result = rr.compact(net, inputs, threshold=0.0)
    assert result.model.inner.out_features == 4
    assert close(outputs(result.model, call), want)
    loaded = rr.load(rr.save(result, tmp_path / "a.safetensors"), kind())
    assert close(outputs(loaded.eval(), call), want)
    # 6 * 4 + 4 * 3 multiplications instead of 6 * 8 + 8 * 3
    assert [sum(count_macs(each, inputs).values()) for each in (net, result.model)] == [72, 36]
    assert close(call.tensors, before)


@pytest.mark.parametrize(("kind", "inputs"), CALLS[1:4], ids=lambda value: getattr(value, "__name__", ""))
def test_budget_search_and_training_take_the_same_calls(kind, inputs):
    net = half_dead(kind, inputs)
    rr.SlopeBudget(net, inputs, steps=10)
    assert rr.find_threshold(net, lambda _: 1.0, example_inputs=inputs).total == 8
    assert rr.select_channels(net, inputs, keep=0.5).gone >= 4
    assert rr.plain_training(rr.fast_training(net, inputs)) is net


class WritesIntoInput(Base):
    def forward(self, x):
        x *= 2
        return self.outer(self.hidden(x))


def test_the_example_keeps_its_values():
    x = torch.ones(2, 6)
    net = half_dead(WritesIntoInput, x)
    rr.compact(net, x, threshold=0.0)
    count_macs(net, x)
    assert x.unique().tolist() == [1.0]


@functools.lru_cache
def positions(length):
    return torch.arange(length) / length


class Stateful(Base):
    """Changes a buffer, a counter, lists that modules share and a cache whenever it runs."""

    def __init__(self):
        super().__init__()
        self.register_buffer("memory", torch.zeros(3))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.seen, self.cache = [], {}
        self.inner.seen = self.seen

    def forward(self, x):
        self.count += 1
        out = self.outer(self.hidden(x)) + self.memory + positions(len(x))[:, None]
        self.memory = 0.9 * self.memory + 0.1 * out.detach().mean(0)
        self.seen.append(out)
        self.cache[len(x)] = out
        return out


def test_state_is_as_before_after_every_call(tmp_path):
    net = Stateful()

    def check(model):
        assert not model.memory.any()
        assert model.count == 0
        assert model.seen == []
        assert model.inner.seen is model.seen
        assert model.cache == {}

    positions.cache_clear()
    rr.rotate(net, X)
    check(net)
    net.act.slope.data[:4] = 0
    result = rr.compact(net, X, threshold=0.0)
    check(net)
    check(result.model)
    assert result.model.inner.out_features == 4
    rr.measure(net, X, engine="torch", repeats=1, warmup=1)
    check(net)
    check(rr.load(rr.save(result, tmp_path / "a.safetensors"), Stateful()))
    assert type(positions(2)) is torch.Tensor  # none without values is left in its cache
    with torch.no_grad():
        assert torch.allclose(net.eval()(X), result.model.eval()(X), atol=1e-6)


class Cached(Base):
    """Keeps a tensor that it derives from its weights, and drops it for training."""

    def __init__(self):
        super().__init__()
        self.offset, self.cache = nn.Parameter(torch.randn(3)), {}

    def train(self, mode=True):
        if mode:
            self.cache.clear()
        return super().train(mode)

    def forward(self, x):
        if self.training:
            return self.outer(self.hidden(x)) + 2 * self.offset
        return self.outer(self.hidden(x)) + self.cache.setdefault("offset", 2 * self.offset.detach())


def test_load_leaves_no_cache_of_other_weights(tmp_path):
    result = rr.compact(half_dead(Cached, X), X, threshold=0.0)
    path = rr.save(result, tmp_path / "a.safetensors")
    fresh = Cached().eval()
    fresh(X)  # fills its cache from its own weights
    loaded = rr.load(path, fresh)
    assert torch.allclose(loaded(X), result.model.train().eval()(X))
    assert not loaded.training


class KeepsFeatures(Base):
    def forward(self, x):
        self.features = self.hidden(x)
        return self.outer(self.features)


def test_after_a_training_step():
    net = half_dead(KeepsFeatures, X).train()
    net(X).sum().backward()
    result = rr.compact(net, X, threshold=0.0)
    assert result.model.inner.out_features == 4
    assert net.features.grad_fn is not None


@pytest.mark.parametrize(
    "wrap",
    [lambda net: torch.compile(net, backend="eager"), nn.DataParallel, AveragedModel],
    ids=["compiled", "parallel", "averaged"],
)
def test_wrappers_are_taken_off(wrap, tmp_path):
    net = half_dead(Base, X)
    result = rr.compact(wrap(net), X, threshold=0.0)
    assert type(result.model) is Base
    wrapped = dataclasses.replace(result, model=wrap(result.model))
    loaded = rr.load(rr.save(wrapped, tmp_path / "a.safetensors"), wrap(Base()))
    assert type(loaded) is Base
    assert torch.allclose(loaded.eval()(X), net(X), atol=1e-6)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_a_file_that_was_saved_from_inside_a_wrapper_loads(prefix, tmp_path):
    """0.1.0 kept the wrapper's prefix in all names."""
    from rotated_relu.pruning.removal.checkpoint import read_plan, write_tensors

    result = rr.compact(half_dead(Base, X), X, threshold=0.0)
    path = rr.save(result, tmp_path / "a.safetensors")
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    for name in ("inner", "act", "outer"):
        metadata["rotated_relu.plan"] = metadata["rotated_relu.plan"].replace(f'"{name}', f'"{prefix}{name}')
    write_tensors({prefix + k: v for k, v in result.model.state_dict().items()}, path, metadata)
    assert prefix + "inner.weight" in read_plan(path)[0].states
    assert torch.allclose(rr.load(path, Base()).eval()(X), result.model(X))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_load_into_a_fresh_network(dtype, tmp_path):
    torch.manual_seed(0)
    net = rr.rotate(Base().to(dtype), X.to(dtype)).eval()
    net.act.slope.data[:4] = 0
    result = rr.compact(net, X.to(dtype), threshold=0.0)
    loaded = rr.load(rr.save(result, tmp_path / "a.safetensors"), Base()).eval()
    assert loaded.inner.weight.dtype == dtype
    assert torch.equal(loaded(X.to(dtype)), result.model(X.to(dtype)))


def test_in_inference_mode(tmp_path):
    with torch.inference_mode():
        x = torch.randn(2, 6)
        net = half_dead(Base, x)
        result = rr.compact(net, x, threshold=0.0)
        loaded = rr.load(rr.save(result, tmp_path / "a.safetensors"), Base())
    for each in (net, result.model, loaded):
        each(X).sum().backward()
        assert each.inner.weight.grad is not None


def test_save_takes_the_result_of_compact(tmp_path):
    result = rr.compact(half_dead(Base, X), X, threshold=0.0)
    for wrong in (result.model, result.plan, None, {}, "net"):
        with pytest.raises(rr.RotatedReLUError, match=r"takes the result of rotated_relu\.compact"):
            rr.save(wrong, tmp_path / "a.safetensors")
    other = dataclasses.replace(result, model=half_dead(Base, X))
    with pytest.raises(
        PlanError, match=r"not the one that the plan made: inner\.weight is \[8, 6\], .* \[4, 6\]"
    ):
        rr.save(other, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_and_nothing_beside(tmp_path, monkeypatch):
    result = rr.compact(half_dead(Base, X), X, threshold=0.0)
    path = rr.save(result, tmp_path / "a.safetensors")
    old = path.read_bytes()

    def full(name, content):
        name.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FileFormatError, match="No space left on device"):
        rr.save(result, path)
    assert path.read_bytes() == old
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_state_dict_with_more_than_tensors_is_refused(tmp_path):
    class Extra(Base):
        def get_extra_state(self):
            return {"step": 3}

        def set_extra_state(self, state):
            pass

    result = rr.compact(half_dead(Extra, X), X, threshold=0.0)
    with pytest.raises(FileFormatError, match="holds _extra_state, a dict"):
        rr.save(result, tmp_path / "a.safetensors")


class ByValue(Base):
    def forward(self, x):
        scores = self.outer(self.hidden(x))
        return scores, scores[torch.nonzero(scores[:, 0] > 0)[:, 0]]


def test_an_operation_whose_shape_depends_on_values_is_named():
    net = Base()
    rotated = half_dead(ByValue, X)
    with pytest.raises(CaptureError, match=r"nonzero in the model's forward returns depends on values"):
        rr.compact(rotated, X, threshold=0.0)
    assert not rr.slopes(net)


def test_a_network_of_0_1_0_that_takes_more_than_tensors_asks_to_be_rotated_first(tmp_path):
    """0.1.0 recorded tensors alone, so a flag is missing."""
    from safetensors import safe_open

    from rotated_relu.pruning.removal.checkpoint import write_tensors

    class NeedsFlag(Base):
        def forward(self, x, flag):
            return self.outer(self.hidden(x) * flag)

    inputs = (X, 2)
    result = rr.compact(half_dead(NeedsFlag, inputs), inputs, threshold=0.0)
    path = rr.save(result, tmp_path / "a.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    metadata["rotated_relu.plan"] = metadata["rotated_relu.plan"].replace(', {"value": 2}', "")
    write_tensors(result.model.state_dict(), path, metadata)
    with pytest.raises(PlanError, match="rotate it first"):
        rr.load(path, NeedsFlag())
    loaded = rr.load(path, rr.rotate(NeedsFlag(), inputs)).eval()
    assert torch.allclose(loaded(*inputs), copy.deepcopy(result.model)(*inputs))
