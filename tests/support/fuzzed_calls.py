"""Public functions called with one or two arguments of a wrong kind, and which exceptions come out that are not ours.

A target is a function with makers of right arguments; a case replaces some of them. Whatever the wrong argument, a call
may return, or raise one of ``core.errors``. Calls of modules (``forward``) are torch's and not among them.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st
from torch import nn

import rotated_relu as rr
from rotated_relu import training
from rotated_relu.core.errors import RotatedReLUError
from rotated_relu.core.graph_layout import GraphLayout
from rotated_relu.deploy import engines, fastest, timing
from rotated_relu.integrations import criterion, huggingface, lightning
from rotated_relu.pruning import importance
from rotated_relu.pruning.latency.geometry import LayerGeometry
from rotated_relu.pruning.removal import Plan
from rotated_relu.training import (
    BudgetConfig,
    Config,
    DataConfig,
    KeepConfig,
    LogConfig,
    ModelConfig,
    OptimizerConfig,
    ScaleConfig,
    ScheduleConfig,
    build_model,
    evaluate_model,
    finetune,
    fit,
    load_data,
    loss_scores,
    recipes,
    sample_batches,
)
from support.latency_tables import table_for
from support.toy_engine import ToyEngine
from support.training_data import CONFIG, IMAGES

ROUNDS = 1  # of anything that is timed
INPUTS = torch.linspace(-1, 1, 2 * 4).reshape(2, 4)


def plain_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def rotated_net() -> nn.Module:
    net = rr.rotate(plain_net(), INPUTS)
    with torch.no_grad():
        net[1].slope.copy_(torch.tensor([0.0, 0.05, 0.5, -0.5, 1.0, 2.0]))
    return net


def accuracy(net: nn.Module) -> float:
    return float(net(INPUTS).sum())


def trained_step(net: nn.Module) -> rr.SlopeBudget:
    budget = rr.SlopeBudget(net, INPUTS, 10)
    net(INPUTS).sum().backward()
    return budget


class Keeps:
    """Made once per process: compactions take long. Handed out as copies, so that no call spoils the next."""

    _kept: dict[str, Any] = {}  # noqa: RUF012

    @classmethod
    def of(cls, name: str, make: Callable[[], Any]) -> Any:
        if name not in cls._kept:
            cls._kept[name] = make()
        return copy.deepcopy(cls._kept[name])


def rotated() -> nn.Module:
    return Keeps.of("rotated", rotated_net)


def compacted() -> rr.Compacted:
    return Keeps.of("compacted", lambda: rr.compact(rotated_net(), INPUTS, 0.1))


def mask() -> rr.Mask:
    return Keeps.of("mask", lambda: rr.find_threshold(rotated_net(), accuracy, tolerance=1e9).mask)


def trained_model() -> nn.Module:
    return Keeps.of("model", lambda: build_model(CONFIG, IMAGES))


def table() -> rr.LatencyTable:
    """A fresh one: nothing in it can be changed but what it is made of."""
    return Keeps.of("table", lambda: table_for(rotated_net(), INPUTS, call_ms=0.01))


def geometry() -> LayerGeometry:
    return next(iter(table().entries))


def saved_table(folder: Path) -> Path:
    path = folder / "table.json"
    if not path.exists():
        table().save(path)
    return path


def in_toy_engine(**given: Any) -> rr.LatencyTable:
    """Calibration in an engine with such fields, for which nothing has been measured before."""
    with mock.patch.dict(engines.ENGINES):
        engines.register_engine(engines.Engine(**given))
        return rr.calibrate(plain_net(), INPUTS, engine=given["name"], minutes=0.001, cache=Path("engines"))


def toy() -> engines.Engine:
    return ToyEngine().engine


def saved(folder: Path) -> Path:
    path = folder / "saved.safetensors"
    return path if path.exists() else rr.save(compacted(), path)


class SaysNothing(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> None:
        return None


class SaysText(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> str:
        return "scores"


class Fails(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("this network always fails")


def tampered_plan() -> Plan:
    plan = compacted().plan
    plan.states, plan.cuts, plan.earlier = {"0.weight": "all"}, [None, 3], ["none"]
    return plan


def tampered_result() -> rr.Compacted:
    return dataclasses.replace(compacted(), plan=tampered_plan())


def wide_mask() -> dict[str, Any]:
    return {"1.slope": torch.ones(99, dtype=torch.bool)}


def tampered_mask() -> rr.Mask:
    made = mask()
    object.__setattr__(made, "channels", {"1.slope": torch.full((2, 2), 7), "x": torch.zeros(())})
    return made


def truncated() -> Path:
    path = Path("truncated.safetensors").resolve()
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    return path


# Name -> what makes a wrong argument. No huge whole numbers: some calls would honestly be that long.
WRONG: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "text": lambda: "wrong",
    "empty text": lambda: "",
    "bytes": lambda: b"\xff\x00",
    "True": lambda: True,
    "-1": lambda: -1,
    "0": lambda: 0,
    "half": lambda: 0.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "1e300": lambda: 1e300,
    "complex": lambda: 1j,
    "dict": dict,
    "dict of numbers": lambda: {"a": 1, 2: None},
    "list": list,
    "list of None": lambda: [None, "x", {}],
    "tuple": tuple,
    "set": lambda: {1, 2},
    "object": object,
    "class": lambda: nn.ReLU,
    "function that returns None": lambda: lambda *args, **kwargs: None,
    "function that returns text": lambda: lambda *args, **kwargs: "wrong",
    "function that returns nan": lambda: lambda *args, **kwargs: float("nan"),
    "function that returns a tensor": lambda: lambda *args, **kwargs: torch.zeros(3, 3),
    "iterator": lambda: iter([None]),
    "folder": lambda: Path(".").resolve(),
    "missing file": lambda: Path("no/such/file.safetensors"),
    "identity": nn.Identity,
    "other network": lambda: nn.Linear(3, 3),
    "network without parameters": lambda: nn.Sequential(),
    "network that says nothing": SaysNothing,
    "network that says text": SaysText,
    "network that fails": Fails,
    "rotated network": rotated,
    "plain network": plain_net,
    "half-precision network": lambda: rotated().half(),
    "meta network": lambda: plain_net().to("meta"),
    "tensor of nan": lambda: torch.full((2, 4), torch.nan),
    "tensor of inf": lambda: torch.full((2, 4), torch.inf),
    "empty tensor": lambda: torch.zeros(0, 4),
    "no entries": lambda: torch.zeros(0),
    "scalar tensor": lambda: torch.tensor(2.0),
    "whole numbers": lambda: torch.zeros(2, 4, dtype=torch.int64),
    "booleans": lambda: torch.ones(2, 4, dtype=torch.bool),
    "complex tensor": lambda: torch.zeros(2, 4, dtype=torch.complex64),
    "meta tensor": lambda: torch.zeros(2, 4, device="meta"),
    "sparse tensor": lambda: torch.eye(4).to_sparse(),
    "other shape": lambda: torch.zeros(2, 3, 5),
    "call": lambda: rr.Call(INPUTS, 3, flag=None),
    "mask of numbers": lambda: {"1.slope": torch.ones(6)},
    "mask of all": lambda: {"1.slope": torch.ones(6, dtype=torch.bool)},
    "mask too wide": wide_mask,
    "mask of others": lambda: {"7.slope": torch.ones(6, dtype=torch.bool)},
    "mask of text": lambda: {"1.slope": "all"},
    "tampered mask": tampered_mask,
    "truncated file": truncated,
    "result": compacted,
    "tampered result": tampered_result,
    "tampered plan": tampered_plan,
    "optimizer": lambda: torch.optim.SGD(plain_net().parameters(), 0.1),
    "config": lambda: CONFIG,
    "images": lambda: IMAGES,
    "split": lambda: IMAGES.train,
    "layout": lambda: GraphLayout("mine", 8),
}

CALLED = {"evaluate", "loss", "optimizer", "criterion", "step_done", "start", "version"}
Makers = dict[str, Callable[[Path], Any]]


@dataclasses.dataclass(frozen=True)
class Target:
    """A function and how its right arguments are made."""

    name: str
    function: Callable[..., Any]
    right: Makers


def _same(make: Callable[[], Any]) -> Callable[[Path], Any]:
    return lambda folder: make()


def _value(value: Any) -> Callable[[Path], Any]:
    return lambda folder: value


NET = _same(rotated)
PLAIN = _same(plain_net)
X = _same(INPUTS.clone)
ACCURACY = _value(accuracy)


def _method(make: Callable[..., Any], name: str) -> Callable[..., Any]:
    return lambda *args, **kwargs: getattr(make(), name)(*args, **kwargs)


def _called(loss: Any, *args: Any) -> Any:
    return loss(*args)


def _targets() -> list[Target]:
    numbers: Makers = {"keep": _value(0.5), "unit": _value("channels"), "round_to": _value(None)}
    milliseconds: Makers = {"keep": _value(0.9), "unit": _value("latency"), "table": _same(table)}
    known_table: Makers = {field: _value(value) for field, value in vars(table()).items()}
    penalty: Makers = {"strength": _value(1e-4), "thresholds": _value((0.1,))}
    known: list[tuple[str, Callable[..., Any], Makers]] = [
        (
            "rotate",
            rr.rotate,
            {
                "net": PLAIN,
                "example_inputs": X,
                "init": _value("ones"),
                "exclude": _value(()),
                "gates": _value(()),
                "channel_dim": _value(None),
            },
        ),
        ("slopes", rr.slopes, {"net": NET}),
        ("slope_l1", rr.slope_l1, {"net": NET}),
        ("rotated_slopes_", rr.rotated_slopes_, {"slope": _same(lambda: torch.zeros(3)), "generator": _value(None)}),
        ("Rotated", rr.Rotated, {"gate": _same(nn.ReLU), "num_channels": _value(4), "channel_dim": _value(1)}),
        ("RotatedReLU", rr.RotatedReLU, {"num_channels": _value(4), "channel_dim": _value(1)}),
        (
            "distillation_loss",
            rr.distillation_loss,
            {
                "scores": _same(lambda: torch.zeros(2, 3)),
                "teacher_scores": _same(lambda: torch.zeros(2, 3)),
                "targets": _same(lambda: torch.tensor([0, 1])),
                "weight": _value(0.9),
                "temperature": _value(4.0),
            },
        ),
        ("fast_training", rr.fast_training, {"net": NET, "example_inputs": X}),
        ("plain_training", rr.plain_training, {"net": NET}),
        ("compile_training", rr.compile_training, {"net": NET}),
        ("apply_threshold", rr.apply_threshold, {"net": NET, "threshold": _value(0.1), "scores": _value(None)}),
        ("apply_mask", rr.apply_mask, {"net": NET, "mask": _same(mask)}),
        ("Mask", lambda **given: repr(rr.Mask(**given)), {"channels": lambda folder: dict(mask())}),
        (
            "find_threshold",
            rr.find_threshold,
            {
                "net": NET,
                "evaluate": ACCURACY,
                "tolerance": _value(1e9),
                "budget": _value(None),
                "example_inputs": X,
                "candidates": _value(None),
                "max_evaluations": _value(5),
                "scores": _value(None),
            },
        ),
        ("find_threshold", rr.find_threshold, {"net": NET, "evaluate": ACCURACY, "budget": _value({"channels": 0.5})}),
        (
            "select_channels",
            rr.select_channels,
            {"net": NET, "example_inputs": X, "scores": _value(None), "loss": _value(None), **numbers},
        ),
        (
            "SlopeBudget",
            rr.SlopeBudget,
            {
                "net": NET,
                "example_inputs": X,
                "steps": _value(10),
                "score": _value("taylor"),
                "start": _value(0.2),
                "end": _value(0.7),
                "window": _value(0.05),
                **numbers,
            },
        ),
        ("SlopeBudget", rr.SlopeBudget, {"net": NET, "example_inputs": X, "steps": _value(10), **milliseconds}),
        ("select_channels", rr.select_channels, {"net": NET, "example_inputs": X, **milliseconds}),
        (
            "select_channels",
            rr.select_channels,
            {
                "net": NET,
                "example_inputs": X,
                "unit": _value("latency"),
                "engine": _value("toy"),
                "batch_size": _value(None),
                "progress": _value("none"),
            },
        ),
        (
            "calibrate",
            rr.calibrate,
            {
                "net": NET,
                "example_inputs": X,
                "engine": _value("toy"),
                "batch_size": _value(1),
                "threads": _value(1),
                "precision": _value("fp32"),
                "minutes": _value(0.001),
                "keep": _value(None),
                "cache": lambda folder: folder / "tables",
                "progress": _value("none"),
            },
        ),
        (
            "register_engine",
            in_toy_engine,
            {
                "name": _value("mine"),
                "kind": _value("graph"),
                "start": _same(lambda: toy().start),
                "version": _value(lambda: "1"),
                "packages": _value(()),
            },
        ),
        ("LatencyTable", lambda **given: str(rr.LatencyTable(**given)), known_table),
        ("LatencyTable.load", rr.LatencyTable.load, {"path": saved_table}),
        ("LatencyTable.save", _method(table, "save"), {"path": lambda folder: folder / "new.json"}),
        (
            "LatencyTable.from_dict",
            rr.LatencyTable.from_dict,
            {"data": _same(lambda: json.loads(json.dumps(table().to_dict())))},
        ),
        (
            "LatencyTable.milliseconds",
            _method(table, "milliseconds"),
            {"geometry": _same(geometry), "inputs": _value(2), "outputs": _value(2)},
        ),
        ("LatencyTable.steps", _method(table, "steps"), {"geometry": _same(geometry)}),
        ("SlopeBudget.step", _method(lambda: trained_step(rotated()), "step"), {"loss": _value(None)}),
        ("SlopeBudget.follow", _method(lambda: trained_step(rotated()), "follow"), {"optimizer": _value(None)}),
        (
            "SlopeBudget.load_state_dict",
            _method(lambda: trained_step(rotated()), "load_state_dict"),
            {"state": lambda folder: trained_step(rotated()).state_dict()},
        ),
        (
            "compact",
            rr.compact,
            {
                "net": NET,
                "example_inputs": X,
                "threshold": _value(None),
                "round_to": _value(1),
                "mask": _same(mask),
                "optimizer": _value(None),
                "engine": _value("onnxruntime"),
                "batch_size": _value(1),
            },
        ),
        (
            "shrink",
            rr.shrink,
            {
                "net": PLAIN,
                "train_loader": _same(lambda: [(INPUTS.clone(), torch.tensor([0, 1]))]),
                "evaluate": ACCURACY,
                "steps": _value(2),
                "keep": _value(0.9),
                "unit": _value("channels"),
                "round_to": _value(None),
                "table": _value(None),
                "step_done": _value(None),
                "loss": _value(None),
                "teacher": _value(False),
                "weight": _value(0.9),
                "temperature": _value(4.0),
                "example_inputs": X,
                "optimizer": _value(None),
                "start": _value(0.1),
                "end": _value(0.6),
                "window": _value(0.05),
            },
        ),
        (
            "shrink",
            rr.shrink,
            {
                "net": PLAIN,
                "train_loader": _same(lambda: [(INPUTS.clone(), torch.tensor([0, 1]))]),
                "steps": _value(2),
                "example_inputs": X,
                **milliseconds,
            },
        ),
        (
            "save",
            rr.save,
            {
                "result": _same(compacted),
                "path": lambda folder: folder / "small.safetensors",
                "metadata": _same(lambda: {"mine": "text"}),
            },
        ),
        ("load", rr.load, {"path": saved, "fresh_net": PLAIN}),
        ("load_compacted", rr.load_compacted, {"path": saved, "fresh_net": PLAIN}),
        ("read_plan", rr.read_plan, {"path": saved}),
        ("Plan.from_dict", Plan.from_dict, {"data": lambda folder: compacted().plan.to_dict()}),
        (
            "export_onnx",
            rr.export_onnx,
            {
                "net": NET,
                "example_inputs": X,
                "path": lambda folder: folder / "net.onnx",
                "tolerance": _value(1e-3),
                "batch_sizes": _value((1,)),
                "dynamic_size": _value(False),
                "layout": _value(None),
                "metadata": _same(lambda: {"mine": "text"}),
            },
        ),
        (
            "export_openvino",
            rr.export_openvino,
            {
                "net": NET,
                "example_inputs": X,
                "path": lambda folder: folder / "net.xml",
                "layout": _value(None),
                "tolerance": _value(1e-3),
                "metadata": _value(None),
            },
        ),
        (
            "measure",
            rr.measure,
            {
                "net": NET,
                "example_inputs": X,
                "engine": _value("torch"),
                "repeats": _value(ROUNDS),
                "warmup": _value(0),
                "threads": _value(1),
            },
        ),
        ("runner", engines.runner, {"net": NET, "example_inputs": X, "engine": _value("torch"), "threads": _value(1)}),
        ("register_engine", engines.register_engine, {"engine": _value(engines.ENGINES["torch"])}),
        (
            "compare_latency",
            timing.compare_latency,
            {
                "runnables": _same(lambda: {"one": lambda: None}),
                "repeats": _value(ROUNDS),
                "warmup": _value(0),
                "min_sample_ms": _value(0.01),
            },
        ),
        (
            "fastest_layout",
            fastest.fastest_layout,
            {"net": NET, "example_inputs": _same(lambda: "never"), "engine": _value("onnxruntime")},
        ),
        ("GraphLayout", GraphLayout, {"name": _value("mine"), "round_to": _value(8), "narrowing_bias": _value(4.0)}),
        (
            "register_operation",
            rr.register_operation,
            {"operation": _value("fuzz::nothing"), "like": _value("relu"), "zero_pattern": _value(None)},
        ),
        (
            "models.create",
            rr.models.create,
            {"name": _value("fcnn"), "num_classes": _value(3), "rotated": _value(True), "example_inputs": _value(None)},
        ),
        ("models.create", rr.models.create, {"name": _value("demo_resnet"), "in_channels": _value(1)}),
        ("consumer_scores", importance.consumer_scores, {"net": NET, "example_inputs": X}),
        (
            "taylor_scores",
            importance.taylor_scores,
            {
                "net": NET,
                "batches": _same(lambda: [(INPUTS.clone(), torch.tensor([0, 1]))]),
                "loss": _value(nn.functional.cross_entropy),
            },
        ),
        ("Config", Config, {"model": _value(CONFIG.model), "epochs": _value(1), "data": _value(CONFIG.data)}),
        ("Config.from_dict", Config.from_dict, {"data": _same(CONFIG.to_dict)}),
        ("DataConfig", DataConfig, {"name": _value("mnist5k"), "validation": _value(0.1), "mean": _value(None)}),
        ("ModelConfig", ModelConfig, {"name": _value("fcnn"), "options": _same(lambda: {"hidden": 8})}),
        ("OptimizerConfig", OptimizerConfig, {"name": _value("sgd"), "lr": _value(0.1), "nesterov": _value(False)}),
        ("ScheduleConfig", ScheduleConfig, {"name": _value("cosine"), "part": _value((0.0, 1.0))}),
        (
            "BudgetConfig",
            BudgetConfig,
            {"keep": _value(0.5), "unit": _value("macs"), "table": _value(None), "round_to": _value(1)},
        ),
        ("KeepConfig", KeepConfig, {"minutes": _value(1.0)}),
        ("LogConfig", LogConfig, {"tensorboard": _value(True), "wandb": _value(None)}),
        ("ScaleConfig", ScaleConfig, {"sync_batch_norm": _value(True)}),
        ("recipes.about", recipes.about, {"name": _value("demo")}),
        ("recipes.get", recipes.get, {"name": _value("demo")}),
        ("recipes.find", recipes.find, {"name": _value("demo")}),
        ("build_model", build_model, {"config": _value(CONFIG), "images": _value(IMAGES)}),
        ("load_data", load_data, {"config": _value(None), "offline": _value(True)}),
        ("evaluate_model", evaluate_model, {"net": _same(trained_model), "split": _value(IMAGES.test)}),
        (
            "sample_batches",
            lambda **given: list(sample_batches(**given)),
            {"split": _value(IMAGES.train), "config": _value(CONFIG), "count": _value(1)},
        ),
        (
            "loss_scores",
            loss_scores,
            {
                "net": _same(trained_model),
                "images": _value(IMAGES),
                "config": _value(CONFIG),
                "example_inputs": lambda folder: IMAGES.example_inputs(),
            },
        ),
        (
            "fit",
            fit,
            {
                "config": _value(dataclasses.replace(CONFIG, epochs=1)),
                "run_dir": lambda folder: folder / "run",
                "images": _value(IMAGES),
                "progress": _value("none"),
                "device": _value("cpu"),
            },
        ),
        (
            "finetune",
            finetune,
            {
                "net": _same(trained_model),
                "config": _value(dataclasses.replace(CONFIG, epochs=1)),
                "images": _value(IMAGES),
                "run_dir": _value(None),
                "progress": _value("none"),
                "device": _value("cpu"),
                "teacher": _value(None),
            },
        ),
        (
            "criterion.PenalisedLoss",
            lambda **given: criterion.PenalisedLoss(**given)(torch.zeros(2, 3), torch.tensor([0, 1])),
            {
                "criterion": _same(nn.CrossEntropyLoss),
                "net": NET,
                "strength": _value(1e-4),
            },
        ),
        ("lightning.SlopePenalty", lightning.SlopePenalty, penalty),
        ("lightning.KeepBudget", lightning.KeepBudget, {"example_inputs": X, **numbers}),
        ("huggingface.SlopePenalty", huggingface.SlopePenalty, penalty),
        ("huggingface.KeepBudget", huggingface.KeepBudget, {"example_inputs": X, **numbers}),
        (
            "lightning.KeepBudget.load_state_dict",
            _method(lambda: lightning.KeepBudget(INPUTS), "load_state_dict"),
            {"state_dict": _same(lambda: {"budget": None})},
        ),
        (
            "huggingface.SlopePenalty.on_pre_optimizer_step",
            _method(huggingface.SlopePenalty, "on_pre_optimizer_step"),
            {"args": _value(None), "state": _value(None), "control": _value(None), "model": NET},
        ),
    ]  # fmt: skip
    return [Target(*entry) for entry in known]


TARGETS = _targets()
# Public names that are not called, and why.
RESULTS = "a result, which only functions of ours make"
LEFT_OUT = {
    "Call": "any arguments at all",
    "Certificate": RESULTS,
    "Compacted": RESULTS,
    "ConfigError": "an exception",
    "Fitted": RESULTS,
    "RotatedReLUError": "an exception",
    "RotatedReLUWarning": "a warning",
    "Shrunk": RESULTS,
    "Terminated": "an exception",
    "recipes.Cost": "a record in the table of recipes",
    "recipes.Published": "a record in the table of recipes",
    "recipes.Recipe": "a record in the table of recipes",
    "recipes.names": "no arguments",
}


def public_names() -> set[str]:
    """Functions and classes that the package names as public; those of modules within it with the module's name."""
    found = {name for module in (rr, training) for name in module.__all__ if callable(getattr(module, name))}
    found |= {f"recipes.{name}" for name in recipes.__all__ if callable(getattr(recipes, name))}
    for module in (lightning, huggingface, criterion):
        own = {name for name, value in vars(module).items() if _is_of(module, value)}
        found |= {f"{module.__name__.rpartition('.')[2]}.{name}" for name in own if not name.startswith("_")}
    return found


