"""The command line as a person meets it: help, suggestions, messages, exit codes. Nothing is trained here."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rotated_relu.cli import app
from rotated_relu.core.errors import RunError
from rotated_relu.core.run_directory import Run, write_json
from rotated_relu.training import Config
from support.command_line import call


def flat(text):
    """Without the frames and line breaks that depend on the terminal's width."""
    return " ".join(text.replace("│", " ").split())


def test_version(capsys):
    code, out, _ = call(capsys, "--version")
    assert code == 0
    assert out.startswith("rotated-relu 0.")


def test_help_lists_every_verb(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    for verb in app.VERBS:
        assert f" {verb} " in flat(out)


@pytest.mark.parametrize("verb", app.VERBS)
def test_help_of_every_verb_has_its_example(capsys, verb):
    code, out, _ = call(capsys, verb, "--help")
    assert code == 0
    assert f"Example: rotated-relu {verb}" in flat(out)


@pytest.mark.parametrize("columns", [110, 60])  # in boxes, and in a narrow terminal
def test_help_breaks_lines_at_the_edge_alone_and_keeps_brackets(monkeypatch, capsys, columns):
    monkeypatch.setattr(app.shutil, "get_terminal_size", lambda: os.terminal_size((columns, 40)))
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = call(capsys, "attack", "--help")
    # The docstring has a break before "Reads", which is at the edge of neither.
    assert "far as there are. Reads test images: meant for the end." in flat(out)
    assert not re.search(r"as far as there are\.\s*\n", out)
    assert "pip install 'rotated-relu[attack]'" in flat(out)


@pytest.mark.parametrize("verb", app.VERBS)
def test_no_word_of_an_option_is_read_as_colour(verb):
    import typer
    from rich.text import Text

    for parameter in typer.main.get_command(app.build_app()).commands[verb].params:
        text = getattr(parameter, "help", None) or ""
        assert Text.from_markup(text).plain == text


@pytest.mark.parametrize("verb", app.VERBS)
def test_examples_use_options_that_exist(verb):
    """Every option in an example is one of that verb's."""
    import typer

    command = typer.main.get_command(app.build_app()).commands[verb]
    known = {name for parameter in command.params for name in parameter.opts}
    used = {word for word in app.VERBS[verb][1].split() if word.startswith("--")}
    assert used <= known


@pytest.mark.parametrize("verb", app.VERBS)
def test_examples_are_read_with_what_is_left_to_its_default(verb):
    """A default goes through the same reading as what is typed, and is only seen where nothing is."""
    import typer

    words = shlex.split(re.split(" [|>] ", app.VERBS[verb][1])[0])[2:]
    command = typer.main.get_command(app.build_app([verb])).commands[verb]
    assert command.make_context(verb, words).params.keys() == {
        p.name for p in command.params if p.name != "help"
    }


def test_the_demo_needs_no_options():
    import typer

    command = typer.main.get_command(app.build_app(["demo"])).commands["demo"]
    assert command.make_context("demo", []).params["out"] == Path("runs/demo")


def test_no_arguments_shows_help(capsys):
    code, out, err = call(capsys)
    assert code in (0, 2)
    assert "Usage: rotated-relu" in out + err


def test_unknown_verb_suggests_the_nearest(capsys):
    code, _, err = call(capsys, "prunne", "runs/x")
    assert code == 2
    assert "Did you mean 'prune'" in flat(err)


def test_unknown_option_suggests_the_nearest(capsys):
    code, _, err = call(capsys, "prune", "runs/x", "--tolernce", "0.2")
    assert code == 2
    assert "--tolernce" in err
    assert "--tolerance" in err


def test_wrong_kind_of_value_is_a_usage_error(capsys):
    code, _, err = call(capsys, "prune", "runs/x", "--tolerance", "much")
    assert code == 2
    assert "'--tolerance'" in err


def test_unknown_recipe_suggests_the_nearest(capsys, tmp_path):
    code, out, err = call(capsys, "train", "dmeo", "--out", tmp_path / "run")
    assert code == 1
    assert err == "error: unknown recipe 'dmeo': did you mean 'demo'?\n"
    assert out == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "resnet21"], "unknown model 'resnet21': did you mean 'resnet"),
        (["--data", "minst5k"], "unknown dataset 'minst5k': did you mean 'mnist"),
        (["--precision", "fp61"], "unknown precision 'fp61'"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--progress", "line"], "unknown progress 'line': did you mean 'lines'"),
        (["--epochs", "0"], "epochs is 0, but must be above 0"),
        (["--slope-l1", "-1"], "slope_l1 is -1.0, but must be 0 or more"),
        (["--total-shrinkage", "-1"], "total_shrinkage is -1.0, but must be 0 or more"),
        (["--lr", "nan"], "optimizer.lr is nan, but must be a finite number"),
        (["--memory-limit", "inf"], "data.memory_limit is inf, but must be a finite number"),
        (["--seed", "1" + 40 * "0"], "but must be at most 9007199254740992"),
        (["--keep-macs", "1.5"], "budget.keep is 1.5, but must be a share"),
        (["--slope-init", "one"], "ones"),
        (["--data", "/nowhere/at/all"], "no folder /nowhere/at/all"),
    ],
)
def test_settings_that_cannot_work(capsys, tmp_path, options, message):
    code, _, err = call(capsys, "train", "demo", "--out", tmp_path / "run", *options)
    assert code == 1
    assert message in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["train", "demo", "--out", "new"],
        ["finetune", "none"],
        ["attack", "none"],
        ["reproduce", "demo", "--out", "new"],
        ["compare", "--data", "/nowhere/at/all", "--out", "new"],
        [
            "shrink",
            "--model",
            "resnet20",
            "--weights",
            "none.pt",
            "--data",
            "/nowhere/at/all",
            "--out",
            "new",
        ],
    ],
    ids=lambda words: words[0],
)
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(capsys, tmp_path, monkeypatch, words):
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = call(capsys, *words, "--device", "cuda")
    assert (code, out) == (1, "")
    assert err == "error: device is 'cuda', but torch finds none on this machine; take 'auto' or 'cpu'\n"
    assert not list(tmp_path.iterdir())


