"""The bare wheel, in an environment that holds what it asks for and nothing else.

Nothing is downloaded: the packages of this environment are linked into the new one.
"""

import re
import subprocess
import sys
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="builds the wheel: pip install hatchling")
packaging = pytest.importorskip("packaging.requirements")

ROOT = Path(__file__).parent.parent
CORE = ("torch", "numpy", "scipy", "safetensors")
pytestmark = pytest.mark.slow


def required(names):
    """Distributions by name, with all that they require here, extras left out."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found[name] = distribution(name)
        for text in found[name].requires or ():
            requirement = packaging.Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found.values()


def link(installed, folder):
    """Link a distribution's files at the top level into a folder."""
    for name in {Path(str(file)).parts[0] for file in installed.files or ()} - {"..", "__pycache__"}:
        source, target = Path(str(installed.locate_file(name))), folder / name
        if not target.exists():
            target.symlink_to(source)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Python of an environment with the wheel and its requirements."""
    folder = tmp_path_factory.mktemp("bare")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    built = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(ROOT)]
    subprocess.run(built, check=True)
    (wheel,) = folder.glob("rotated_relu-*.whl")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    for installed in required(CORE):
        link(installed, next((folder / "venv" / "lib").glob("python*/site-packages")))
    install = [*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    return python


def run(python, code):
    """Run code in the environment, from another directory, seeing nothing of this one."""
    done = subprocess.run(
        [python, "-I", "-c", code], capture_output=True, text=True, cwd=python.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_it_asks_for_four_packages(bare):
    code = (
        "from importlib.metadata import requires, version\n"
        "print(version('rotated-relu'))\n"
        "print(*sorted(line.split('>')[0] for line in requires('rotated-relu') if 'extra ==' not in line))"
    )
    import rotated_relu as rr

    assert run(bare, code) == [rr.__version__, "numpy safetensors scipy torch"]


def test_optional_packages_are_absent(bare):
    optional = [
        "lightning",
        "lightning_fabric",
        "datasets",
        "onnx",
        "onnxruntime",
        "torchvision",
        "typer",
        "rich",
        "plotly",
        "PIL",
    ]
    code = f"from importlib.util import find_spec\nprint([name for name in {optional} if find_spec(name)])"
    assert run(bare, code) == ["[]"]


def test_the_ten_lines_of_the_readme_run_up_to_save(bare, tmp_path):
    whole, stepwise = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    before, after = stepwise.split("...\n")
    upto_save, _ = after.split("rr.export_onnx")
    code = f"""
import os, torch
from torch.nn.functional import cross_entropy
os.chdir({str(tmp_path)!r})
import rotated_relu as rr
net = rr.models.fcnn(rotated=False)
images, labels, example_inputs = torch.randn(2, 1, 28, 28), torch.tensor([1, 2]), torch.randn(1, 1, 28, 28)
loader = [(images, labels)]
def evaluate(net):
    return float(sum(int((a != 0).sum()) for a in rr.slopes(net).values()) > 300)
{whole}
{before}
for slope in rr.slopes(net).values():
    torch.nn.init.uniform_(slope.data)
{upto_save}
print(rr.load("small.safetensors", rr.models.fcnn(rotated=False)) is not None)
"""
    assert run(bare, code)[-1] == "True"
    assert (tmp_path / "small.safetensors").is_file()


def test_what_needs_an_extra_names_it(bare):
    code = """
import torch, rotated_relu as rr
try:
    rr.export_onnx(torch.nn.ReLU(), torch.zeros(1, 3), "net.onnx")
except rr.RotatedReLUError as error:
    print(error)
"""
    (line,) = run(bare, code)
    assert line.endswith("are not installed: pip install 'rotated-relu[onnx]'")


def test_the_command_without_its_extra_is_one_line(bare):
    done = subprocess.run(
        [bare.parent / "rotated-relu", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: typer, rich, pydantic, platformdirs are not installed: pip install 'rotated-relu[cli]'"
    ]
