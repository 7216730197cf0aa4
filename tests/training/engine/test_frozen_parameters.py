"""Slopes on frozen weights, and weights under frozen slopes: what is frozen does not move by one bit."""

import dataclasses

import pytest
import torch

import rotated_relu as rr
from rotated_relu.core.errors import UnknownNameError
from rotated_relu.training import Config, ConfigError, ModelConfig, OptimizerConfig, build_model, finetune
from rotated_relu.training.config import BudgetConfig
from rotated_relu.training.engine.optimizers import build_optimizer, training_only
from support.training_data import CONV, IMAGES

FULL = OptimizerConfig(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1)
OPTIMISERS = {
    "sgd": FULL,
    "adam": OptimizerConfig("adam", lr=1e-3, weight_decay=0.1),
    "adamw": OptimizerConfig("adamw", lr=1e-3, weight_decay=0.1),
}


def moved(config, dead=()):
    """Names of the parameters and buffers that an epoch of six steps changes."""
    net = build_model(config, IMAGES)
    with torch.no_grad():
        for name in dead:
            net.get_parameter(name)[::2] = 0.0
    before = {name: value.clone() for name, value in net.state_dict().items()}
    finetune(net, config, IMAGES, device="cpu")
    assert all(parameter.requires_grad for parameter in net.parameters())
    return {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}, net


def names_of(net):
    slopes = set(rr.slopes(net))
    parameters = {name for name, _ in net.named_parameters()}
    return slopes, parameters - slopes, {name for name, _ in net.named_buffers()}


@pytest.mark.parametrize("optimizer", OPTIMISERS)
@pytest.mark.parametrize("fast", [True, False])
def test_only_slopes_move(optimizer, fast):
    config = dataclasses.replace(CONV, trains="slopes", optimizer=OPTIMISERS[optimizer], fast=fast, ema=0.5)
    found, net = moved(config)
    slopes, _, buffers = names_of(net)
    # Batch norms go on counting: with frozen weights their statistics still follow the slopes.
    assert found == slopes | buffers


@pytest.mark.parametrize("optimizer", OPTIMISERS)
@pytest.mark.parametrize("fast", [True, False])
def test_only_weights_move_and_dead_slopes_stay_dead(optimizer, fast):
    config = dataclasses.replace(CONV, trains="weights", optimizer=OPTIMISERS[optimizer], fast=fast, ema=0.5)
    found, net = moved(config, dead=["layer1.0.act1.slope", "layer2.0.act2.slope"])
    _, weights, buffers = names_of(net)
    assert found == weights | buffers
    assert torch.equal(net.get_parameter("layer1.0.act1.slope")[::2], torch.zeros(16))


def test_everything_moves_by_default():
    found, net = moved(CONV)
    assert found == set(net.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("trains", ["slopes", "weights"])
def test_under_torch_compile(trains):
    config = dataclasses.replace(CONV, trains=trains, compile=True, fast=True)
    found, net = moved(config)
    slopes, weights, buffers = names_of(net)
    assert found == {"slopes": slopes, "weights": weights}[trains] | buffers


def test_frozen_parameters_are_in_no_group_and_thaw_afterwards():
    net = rr.models.fcnn(rotated=True)
    net.fc2.bias.requires_grad_(False)  # frozen by its owner: it stays so
    for trains, expected in (("slopes", 500), ("weights", 784 * 500 + 500 + 5000)):
        with training_only(net, trains):
            groups = build_optimizer(net, FULL).param_groups
            assert sum(p.numel() for group in groups for p in group["params"]) == expected
    assert not net.fc2.bias.requires_grad
    assert net.fc1.weight.requires_grad
    assert net.act1.slope.requires_grad


def test_slopes_train_with_their_penalty():
    proximal = dataclasses.replace(
        CONV, trains="slopes", optimizer=FULL, slope_l1=1e3, penalty_form="proximal"
    )
    _, net = moved(proximal)
    assert not any(slope.any() for slope in rr.slopes(net).values())  # pulled by far more than they are long


@pytest.mark.parametrize("trains", ["slopes", "weights"])
def test_a_network_without_slopes_trains_whole(trains):
    with pytest.raises(ConfigError, match=r"trains is '\w+', but must be 'all' for a network without slopes"):
        Config(model=ModelConfig(rotated=False), trains=trains)


def test_frozen_slopes_cannot_be_penalized():
    with pytest.raises(ConfigError, match=r"slope_l1 is 0\.1, but must be 0 where slopes do not train"):
        Config(trains="weights", slope_l1=0.1)


def test_other_choices_are_refused():
    with pytest.raises(UnknownNameError, match="trains"):
        Config(trains="slope")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"total_shrinkage": 1.0}, r"total_shrinkage is 1\.0, but must be 0 where slopes do not train"),
        (
            {"budget": BudgetConfig(keep=0.5)},
            r"budget\.keep is 0\.5, but must be 1 where slopes do not train",
        ),
        ({"penalized": "norms", "slope_l1": 0.1}, "penalized is 'norms', but must be 'slopes' unless all"),
    ],
)
def test_nothing_that_is_frozen_is_penalized(change, words):
    with pytest.raises(ConfigError, match=words):
        Config(trains="weights", **change)