def _is_of(module: Any, value: Any) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__


def called_names() -> set[str]:
    """Names of targets, and what they belong to: of ``LatencyTable.load`` also ``LatencyTable``."""
    parts = [target.name.split(".") for target in TARGETS]
    return {".".join(some[:count]) for some in parts for count in range(1, len(some) + 1)}


@dataclasses.dataclass(frozen=True)
class Case:
    """A call: which target, and which of its arguments are wrong."""

    target: Target
    wrong: dict[str, str]
    leaf: int | None = (
        None  # where the right argument is a table or a list: only this entry, at any depth, is wrong
    )

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in sorted(self.wrong.items()))
        return f"{self.target.name}({given}{'' if self.leaf is None else f'; leaf {self.leaf}'})"

    def spoilt(self, right: Any, wrong: str) -> Any:
        """The wrong argument: as such, or in the place of one entry of the right one."""
        places = list(_leaves(right)) if self.leaf is not None else []
        if not places:
            return WRONG[wrong]()
        container, key = places[(self.leaf or 0) % len(places)]
        container[key] = WRONG[wrong]()
        return right


def _leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every entry of nested tables and lists, as container and key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _leaves(item)


@st.composite
def cases(draw: Any) -> Case:
    target = draw(st.sampled_from(TARGETS))
    names = draw(st.lists(st.sampled_from(sorted(target.right)), min_size=1, max_size=2, unique=True))
    wrong = {name: draw(st.sampled_from(sorted(WRONG))) for name in names}
    # What a function of the user's raises is the user's.
    assume(
        not any(name in CALLED and ("network" in value or value == "class") for name, value in wrong.items())
    )
    return Case(target, wrong, draw(st.integers(0, 200)) if draw(st.booleans()) else None)


