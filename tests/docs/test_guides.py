"""The Python of the guides runs, block after block in one namespace per page.

What a page takes for granted (a network, images, a loader) is given here. A block under
``<!-- not run: REASON -->`` is only compiled.
"""

import functools
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import rotated_relu as rr
from rotated_relu.core.counting import count_macs
from rotated_relu.core.modules import as_inputs
from rotated_relu.core.nested import tensors_in
from rotated_relu.deploy.engines import ENGINES
from support.latency_tables import table_for

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n+)?```python\n(.*?)```", flags=re.DOTALL)
PAGES = sorted(page for page in DOCS.rglob("*.md") if "```python" in page.read_text(encoding="utf-8"))


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip


def given():
    """Names that guides use without defining them."""
    net, images, labels = small_net(), torch.randn(8, 3, 16, 16), torch.randint(10, (8,))
    return {
        "rr": rr, "torch": torch, "nn": nn, "F": F, "cross_entropy": F.cross_entropy,
        "net": net, "images": images, "labels": labels, "example_inputs": images[:2], "epochs": 2,
        "loader": DataLoader(TensorDataset(images, labels), batch_size=4),
        "optimizer": torch.optim.SGD(net.parameters(), lr=0.01),
        "evaluate": lambda net: 100.0,
    }  # fmt: skip


def a_training(net):
    """Slopes that differ from each other, as after a training."""
    with torch.no_grad():
        for slope in rr.slopes(net).values():
            slope.uniform_(0.5, 1.5)


def other_trainers():
    """Lightning, the Hugging Face ``Trainer`` and timm as ``your-own-loop.md`` finds them, with small networks."""
    lightning, transformers = pytest.importorskip("lightning"), pytest.importorskip("transformers")
    parts = {name: pytest.importorskip(f"timm.{name}") for name in ("optim", "utils", "loss")}
    net, images, labels = small_net(), torch.randn(8, 3, 16, 16), torch.randint(10, (8,))
    rr.rotate(net, images[:1])

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net

        def training_step(self, batch, index):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, labels):
            return {"loss": F.cross_entropy(self.net(x), labels)}

    options = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    return {
        "train": a_training,
        "lightning": SimpleNamespace(
            Trainer=functools.partial(lightning.Trainer, accelerator="cpu", **options)
        ),
        "module": Module(),
        "Trainer": lambda model, arguments, train_dataset, callbacks: transformers.Trainer(
            model, arguments, train_dataset=[{"x": images[0], "labels": labels[0]}] * 4, callbacks=callbacks
        ),
        "model": Model(),
        "arguments": transformers.TrainingArguments(
            "trainer", use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, num_train_epochs=1
        ),
        "timm": SimpleNamespace(create_model=lambda *args, **kwargs: small_net(), **parts),
    }


def rotated():
    net, images = small_net(), torch.randn(8, 3, 16, 16)
    rr.rotate(net, images[:1])
    return {
        "net": net,
        "loss": net(images).square().mean(),
        "optimizer": torch.optim.SGD(net.parameters(), lr=0.01),
    }


