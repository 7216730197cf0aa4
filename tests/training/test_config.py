"""Configurations: round trip, refusals, schedules and the shrinkage arithmetic, by hand."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from rotated_relu.core.errors import RotatedReLUError, UnknownNameError
from rotated_relu.training import (
    Config,
    ConfigError,
    DataConfig,
    LogConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    recipes,
)
from rotated_relu.training.config import RENAMED
from rotated_relu.training.engine.schedules import (
    in_strength,
    learning_rate_factor,
    penalty_strength,
    total_shrinkage,
)


def test_json_round_trip():
    config = Config(
        model=ModelConfig("wrn_16_4", options={"dropout": 0.3}),
        data=DataConfig("mnist5k", validation=500, image_size=20),
        optimizer=OptimizerConfig("sgd", 0.05, nesterov=True),
        schedule=ScheduleConfig("one-cycle", 0.25),
        slope_l1=1e-3,
        slope_l1_ramp=(0.25, 0.6),
        penalty_form="proximal",
    )
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_settings_that_are_left_out_get_their_default():
    assert Config.from_dict({"epochs": 3}) == Config(epochs=3)
    assert Config.from_dict({"model": {"name": "fcnn"}}).model == ModelConfig("fcnn")


def test_whole_numbers_serve_as_numbers():
    config = Config.from_dict({"optimizer": {"lr": 1}, "data": {"validation": 500}})
    assert config.optimizer.lr == 1.0
    assert config.data.validation == 500.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 1}, "batch_size"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"slope_l1": -1.0}, "slope_l1"),
        ({"slope_l1_ramp": [0.6, 0.2]}, "slope_l1_ramp"),
        ({"slope_l1_ramp": [0.2]}, "slope_l1_ramp must be 2 numbers"),
        ({"model": {"rotated": False}, "slope_l1": 0.1}, "without slopes"),
        ({"model": {"name": ""}}, "model.name"),
        ({"data": {"name": ""}}, "data.name"),
        ({"data": {"validation": 0}}, "data.validation"),
        ({"data": {"crop_padding": -1}}, "data.crop_padding"),
        ({"data": {"image_size": 0}}, "data.image_size"),
        ({"optimizer": {"lr": 0}}, "optimizer.lr"),
        ({"optimizer": {"lr": math.nan}}, "optimizer.lr"),
        ({"optimizer": {"momentum": 1.0}}, "optimizer.momentum"),
        ({"optimizer": {"momentum": 0.0, "nesterov": True}}, "nesterov"),
        ({"optimizer": {"weight_decay": -1e-4}}, "weight_decay"),
        ({"schedule": {"warmup": 1.0}}, "schedule.warmup"),
        ({"schedule": {"name": "one-cycle", "warmup": 0.0}}, "above 0 for one-cycle"),
        ({"schedule": {"start_factor": 2.0}}, "start_factor"),
        ({"epochs": "many"}, "epochs must be int, got 'many'"),
        ({"epochs": True}, "epochs must be int"),
        ({"optimizer": 3}, "optimizer must be a table"),
        ({"data": {"image_size": "big"}}, "image_size must be int or nothing"),
        ({"model": {"options": 1}}, "model.options must be dict"),
    ],
)
def test_values_that_cannot_work(change, words):
    with pytest.raises(ConfigError) as caught:
        Config.from_dict(change)
    assert words in str(caught.value)
    assert isinstance(caught.value, RotatedReLUError)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name", ["optimizer.lr", "optimizer.weight_decay", "data.memory_limit", "slope_l1", "ema"]
)
def test_numbers_that_are_not_finite(name, number):
    part, _, leaf = name.rpartition(".")
    with pytest.raises(ConfigError, match=rf"^{name} is -?(nan|inf), but must be a finite number$"):
        Config.from_dict({part: {leaf: number}} if part else {leaf: number})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerConfig(lr=0.0), "optimizer.lr is 0.0, but must be above 0"),
        (lambda: OptimizerConfig("sgd", -1.0), "optimizer.lr is -1.0, but must be above 0"),
        (
            lambda: OptimizerConfig(momentum=1.0),
            "optimizer.momentum is 1.0, but must be at least 0 and below 1",
        ),
        (
            lambda: ScheduleConfig(start_factor=2.0),
            "schedule.start_factor is 2.0, but must be between 0 and 1",
        ),
        (lambda: Config(seed=2**60), f"seed is {2**60}, but must be at most {2**53}"),
        (lambda: Config(seed=-1), "seed is -1, but must be 0 or more"),
        (
            lambda: DataConfig(image_size=10**9),
            f"data.image_size is {10**9}, but must be at most 16384",
        ),
        (lambda: LogConfig(wandb=""), "log.wandb is '', but must be a project's name or nothing"),
        (lambda: OptimizerConfig(name="sdg"), "unknown optimizer.name 'sdg': did you mean 'sgd'?"),
        (lambda: OptimizerConfig(learning_rate=1), "unknown setting 'optimizer.learning_rate': "),
        (lambda: Config.from_dict(3), "the configuration must be a table of settings, got 3"),
        (lambda: Config.from_dict({"seed": {1}}), "settings must be plain data"),
        (lambda: Config(model="resnet20"), "model must be a table of settings, got 'resnet20'"),
    ],
)
def test_one_line_names_setting_value_and_what_is_allowed(make, message):
    with pytest.raises(RotatedReLUError) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


def test_settings_of_0_1_0_load_under_their_names_of_today():
    old = {"optimiser": {"lr": 0.2}, "slope_pull": 1.5, "pulled": "norms", "model": {"rotated": False}}
    config = Config.from_dict(old)
    assert (config.optimizer.lr, config.total_shrinkage, config.penalized) == (0.2, 1.5, "norms")
    assert set(RENAMED.values()) <= config.to_dict().keys()


COMMITTED = sorted((Path(__file__).parents[2] / "results").rglob("config.json"))


def test_settings_of_every_committed_run_load():
    assert COMMITTED
    for path in COMMITTED:
        config = Config.from_dict(json.loads(path.read_text()))
        assert Config.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("change", "nearest"),
    [
        ({"epoch": 3}, "epochs"),
        ({"optimizer": {"learning": 1, "momentun": 1}}, "optimizer"),
        ({"optimizer": {"name": "sdg"}}, "sgd"),
        ({"schedule": {"name": "onecycle"}}, "one-cycle"),
        ({"precision": "bf61"}, "bf16"),
        ({"penalty_form": "proximall"}, "proximal"),
        ({"data": {"normalisation": "imagnet"}}, "imagenet"),
    ],
)
def test_unknown_settings_suggest_the_nearest(change, nearest):
    with pytest.raises(UnknownNameError, match=nearest):
        Config.from_dict(change)


def test_cosine():
    cosine = ScheduleConfig("cosine")
    assert [learning_rate_factor(cosine, x) for x in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])


def test_one_cycle():
    cycle = ScheduleConfig("one-cycle", warmup=0.2, start_factor=0.1)
    # Half the rise from 0.1 to 1 is 0.55; half of the fall, at 0.2 + 0.8 / 2, is 0.5.
    factors = [learning_rate_factor(cycle, x) for x in (0, 0.1, 0.2, 0.6, 1)]
    assert factors == pytest.approx([0.1, 0.55, 1, 0.5, 0])


def test_steps():
    steps = ScheduleConfig("steps")
    factors = [learning_rate_factor(steps, x) for x in (0, 0.59, 0.6, 0.79, 0.8, 1)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_constant_with_warmup():
    constant = ScheduleConfig("constant", warmup=0.5, start_factor=0)
    assert [learning_rate_factor(constant, x) for x in (0, 0.25, 0.5, 1)] == pytest.approx([0, 0.5, 1, 1])


def test_penalty_ramp():
    config = Config(slope_l1=0.4, slope_l1_ramp=(0.25, 0.75))
    strengths = [penalty_strength(config, x) for x in (0, 0.25, 0.5, 0.75, 1)]
    assert strengths == pytest.approx([0, 0, 0.2, 0.4, 0.4])


def test_penalty_without_ramp_is_constant():
    config = Config(slope_l1=0.4)
    assert {penalty_strength(config, x) for x in (0, 0.5, 1)} == {0.4}


def test_total_shrinkage_of_a_constant_rate():
    config = Config(
        optimizer=OptimizerConfig(lr=0.1, momentum=0.9), schedule=ScheduleConfig("constant"), slope_l1=1e-3
    )
    # 200 steps of 1e-3 * 0.1, times 1 / (1 - 0.9) = 10
    assert total_shrinkage(config, 200) == pytest.approx(0.2)


def test_total_shrinkage_of_the_published_run():
    """1200 epochs of 391 steps at a mean rate of 0.05: 1e-4 * 469,200 * 0.05 * 10 = 23.46."""
    config = dataclasses.replace(recipes.get("resnet20_cifar10"), slope_l1=1e-4)
    assert total_shrinkage(config, 1200 * 391) == pytest.approx(23.46, rel=1e-3)


@pytest.mark.parametrize("name", recipes.names())
def test_recipes_are_whole_and_round_trip(name):
    config = recipes.get(name)
    assert Config.from_dict(config.to_dict()) == config
    assert len(recipes.about(name)) <= 130
    assert (config.slope_l1 > 0) == (name.endswith("_l1") or name == "demo")


def test_recipes_that_should_kill_slopes_can():
    """Slopes start up to 1.43 from zero: a smaller total shrinkage leaves them alive."""
    steps = {"demo": 3500 // 64, "resnet20_cifar10_short_l1": 45_000 // 128}
    for name, per_epoch in steps.items():
        config = recipes.get(name)
        assert total_shrinkage(config, config.epochs * per_epoch) > 1.43


def test_published_l1():
    plain, penalised = recipes.get("wrn_40_4_cifar10"), recipes.get("wrn_40_4_cifar10_l1")
    assert dataclasses.replace(plain, slope_l1=1e-4) == penalised


def test_unknown_recipe():
    with pytest.raises(UnknownNameError, match="resnet20_cifar10"):
        recipes.get("resnet20-cifar10")


def test_total_shrinkage_means_the_same_distance_whatever_the_length():
    # 0.1 * sum(lr) / (1 - 0.9) = 1 needs a strength of 1 / (lr * steps * 10).
    base = Config(
        optimizer=OptimizerConfig(lr=0.2, momentum=0.9),
        schedule=ScheduleConfig("constant"),
        total_shrinkage=1.5,
    )
    for steps in (10, 1000):
        config = in_strength(base, steps)
        assert config.total_shrinkage == 0
        assert config.slope_l1 == pytest.approx(1.5 / (0.2 * steps * 10))
        assert total_shrinkage(config, steps) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"total_shrinkage": -1.0}, "total_shrinkage"),
        ({"total_shrinkage": 1.0, "slope_l1": 1.0}, "different units"),
        ({"total_shrinkage": 1.0, "model": {"rotated": False}}, "0 for a network without slopes"),
        ({"budget": {"keep": 0.5}, "model": {"rotated": False}}, "budget.keep"),
        ({"budget": {"keep": 0.0}}, "budget.keep"),
        ({"budget": {"end": 0.98}}, "budget.window"),
        ({"budget": {"keep": 0.5}, "scale": {"strategy": "fsdp"}}, "1 with fsdp"),
        ({"budget": {"unit": "flops"}}, "macs"),
        ({"penalized": "weights"}, "slopes"),
        ({"model": {"slope_init": "one"}}, "ones"),
    ],
)
def test_bad_penalties_are_named(data, message):
    with pytest.raises(RotatedReLUError, match=message):
        Config.from_dict(data)


def test_norm_scales_can_be_penalized_without_slopes():
    assert (
        Config.from_dict(
            {"total_shrinkage": 1.0, "penalized": "norms", "model": {"rotated": False}}
        ).total_shrinkage
        == 1
    )