def foreign(case: Case, folder: Path) -> str | None:
    """Where an exception that is not ours came from; None if there was none."""
    right = {name: make(folder) for name, make in case.target.right.items()}
    given = right | {name: case.spoilt(right[name], value) for name, value in case.wrong.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.target.function(**given)
    except RotatedReLUError:
        return None
    except Exception as error:
        return f"{case}: {type(error).__name__}: {error} at {_place(error)}"
    return None


def _place(error: BaseException) -> str:
    """The last line of ours on the way to an exception."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "rotated_relu" in frame.filename
    ]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside"


def foreign_exceptions(calls: int, folder: Path, number: int = 0) -> tuple[int, list[str]]:
    """Make so many different calls, drawn by hypothesis; the calls made, and what came out of them that is not ours."""
    found: dict[str, str | None] = {}
    # Nothing that is measured may end in the tables of whoever runs this.
    with (
        mock.patch.dict(os.environ, {"XDG_CACHE_HOME": str(folder / "cache")}),
        mock.patch.dict(engines.ENGINES),
    ):
        engines.register_engine(toy())
        while len(found) < calls:
            before = len(found)
            _draw(calls, number, found, folder)
            number += 1  # hypothesis draws some calls again, and then stops early
            if len(found) == before:
                break
    return len(found), sorted(filter(None, found.values()))


def _draw(calls: int, number: int, found: dict[str, str | None], folder: Path) -> None:
    """Draw calls and make those that are not among the ones found, until there are so many."""

    @seed(number)
    @settings(
        max_examples=calls,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def called(case: Case) -> None:
        if str(case) not in found and len(found) < calls:
            found[str(case)] = said = foreign(case, folder)
            print(*filter(None, [said]), end="\n" * bool(said), flush=True)

    called()
