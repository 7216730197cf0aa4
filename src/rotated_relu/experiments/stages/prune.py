"""Which channels go is decided on validation images; then they are removed, and the run describes what is left.

Requires: a trained run with slopes. Ensures: ``compact.safetensors`` and ``threshold.json`` of one and the same mask,
and nothing beside them that another mask led to; or an error, and what was there before.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...core import messages
from ...core.criteria import SCORES
from ...core.errors import NothingRemovedWarning, UnknownNameError
from ...core.formatting import plural
from ...core.messages import Say
from ...core.plain_data import build
from ...core.progress import showing, task
from ...core.run_directory import Run, as_written, read_json, write_json
from ..run_networks import RunNetworks
from .calibrate import TableChoice
from .retire import retire

if TYPE_CHECKING:
    from torch import nn

    from ...pruning.importance import Scores
    from ...pruning.mask import Mask
    from ...pruning.removal import Compacted
    from ...pruning.threshold import SweepPoint, Threshold

ANY_FALL = 100.0  # of an accuracy in percent
TIMED_BATCH_SIZES = (1, 64)
EVALUATIONS = 24  # of a search for a tolerance, at most


@dataclass(frozen=True)
class Pruned:
    """What :func:`prune_run` did.

    Attributes:
        found: The threshold, the mask and the sweep.
        result: The compacted network with plan and certificate.
    """

    found: Threshold
    result: Compacted

    @property
    def removed(self) -> bool:
        """Whether anything was."""
        return bool(self.result.plan.cuts)


def prune_run(
    loaded: RunNetworks,
    *,
    tolerance: float = 0.2,
    budget: dict[str, float] | None = None,
    threshold: float | None = None,
    score: str = "slope",
    round_to: int | None = None,
    engine: str = "onnxruntime",
    batch_sizes: Sequence[int] = TIMED_BATCH_SIZES,
    keep_latency: float | None = None,
    latency_table: str | None = None,
    progress: str = "none",
    say: Say = messages.say,
) -> Pruned:
    """Prune a trained run and write the results into it.

    Args:
        loaded: The run.
        tolerance: Points of validation accuracy that may be lost.
        budget: Shares to keep, instead; see :func:`rotated_relu.find_threshold`.
        threshold: Exactly this one, instead; in the unit of the score.
        score: What ranks the channels, and what the threshold is compared with: ``slope``, ``consumer`` or ``taylor``
            (per multiply-accumulate); see :mod:`rotated_relu.pruning.importance`.
        round_to: Widths are rounded up to a multiple of it; None times candidates, the original among them, and
            keeps the fastest (1 with a budget: dead filters that are kept would count against it).
        engine: What is timed then; see :func:`rotated_relu.compact`.
        batch_sizes: At which batch sizes; the first is that of ``keep_latency``.
        keep_latency: Share of the milliseconds of a call in the engine to keep, instead; see
            :func:`rotated_relu.select_channels`.
        latency_table: File of the measured times, from another machine perhaps; they are measured here if None.
        progress: ``auto``, ``bar``, ``lines`` or ``none``.
        say: Called with what is about to be done, and with the files that are deleted.

    Raises:
        UnknownNameError: If there is no such score or engine.
        MissingPackageError: If the engine's package is not installed.
        ThresholdError: If nothing satisfies what was asked for.
        SlopeError: If that share of the milliseconds cannot be had; says which can.
        LatencyError, FileFormatError: If the table lacks a layer, or the file is none.
        RunError: If the run is in use, cannot be written to, or has not been trained.
    """
    from ...deploy.engines import engine_named

    if score not in SCORES:
        raise UnknownNameError("score", score, SCORES)
    if (budget or keep_latency is not None) and round_to is None:
        round_to = 1
    if round_to is None:
        engine_named(engine)
    search: _Search | _InSteps = _Search(tolerance, budget or {}, threshold, score)
    if keep_latency is not None:
        search = _InSteps(keep_latency, TableChoice(latency_table, engine, batch_sizes[0]), score)
    widths = _Widths(round_to, engine, list(batch_sizes))
    with showing(progress, say), loaded.run.claimed():
        net = loaded.network("trained")
        found = search.found(loaded, net, say)
        result, timed = widths.compacted(loaded, net, found.mask, say)
        pruned = Pruned(found, result)
        _record(loaded.run, pruned, timed, say)
    return pruned


def _record(run: Run, pruned: Pruned, timed: Mapping[str, Any], say: Say) -> None:
    """From here on the run describes this mask."""
    from ...pruning.removal import save

    save(pruned.result, run.file("compact"), metadata=RunNetworks(run).metadata)
    certificate = pruned.result.certificate.to_dict()
    # Last of the two: who finds it finds the network that it describes.
    write_json(run.file("threshold"), {**pruned.found.to_dict(), **timed, "certificate": certificate})
    run.discard("search")
    retire(run, "compact", say)


@dataclass(frozen=True)
class _Search:
    """How the mask is chosen: for a tolerance, a budget, or exactly one threshold, by a kind of score."""

    tolerance: float
    budget: dict[str, float]
    threshold: float | None
    score: str

    def found(self, loaded: RunNetworks, net: nn.Module, say: Say) -> Threshold:
        """The threshold and its mask, on validation images."""
        from ...pruning.threshold import find_threshold
        from ...training import evaluate_model

        scores = _scores(self.score, loaded, net, say)
        validation = loaded.images.validation

        def accuracy(candidate: nn.Module) -> float:
            return evaluate_model(candidate, validation)

        if self.threshold is not None:
            return find_threshold(
                net, accuracy, tolerance=ANY_FALL, candidates=[self.threshold], scores=scores
            )
        kept = KeptSearch(loaded.run, sorted(self.budget), self.score)
        points = kept.points()
        done = f", {plural(len(points), 'threshold')} of a search that was stopped known" if points else ""
        say(f"searching the threshold on {len(validation)} validation images{done}")
        with task("searching the threshold", self._most(net)) as work:

            def evaluated(point: SweepPoint) -> None:
                kept.add(point)
                work.advance()

            return find_threshold(
                net,
                accuracy,
                tolerance=self.tolerance,
                budget=self.budget or None,
                example_inputs=loaded.example_inputs(),
                scores=scores,
                known=points,
                evaluated=evaluated,
                max_evaluations=EVALUATIONS,
            )

    def _most(self, net: nn.Module) -> int:
        """Thresholds that a search looks at, at most: a budget is bisected for over all slopes."""
        from ...nn.slopes import slopes

        slopes_in_all = sum(slope.numel() for slope in slopes(net).values())
        return slopes_in_all.bit_length() + 2 if self.budget else EVALUATIONS


@dataclass(frozen=True)
class _InSteps:
    """How the mask is chosen for a share of the latency: in the steps that the engine is paid in."""

    keep: float
    table: TableChoice
    score: str

    def found(self, loaded: RunNetworks, net: nn.Module, say: Say) -> Threshold:
        """The mask, with the accuracy on validation images before and after; no threshold leads to it."""
        from ...pruning.estimate import CostEstimate
        from ...pruning.importance import slope_scores
        from ...pruning.mask import masked, zero_mask
        from ...pruning.select import check_budget
        from ...pruning.threshold import SweepPoint, Threshold
        from ...training import evaluate_model
        from ...training.scoring import sample_loss

        check_budget(self.keep, "latency")  # before anything is measured
        example, validation = loaded.example_inputs(), loaded.images.validation
        scores = _scores(self.score, loaded, net, say, per_mac=False)
        loss = sample_loss(net, loaded.images, loaded.config)
        table, mask = self.table.chosen(net, example, self.keep, scores or slope_scores(net), say, loss)
        table.save(loaded.run.file("latency"))
        estimate = CostEstimate(net, example, table)
        before = evaluate_model(net, validation)
        with masked(net, mask) as alive:
            after = evaluate_model(net, validation)
        costs = {"channels": float(alive), "latency": estimate.of(mask, "latency")}
        whole = {
            "channels": float(estimate.of({}, "channels")),
            "latency": estimate.of(zero_mask(net), "latency"),
        }
        return Threshold(
            value=0.0,
            score=after,
            baseline_score=before,
            alive=alive,
            total=int(whole["channels"]),
            tolerance=None,
            budget={"latency": self.keep},
            kept={name: costs[name] / whole[name] for name in costs},
            sweep=(SweepPoint(0.0, after, alive, costs),),
            criterion=mask.criterion,
            mask=mask,
        )


def _scores(
    score: str, loaded: RunNetworks, net: nn.Module, say: Say, *, per_mac: bool = True
) -> Scores | None:
    """What ranks the channels; None for the slopes themselves."""
    from ...pruning.importance import consumer_scores
    from ...training import loss_scores

    if score == "consumer":
        return consumer_scores(net, loaded.example_inputs())
    if score == "taylor":
        say("scoring the channels on training images")
        return loss_scores(net, loaded.images, loaded.config, loaded.example_inputs(), per_mac=per_mac)
    return None


@dataclass(frozen=True)
class _Widths:
    """How widths are chosen: a multiple, or None to time candidates in an engine at some batch sizes."""

    round_to: int | None
    engine: str
    batch_sizes: list[int]

    def compacted(
        self, loaded: RunNetworks, net: nn.Module, mask: Mask, say: Say
    ) -> tuple[Compacted, dict[str, Any]]:
        """The compacted network, and what was timed to choose its rounding."""
        from ...deploy.autotune import compact, compact_fastest

        example = loaded.example_inputs()
        if self.round_to is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NothingRemovedWarning)  # the result says so
                result = compact(net, example, mask=mask, round_to=self.round_to)
            return result, {"round_to": self.round_to}
        say(f"timing candidates for the small network in {self.engine}")
        timing = [loaded.example_inputs(size) for size in self.batch_sizes]
        fastest = compact_fastest(net, example, mask, timing_inputs=timing, engine=self.engine)
        say(fastest.result.plan.widths)
        return fastest.result, {
            "round_to": fastest.round_to,
            "widths": fastest.result.plan.widths,
            "rounding_engine": self.engine,
            "rounding_batch_sizes": self.batch_sizes,
            "rounding_milliseconds": fastest.milliseconds,
        }


class KeptSearch:
    """The evaluated thresholds of a search, in ``threshold.partial.json``, so that a killed one goes on.

    Args:
        run: The run.
        costs: Names of the costs that were counted; a search that counts others starts afresh.
        score: What ranks the channels; likewise.
    """

    def __init__(self, run: Run, costs: list[str], score: str) -> None:
        self.path = run.file("search")
        # Scores and costs belong to these weights.
        digest = hashlib.sha256(run.need("weights").read_bytes()).hexdigest()
        self.key = {"weights": digest, "costs": costs, "score": score}
        self.found: dict[float, dict[str, Any]] = {}

    def points(self) -> list[SweepPoint]:
        """What is known of this search; nothing if another one, or none, was stopped here."""
        from ...pruning.threshold import SweepPoint

        data = read_json(self.path, dict[str, Any]) if self.path.is_file() else {}
        if data.get("key") != self.key:
            return []
        with as_written(self.path):
            known = [build(SweepPoint, point) for point in data["sweep"]]
        self.found = {point.threshold: dataclasses.asdict(point) for point in known}
        return known

    def add(self, point: SweepPoint) -> None:
        """Keep one more."""
        self.found[point.threshold] = dataclasses.asdict(point)
        write_json(self.path, {"key": self.key, "sweep": list(self.found.values())})