def pictures():
    images = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8)
    return {"images": images, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def torchvision_weights():
    """``my_resnet18.pt`` in the present directory, for images of 32 x 32."""
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    torch.save(models.resnet18(num_classes=10).state_dict(), "my_resnet18.pt")
    return with_loader(32) | {"models": models}


def with_loader(size):
    """Few images of a size, in one batch: a guide trains for so many passes over it."""
    images, labels = torch.randn(4, 3, size, size), torch.randint(10, (4,))
    loader = DataLoader(TensorDataset(images, labels), batch_size=4)
    return {"images": images, "labels": labels, "loader": loader}


def timm_network():
    for part in ("optim", "utils", "loss"):
        pytest.importorskip(f"timm.{part}")
    return with_loader(32) | {"name": "resnet10t", "epochs": 10}


def transformer():
    """A small vision transformer of Hugging Face's, and images for it."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        image_size=16,
        patch_size=8,
    )
    images = [{"pixel_values": torch.randn(3, 16, 16), "labels": index % 2} for index in range(8)]
    return {
        "model": transformers.ViTForImageClassification(config),
        "train_dataset": images,
        "epochs": 20,
    }


def detector():
    """A narrow YOLOv8 and four pictures with a box each, as files in the present directory."""
    os.environ |= {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0"}
    ultralytics = pytest.importorskip("ultralytics")
    pytest.importorskip("polars")  # the trainer needs it
    import numpy as np
    import yaml
    from PIL import Image

    known = Path(ultralytics.__file__).parent / "cfg" / "models" / "v8" / "yolov8.yaml"
    settings = {**yaml.safe_load(known.read_text(encoding="utf-8")), "nc": 2}
    settings["scales"] = {"n": [0.33, 0.125, 128]}
    Path("narrow-yolov8n.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    for part in ("images", "labels"):
        Path("set", part).mkdir(parents=True)
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"set/images/{index}.png")
        Path(f"set/labels/{index}.txt").write_text(f"{index % 2} 0.5 0.5 0.4 0.4\n", encoding="utf-8")
    data = {"path": str(Path("set").resolve()), "train": "images", "val": "images", "names": {0: "a", 1: "b"}}
    Path("set.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    options = {"imgsz": 64, "batch": 2, "nbs": 2, "workers": 0, "device": "cpu", "plots": False, "amp": False}
    options |= {
        "val": False,
        "verbose": False,
        "project": str(Path("runs").resolve()),
        "optimizer": "SGD",
        "lr0": 1e-3,
    }
    return {"weights": "narrow-yolov8n.yaml", "data": "set.yaml", "options": options, "epochs": 8}


def milliseconds():
    """A network with slopes, and a table of its layers, each paid channel by channel."""
    net, images = rr.rotate(small_net(), torch.zeros(1, 3, 16, 16)), torch.randn(8, 3, 16, 16)
    return {"net": net, "images": images, "table": table_for(net, images[:1])}


MORE = {
    "latency.md": milliseconds,
    "torchvision.md": torchvision_weights,
    "timm.md": timm_network,
    "yolo.md": detector,
    "transformer.md": transformer,
    "your-own-loop.md": other_trainers,
    "where-we-differ.md": rotated,
    "training-speed.md": rotated,
    "attack.md": pictures,
}


# --- what is asserted of a guide's names at its end ------------------------------------------------------------------


def small_is_equal(keep, network, inputs):
    """A check: the budget is met, and the compacted network computes what the trained one does."""

    def check(names):
        net, small, examples = names[network].eval(), names["small"].model.eval(), as_inputs(names[inputs])
        macs = [sum(count_macs(each, examples).values()) for each in (small, net)]
        assert macs[0] <= keep * macs[1]
        generator = torch.Generator().manual_seed(0)
        other = examples.map(lambda value: torch.rand(value.shape, generator=generator))
        with torch.no_grad():
            found = [tensors_in(other.run(each)) for each in (net, small)]
        for one, two in zip(*found, strict=True):
            assert (one - two).abs().max() <= 1e-4 * one.abs().max()

    return check


def file_is_equal(names):
    """The budget is met, and what the file gives computes what was written into it."""
    assert names["shrunk"].macs_kept <= 0.5
    images = names["images"]
    with torch.no_grad():
        assert torch.equal(names["again"](images), names["shrunk"].model(images))


CHECKS = {
    "own-cnn.md": file_is_equal,
    "torchvision.md": file_is_equal,
    "timm.md": small_is_equal(0.6, "net", "examples"),
    "yolo.md": small_is_equal(0.7, "net", "examples"),
    "transformer.md": small_is_equal(0.7, "model", "examples"),
}


@pytest.fixture(autouse=True)
def engines():
    """A page registers one; other tests do not see it."""
    before = dict(ENGINES)
    yield
    ENGINES.clear()
    ENGINES.update(before)


def test_the_guides_are_found():
    assert {"index.md", "export.md", *MORE} <= {page.name for page in PAGES}


# A few steps on random images kill no slope.
@pytest.mark.filterwarnings("ignore::rotated_relu.core.errors.NothingRemovedWarning")
@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_python_of_a_guide_runs(page, tmp_path, monkeypatch):
    if page.name == "attack.md":
        pytest.importorskip("torchattack")
    monkeypatch.chdir(tmp_path)
    names = {**given(), **MORE.get(page.name, dict)()}
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text[: found.start(2)].count("\n")
        code = compile("\n" * line + found.group(2), str(page), "exec")
        if not found.group(1):
            exec(code, names)
    CHECKS.get(page.name, lambda names: None)(names)
