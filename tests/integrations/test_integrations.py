"""The penalty in other loops; the numbers are those of the plain loop."""

import copy
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import SlopeError
from rotated_relu.integrations.criterion import PenalisedLoss
from rotated_relu.nn.penalty import alive_at

DOCS = Path(__file__).parents[2] / "docs" / "your-own-loop.md"
STRENGTH, RATE = 0.03, 0.1


def made():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), rr.RotatedReLU(6), nn.Linear(6, 3))


def batches(count=3):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 4, generator=generator), torch.randint(3, (8,), generator=generator))
        for _ in range(count)
    ]


def plain_loop(net):
    """What every other loop must arrive at."""
    optimizer = torch.optim.SGD(net.parameters(), RATE)
    for x, y in batches():
        optimizer.zero_grad()
        (F.cross_entropy(net(x), y) + STRENGTH * rr.slope_l1(net)).backward()
        optimizer.step()
    return net


def assert_same(net, expected):
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(
            net.state_dict()[name], value, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_alive_at_counts_what_reaches_the_threshold():
    net = made()
    net[1].slope.data = torch.tensor([0.0, -0.01, 0.02, -0.5, 1.0, 0.001])
    assert alive_at(net, (0.01, 0.5)) == {"alive_at_0.01": 4, "alive_at_0.5": 2}
    assert alive_at(nn.Linear(2, 2)) == {}


def test_penalised_loss_adds_the_penalty_in_training_only():
    net = made()
    net[1].slope.data = torch.tensor([1.0, -2.0, 0.0, 0.0, 0.0, 0.5])
    loss = PenalisedLoss(lambda scores, labels: scores.sum() * 0 + 7, net, 0.1)
    scores, labels = torch.zeros(1, 3), torch.zeros(1)
    assert float(loss(scores, labels)) == pytest.approx(7 + 0.1 * 3.5)
    assert float(loss.eval()(scores, labels)) == 7
    assert list(loss.parameters()) == []


def test_timm_step_is_the_plain_step():
    optim, utils = pytest.importorskip("timm.optim"), pytest.importorskip("timm.utils")
    net, expected = made(), plain_loop(made())
    optimizer = optim.create_optimizer_v2(net, opt="momentum", lr=RATE, momentum=0.0, weight_decay=0.0)
    scaler = utils.NativeScaler(device="cpu")
    loss_fn = PenalisedLoss(nn.CrossEntropyLoss(), net, STRENGTH)
    for x, y in batches():
        optimizer.zero_grad()
        scaler(loss_fn(net(x), y), optimizer, parameters=net.parameters())
    assert_same(net, expected)


@pytest.mark.parametrize("fast", [False, True])
def test_lightning_callback_is_the_plain_step(tmp_path, fast):
    import lightning

    from rotated_relu.integrations.lightning import SlopePenalty

    class Module(lightning.LightningModule):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def training_step(self, batch, index):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), RATE)

    net, expected = made(), plain_loop(made())
    if fast:
        rr.fast_training(net, torch.zeros(2, 4))
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[SlopePenalty(STRENGTH, (0.5,))],
    )  # fmt: skip
    trainer.fit(Module(net), torch.utils.data.DataLoader(batches(), batch_size=None))
    assert_same(net, expected)
    assert trainer.logged_metrics["alive_at_0.5"] == int((net[1].slope.abs() >= 0.5).sum())
    with pytest.raises(SlopeError, match="has no slopes"):
        trainer.fit(Module(nn.Linear(4, 3)), torch.utils.data.DataLoader(batches(), batch_size=None))


@pytest.mark.slow
def test_hugging_face_callback_is_the_plain_step(tmp_path):
    transformers = pytest.importorskip("transformers", reason="pip install transformers accelerate")
    pytest.importorskip("accelerate", reason="pip install transformers accelerate")
    from rotated_relu.integrations.huggingface import SlopePenalty

    class Model(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x, labels):
            scores = self.net(x)
            return {"loss": F.cross_entropy(scores, labels), "logits": scores}

    net, expected = made(), plain_loop(made())
    data = [{"x": x[i], "labels": y[i]} for x, y in batches() for i in range(8)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), per_device_train_batch_size=8, num_train_epochs=1, learning_rate=RATE, use_cpu=True,
        lr_scheduler_type="constant", max_grad_norm=0.0, save_strategy="no", report_to=[], logging_steps=1,
        disable_tqdm=True,
    )  # fmt: skip

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *args, **kwargs):
            return torch.utils.data.SequentialSampler(data)

    trainer = InOrder(
        Model(net), arguments, train_dataset=data, callbacks=[SlopePenalty(STRENGTH, (0.5,))],
        optimizers=(torch.optim.SGD(net.parameters(), RATE), None),
    )  # fmt: skip
    trainer.train()
    assert_same(net, expected)
    assert trainer.state.log_history[-1]["alive_at_0.5"] == int((net[1].slope.abs() >= 0.5).sum())
    with pytest.raises(SlopeError, match="has no slopes"):
        InOrder(Model(nn.Linear(4, 3)), arguments, train_dataset=data, callbacks=[SlopePenalty()]).train()


def blocks():
    text = DOCS.read_text(encoding="utf-8")
    return dict(re.findall(r"## (.+?)\n.*?```python\n(.*?)```", text, flags=re.DOTALL))


def test_each_loop_in_the_docs_takes_at_most_ten_lines():
    found = blocks()
    assert set(found) == {"Plain PyTorch", "Lightning", "Hugging Face Trainer", "timm"}
    for name, code in found.items():
        assert len([line for line in code.splitlines() if line.strip()]) <= 10, name
        compile(code, name, "exec")


@pytest.mark.parametrize("name", ["Plain PyTorch", "timm"])
def test_the_loops_in_the_docs_run(name):
    optim_, loss_, utils_ = (pytest.importorskip(f"timm.{part}") for part in ("optim", "loss", "utils"))
    net = nn.Sequential(nn.Conv2d(3, 4, 3), rr.RotatedReLU(4), nn.Flatten(), nn.Linear(4 * 222 * 222, 10))
    before = copy.deepcopy(net[1].slope.detach())

    class Timm:
        """timm, with a small network under the documented name."""

        optim, loss, utils = optim_, loss_, utils_
        create_model = staticmethod(lambda *args, **kwargs: net)

    loader = [(torch.randn(2, 3, 224, 224), torch.tensor([0, 1]))]
    scope = {
        "rr": rr, "torch": torch, "F": F, "timm": Timm, "net": net, "loader": loader,
        "optimizer": torch.optim.SGD(net.parameters(), 0.01),
    }  # fmt: skip
    code = blocks()[name].replace("rr.rotate(timm", "(timm").replace(", torch.zeros(2, 3, 224, 224))", ")")
    exec(code, scope)
    assert not torch.equal(net[1].slope, before)
