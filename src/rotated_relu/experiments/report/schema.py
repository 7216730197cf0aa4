"""What a report is made from: plain, JSON-able data. Every part may be missing; its section is then left out.

Networks are named by a short key ("relu", "rotated", "compact", "finetuned") that the parts share.
"""

from __future__ import annotations

from typing import Any, TypedDict


class NetworkRow(TypedDict, total=False):
    """One line of the table.

    Attributes:
        key: Short name; required.
        label: Name for people; required.
        test_accuracy: Percent.
        validation_accuracy: Percent.
        parameters: Count, slopes included.
        macs: Multiply-accumulates for one example.
        file_bytes: State dict as safetensors.
        peak_memory_bytes: Of one forward pass.
        conv_linear_weights: Weights of convolutions and linear layers, no biases.
        same_cost_as: Key of a network of the same shape, from which missing costs and the latency are taken.
    """

    key: str
    label: str
    test_accuracy: float | None
    validation_accuracy: float | None
    parameters: int | None
    macs: int | None
    file_bytes: int | None
    peak_memory_bytes: int | None
    conv_linear_weights: int | None
    same_cost_as: str | None


class SweepPoint(TypedDict, total=False):
    """One evaluated threshold: its value in the unit of the score, validation accuracy, filters left alive."""

    threshold: float
    score: float
    alive: int


class ThresholdPart(TypedDict, total=False):
    """Outcome of the threshold search; ``Threshold.to_dict()`` has this shape.

    Attributes:
        value: The chosen threshold, in the unit of ``ReportData.criterion``'s score.
        score: Validation score there.
        baseline_score: Validation score with all slopes.
        alive: Filters alive at ``value``.
        total: All filters that carry a slope.
        tolerance: Allowed fall of the score, or None.
        budget: Fractions to keep that were asked for, or None.
        sweep: Every evaluated threshold.
    """

    value: float
    score: float
    baseline_score: float
    alive: int
    total: int
    tolerance: float | None
    budget: dict[str, float] | None
    sweep: list[SweepPoint]


class AliveRow(TypedDict):
    """One activation, in order of depth."""

    name: str
    total: int
    alive: int


class CurvePart(TypedDict):
    """Training of one network: ``key`` as above (any other is allowed), rows as in ``metrics.csv``."""

    key: str
    label: str
    rows: list[dict[str, float]]


class LatencyPart(TypedDict, total=False):
    """Interleaved timings at one batch size: per network key the time of one call in each round, in ms.

    ``speedup`` gives, per key, how many times faster than the reference (median of the rounds' ratios);
    ``estimated_ms`` what a latency table says, where the run has one, and ``estimated_layer_ms`` the same per layer;
    ``measured_layer_ms`` is the median time per layer, where the engine has a profiler.
    """

    batch_size: int
    milliseconds: dict[str, list[float]]
    medians_ms: dict[str, float]
    speedup: dict[str, float]
    estimated_ms: dict[str, float]
    estimated_layer_ms: dict[str, dict[str, float]]
    measured_layer_ms: dict[str, dict[str, float]]


class HeldRow(TypedDict):
    """Dead channels that stayed, and why."""

    name: str
    channels: int
    reason: str


class PathsSide(TypedDict):
    """Lengths of the paths through a network: how many paths, their mean length, and shares of them by length.

    Attributes:
        paths: Number of paths.
        mean: Mean length, in filters.
        shares: Fraction of the paths per bin of ``PathsPart.width`` filters, from length 0 on.
    """

    paths: int
    mean: float
    shares: list[float]


class PathsPart(TypedDict):
    """Filter-path lengths (:mod:`rotated_relu.experiments.paper.paths`).

    Attributes:
        blocks: Residual blocks.
        width: Filters per bin.
        before: With all filters.
        after: With those that do not go.
    """

    blocks: int
    width: int
    before: PathsSide
    after: PathsSide


class AttackRow(TypedDict):
    """One attacked network; ``key`` as above (any other is allowed), accuracies in percent."""

    key: str
    label: str
    clean: float
    fgsm: float
    pgd: float
    lipschitz: float


class AttackPart(TypedDict):
    """Accuracy under attack, as ``attack.json`` has it.

    Attributes:
        networks: One row per network.
        settings: ``eps``, ``steps``, ``random_start``, ``images``, ``pgd_images``.
        library: What computed FGSM and PGD.
    """

    networks: list[AttackRow]
    settings: dict[str, Any]
    library: str


class MadePart(TypedDict, total=False):
    """How the run was made; shown as a list, in this order.

    Attributes:
        command: Command line.
        date: Day, in words or ISO.
        seed: Seed.
        epochs: Epochs of training.
        dataset: Where the images come from, in words or as a dictionary.
        split: How validation images were held out, in words.
        environment: Processor, threads, system, versions; nested dictionaries are flattened.
    """

    command: str
    date: str
    seed: int
    epochs: int
    dataset: str | dict[str, Any]
    split: str
    environment: dict[str, Any]


class ProgramPart(TypedDict):
    """How the exported network is used: a command, and what is in its file."""

    command: str
    text: str


class ReportData(TypedDict, total=False):
    """All parts of a report.

    Attributes:
        title: "Network on dataset"; required.
        reference: Key of the network that the verdict compares with; the first of ``networks`` if missing.
        final: Key of the network that the verdict is about; the last of ``networks`` if missing.
        networks: The table, in the order of the method: ReLU, rotated, compacted, fine-tuned.
        threshold: The search.
        criterion: ``Criterion.to_dict()``: what ranked the filters and what chose among them; a threshold on slopes if
            missing.
        slopes: {"start": {name: values}, "end": {name: values}}.
        alive: Filters per activation.
        paths: Lengths of the paths that the skip connections make.
        layer_weights: Network key -> layer name -> weights, for the networks before and after compaction.
        layer_macs: The same for multiply-accumulates.
        compacted_from: Key of the network before compaction ("rotated" if missing).
        curves: Training curves.
        latency: Timings, one entry per batch size.
        engine: What ran the timings.
        paper_count: ``PaperCount.to_dict()`` of the masked network.
        held: What could not be removed (``plan.held``); an empty list means that everything dead was removed.
        certificate: ``Certificate.to_dict()``.
        attack: Accuracy under attack.
        made: How it was made.
        program: A program that uses the exported network, and the command that runs it.
        run: Directory of the run, for the commands that make what is missing.
    """

    title: str
    reference: str
    final: str
    networks: list[NetworkRow]
    threshold: ThresholdPart
    criterion: dict[str, Any]
    slopes: dict[str, dict[str, list[float]]]
    alive: list[AliveRow]
    paths: PathsPart
    layer_weights: dict[str, dict[str, int]]
    layer_macs: dict[str, dict[str, int]]
    compacted_from: str
    curves: list[CurvePart]
    latency: list[LatencyPart]
    engine: str
    paper_count: dict[str, float]
    held: list[HeldRow]
    certificate: dict[str, Any]
    attack: AttackPart
    made: MadePart
    program: ProgramPart
    run: str