def test_every_setting_of_a_training_is_an_option():
    """Under its own name, or under the name that its class gives it; the value ends up in the settings."""
    import typer

    from rotated_relu.cli.settings import HEADINGS, all_settings

    settings = {setting.name: setting for setting in all_settings()}
    plain = Config().to_dict()
    names = {
        f"{part}.{name}" if isinstance(table, dict) else part
        for part, table in plain.items()
        for name in (table if isinstance(table, dict) else [""])
    }
    assert settings.keys() == names - {
        "model.options",
        "schedule.part",
        "distill.weight",
        "distill.temperature",
    }
    assert [setting.heading for setting in settings.values()] == sorted(
        (setting.heading for setting in settings.values()), key=list(HEADINGS.values()).index
    )
    command = typer.main.get_command(app.build_app()).commands["train"]
    assert all(option.help for option in command.params)
    options = {name for option in command.params for name in option.opts + option.secondary_opts}
    assert {
        "--model",
        "--relu",
        "--lr",
        "--keep-macs",
        "--slope-pull",
        "--no-tensorboard",
        "--epochs",
    } <= options


def test_options_reach_the_settings(monkeypatch, capsys, tmp_path):
    """From the command line to the configuration that is trained, one setting of each kind."""
    seen = []

    def record(config, *_, **__):
        seen.append(config)
        raise RunError("enough")

    monkeypatch.setattr("rotated_relu.training.fit", record)
    words = (
        "--relu --slope-l1 0 --slope-l1-ramp 0.25 0.5 --optimizer adamw --data mnist5k --devices 1 --no-flip"
    )
    code, _, err = call(capsys, "train", "demo", "--out", tmp_path / "run", *words.split())
    assert (code, err) == (1, "error: enough\n")
    (config,) = seen
    assert (config.model.rotated, config.slope_l1_ramp, config.optimizer.name) == (
        False,
        (0.25, 0.5),
        "adamw",
    )
    assert (config.data.flip, config.scale.devices, config.epochs) == (False, 1, 20)  # the recipe's epochs


def test_help_of_train_is_grouped_and_explains_its_words(capsys):
    from rotated_relu.cli.settings import HEADINGS

    _, out, _ = call(capsys, "train", "--help")
    for heading in HEADINGS.values():
        assert f"─ {heading} ─" in out
    assert "how far it moves a slope" in flat(out)
    assert "Default: sgd." in flat(out)


def test_nothing_to_train(capsys, tmp_path):
    code, _, err = call(capsys, "train", "--out", tmp_path / "run")
    assert code == 1
    assert "holds no run to resume; give a recipe" in err


def test_recipe_and_file_contradict(capsys, tmp_path):
    code, _, err = call(capsys, "train", "demo", "--config", tmp_path / "c.json", "--out", tmp_path / "run")
    assert code == 1
    assert "either a recipe or --config" in err


