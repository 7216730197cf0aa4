"""What earlier versions wrote and the repository keeps still loads: settings, weights, plans, certificates, tables."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import rotated_relu as rr

RESULTS = Path(__file__).parents[2] / "results"
RUN = RESULTS / "resnet20-cifar10" / "rotated_l1"  # trained and pruned by 0.1.0


@pytest.mark.parametrize(
    "path", sorted(RESULTS.rglob("*.json")), ids=lambda path: str(path.relative_to(RESULTS))
)
def test_tables_are_json(path):
    assert json.loads(path.read_text(encoding="utf-8"))


def test_a_compacted_network_of_0_1_0_loads():
    _, certificate = rr.read_plan(RUN / "compact.safetensors")
    assert certificate.max_relative_difference <= 1e-9
    net = rr.load(RUN / "compact.safetensors", rr.models.resnet20(num_classes=10)).eval()
    alive = sum(int((slope != 0).sum()) for slope in rr.slopes(net).values())
    assert alive == 568  # of 672, as docs/results/resnet20-cifar10.md says
    assert torch.isfinite(net(torch.zeros(1, 3, 32, 32))).all()


def test_trained_weights_of_0_1_0_load():
    net = rr.models.resnet20(num_classes=10)
    net.load_state_dict(load_file(RUN / "weights.safetensors"))
    magnitudes = torch.cat([slope.abs() for slope in rr.slopes(net).values()])
    threshold = json.loads((RUN / "threshold.json").read_text(encoding="utf-8"))
    assert (len(magnitudes), int((magnitudes < threshold["value"]).sum())) == (672, 104)
