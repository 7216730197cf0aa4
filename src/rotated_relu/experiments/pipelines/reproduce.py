"""An experiment of the paper from training to test, in stages that each leave a file of the run behind.

A stage whose file is there, made with the settings asked for, is not done again: an interrupted experiment goes on
where it was. The test images are read in the last stage, when nothing is left to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core import messages
from ...core.environment import environment
from ...core.errors import RunError
from ...core.formatting import plural
from ...core.messages import Say
from ...core.progress import showing, task
from ...core.run_directory import as_written, process_count, read_json, write_json
from ..report.collect import report_run
from ..run_networks import RunNetworks
from ..stages.evaluate import SPLITS, keep_accuracy, kept_accuracies
from ..stages.finetune import finetune_config, finetune_run
from ..stages.prune import prune_run
from ..stages.train import override
from .baseline import BaselinePair, measure_pair, relu_baseline, train_baseline

if TYPE_CHECKING:
    from ...training import Config
    from ...training.recipes import Recipe

TOLERANCE = 0.2  # points of validation accuracy that the threshold may cost
ROUNDS = 10  # of the latency comparison
BATCH_SIZES = (1, 64)
REMEDY = "repeat the options of the first time to go on with it, or choose another --out"


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        recipe: The recipe.
        whole: Its settings over all epochs, changed as asked for.
        train: The rotated network's training: all of it, or the first of two steps.
        retrain_epochs: Of the compacted network.
        baseline: The ReLU network's training, or None.
        tolerance: Points of validation accuracy that the threshold may cost; None where one is given.
        threshold: The one given; None searches.
    """

    recipe: Recipe
    whole: Config
    train: Config
    retrain_epochs: int
    baseline: Config | None
    tolerance: float | None
    threshold: float | None

    @property
    def labels(self) -> dict[str, str]:
        """What the three networks of the method are called."""
        if self.recipe.two_step:
            return {
                "trained": "step 1: slopes on random weights",
                "compact": "compacted",
                "finetuned": "step 2: weights trained",
            }
        return {"trained": "rotated", "compact": "compacted", "finetuned": "compacted, retrained"}


def plan_for(
    name: str,
    changes: Mapping[str, Any],
    *,
    tolerance: float | None = None,
    threshold: float | None = None,
    retrain_epochs: int | None = None,
    baseline: bool = True,
) -> Plan:
    """Settle an experiment.

    Args:
        name: A recipe.
        changes: Dotted settings to values; ``epochs`` are those of both steps together, where there are two.
        tolerance: Points of validation accuracy that the threshold may cost. With neither this nor a threshold, recipes
            in two steps take the published threshold, others a search with a tolerance of ``TOLERANCE``.
        threshold: Exactly this one.
        retrain_epochs: In place of the recipe's share.
        baseline: Train the ReLU network too, over all epochs.

    Raises:
        UnknownNameError: If there is no such recipe; suggests the nearest.
        RunError: If both a tolerance and a threshold are given.
    """
    from ...training.recipes import find

    if tolerance is not None and threshold is not None:
        raise RunError("give either --tolerance or --threshold, not both")
    recipe = find(name)
    whole = override(recipe.build(), dict(changes))
    if threshold is None and tolerance is None:
        threshold = recipe.published.threshold if recipe.two_step else None
        tolerance = TOLERANCE if threshold is None else None
    return Plan(
        recipe,
        whole,
        recipe.first(whole),
        retrain_epochs or recipe.retrain_epochs(whole),
        relu_baseline(whole) if baseline else None,
        tolerance,
        threshold,
    )


