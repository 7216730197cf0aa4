"""The recipes: every row three times, two steps in proportion, the paper's figures as its own count gives them."""

import dataclasses
import json

import pytest
import torch

from rotated_relu.experiments.paper.count import paper_count
from rotated_relu.nn import models
from rotated_relu.training import recipes
from rotated_relu.training.recipes import ROWS, Cost
from support.command_line import call
from support.paper_networks import (
    RESNET_50_IMAGENET,
    RESNET_56_CIFAR100,
    WRN_16_4_SVHN,
    WRN_40_4_CIFAR10,
    WRN_40_4_CIFAR100,
    cifar_resnet_layers,
    flat,
    resnet50_layers,
    wrn_layers,
)

# The settings table of the paper: optimizer, largest rate, weight decay, batch, epochs, zeta.
SETTINGS = {
    "fcnn_mnist": ("adam", 5e-4, 0.0, 200, 300, 1.0),
    "resnet20_cifar10": ("sgd", 0.1, 1e-4, 128, 1200, 0.1),
    "resnet56_cifar100": ("sgd", 0.1, 1e-4, 128, 1200, 0.04),
    "preact_resnet110_cifar10": ("sgd", 0.1, 1e-4, 128, 1200, None),
    "preact_resnet164_cifar100": ("sgd", 0.1, 1e-4, 128, 1200, None),
    "wrn_40_4_cifar100": ("sgd", 0.1, 5e-4, 128, 400, 0.04),
    "wrn_16_4_svhn": ("sgd", 0.01, 5e-4, 128, 1000, 0.04),
}
ALIVE = {
    "resnet56_cifar100": (cifar_resnet_layers(56, 100), flat(RESNET_56_CIFAR100, 100)),
    "wrn_40_4_cifar10": (wrn_layers(40, 4, 10, shortcuts=False), flat(WRN_40_4_CIFAR10, 10)),
    "wrn_40_4_cifar100": (wrn_layers(40, 4, 100, shortcuts=False), flat(WRN_40_4_CIFAR100, 100)),
    "wrn_16_4_svhn": (wrn_layers(16, 4, 10, shortcuts=False), flat(WRN_16_4_SVHN, 10)),
    "resnet50_imagenet": (resnet50_layers(), RESNET_50_IMAGENET),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_those_of_the_table(name):
    recipe = recipes.find(name)
    config = recipe.build()
    found = (config.optimizer.name, config.optimizer.lr, config.optimizer.weight_decay)
    assert (*found, config.batch_size, config.epochs, recipe.published.threshold) == SETTINGS[name]


def test_the_fully_connected_row():
    config = recipes.get("fcnn_mnist")
    assert (config.schedule.name, config.data.normalisation) == ("constant", "none")
    assert not config.data.flip
    assert config.data.crop_padding == 0


@pytest.mark.parametrize("name", ALIVE)
def test_published_savings_follow_from_the_published_filters(name):
    (layers, widths), alive = ALIVE[name]
    count, published = paper_count(layers, alive, widths), recipes.find(name).published
    assert round(100 * count.memory_saved, 1) == published.memory_saved
    assert round(100 * count.flops_saved, 1) == published.flops_saved


def test_resnet_164_has_the_figures_of_the_abstract():
    plain, penalised = (recipes.find(f"preact_resnet164_cifar10{ending}").published for ending in ("", "_l1"))
    assert (plain.memory_saved, plain.flops_saved) == (35.92, 25.97)
    assert (penalised.memory_saved, penalised.flops_saved) == (64.67, 52.96)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_has_its_variants_and_its_cost(row):
    assert row.cost.core_hours > 0
    whole = row.build()
    assert row.first(whole) == whole
    assert row.retrain_epochs(whole) == max(1, round(whole.epochs * 5 / 100))
    assert recipes.find(f"{row.name}_l1").build() == dataclasses.replace(whole, slope_l1=1e-4)
    two = recipes.find(f"{row.name}_two_step")
    assert two.published.threshold == 0.03
    first = two.first(two.build())
    assert first.epochs + two.retrain_epochs(whole) == whole.epochs
    assert first.trains == "slopes"
    assert dataclasses.replace(first, trains="all", epochs=whole.epochs) == whole
    assert whole.model.name in models.names()


@pytest.mark.parametrize(
    ("epochs", "steps"),
    [(1200, (500, 700)), (12, (5, 7)), (300, (125, 175)), (2, (1, 1)), (1, (1, 1))],
)
def test_two_steps_keep_their_proportion(epochs, steps):
    two = recipes.find("resnet20_cifar10_two_step")
    whole = dataclasses.replace(two.build(), epochs=epochs)
    assert (two.first(whole).epochs, two.retrain_epochs(whole)) == steps


@pytest.mark.parametrize("name", ["vit_cifar10", "efficientnet_cifar10"])
def test_networks_with_other_gates_learn_on_random_weights(name):
    """A first step needs gradients on every slope although nothing else moves."""
    import rotated_relu as rr

    config = recipes.get(name)
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    net = models.create(config.model.name, 10, example_inputs=x[:1], **config.model.options)
    net(x).square().mean().backward()
    assert all(slope.grad.abs().sum() > 0 for slope in rr.slopes(net).values())


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        (Cost(0.06), "4 core-minutes"),
        (Cost(1), "1 core-hour"),
        (Cost(40, 2), "40 core-hours, 2 GPU-hours"),
        (Cost(32_000, 0.25), "32,000 core-hours, 15 GPU-minutes"),
    ],
)
def test_costs_in_words(cost, words):
    assert cost.words() == words


def test_the_list_names_every_row_with_its_cost(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = call(capsys, "recipes")
    assert code == 0
    for row in ROWS:
        assert any(row.name in line and row.cost.words() in line for line in out.splitlines())


def test_one_recipe_is_json_that_train_takes(capsys, tmp_path):
    code, out, err = call(capsys, "recipes", "preact_resnet164_cifar10_l1")
    assert code == 0
    from rotated_relu.training import Config

    assert Config.from_dict(json.loads(out)) == recipes.get("preact_resnet164_cifar10_l1")
    assert "64.67 % of the memory and 52.96 % of the FLOPs" in err


def test_unknown_recipe_suggests_the_nearest(capsys):
    code, _, err = call(capsys, "recipes", "resnet20_cifar10_twostep")
    assert code == 1
    assert "resnet20_cifar10_two_step" in err
