"""Threshold search on validation images, compaction, certificate."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...core import messages
from ...core.errors import UnknownNameError
from ...core.messages import Say
from ...core.run_directory import Run, read_json, write_json
from ..run_networks import RunNetworks
from .retire import retire

if TYPE_CHECKING:
    from torch import nn

    from ...pruning.importance import Scores
    from ...pruning.mask import Mask
    from ...pruning.removal import Compacted
    from ...pruning.threshold import SweepPoint, Threshold

ANY_FALL = 100.0  # of an accuracy in percent
TIMED_BATCH_SIZES = (1, 64)
SCORES = ("slope", "taylor")


@dataclass(frozen=True)
class Pruned:
    """What :func:`prune_run` did.

    Attributes:
        found: The threshold and the sweep.
        result: The compacted network with plan and certificate.
    """

    found: Threshold
    result: Compacted


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
    say: Say = messages.say,
) -> Pruned:
    """Prune a trained run and write the results into it.

    Args:
        loaded: The run.
        tolerance: Points of validation accuracy that may be lost.
        budget: Shares to keep, instead; see :func:`rotated_relu.find_threshold`.
        threshold: Exactly this zeta, instead.
        score: What ranks the channels, and what the threshold is compared with: ``slope`` or ``taylor``.
        round_to: Widths are rounded up to a multiple of it; None times candidates, the original among them, and
            keeps the fastest (1 with a budget: dead filters that are kept would count against it).
        engine: What is timed then; see :func:`rotated_relu.compact`.
        batch_sizes: At which batch sizes.
        say: Called with what is about to be done, and with the files that are deleted.

    Raises:
        UnknownNameError: If there is no such score or engine.
        MissingPackageError: If the engine's package is not installed.
        ThresholdError: If nothing satisfies what was asked for.
        RunError: If the run is in use, cannot be written to, or has not been trained.
    """
    from ...deploy.engines import engine_named

    if score not in SCORES:
        raise UnknownNameError("score", score, SCORES)
    if budget and round_to is None:
        round_to = 1
    if round_to is None:
        engine_named(engine)
    widths = _Widths(round_to, engine, list(batch_sizes))
    with loaded.run.claimed():
        return _prune(loaded, tolerance, budget, threshold, score, widths, say)


def _prune(
    loaded: RunNetworks,
    tolerance: float,
    budget: dict[str, float] | None,
    threshold: float | None,
    score: str,
    widths: _Widths,
    say: Say,
) -> Pruned:
    from ...pruning.removal import save

    net = loaded.network("trained")
    scores = _scores(loaded, net, say) if score == "taylor" else None
    found = _search(loaded, net, tolerance, budget, threshold, scores, say)
    result, timed = _compacted(loaded, net, found.mask, widths, say)
    run = loaded.run
    save(result, run.file("compact"))
    # Last of the two: who finds it finds the network that it describes.
    write_json(
        run.file("threshold"),
        {**found.to_dict(), "score_kind": score, **timed, "certificate": result.certificate.to_dict()},
    )
    run.discard("search")
    retire(run, "compact", say)
    return Pruned(found, result)


@dataclass(frozen=True)
class _Widths:
    """How widths are chosen: a multiple, or None to time candidates in an engine at some batch sizes."""

    round_to: int | None
    engine: str
    batch_sizes: list[int]


def _compacted(
    loaded: RunNetworks, net: nn.Module, mask: Mask, widths: _Widths, say: Say
) -> tuple[Compacted, dict[str, Any]]:
    """The compacted network, and what was timed to choose its rounding."""
    from ...deploy.autotune import compact, compact_fastest

    example = loaded.example_inputs()
    if widths.round_to is not None:
        return compact(net, example, mask=mask, round_to=widths.round_to), {"round_to": widths.round_to}
    say(f"timing candidates for the small network in {widths.engine}")
    timing = [loaded.example_inputs(size) for size in widths.batch_sizes]
    fastest = compact_fastest(net, example, mask, timing_inputs=timing, engine=widths.engine)
    say(fastest.result.plan.widths)
    return fastest.result, {
        "round_to": fastest.round_to,
        "widths": fastest.result.plan.widths,
        "rounding_engine": widths.engine,
        "rounding_batch_sizes": widths.batch_sizes,
        "rounding_milliseconds": fastest.milliseconds,
    }


def _search(
    loaded: RunNetworks,
    net: nn.Module,
    tolerance: float,
    budget: dict[str, float] | None,
    threshold: float | None,
    scores: Scores | None,
    say: Say,
) -> Threshold:
    from ...pruning.threshold import find_threshold
    from ...training import evaluate_model

    validation = loaded.images.validation

    def accuracy(candidate: nn.Module) -> float:
        return evaluate_model(candidate, validation)

    if threshold is not None:
        return find_threshold(net, accuracy, tolerance=ANY_FALL, candidates=[threshold], scores=scores)
    kept = KeptSearch(loaded.run, sorted(budget or {}), "slope" if scores is None else "taylor")
    points = kept.points()
    done = f", {len(points)} thresholds of a search that was stopped are known" if points else ""
    say(f"searching the threshold on {len(validation)} validation images{done}")
    return find_threshold(
        net,
        accuracy,
        tolerance=tolerance,
        budget=budget or None,
        example_inputs=loaded.example_inputs(),
        scores=scores,
        known=points,
        evaluated=kept.add,
    )


def _scores(loaded: RunNetworks, net: nn.Module, say: Say) -> Scores:
    from ...training import loss_scores

    say("scoring the channels on training images")
    return loss_scores(net, loaded.images, loaded.config, loaded.example_inputs())


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

        data = read_json(self.path) if self.path.is_file() else {}
        if data.get("key") == self.key:
            self.found = {point["threshold"]: point for point in data["sweep"]}
        return [SweepPoint(**point) for point in self.found.values()]

    def add(self, point: SweepPoint) -> None:
        """Keep one more."""
        self.found[point.threshold] = dataclasses.asdict(point)
        write_json(self.path, {"key": self.key, "sweep": list(self.found.values())})
