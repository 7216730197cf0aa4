"""Names that people type, the networks that they mean, and the weights and preprocessing that go with them."""

import sys

import pytest
import torch
from torch import nn

from rotated_relu.core.errors import FileFormatError, PlanError, RotationError, UnknownNameError
from rotated_relu.core.preprocessing import Preprocessing
from rotated_relu.training.brought import bring, known_preprocessing, parse

CODE = """
import beside
from torch import nn

def build(width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(beside.INPUTS, width), nn.ReLU(), nn.Linear(width, 2))

def number():
    return 7

def broken():
    raise ValueError("out of luck")
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "my_own_net.py").write_text(CODE)
    (tmp_path / "beside.py").write_text("INPUTS = 12")
    yield tmp_path / "my_own_net.py"
    for name in ("my_own_net", "beside"):
        sys.modules.pop(name, None)


def test_a_function_in_a_file(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    found = parse("my_own_net.py:build", {"width": 6})
    assert found.runs_code
    assert found.name == f"{file}:build"  # it means the same file from elsewhere
    assert "my_own_net" not in sys.modules  # nothing has run yet
    net = found.build(num_classes=10)
    assert net[1].weight.shape == (6, 12)
    assert str(file.parent) not in sys.path


def test_a_function_in_a_module():
    found = parse("torch.nn:Identity")
    assert found.runs_code
    assert isinstance(found.build(2), nn.Identity)


@pytest.mark.parametrize(
    ("name", "kind"), [("resnet20", "own"), ("resnet18", "torchvision"), ("timm/test_vit", "timm")]
)
def test_names_of_libraries(name, kind):
    if kind == "timm":
        pytest.importorskip("timm")
    found = parse(name)
    assert (found.kind, found.runs_code) == (kind, False)
    net = found.build(num_classes=7).eval()
    size = 32 if kind == "own" else 160
    assert net(torch.zeros(1, 3, size, size)).shape == (1, 7)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("my_own_net.py:nothing", "has no function 'nothing'; it has broken, build, number"),
        ("my_own_net.py:number", "returned int, not a torch.nn.Module"),
        ("my_own_net.py:broken", "ValueError: out of luck"),
        ("no_such_package.here:build", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_functions_that_do_not_work(file, monkeypatch, name, says):
    monkeypatch.chdir(file.parent)
    with pytest.raises(RotationError, match=says):
        parse(name).build(2)


def test_options_that_the_builder_does_not_take(file):
    with pytest.raises(RotationError, match=r"with \{'depth': 3\} failed: TypeError"):
        parse(f"{file}:build", {"depth": 3}).build(2)


def test_names_that_mean_nothing():
    with pytest.raises(RotationError, match="no such file; --model takes"):
        parse("nowhere.py:build")
    with pytest.raises(UnknownNameError, match="did you mean 'resnet18'"):
        parse("resnet_18")


def test_weights_from_a_file(file, tmp_path):
    found = parse(f"{file}:build")
    net = found.build(2)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "mine.pth")
    brought = bring(found, str(tmp_path / "mine.pth"), 2)
    x = torch.randn(1, 3, 2, 2)
    assert torch.equal(brought(x), net(x))
    assert not brought.training
    with pytest.raises(FileFormatError, match="has no published weights by name"):
        bring(found, "pretrained", 2)


def test_timm_knows_its_preprocessing(tmp_path):
    timm = pytest.importorskip("timm")
    found = parse("timm/resnet18")
    torch.save(timm.create_model("resnet18", num_classes=3).state_dict(), tmp_path / "w.pt")
    # timm's own configuration of resnet18: 224 pixels of floor(224 / 0.95) = 235, bicubic.
    assert known_preprocessing(found, str(tmp_path / "w.pt")) == Preprocessing(
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (224, 224), 235, "bicubic"
    )
    with pytest.raises(PlanError, match="number of classes"):
        bring(found, str(tmp_path / "w.pt"), 5)


def test_torchvision_weights_by_name_are_checked_before_anything_is_downloaded():
    with pytest.raises(UnknownNameError, match="IMAGENET1K_V1"):
        bring(parse("resnet18"), "IMAGENET1K_V9", 1000)


@pytest.mark.parametrize(
    ("asked", "taken"), [("pretrained", "IMAGENET1K_V2"), ("IMAGENET1K_V1", "IMAGENET1K_V1")]
)
def test_the_weights_of_torchvision_that_are_taken(monkeypatch, asked, taken):
    """ResNet-50 has two; torchvision documents the second as its default."""
    import torchvision.models as models

    seen = {}
    monkeypatch.setattr(
        models, "get_model", lambda name, **given: seen.update(given, name=name) or torch.nn.Identity()
    )
    assert not bring(parse("resnet50"), asked, 1000).training
    assert (seen["name"], seen["weights"].name) == ("resnet50", taken)


def test_preprocessing_is_known_from_names_alone(monkeypatch, tmp_path):
    """Photographs have many sizes: it must be known before the first one is read, and nothing downloaded for it."""
    import torchvision.models as models

    monkeypatch.delattr(models, "get_model")
    # As torchvision documents IMAGENET1K_V1 of ResNet-18: resized to 256, 224 cut out, bilinear.
    assert known_preprocessing(parse("resnet18"), "DEFAULT") == Preprocessing(
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (224, 224), 256, "bilinear"
    )
    assert known_preprocessing(parse("resnet18"), f"{tmp_path}/mine.pth") is None
    assert known_preprocessing(parse("resnet20"), f"{tmp_path}/mine.pth") is None
    with pytest.raises(UnknownNameError, match="IMAGENET1K_V1"):
        known_preprocessing(parse("resnet18"), "IMAGENET1K_V9")
    pytest.importorskip("timm")
    assert known_preprocessing(parse("timm/resnet18.a1_in1k"), "pretrained").resize == 235
    with pytest.raises(RotationError, match=r"timm/resnet18.a9_in9k: .*a9_in9k"):
        known_preprocessing(parse("timm/resnet18.a9_in9k"), "pretrained")
