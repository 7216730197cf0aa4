"""Folders and names: what is read without a connection, what is looked up, what is said when it cannot be read."""

import socket

import pytest
from PIL import Image

from rotated_relu.core.errors import DataError
from rotated_relu.training import Config, DataConfig, load_data
from rotated_relu.training.data.load import load_images
from rotated_relu.training.data.sources import resolved
from rotated_relu.training.images import resolved as resolved_config


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep the readers' cache out of the user's."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def attempts(monkeypatch):
    """Every attempt to connect or to look up an address; each fails."""
    found = []

    def refuse(*arguments, **options):
        found.append(arguments)
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    return found


def fill(folder, count=10):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("L", (4, 4), index).save(folder / f"{index}.png")


def class_folders(root):
    for name in ("cat", "dog"):
        fill(root / name)
    return root


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_a_folder_is_read_without_a_connection(tmp_path, attempts, storage):
    images = load_images(class_folders(tmp_path / "set"), validation=4, storage=storage)
    assert images.class_names == ("cat", "dog")
    assert attempts == []


def test_a_folder_of_parquet_is_read_without_a_connection(tmp_path, attempts, caplog):
    import datasets

    table = datasets.load_dataset("imagefolder", data_dir=str(class_folders(tmp_path / "set")))["train"]
    (tmp_path / "tables").mkdir()
    table.to_parquet(tmp_path / "tables" / "train-00000-of-00001.parquet")
    (tmp_path / "tables" / "README.md").write_text("For people, without a header.")
    attempts.clear()
    assert load_images(tmp_path / "tables", validation=4).class_names == ("cat", "dog")
    assert attempts == []
    assert "card" not in caplog.text


def test_a_folder_is_streamed_without_a_connection(tmp_path, attempts):
    for split in ("train", "test"):
        class_folders(tmp_path / "set" / split)
    images = load_images(tmp_path / "set", validation=4, image_size=4, storage="stream", length=16)
    assert sum(len(labels) for _, labels in images.train.batches(8)) == 16
    assert attempts == []


def test_what_a_run_names_is_not_looked_up(attempts):
    for name in ("someone/pictures", "cifar10"):
        with pytest.raises(DataError, match=r"not in this machine's cache.*ROTATED_RELU_ONLINE=1") as caught:
            load_data(Config(data=DataConfig(name)), offline=True)
        assert len(str(caught.value).splitlines()) == 1
    assert attempts == []


def test_what_a_run_names_is_looked_up_if_asked(monkeypatch):
    import datasets

    monkeypatch.setenv("ROTATED_RELU_ONLINE", "1")
    states = []

    def record(*args, **kwargs):
        states.append(datasets.config.HF_HUB_OFFLINE)
        raise ConnectionError("seen")

    monkeypatch.setattr(datasets, "load_dataset", record)
    with pytest.raises(DataError, match="seen"):
        load_data(Config(data=DataConfig("someone/pictures")), offline=True)
    assert states == [False]


@pytest.mark.parametrize("name", ["here/typo", "./pictures", "~/nothing/at/all", "/nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_looked_up(tmp_path, monkeypatch, attempts, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        load_images(name)
    assert attempts == []


def test_a_relative_folder_becomes_absolute(tmp_path, monkeypatch):
    class_folders(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    assert resolved("set") == str((tmp_path / "set").resolve())
    assert resolved_config(Config(data=DataConfig("set"))).data.name == str((tmp_path / "set").resolve())
    assert resolved("someone/pictures") == "someone/pictures"
    (tmp_path / "mnist5k").mkdir()
    assert resolved("mnist5k") == "mnist5k"


def test_a_stray_image_beside_the_class_folders(tmp_path):
    class_folders(tmp_path / "set")
    Image.new("L", (4, 4)).save(tmp_path / "set" / "stray.png")
    with pytest.raises(DataError, match=r"stray\.png lies beside the class folders: move it"):
        load_images(tmp_path / "set", validation=4)


def test_other_files_beside_the_class_folders_do_no_harm(tmp_path):
    class_folders(tmp_path / "set")
    (tmp_path / "set" / "README.txt").write_text("cats and dogs")
    assert load_images(tmp_path / "set", validation=4).class_names == ("cat", "dog")


def test_one_class_alone(tmp_path):
    fill(tmp_path / "set" / "cat")
    with pytest.raises(DataError, match="one class folder, cat: a classifier needs at least two"):
        load_images(tmp_path / "set", validation=4)


def test_class_folders_that_are_links(tmp_path):
    class_folders(tmp_path / "real")
    (tmp_path / "set").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "real" / name)
    with pytest.raises(DataError, match=r"set/(cat|dog) is a link, which is not followed: copy its images"):
        load_images(tmp_path / "set", validation=4)


def test_one_class_folder_that_is_a_link(tmp_path):
    class_folders(tmp_path / "real")
    fill(tmp_path / "set" / "cat")
    (tmp_path / "set" / "dog").symlink_to(tmp_path / "real" / "dog")
    with pytest.raises(DataError, match=r"set/dog is a link"):
        load_images(tmp_path / "set", validation=4)
