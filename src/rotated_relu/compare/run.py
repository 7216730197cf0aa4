"""Carry a comparison out, stage by stage, into one directory; whatever is there already is not done again.

The directory: ``trainings/`` and ``tuning/`` hold one run each per network, ``points/`` a JSON file per pruned network
and its fine-tuning. Everything is chosen on validation images; the test images are read once, after all else is done.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import ImageData, Split
from ..errors import DataError, RunError
from ..importance import slope_scores, taylor_scores
from ..measure import count_macs, count_parameters
from ..rotate import slopes
from ..run import Run, read_json, replacing, write_json
from ..stored import StreamedSplit
from ..training import Config, build_model, evaluate_model, finetune, fit, load_data
from .methods import DENSE, METHODS, Method, training_config
from .prune import CoupledGroups, Pruner, RankedChannels, torch_pruning
from .settings import Settings

Say = Callable[[str], None]
SCORE_BATCHES = 40  # of training images, for the Taylor score
TUNING_LEVELS = (0.2, 0.3, 0.4, 0.5)
# What may not change between two calls: files made with other values of the rest have other names.
FIXED = ("base", "finetune_epochs", "finetune_lr", "strengths", "tune_epochs")


@dataclass(frozen=True)
class Point:
    """One pruned network.

    Attributes:
        method: What pruned it.
        seed: Of the training.
        keep: What the training's budget aimed at; 1 for the other trainings.
        level: Share of the multiply-accumulates that was to be saved; 0 is the trained network without what is dead.
    """

    method: Method
    seed: int
    keep: float
    level: float

    @property
    def name(self) -> str:
        """Of its file."""
        keep = f"-keep{self.keep:g}" if self.keep < 1 else ""
        return f"{self.method.name}{keep}-seed{self.seed}-{self.level:g}"


class Comparison:
    """A comparison in a directory.

    Args:
        settings: What to do.
        path: The directory; made if need be.
        say: Takes a line of progress.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``, for the trainings.
        progress: As in :func:`rotated_relu.training.fit`.

    Raises:
        RunError: If the directory cannot be written to, or holds a comparison with other settings.
        RotatedReLUError: If a method needs Torch-Pruning and it is not installed.
    """

    def __init__(
        self,
        settings: Settings,
        path: str | Path,
        *,
        say: Say = print,
        device: str = "auto",
        progress: str = "lines",
    ) -> None:
        if any(method.is_coupled for method in settings.chosen):
            torch_pruning()
        self.settings, self.say, self.device, self.progress = settings, say, device, progress
        self.path = Run.create(path).path
        for folder in ("points", "tuning", "trainings"):
            Run.create(self.path / folder)
        self._remember()

    def _remember(self) -> None:
        """Keep the settings, and refuse a directory whose networks were made with other ones."""
        path, mine = self.path / "settings.json", self.settings.to_dict()
        if path.is_file():
            found = read_json(path)
            different = [name for name in FIXED if found.get(name) != json.loads(json.dumps(mine[name]))]
            if different:
                raise RunError(
                    f"{self.path} holds a comparison with other settings ({', '.join(different)}); choose another "
                    "directory, or repeat the first settings to go on with it"
                )
        write_json(path, mine)

    @cached_property
    def images(self) -> ImageData:
        """What all networks train on.

        Raises:
            DataError: If the images cannot be found or read, or are streamed.
        """
        images = load_data(self.settings.base)
        if isinstance(images.train, StreamedSplit):
            raise DataError(
                "a comparison reads its images in any order; choose another data.storage than 'stream'"
            )
        return images

    @cached_property
    def example_inputs(self) -> Tensor:
        """One validation image."""
        return self.images.validation.normalised(torch.arange(1))

    # --- trainings ---------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Tune the strengths, then train every network in full."""
        for training in self.settings.tuned:
            self.strength(training)
        for training, seed, keep in self.trainings():
            self.trained(training, seed, keep)

    def trainings(self) -> Iterator[tuple[str, int, float]]:
        """(training, seed, keep) of every network that is trained in full, the plain one first."""
        names = dict.fromkeys([DENSE, *(method.training for method in self.settings.chosen)])
        for seed in self.settings.seeds:
            for training in names:
                for keep in self._keeps(training):
                    yield training, seed, keep

    def _keeps(self, training: str) -> tuple[float, ...]:
        return self.settings.keep if training == "budget" else (1.0,)

    def config(self, training: str, seed: int, keep: float) -> Config:
        """The settings of one full training."""
        base = dataclasses.replace(self.settings.base, seed=seed)
        return training_config(base, training, strength=self.strength(training), keep=keep)

    def trained(self, training: str, seed: int, keep: float = 1.0) -> nn.Module:
        """The trained network, trained now if it has not been."""
        name = Path("trainings") / _training_name((training, seed, keep))
        return self._fitted(self.config(training, seed, keep), name)

    def _fitted(self, config: Config, name: Path) -> nn.Module:
        path = self.path / name
        if not Run(path).has("weights"):
            self.say(f"training {name}, {config.epochs} epochs")
        return fit(config, path, images=self.images, progress=self.progress, device=self.device).net

    def strength(self, training: str) -> float:
        """The total pull of a training's L1: the one whose short run keeps most when it is pruned.

        Compared by the mean validation accuracy over pruned networks that save 20, 30, 40 and 50 % of the
        multiply-accumulates, before fine-tuning, first seed.
        """
        if training not in self.settings.tuned:
            return self.settings.strengths[0]
        path = self.path / "tuning" / f"{training}.json"
        if path.is_file():
            return float(read_json(path)["chosen"])
        scores = {strength: self._tuning_score(training, strength) for strength in self.settings.strengths}
        best = max(scores, key=scores.__getitem__)
        write_json(path, {"chosen": best, "validation_accuracy": {f"{k:g}": v for k, v in scores.items()}})
        self.say(
            f"{training}: total pull {best:g} of {', '.join(f'{k:g}: {v:.2f} %' for k, v in scores.items())}"
        )
        return best

    def _tuning_score(self, training: str, strength: float) -> float:
        base = dataclasses.replace(
            self.settings.base, seed=self.settings.seeds[0], epochs=self.settings.tune_epochs
        )
        config = training_config(base, training, strength=strength)
        net = self._fitted(config, Path("tuning") / f"{training}-{strength:g}")
        pruner = self._ranked(net, config, "norm" if training == "slimming" else "slope", base.seed)
        found = [pruner.at(level) for level in TUNING_LEVELS]
        chance = 100 / self.images.num_classes
        scores = [chance if small is None else self.validated(small) for small in found]
        return sum(scores) / len(scores)

    # --- pruned networks ---------------------------------------------------------------------------------------------

    def points(self) -> Iterator[Point]:
        """Every pruned network, method by method, smallest saving first."""
        for seed in self.settings.seeds:
            for method in self.settings.chosen:
                for keep in self._keeps(method.training):
                    start = [0.0] if method.training != DENSE else []
                    for level in start + self.settings.all_levels:
                        yield Point(method, seed, keep, level)

    def prune(self) -> None:
        """Validate the networks as trained; make every pruned network once and validate it."""
        self._evaluate_trained("validation")
        pruners = _Latest()
        for point in self.points():
            path = self.file(point)
            if not path.is_file():
                write_json(path, self._pruned_row(point, pruners))

    def _pruned_row(self, point: Point, pruners: _Latest) -> dict[str, Any]:
        small = self.pruned(point, pruners)
        row: dict[str, Any] = {
            "method": point.method.name,
            "label": point.method.label,
            "seed": point.seed,
            "keep": point.keep,
            "level": point.level,
            "reached": small is not None,
        }
        if small is None:
            return row
        whole = self.trained(DENSE, point.seed)
        row["macs_saved"] = 1 - self._macs(small) / self._macs(whole)
        row["parameters_saved"] = 1 - count_parameters(small) / count_parameters(whole)
        # A training that kills on its own has saved more than a small level asks for: the same network again.
        row["reached"] = point.level == 0 or row["macs_saved"] < point.level + 0.04
        row["validation"] = self.validated(small)
        self.say(
            f"{point.name}: {100 * row['macs_saved']:.1f} % of the MACs saved, validation {row['validation']:.2f} %"
        )
        return row

    def pruned(self, point: Point, pruners: _Latest | None = None) -> nn.Module | None:
        """The pruned network of a point before fine-tuning, in eval mode."""
        pruners = pruners or _Latest()
        key = (point.method, point.seed, point.keep)
        pruner = pruners.get(key, lambda: self._pruner(point))
        small = pruner.at(point.level)
        return None if small is None else small.eval()

    def _pruner(self, point: Point) -> Pruner:
        method = point.method
        net = self.trained(method.training, point.seed, point.keep)
        if method.on is not None:
            first = dataclasses.replace(point, method=METHODS[method.on], level=0.0)
            compacted = self.pruned(first)
            assert compacted is not None  # a level of 0 always exists
            whole = self._macs(self.trained(DENSE, point.seed))
            return _Further(
                CoupledGroups(compacted, method.rank, self.example_inputs), whole, self._macs(compacted)
            )
        if method.is_coupled:
            return CoupledGroups(net, method.rank, self.example_inputs)
        return self._ranked(
            net, self.config(method.training, point.seed, point.keep), method.rank, point.seed
        )

    def _ranked(self, net: nn.Module, config: Config, rank: str, seed: int) -> RankedChannels:
        net = net if config.model.rotated else self._with_slopes(net, config)
        companions: dict[str, list[str]] = {}
        if rank == "slope":
            scores = slope_scores(net)
        elif rank == "taylor":
            scores = taylor_scores(net, self._score_batches(config), F.cross_entropy)
        elif rank == "random":
            generator = torch.Generator().manual_seed(seed)
            scores = {
                name: torch.rand(len(slope), generator=generator) for name, slope in slopes(net).items()
            }
        else:
            norms = [n for n, m in net.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
            scores = {f"{n}.weight": net.get_parameter(f"{n}.weight").detach().abs() for n in norms}
            companions = {f"{n}.weight": [f"{n}.bias"] for n in norms}
        return RankedChannels(net, scores, self.example_inputs, companions)

    def _with_slopes(self, net: nn.Module, config: Config) -> nn.Module:
        """A plain network as a rotated one with all slopes 1: the same function, and channels can be taken out."""
        model = dataclasses.replace(config.model, rotated=True, slope_init="ones")
        twin = build_model(
            dataclasses.replace(config, model=model, pulled="slopes", slope_pull=0.0), self.images
        )
        twin.load_state_dict({**twin.state_dict(), **net.state_dict()})
        return twin.eval()

    def _score_batches(self, config: Config) -> Iterator[tuple[Tensor, Tensor]]:
        """The first training images in an order of their own, as they are."""
        train, size = self.images.train, config.batch_size
        assert isinstance(train, Split)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(config.seed))
        for start in range(0, min(SCORE_BATCHES * size, len(train)), size):
            batch = order[start : start + size]
            yield train.normalised(batch), train.labels[batch]

    # --- fine-tuning and the end -------------------------------------------------------------------------------------

    def finetune(self) -> None:
        """Train the pruned networks of the chosen levels on, and validate them again."""
        pruners = _Latest()
        for point in self.points():
            row = self.row(point)
            if not self._trains_on(point) or not row["reached"] or "finetuned_validation" in row:
                continue
            self.say(f"fine-tuning {point.name}, {self.settings.finetune_epochs} epochs")
            net = self.finetuned(point, pruners)
            row["finetuned_validation"] = self.validated(net)
            write_json(self.file(point), row)
            self.say(
                f"{point.name}: validation {row['validation']:.2f} % -> {row['finetuned_validation']:.2f} %"
            )

    def _trains_on(self, point: Point) -> bool:
        return point.level == 0 or point.level in self.settings.finetuned_levels

    def finetuned(self, point: Point, pruners: _Latest | None = None) -> nn.Module:
        """The fine-tuned network of a point, trained now if it has not been."""
        from safetensors.torch import load_file, save_file

        net = self.pruned(point, pruners)
        assert net is not None
        run = Run(self.file(point).with_suffix(""))
        if run.has("weights"):
            net.load_state_dict(load_file(run.file("weights")))
            return net.eval()
        finetune(
            net,
            self._finetune_config(point),
            self.images,
            run.path,
            progress=self.progress,
            device=self.device,
        )
        with replacing(run.file("weights")) as beside:
            save_file({key: value.contiguous() for key, value in net.state_dict().items()}, beside)
        return net

    def _finetune_config(self, point: Point) -> Config:
        """A cosine from a small learning rate, nothing pulled; slopes that stand in for plain activations stay 1."""
        base = training_config(
            dataclasses.replace(self.settings.base, seed=point.seed), point.method.training
        )
        stand_in = not base.model.rotated and not point.method.is_coupled
        return dataclasses.replace(
            base,
            model=dataclasses.replace(base.model, rotated=True) if stand_in else base.model,
            trains="weights" if stand_in else "all",
            pulled="slopes",
            slope_pull=0.0,
            epochs=self.settings.finetune_epochs,
            optimiser=dataclasses.replace(base.optimiser, lr=self.settings.finetune_lr * base.optimiser.lr),
            schedule=dataclasses.replace(base.schedule, name="cosine", warmup=0.0),
            compile=False,  # every network has another shape: compiling takes longer than it saves
        )

    def test(self) -> None:
        """Read the test images: every network, before and after fine-tuning, and those that were trained in full."""
        split = self.images.test
        self._evaluate_trained("test")
        pruners = _Latest()
        for point in self.points():
            row = self.row(point)
            if row["reached"] and "test" not in row:
                small = self.pruned(point, pruners)
                assert small is not None
                row["test"] = evaluate_model(small, split)
                write_json(self.file(point), row)
            if "finetuned_validation" in row and "finetuned_test" not in row:
                row["finetuned_test"] = evaluate_model(self.finetuned(point, pruners), split)
                write_json(self.file(point), row)

    def _evaluate_trained(self, split: str) -> None:
        """Add the accuracies of the networks as trained to ``trained.json``."""
        known = self.accuracies()
        for entry in self.trainings():
            found = known.setdefault(_training_name(entry), {})
            if split not in found:
                found[split] = evaluate_model(self.trained(*entry), getattr(self.images, split))
                write_json(self.path / "trained.json", known)

    def time(self) -> None:
        """Measure each network of the fine-tuned levels in onnxruntime, interleaved with the plain one."""
        from ..latency import compare_latency
        from ..measure import runner

        pruners = _Latest()
        for point in self.points():
            row = self.row(point)
            if not self.settings.latency_repeats or not row["reached"] or not self._trains_on(point):
                continue
            if "speedup" in row:
                continue
            small = self.pruned(point, pruners)
            assert small is not None
            nets = {"plain": self.trained(DENSE, point.seed), "small": small}
            runs = {name: runner(net, self.example_inputs) for name, net in nets.items()}
            timed = compare_latency(runs, self.settings.latency_repeats)
            row["latency_ms"], row["plain_latency_ms"] = timed.medians_ms["small"], timed.medians_ms["plain"]
            row["speedup"] = timed.speedup("small", over="plain")
            write_json(self.file(point), row)

    # --- what there is -----------------------------------------------------------------------------------------------

    def file(self, point: Point) -> Path:
        """Where what is known about a point is kept."""
        return self.path / "points" / f"{point.name}.json"

    def row(self, point: Point) -> dict[str, Any]:
        """What is known about a point."""
        row: dict[str, Any] = read_json(self.file(point))
        return row

    def rows(self) -> list[dict[str, Any]]:
        """What is known about all points that have been reached."""
        rows = [self.row(point) for point in self.points() if self.file(point).is_file()]
        return [row for row in rows if row["reached"]]

    def accuracies(self) -> dict[str, dict[str, float]]:
        """Of the networks as trained, as far as known: ``{name: {"validation": percent, "test": percent}}``."""
        path = self.path / "trained.json"
        known: dict[str, dict[str, float]] = read_json(path) if path.is_file() else {}
        return known

    def reference(self) -> dict[int, dict[str, float]]:
        """Those of the plain network, by seed."""
        found = self.accuracies()
        return {seed: found[_training_name((DENSE, seed, 1.0))] for seed in self.settings.seeds}

    def validated(self, net: nn.Module) -> float:
        """Accuracy on the validation images, in percent."""
        return evaluate_model(net, self.images.validation)

    def _macs(self, net: nn.Module) -> int:
        return sum(count_macs(net, self.example_inputs).values())


def _training_name(entry: tuple[str, int, float]) -> str:
    training, seed, keep = entry
    return f"{training}{f'-keep{keep:g}' if keep < 1 else ''}-seed{seed}"


class _Latest:
    """Keeps the pruner of the method at hand: points come method by method, and one takes memory."""

    def __init__(self) -> None:
        self._key: Any = None
        self._pruner: Pruner | None = None

    def get(self, key: Any, make: Callable[[], Pruner]) -> Pruner:
        if self._pruner is None or key != self._key:
            self._key, self._pruner = key, make()
        return self._pruner


class _Further:
    """Prunes a network that is smaller than the whole already; levels are shares of the whole."""

    def __init__(self, pruner: Pruner, whole: int, left: int) -> None:
        self._pruner, self._whole, self._left = pruner, whole, left

    def at(self, level: float) -> nn.Module | None:
        more = 1 - (1 - level) * self._whole / self._left
        return self._pruner.at(more) if 0 < more < 1 else None