def test_settings_file_that_is_not_there_or_not_right(capsys, tmp_path):
    code, _, err = call(capsys, "train", "--config", tmp_path / "c.json", "--out", tmp_path / "run")
    assert code == 1
    assert "c.json: No such file or directory" in err
    write_json(tmp_path / "c.json", {"epoch": 3})
    code, _, err = call(capsys, "train", "--config", tmp_path / "c.json", "--out", tmp_path / "run")
    assert code == 1
    assert "unknown setting 'epoch': did you mean 'epochs'?" in err


@pytest.mark.parametrize("verb", ["prune", "finetune", "evaluate", "export", "measure", "attack", "report"])
def test_a_run_that_is_not_there(capsys, tmp_path, verb):
    write_json(Run.create(tmp_path / "first").file("config"), {})
    code, _, err = call(capsys, verb, tmp_path / "frist")
    assert code == 1
    assert f"no run directory {tmp_path / 'frist'} (there are: {tmp_path / 'first'})" in err
    assert len(err.splitlines()) == 1


def test_a_run_that_was_never_trained_to_the_end(capsys, tmp_path):
    write_json(Run.create(tmp_path / "run").file("config"), {})
    code, _, err = call(capsys, "prune", tmp_path / "run")
    assert code == 1
    assert (
        f"has no weights.safetensors yet; write it first: rotated-relu train --out {tmp_path / 'run'}" in err
    )


@pytest.mark.parametrize(
    ("verb", "file"), [("finetune", "compact.safetensors"), ("export", "compact.safetensors")]
)
def test_a_run_that_was_never_pruned(capsys, tmp_path, verb, file):
    write_json(Run.create(tmp_path / "run").file("config"), {})
    code, _, err = call(capsys, verb, tmp_path / "run")
    assert code == 1
    assert f"has no {file} yet; write it first: rotated-relu prune {tmp_path / 'run'}" in err


@pytest.mark.parametrize(
    ("arguments", "whole"),
    [
        (["recipes"], ["preact_resnet110_cifar10", "  epochs: 1200"]),
        (["prune", "--help"], ["--keep-parameters", "Usage: rotated-relu prune"]),
    ],
)
def test_forty_columns_are_enough(capsys, monkeypatch, arguments, whole):
    monkeypatch.setenv("COLUMNS", "40")
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    assert all(text in out for text in whole)
    if arguments == ["recipes"]:
        table = out[: out.index("Each of the paper's")]
        assert max(map(len, table.splitlines())) <= 40
    else:
        assert "\N{HORIZONTAL ELLIPSIS}" not in out  # no name is cut


@pytest.mark.parametrize(
    ("verb", "known"),
    [
        ("models", ["demo_resnet", "resnet20", "resnet18", "mobilenet_v2"]),
        ("datasets", ["mnist5k", "cifar10", "fashion-mnist"]),
    ],
)
def test_names_are_listed_one_a_line(capsys, verb, known):
    code, out, _ = call(capsys, verb)
    assert code == 0
    lines = out.splitlines()
    assert set(known) <= set(lines)
    assert len(lines) == len(set(lines))
    assert all(" " not in line for line in lines)


def test_recipes_lists_them(capsys):
    code, out, _ = call(capsys, "recipes")
    assert code == 0
    assert " demo " in out


def test_a_system_error_is_one_message(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = call(capsys, "train", "demo", "--out", tmp_path / "file" / "run")
    assert code == 1
    assert "a file is in the way" in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["recipes"], ["datasets", "--help"], ["train", "--help"]])
def test_help_and_recipes_load_no_heavy_library(arguments):
    code = (
        "import sys\nfrom rotated_relu import cli\n"
        f"try:\n    cli.main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'lightning', 'lightning_fabric', 'datasets', 'plotly', 'torchvision', 'onnxruntime', "
        "'onnx', 'mlxtend', 'torchattack'}\n"
        "print('loaded:', *sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("verb", ["train", "demo", "reproduce", "compare"])
def test_an_empty_directory_name_is_refused(capsys, monkeypatch, tmp_path, verb):
    """As of a variable that is not set: it would be the present directory."""
    monkeypatch.chdir(tmp_path)
    recipe = [] if verb == "demo" else ["demo"]
    code, _, err = call(capsys, verb, *recipe, "--out", "")
    assert code == 2
    assert "give the name of a directory" in flat(err)
    assert not list(tmp_path.iterdir())