def reproduce_run(
    plan: Plan,
    out: Path,
    *,
    device: str = "auto",
    progress: str = "none",
    command: str | None = None,
    say: Say = messages.say,
) -> dict[str, Any]:
    """Do what is left to be done; return what ``reproduction.json`` holds.

    Args:
        plan: The experiment.
        out: The rotated network's run; the ReLU network's is ``out/relu``.
        device: What to train on.
        progress: How to show progress: ``auto``, ``bar``, ``lines`` or ``none``.
        command: What made it, for the page.
        say: Called with what is about to be done.

    Raises:
        RunError: If ``out`` holds a run with other settings, or ``torchrun`` started several processes.
    """
    if process_count() > 1:
        raise RunError(
            "reproduce works in one process; start its training under torchrun first, with the same settings: "
            f"rotated-relu train ... --out {out}"
        )
    pair = BaselinePair.at(out, plan.baseline is not None)
    how: dict[str, Any] = {"remedy": REMEDY, "device": device, "progress": progress, "say": say}
    stages: list[Callable[[], object]] = []
    if pair.relu is not None and plan.baseline is not None:
        stages.append(partial(train_baseline, pair.relu, plan.baseline, "ReLU", **how))
    stages += [
        partial(train_baseline, pair.rotated, plan.train, plan.labels["trained"], **how),
        partial(_prune, pair.rotated, plan, progress, say),
        partial(_retrain, pair.rotated, plan, device, progress, say),
        partial(_measured, pair, say),
        partial(_finish, pair, plan, command),
    ]
    with showing(progress, say), task(f"reproducing {plan.recipe.name}", len(stages)) as work:
        for stage in stages:
            stage()
            work.advance()
    found: dict[str, Any] = read_json(pair.rotated.run.file("reproduction"), dict[str, Any])
    return found


def _finish(pair: BaselinePair, plan: Plan, command: str | None) -> None:
    """The outcome and its page; test images are read here."""
    measured: dict[str, Any] = read_json(pair.rotated.run.file("measure"), dict[str, Any])
    run = pair.rotated.run
    with as_written(*(run.file(name) for name in ("threshold", "measure", "evaluation"))):
        record = _record(pair, plan, measured)
    write_json(run.file("reproduction"), record)
    report_run(pair.rotated, pair.relu, command=command)


def _prune(loaded: RunNetworks, plan: Plan, progress: str, say: Say) -> None:
    run = loaded.run
    if run.has("threshold") and run.has("compact"):
        with as_written(run.file("threshold")):
            is_found = _as_asked(read_json(run.file("threshold"), dict[str, Any]), plan)
        if is_found:
            say("threshold and compacted network: found")
            return
    # Rounded to 1: what is compared with the paper is all that can go.
    tolerance = plan.tolerance if plan.tolerance is not None else TOLERANCE
    how: dict[str, Any] = {"round_to": 1, "progress": progress, "say": say}
    found = prune_run(loaded, tolerance=tolerance, threshold=plan.threshold, **how).found
    say(f"threshold {found.value:g}: {found.alive} of {found.total} filters alive")


def _as_asked(found: Mapping[str, Any], plan: Plan) -> bool:
    score = found.get("criterion", {}).get("score", found.get("score_kind", "slope"))
    if found["budget"] is not None or found.get("round_to") != 1 or score != "slope":
        return False
    if plan.threshold is not None:
        return bool(found["value"] == plan.threshold)
    return bool(found["tolerance"] == plan.tolerance)


def _retrain(loaded: RunNetworks, plan: Plan, device: str, progress: str, say: Say) -> None:
    label, run = plan.labels["finetuned"], loaded.run
    wanted = finetune_config(plan.train, plan.retrain_epochs)
    if run.has("finetuned") and run.has("finetune_config"):
        known = type(wanted).from_dict(read_json(run.file("finetune_config")))
        if known.identity() == wanted.identity():
            say(f"{label}: found trained")
            run.discard_folder("finetune")  # left by one that was stopped just before it did so
            return
    say(f"{label}: training, {plural(wanted.epochs, 'epoch')}")
    finetune_run(loaded, epochs=plan.retrain_epochs, device=device, progress=progress)


def _measured(pair: BaselinePair, say: Say) -> None:
    run = pair.rotated.run
    known: dict[str, Any] = read_json(run.file("measure"), dict[str, Any]) if run.has("measure") else {}
    with as_written(run.file("measure")):
        if known and {"compact"} | ({"relu"} if pair.relu else set()) <= known["networks"].keys():
            return
    say("measuring all networks in turn")
    measure_pair(pair, BATCH_SIZES, ROUNDS)


