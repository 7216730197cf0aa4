"""The Python of the guides runs, block after block in one namespace per page.

What a page takes for granted (a network, images, a loader) is given here. A block under
``<!-- not run: REASON -->`` is only compiled.
"""

import functools
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import rotated_relu as rr
from rotated_relu.deploy.engines import ENGINES

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


MORE = {
    "your-own-loop.md": other_trainers,
    "where-we-differ.md": rotated,
    "training-speed.md": rotated,
    "attack.md": pictures,
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
