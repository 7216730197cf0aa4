"""Which layout of a graph an engine runs fastest."""

import pytest
import torch

import rotated_relu as rr
from rotated_relu.core.errors import ExportError
from rotated_relu.core.graph_layout import GraphLayout
from rotated_relu.deploy import fastest
from rotated_relu.deploy.conversion import to_onnx
from rotated_relu.deploy.fastest import distinct, fastest_layout
from rotated_relu.deploy.layout import EXACT_WIDTHS, LAYOUTS
from rotated_relu.deploy.timing import LatencyComparison
from support import nets


@pytest.mark.slow
def test_the_fastest_layout_of_any_network():
    found = fastest_layout(rr.models.resnet20().eval(), torch.randn(1, 3, 16, 16), rounds=3, threads=1)
    assert found.layout.name in found.milliseconds
    # narrow, wide and exported differ here; layouts that give the same graph are timed once
    assert 1 < len(found.milliseconds) <= len(LAYOUTS)


def test_the_chosen_layout_comes_with_its_graph(monkeypatch):
    net = nets.awake(nets.Residual())
    nets.kill(net, "block1.act1", [0, 1, 2])
    wide = GraphLayout("widths of 16", 16)

    def compare(runs, repeats, **_):
        return LatencyComparison({name: [{"widths of 16": 1.0}.get(name, 2.0)] * repeats for name in runs})

    monkeypatch.setattr(fastest, "compare_latency", compare)
    found = fastest_layout(net, torch.randn(1, 3, 8, 8), layouts=(EXACT_WIDTHS, wide), threads=1)
    assert found.layout is wide
    assert found.milliseconds == {"exact widths": [2.0], "widths of 16": [1.0]}
    assert found.content == to_onnx(net, torch.randn(1, 3, 8, 8), layout=wide).content


def test_graphs_that_are_the_same_are_timed_once():
    assert list(distinct({"a": b"1", "b": b"2", "c": b"1"})) == ["a", "b"]


def test_there_must_be_a_layout():
    with pytest.raises(ExportError, match="there is no layout to time"):
        fastest_layout(torch.nn.Linear(2, 2), torch.randn(1, 2), layouts=())
