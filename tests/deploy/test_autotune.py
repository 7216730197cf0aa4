"""Choosing widths and layouts by measurement."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import rotated_relu as rr
from rotated_relu.core.errors import CompactionError, ExportError, FileFormatError, UnknownNameError
from rotated_relu.deploy import autotune, fastest
from rotated_relu.deploy.autotune import ORIGINAL, compact_fastest
from rotated_relu.deploy.layout import AS_EXPORTED, EXACT_WIDTHS, LAYOUTS, GraphLayout
from rotated_relu.deploy.timing import LatencyComparison
from rotated_relu.pruning.mask import zero_mask
from rotated_relu.pruning.removal.checkpoint import read_tensors
from support import nets


def residual():
    net = nets.awake(nets.Residual())
    nets.kill(net, "block1.act1", [0, 1, 2])
    return net, torch.randn(1, 3, 8, 8)


def made_up(monkeypatch, times):
    """Instead of timing: each candidate takes as many ms in every round."""

    def compare(runs, repeats, **_):
        return LatencyComparison({name: [times[name]] * repeats for name in runs})

    monkeypatch.setattr(fastest, "compare_latency", compare)


def test_modules_are_rounded_and_one_of_them_is_chosen():
    net, x = residual()
    found = compact_fastest(net, x, zero_mask(net), candidates=(1, 4), engine="torch", rounds=3, threads=1)
    assert set(found.milliseconds) == {"exact widths", "widths of 4", ORIGINAL}
    assert all(len(times) == 1 and times[0] > 0 for times in found.milliseconds.values())
    assert found.result.layout is None
    assert found.result.certificate.max_relative_difference <= 1e-9
    # 8 channels less 3; rounded up to 8; all of them
    assert found.result.model.block1.conv1.out_channels == {1: 5, 4: 8, None: 8}[found.round_to]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_graphs_take_several_layouts_of_the_smallest_network(engine):
    if engine == "openvino":
        pytest.importorskip("openvino")
    net, x = residual()
    layouts = (EXACT_WIDTHS, GraphLayout("widths of 16", 16))
    found = compact_fastest(net, x, zero_mask(net), layouts=layouts, engine=engine, rounds=3, threads=1)
    assert set(found.milliseconds) == {"exact widths", "widths of 16", ORIGINAL}
    assert found.result.model.block1.conv1.out_channels == (8 if found.round_to is None else 5)
    assert len(found.speedup) == 1


@pytest.mark.slow
def test_graphs_may_keep_widths_of_16(monkeypatch):
    x = torch.randn(1, 3, 8, 8)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), rr.RotatedReLU(64), torch.nn.Conv2d(64, 4, 1))
    net[1].slope.data = (torch.arange(64) >= 29).float()  # 35 of 64 are alive, in widths of 16 that is 48
    made_up(monkeypatch, {"exact widths": 3.0, autotune.WIDE_MODULES: 2.0, ORIGINAL: 4.0})
    found = compact_fastest(net, x, zero_mask(net), layouts=(EXACT_WIDTHS,), threads=1)
    assert (found.round_to, found.result.layout) == (16, AS_EXPORTED)
    assert next(iter(found.result.model.parameters())).shape[0] == 48
    assert found.result.plan.widths == (
        "modules in widths of 16 was fastest of 3 in onnxruntime at batch 1: 2.00 times as fast as "
        "the original"
    )


@pytest.fixture(scope="module")
def tuned():
    """A compaction that was fastest in exact widths."""
    net, x = residual()
    times = dict.fromkeys([layout.name for layout in LAYOUTS] + [autotune.WIDE_MODULES, ORIGINAL], 4.0)
    with pytest.MonkeyPatch.context() as patch:
        made_up(patch, times | {"exact widths": 2.0})
        return rr.compact(net, x, mask=zero_mask(net), round_to="auto", batch_size=(1, 2))


def test_the_chosen_layout_stays_with_the_result_and_its_file(tuned, tmp_path):
    assert tuned.layout == EXACT_WIDTHS
    assert (tuned.tuned.engine, tuned.tuned.batch_sizes) == ("onnxruntime", (1, 2))
    path = rr.save(tuned, tmp_path / "small.safetensors")
    assert rr.load_compacted(path, nets.Residual()).tuned == tuned.tuned
    untimed = rr.save(rr.compact(*residual()), path)
    assert rr.load_compacted(untimed, nets.Residual()).layout is None


def test_a_damaged_layout_is_named(tuned, tmp_path):
    path = rr.save(tuned, tmp_path / "small.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | {"rotated_relu.tuned": '{"layout": 3}'}
    save_file(read_tensors(path), path, metadata)
    with pytest.raises(FileFormatError, match="the layout in its header cannot be read"):
        rr.load_compacted(path, nets.Residual())


def test_an_optimizer_of_another_network_is_refused_before_anything_is_timed(monkeypatch):
    net, x = residual()
    monkeypatch.setattr(autotune, "compact_fastest", lambda *_, **__: pytest.fail("timed"))
    other = torch.optim.SGD(nets.Residual().parameters(), lr=0.1)
    with pytest.raises(CompactionError, match="none of the network's"):
        rr.compact(net, x, round_to="auto", engine="torch", optimizer=other)


def test_the_original_stays_where_nothing_gains(monkeypatch):
    net, x = residual()
    made_up(
        monkeypatch, {"exact widths": 1.99, "widths of 8": 2.0, "widths of 16": 2.0, ORIGINAL: 2.0}
    )  # half a percent is too little
    result = rr.compact(net, x, round_to="auto", engine="torch", batch_size=2)
    assert result.model.block1.conv1.out_channels == 8
    assert result.plan.widths == (
        "everything stays: no candidate was confirmed faster than the original in torch at batch 2 "
        "(round_to=1 removes all that is dead)"
    )


def test_the_plan_says_what_was_chosen_and_the_optimizer_follows(monkeypatch):
    net, x = residual()
    made_up(monkeypatch, {"exact widths": 3.0, "widths of 8": 2.0, "widths of 16": 4.0, ORIGINAL: 4.0})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    result = rr.compact(net, x, round_to="auto", engine="torch", batch_size=1, optimizer=optimizer)
    assert (
        result.plan.widths
        == "widths of 8 was fastest of 4 in torch at batch 1: 2.00 times as fast as the original"
    )
    assert result.plan.round_to == 8
    assert result.optimizer is not None


def test_the_fastest_is_confirmed_by_runners_of_its_own(monkeypatch):
    made_up(monkeypatch, {"exact widths": 3.0, "widths of 8": 2.0, ORIGINAL: 4.0})
    started = []
    maker = autotune.module_setup
    monkeypatch.setattr(
        autotune,
        "module_setup",
        lambda model, *rest: lambda inputs: started.append(len(inputs)) or maker(model, *rest)(inputs),
    )
    net, x = residual()
    timing = [x, torch.cat([x, x])]
    compact_fastest(net, x, zero_mask(net), candidates=(1, 8), engine="torch", timing_inputs=timing)
    # three candidates in the screening and in the comparison at each of two inputs, then the original and the fastest
    assert started == 2 * [1, 1, 1, 2, 2, 2] + [1, 1, 2, 2]


def test_every_layout_needs_a_name_of_its_own():
    for layouts, name in (
        ([GraphLayout("a", 8), GraphLayout("a", 16)], "a"),
        ([GraphLayout(ORIGINAL)], ORIGINAL),
    ):
        with pytest.raises(ExportError, match=f"two candidates are called '{name}'"):
            compact_fastest(rr.models.fcnn(), torch.randn(1, 784), {}, layouts=layouts)


def test_bad_arguments():
    x = torch.randn(1, 784)
    with pytest.raises(CompactionError, match="at least one candidate"):
        compact_fastest(rr.models.fcnn(), x, {}, candidates=(), engine="torch")
    with pytest.raises(CompactionError, match='or "auto"'):
        rr.compact(rr.models.fcnn(), x, round_to="fast")
    with pytest.raises(CompactionError, match="positive integer"):
        rr.compact(rr.models.fcnn(), x, round_to=0)
    with pytest.raises(UnknownNameError, match="did you mean 'openvino'"):
        rr.compact(rr.models.fcnn(), x, round_to="auto", engine="openvin")
