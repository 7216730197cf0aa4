"""What a training leaves behind, and says, when it cannot be done."""

import dataclasses
import errno
import json

import pytest
import torch
from PIL import Image

from rotated_relu.core.errors import DataError, RotatedReLUError, RunError, SlopeError, UnknownNameError
from rotated_relu.core.run_directory import read_json
from rotated_relu.experiments.stages.finetune import finetune_config
from rotated_relu.experiments.stages.train import override
from rotated_relu.training import (
    BudgetConfig,
    Config,
    ConfigError,
    DataConfig,
    LogConfig,
    ModelConfig,
    build_model,
    fit,
)
from rotated_relu.training.trained import write_weights
from support.training_data import CONFIG, IMAGES


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep the readers' cache out of the user's."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def train(path, config=CONFIG, images=IMAGES, device="cpu"):
    return fit(config, path, images=images, progress="none", device=device)


def class_folders(root, broken=None):
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for index in range(30):
            Image.new("L", (6, 6), index).save(root / name / f"{index}.png")
    if broken is not None:
        (root / broken).write_bytes(b"no image")
    return root


@pytest.mark.parametrize(
    ("config", "device", "error"),
    [
        (dataclasses.replace(CONFIG, model=ModelConfig("fcnn", options={"hiden": 8})), "cpu", ConfigError),
        (
            dataclasses.replace(CONFIG, model=ModelConfig("vit", options={"patch_size": 4})),
            "cpu",
            RotatedReLUError,
        ),
        (dataclasses.replace(CONFIG, batch_size=22, accumulate=11), "gpu", UnknownNameError),
        (CONFIG, "mps", ConfigError),
        (
            dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, lr=1e30)),
            "cpu",
            RotatedReLUError,
        ),
    ],
)
def test_a_training_that_fails_does_not_block_the_corrected_command(tmp_path, config, device, error):
    with pytest.raises(error) as caught:
        train(tmp_path, config, device=device)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "config.json").exists()
    assert len(train(tmp_path).history) == CONFIG.epochs


def test_a_broken_image_does_not_block_the_corrected_command(tmp_path):
    folder = class_folders(tmp_path / "set", broken="cat/7.png")
    config = dataclasses.replace(
        CONFIG, data=dataclasses.replace(CONFIG.data, name=str(folder), storage="disk"), epochs=1
    )
    with pytest.raises(DataError, match=r"set/cat/7\.png cannot be decoded") as caught:
        train(tmp_path / "run", config, images=None)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run" / "config.json").exists()
    Image.new("L", (6, 6)).save(folder / "cat" / "7.png")
    train(tmp_path / "run", config, images=None)


def test_a_run_that_was_there_keeps_its_settings_when_it_cannot_go_on(tmp_path):
    train(tmp_path, dataclasses.replace(CONFIG, epochs=1))
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(ConfigError, match="torch finds none"):
        train(tmp_path, dataclasses.replace(CONFIG, epochs=1), device="mps")
    assert (tmp_path / "config.json").is_file()


def test_a_missing_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ConfigError, match="device is 'cuda', but torch finds none on this machine; take 'auto' or 'cpu'"
    ):
        train(tmp_path, device="cuda")


def test_an_option_that_the_model_does_not_take():
    config = dataclasses.replace(CONFIG, model=ModelConfig("fcnn", options={"hiden": 8}))
    with pytest.raises(ConfigError, match=r"fcnn cannot be built for images of 1 x 6 x 6.*hiden"):
        build_model(config, IMAGES)


def test_a_full_disk_at_the_end_names_the_file(tmp_path, monkeypatch):
    from pathlib import Path

    run = train(tmp_path / "run").run

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        RunError, match=rf"cannot use {run.path}/.*weights.*No space left on device; free some space"
    ):
        write_weights(run, torch.nn.Linear(1, 1))
    assert (run.path / "weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": 10**9}, "epoch 1000000000"),
        ({"epoch": -1}, "epoch -1"),
        ({"epoch": "two"}, "does not fit this network"),
        ({"step": 10**6}, "step 1000000"),
        ({"rows": []}, "holds the numbers of 0"),
        ({"sums": None}, "does not fit this network"),
    ],
)
def test_an_edited_checkpoint_is_refused(tmp_path, change, words):
    train(tmp_path, dataclasses.replace(CONFIG, epochs=1))
    (tmp_path / "weights.safetensors").unlink()
    path = tmp_path / "checkpoints" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    torch.save({**state, "progress": {**state["progress"], **change}}, path)
    with pytest.raises(RunError, match=words):
        train(tmp_path, dataclasses.replace(CONFIG, epochs=1))
    assert not (tmp_path / "weights.safetensors").exists()


@pytest.mark.parametrize("missing", ["config", "progress", "net", "optimizer", "scale"])
def test_a_checkpoint_that_lacks_a_part_is_refused(tmp_path, missing):
    train(tmp_path, dataclasses.replace(CONFIG, epochs=1))
    (tmp_path / "weights.safetensors").unlink()
    path = tmp_path / "checkpoints" / "last.ckpt"
    state = torch.load(path, weights_only=True)
    del state[missing]
    torch.save(state, path)
    with pytest.raises(RotatedReLUError):
        train(tmp_path, dataclasses.replace(CONFIG, epochs=1))


@pytest.mark.parametrize(
    "content", [None, b"", b"epoch,validation_accuracy\n", b"epoch,validation_accuracy\n0,x\n", b"\xff\0\xfe"]
)
def test_damaged_metrics_of_a_trained_run(tmp_path, content):
    train(tmp_path)
    path = tmp_path / "metrics.csv"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        RunError, match=r"metrics\.csv is missing or damaged, though the run is trained: put back a copy"
    ):
        train(tmp_path)


def test_a_relative_folder_is_stored_by_its_absolute_path(tmp_path, monkeypatch):
    class_folders(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, name="set"), epochs=1)
    train(tmp_path / "run", config, images=None)
    stored = read_json(tmp_path / "run" / "config.json")["data"]["name"]
    assert stored == str((tmp_path / "set").resolve())
    assert override(CONFIG, {"data.name": "set"}).data.name == stored
    train(tmp_path / "run", config, images=None)  # the same command again, by the relative name
    monkeypatch.chdir("/")
    train(
        tmp_path / "run",
        dataclasses.replace(config, data=DataConfig(stored, flip=False, crop_padding=0)),
        images=None,
    )


def test_fine_tuning_does_not_log_where_the_training_did():
    config = dataclasses.replace(CONFIG, log=LogConfig(wandb="someone-elses"))
    assert finetune_config(config, 1).log.wandb is None


def test_a_budget_that_cannot_be_met_does_not_block_the_corrected_command(tmp_path):
    run = tmp_path / "run"
    impossible = dataclasses.replace(CONFIG, budget=BudgetConfig(0.001))
    with pytest.raises(SlopeError, match="keep at least that much"):
        train(run, impossible)
    assert not (run / "config.json").exists()
    assert len(train(run).history) == CONFIG.epochs


def test_a_folder_that_is_gone_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = class_folders(tmp_path / "some" / "pictures")
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, name=str(folder)), epochs=1)
    run = train(tmp_path / "run", config, images=None).run
    # As 0.1.0 kept it: the path as it was typed. Read elsewhere, it could be a name on the Hub.
    settings = json.loads(run.file("config").read_text())
    settings["data"]["name"] = "some/pictures"
    run.file("config").write_text(json.dumps(settings))
    run.discard("weights")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("connected"))
    with pytest.raises(RunError, match="trained on the folder some/pictures, which is not there any more"):
        train(run.path, Config.from_dict(settings), images=None)
