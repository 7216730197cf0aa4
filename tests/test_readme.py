"""What the README shows works as it stands."""

import re
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import rotated_relu as rr
from rotated_relu.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.slow
def test_quick_start_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole, stepwise = blocks("python")
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([1, 2])
    names = {
        "net": rr.models.resnet20(rotated=False),
        "cross_entropy": cross_entropy,
        "images": images,
        "labels": labels,
        "loader": [(images, labels)],
        "example_inputs": torch.randn(1, 3, 32, 32),
        # A network that keeps its score until a third of its slopes are gone.
        "evaluate": lambda net: float(sum(int((a != 0).sum()) for a in rr.slopes(net).values()) > 450),
    }
    exec(whole, names)
    assert names["shrunk"].macs_kept <= 0.5
    small = rr.load("small.safetensors", rr.models.resnet20(rotated=False))
    assert torch.equal(small.eval()(images), names["shrunk"].compacted.model.eval()(images))
    before, after = stepwise.split("...\n")
    exec(before, names)
    for slope in rr.slopes(names["net"]).values():  # as a training would leave them: no two alike
        torch.nn.init.uniform_(slope.data)
    exec(after, names)
    assert 450 < names["found"].alive < 672
    assert names["result"].certificate.max_relative_difference <= 1e-9
    small = rr.load("small.safetensors", rr.models.resnet20(rotated=False))
    assert torch.equal(small.eval()(images), names["result"].model.eval()(images))
    assert Path("small.onnx").is_file()


def test_opening_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    (shown,) = (block for block in blocks("bash") if block.startswith("make "))
    for line in shown.splitlines():
        target = line.split()[1]
        assert re.search(rf"^{target}: install$", makefile, flags=re.MULTILINE)


def test_verbs_and_options_that_the_readme_shows_exist():
    import typer

    commands = typer.main.get_command(app.build_app()).commands
    shown = [line.split("#")[0].split() for line in README.splitlines() if line.startswith("rotated-relu ")]
    assert len(shown) > 5
    for words in shown:
        known = {name for parameter in commands[words[1]].params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known


def test_every_verb_has_its_section():
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## ([a-z]+)$", page, flags=re.MULTILINE)) == set(app.VERBS)


def test_every_file_of_a_run_is_described():
    from rotated_relu.core.run_directory import FILES

    page = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
    assert all(f"`{file}`" in page for file, _ in FILES.values())


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "results/README.md"])
def test_links_outside_the_site_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    linked = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    assert [target for target in linked if not (ROOT / page).parent.joinpath(target).exists()] == []
