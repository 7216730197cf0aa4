"""A budget in other people's loops: the same network as a plain loop with ``SlopeBudget`` makes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rotated_relu as rr
from rotated_relu.core.errors import ArgumentError, SlopeError

RATE, STEPS = 0.1, 10
X = torch.zeros(2, 4)
OPTIONS = {"keep": 0.5, "unit": "channels", "start": 0.0, "end": 0.4, "window": 0.2}


def made():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), rr.RotatedReLU(6), nn.Linear(6, 3))


def batches(count=STEPS):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 4, generator=generator), torch.randint(3, (8,), generator=generator))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def expected():
    net = made()
    optimizer = torch.optim.SGD(net.parameters(), RATE)
    budget = rr.SlopeBudget(net, X, STEPS, **OPTIONS)
    for x, y in batches():
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        budget.step()
    assert int((net[1].slope == 0).sum()) == 3  # half of six channels
    return net.state_dict()


def assert_same(net, expected):
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=lambda text, name=name: f"{name}: {text}")


def lightning_module(net):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net

        def training_step(self, batch, index):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), RATE)

    return Module()


def lightning_trainer(tmp_path, callback, **options):
    import lightning

    return lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[callback], **options,
    )  # fmt: skip


def loader():
    return torch.utils.data.DataLoader(batches(), batch_size=None)


def test_lightning(tmp_path, expected):
    from rotated_relu.integrations.lightning import KeepBudget

    net = made()
    trainer = lightning_trainer(tmp_path, KeepBudget(X, part="net", **OPTIONS), max_epochs=1)
    trainer.fit(lightning_module(net), loader())
    assert_same(net, expected)


@pytest.mark.parametrize("state", [None, [], torch.ones(2, dtype=torch.bool)])
def test_lightning_refuses_what_is_no_state(state):
    from rotated_relu.integrations.lightning import KeepBudget

    with pytest.raises(ArgumentError, match="state_dict must be a dict"):
        KeepBudget(X, **OPTIONS).load_state_dict(state)


def test_lightning_goes_on_from_its_checkpoint(tmp_path, expected):
    from rotated_relu.integrations.lightning import KeepBudget

    first = lightning_trainer(tmp_path, KeepBudget(X, part="net", **OPTIONS), max_epochs=1)
    # The length of the run must be that of the whole: stopped after 4 of 10 steps.
    module = lightning_module(made())

    def stop(trainer, *_):
        trainer.should_stop = trainer.global_step >= 4

    first.callbacks[0].on_train_batch_start = stop
    first.fit(module, loader())
    first.save_checkpoint(tmp_path / "half.ckpt")
    state = first.callbacks[0].state_dict()
    again = KeepBudget(X, part="net", **OPTIONS)
    again.load_state_dict(state)
    net = module.net
    optimizer = torch.optim.SGD(net.parameters(), RATE)
    again.on_fit_start(lightning_trainer_like(steps=STEPS, done=first.global_step), module)
    for x, y in batches()[first.global_step :]:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        again.budget.step()
    assert 0 < first.global_step < STEPS
    assert_same(net, expected)


def lightning_trainer_like(steps, done):
    import types

    return types.SimpleNamespace(estimated_stepping_batches=steps, global_step=done)


def test_lightning_counts_accumulated_batches_as_one_step(tmp_path):
    from rotated_relu.integrations.lightning import KeepBudget

    callback = KeepBudget(X, part="net", **OPTIONS)
    trainer = lightning_trainer(tmp_path, callback, max_epochs=2, accumulate_grad_batches=2)
    net = made()
    trainer.fit(lightning_module(net), loader())
    assert callback.budget.steps == callback.budget.state_dict()["number"] == STEPS
    assert int((net[1].slope == 0).sum()) == 3


def test_lightning_needs_an_end(tmp_path):
    from rotated_relu.integrations.lightning import KeepBudget

    trainer = lightning_trainer(tmp_path, KeepBudget(X, part="net"), max_epochs=-1)
    with pytest.raises(SlopeError, match="max_epochs or max_steps"):
        trainer.fit(lightning_module(made()), loader())


class HuggingFaceModel(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, labels):
        scores = self.net(x)
        return {"loss": F.cross_entropy(scores, labels), "logits": scores}


def hugging_face_trainer(tmp_path, net, callback):
    transformers = pytest.importorskip("transformers", reason="pip install transformers accelerate")
    pytest.importorskip("accelerate", reason="pip install transformers accelerate")
    data = [{"x": x[i], "labels": y[i]} for x, y in batches() for i in range(8)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), per_device_train_batch_size=8, num_train_epochs=1, learning_rate=RATE, use_cpu=True,
        lr_scheduler_type="constant", max_grad_norm=0.0, save_strategy="no", report_to=[], disable_tqdm=True,
    )  # fmt: skip

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *args, **kwargs):
            return torch.utils.data.SequentialSampler(data)

    return InOrder(
        HuggingFaceModel(net), arguments, train_dataset=data, callbacks=[callback],
        optimizers=(torch.optim.SGD(net.parameters(), RATE), None),
    )  # fmt: skip


def test_hugging_face(tmp_path, expected):
    pytest.importorskip("transformers", reason="pip install transformers accelerate")
    from rotated_relu.integrations.huggingface import KeepBudget

    net = made()
    hugging_face_trainer(tmp_path, net, KeepBudget(X, part="net", **OPTIONS)).train()
    assert_same(net, expected)


def test_hugging_face_refuses_a_run_that_is_resumed():
    pytest.importorskip("transformers", reason="pip install transformers accelerate")
    import types

    from rotated_relu.integrations.huggingface import KeepBudget

    state = types.SimpleNamespace(global_step=3, max_steps=10)
    with pytest.raises(SlopeError, match="before step 3 of a run that is resumed"):
        KeepBudget(X).on_train_begin(None, state, None, made())


def test_timm(expected):
    """Any loop that owns its optimizer: a hook after every step of it."""
    optim, utils = pytest.importorskip("timm.optim"), pytest.importorskip("timm.utils")
    net = made()
    optimizer = optim.create_optimizer_v2(net, opt="momentum", lr=RATE, momentum=0.0, weight_decay=0.0)
    rr.SlopeBudget(net, X, STEPS, **OPTIONS).follow(optimizer)
    scaler = utils.NativeScaler(device="cpu")
    for x, y in batches():
        optimizer.zero_grad()
        scaler(F.cross_entropy(net(x), y), optimizer, parameters=net.parameters())
    assert_same(net, expected)


def test_a_budget_that_follows_stops_when_told():
    net = made()
    optimizer = torch.optim.SGD(net.parameters(), RATE)
    budget = rr.SlopeBudget(net, X, STEPS, **OPTIONS)
    handle = budget.follow(optimizer)
    for x, y in batches(3):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        if budget.state_dict()["number"] == 2:
            handle.remove()
    assert budget.state_dict()["number"] == 2
