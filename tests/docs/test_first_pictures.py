"""The newcomer's guide from its first command to its last line, on a tiny folder, with the network cut."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.command_line import done
from support.cut_network import cut

pytestmark = pytest.mark.slow  # a training, an export and a comparison

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "first-pictures.md"
# So that the test takes seconds: what a page for people has longer, or larger.
QUICK = {"train": ["--epochs", "2", "--model", "fcnn", "--image-size", "12", "--progress", "none"]}
QUICK |= {
    "finetune": ["--epochs", "1", "--progress", "none"],
    "export": ["--no-tune"],
    "prune": ["--round-to", "1"],
}
QUICK |= {"measure": ["--repeats", "1", "--batch-size", "1", "--engine", "torch"]}


def commands():
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    whole = "".join(blocks).replace("\\\n", " ")  # a command may go on in the next line
    lines = [shlex.split(line, comments=True) for line in whole.splitlines()]
    return [words[1:] for words in lines if words[:1] == ["rotated-relu"]]


@pytest.fixture
def attempts(monkeypatch):
    """Addresses that something tried to reach; nothing gets there."""
    return cut(monkeypatch)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The present directory, with caches of its own for folders of images and for measured times."""
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def make_pictures(more=0):
    """Dark cats and bright dogs of several kinds; every third is larger by ``more``."""
    chance = np.random.default_rng(0)
    for name, level in (("cat", 40), ("dog", 200)):
        Path("pictures", name).mkdir(parents=True)
        for index in range(30):
            size = (8 + more * (index % 3 == 0), 8, 3)
            pixels = chance.normal(level, 20, size).clip(0, 255).astype(np.uint8)
            stem, kind = "one" if index == 0 else index, ("jpg", "png")[index % 2]
            Image.fromarray(pixels).save(f"pictures/{name}/{stem}.{kind}")


def test_the_guide_runs_without_a_network(place, attempts, capsys):
    make_pictures(more=5)
    verbs = []
    for words in commands():
        verbs.append(words[0])
        done(*words, *QUICK.get(words[0], []))
    assert verbs == ["train", "prune", "finetune", "evaluate", "export", "measure", "report"]
    assert Path("runs/pictures/report.html").stat().st_size > 100_000
    block = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    capsys.readouterr()
    exec(compile(block.group(1), str(PAGE), "exec"), {})
    assert capsys.readouterr().out.strip() in ("cat", "dog")
    assert attempts == []


def test_the_other_verbs_work_without_a_network(place, attempts):
    make_pictures()
    short = ("--data", "pictures", "--epochs", "1", "--progress", "none")
    done("train", "--model", "fcnn", *short, "--validation", "0.2", "--precision", "32", "--out", "run")
    done("attack", "run", "--images", "4", "--steps", "1", "--progress", "none")
    done("calibrate", "run", "--engine", "torch", "--minutes", "0.01", "--progress", "none")
    done("shrink", "run", "--epochs", "1", "--progress", "none", "--out", "small")
    sizes = ("--level", "0.5", "--finetune-level", "0.5", "--finetune-epochs", "1")
    done("compare", "fcnn_mnist", *short, "--method", "rotated", *sizes, "--out", "compared")
    once = ("--retrain-epochs", "1", "--threshold", "0.1", "--no-baseline")
    done("reproduce", "fcnn_mnist", *short, *once, "--out", "reproduced")
    for verb in ("recipes", "models", "datasets"):
        done(verb)
    assert attempts == []
