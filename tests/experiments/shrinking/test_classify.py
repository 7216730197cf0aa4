"""The program beside an exported network gives the scores of the pipeline that trained it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rotated_relu.core.preprocessing import SCORES, Preprocessing, as_metadata
from rotated_relu.deploy.export import export_onnx
from rotated_relu.experiments.shrinking.classify import CLASSIFY
from rotated_relu.training.data.decoding import Scaling, pixels
from rotated_relu.training.data.format import normalise

NAMES = ("cat", "dog", "vélo")
DOCS = Path(__file__).parents[3] / "docs"


class Net(nn.Module):
    """Scores as the second of two outputs."""

    def __init__(self, channels):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(channels, 6, 3), nn.Linear(6, len(NAMES))

    def forward(self, x):
        features = self.conv(x).relu().mean((2, 3))
        return {"features": features, "logits": self.head(features)}


def picture(path, mode, size):
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "size", "how"),
    [
        ("RGB", (61, 40), Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.25), (24, 24), 28, "bicubic")),
        pytest.param(
            "RGB",
            (31, 45),
            Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.25), (24, 24)),
            marks=pytest.mark.slow,
        ),
        ("L", (28, 28), Preprocessing((0.13,), (0.3,), (28, 28))),
    ],
)
def test_scores_are_those_of_the_network(mode, size, how, tmp_path):
    net, scaling = Net(len(how.mean)).eval(), Scaling(how.image_size[0], how.resize, how.interpolation)
    examples = torch.rand(2, len(how.mean), *how.image_size)
    about = {**as_metadata(how, NAMES), SCORES: "1"}
    export_onnx(net, examples, tmp_path / "compact.onnx", metadata=about)
    (tmp_path / "classify.py").write_text(CLASSIFY, encoding="utf-8")
    path = picture(tmp_path / "picture.png", mode, size)
    done = subprocess.run(
        [sys.executable, tmp_path / "classify.py", path],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr
    found = {name: float(score) for score, name in (line.split(" ", 1) for line in done.stdout.splitlines())}
    seen = pixels({"bytes": None, "path": str(path)}, mode, scaling, "made", 0)
    image = torch.from_numpy(seen.copy()).reshape(*how.image_size, -1).permute(2, 0, 1)[None]
    with torch.no_grad():
        scores = net(normalise(image, how.mean, how.std))["logits"][0]
    assert [found[name] for name in NAMES] == pytest.approx(scores.tolist(), abs=1e-4)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_the_page_shows_this_program():
    assert CLASSIFY in (DOCS / "shrink.md").read_text(encoding="utf-8")