@dataclass(frozen=True)
class Entry:
    """A network of the outcome.

    Attributes:
        label: What to call it.
        loaded: Its run.
        weights: ``trained``, ``compact`` or ``finetuned``.
        masked: Slopes below this count as 0, nothing being removed; None counts them all.
    """

    label: str
    loaded: RunNetworks
    weights: str
    masked: float | None = None

    def accuracy(self, split: str) -> float:
        """Percent; each network reads a split once."""
        key = self.weights if self.masked is None else f"{self.weights}_at_{self.masked:g}"
        known = kept_accuracies(self.loaded.run).get(key, {})
        if split in known:
            return known[split]
        from ...pruning.mask import masked, threshold_mask

        net = self.loaded.network(self.weights)
        if self.masked is None:
            return keep_accuracy(self.loaded, key, net, split)
        with masked(net, threshold_mask(net, self.masked)):
            return keep_accuracy(self.loaded, key, net, split)

    def saved(self, threshold: float, measured: Mapping[str, Any]) -> dict[str, float]:
        """Shares saved: in the paper's count, and, of what was physically removed, achieved."""
        if self.weights == "trained":
            return {} if self.masked is None else _paper_saved(self.loaded, self.masked)
        achieved = measured["saved"]["compact"]
        return {
            **_paper_saved(self.loaded, threshold),
            "achieved_weights_saved": achieved["conv_linear_weights"],
            "achieved_macs_saved": achieved["macs"],
        }


def _paper_saved(loaded: RunNetworks, threshold: float) -> dict[str, float]:
    from ..paper.graph import paper_layers

    count = paper_layers(loaded.network("trained"), loaded.example_inputs(), threshold).count()
    return {"paper_memory_saved": count.memory_saved, "paper_flops_saved": count.flops_saved}


def _entries(pair: BaselinePair, plan: Plan, threshold: float) -> list[Entry]:
    """The networks, in the order of the method."""
    own, labels, published = pair.rotated, plan.labels, plan.recipe.published.threshold
    entries = [] if pair.relu is None else [Entry("ReLU", pair.relu, "trained")]
    entries.append(Entry(labels["trained"], own, "trained"))
    if published is not None and published != threshold:
        entries.append(Entry(f"at the paper's threshold {published:g}", own, "trained", published))
    return [*entries, *(Entry(labels[weights], own, weights) for weights in ("compact", "finetuned"))]


def _record(pair: BaselinePair, plan: Plan, measured: Mapping[str, Any]) -> dict[str, Any]:
    """The outcome as plain data; accuracies in percent, savings as shares of 1."""
    run, settings = pair.rotated.run, plan.recipe.build()
    found = read_json(run.file("threshold"))
    entries = _entries(pair, plan, found["value"])
    # Split by split: the test images come last, when every network is settled.
    accuracies = {split: [entry.accuracy(split) for entry in entries] for split in SPLITS}
    rows: list[dict[str, Any]] = [
        {
            "network": entry.label,
            **{f"{split}_accuracy": accuracies[split][position] for split in SPLITS},
            **entry.saved(found["value"], measured),
        }
        for position, entry in enumerate(entries)
    ]
    return {
        "recipe": plan.recipe.name,
        "model": plan.whole.model.name,
        "data": Path(plan.whole.data.name).name,
        "epochs": {"training": plan.train.epochs, "retraining": plan.retrain_epochs},
        "seed": plan.whole.seed,
        "threshold": found["value"],
        "threshold_by": "given" if plan.tolerance is None else f"tolerance {plan.tolerance:g}",
        "filters": found["total"],
        "filters_alive": found["alive"],
        "networks": rows,
        "published": {
            **asdict(plan.recipe.published),
            "epochs": settings.epochs,
            "data": settings.data.name,
        },
        "certificate_max_relative_difference": found["certificate"]["max_relative_difference"],
        "images": read_json(run.file("provenance")),
        "environment": environment(),
    }
