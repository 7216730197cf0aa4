"""``rotated-relu prune``: threshold search on validation images, compaction, certificate."""

from __future__ import annotations

from typing import Annotated

import typer

from ..core.errors import ThresholdError
from ..experiments.run_networks import RunNetworks, open_run
from ..experiments.stages.prune import ANY_FALL, TIMED_BATCH_SIZES, Pruned, prune_run
from . import console
from .options import Progress, RunPath, check_choices

EXAMPLE = "rotated-relu prune runs/first --tolerance 0.2"
AUTO = "auto"


def prune(
    run: RunPath,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Points of validation accuracy that may be lost.")
    ] = 0.2,
    keep_macs: Annotated[
        float | None, typer.Option(help="Instead: keep at most this share of the MACs.", show_default=False)
    ] = None,
    keep_parameters: Annotated[
        float | None,
        typer.Option(help="Instead: keep at most this share of the parameters.", show_default=False),
    ] = None,
    keep_latency: Annotated[
        float | None,
        typer.Option(
            help="Instead: keep at most this share of the time of a call in --engine, at the first --batch-size.",
            show_default=False,
        ),
    ] = None,
    latency_table: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="With --keep-latency: measured times, of this machine or another (see calibrate). Default: they are "
            "measured here.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Instead: exactly this threshold, in the unit of the score.", show_default=False),
    ] = None,
    score: Annotated[
        str,
        typer.Option(
            metavar="slope|consumer|taylor",
            help="Rank channels by |a|, as published, by |a| times the weights that read them, or by what the loss "
            "says per MAC, on training images.",
        ),
    ] = "slope",
    round_to: Annotated[
        str,
        typer.Option(
            metavar="auto|1|8|16",
            help="Round widths up to a multiple; auto times candidates in the engine and keeps the fastest.",
        ),
    ] = AUTO,
    engine: Annotated[
        str,
        typer.Option(
            metavar="onnxruntime|openvino|torch|torch.compile", help="With auto: what it has to be fast in."
        ),
    ] = "onnxruntime",
    batch_size: Annotated[
        list[int], typer.Option(min=1, help="With auto: batch sizes to time; may be given several times.")
    ] = list(TIMED_BATCH_SIZES),  # noqa: B006 - typer copies it
    progress: Progress = "auto",
) -> None:
    """Choose which filters go, remove them, verify that the output did not change.

    Writes threshold.json and compact.safetensors, and deletes what an earlier prune led to.
    """
    budget = {
        name: share
        for name, share in (("macs", keep_macs), ("parameters", keep_parameters))
        if share is not None
    }
    if (budget or keep_latency is not None) and threshold is not None:
        raise ThresholdError("give either --threshold or a share to keep, not both")
    if budget and keep_latency is not None:
        raise ThresholdError("give either --keep-latency or shares of what is counted, not both")
    if latency_table is not None and keep_latency is None:
        raise ThresholdError("--latency-table is for --keep-latency; give that as well")
    check_choices(progress)
    multiple = rounding(round_to)
    loaded = open_run(run)
    pruned = prune_run(
        loaded,
        tolerance=tolerance,
        budget=budget,
        threshold=threshold,
        score=score,
        round_to=multiple,
        engine=engine,
        batch_sizes=batch_size,
        keep_latency=keep_latency,
        latency_table=latency_table,
        progress=progress,
    )
    _show(loaded, pruned)
    if pruned.removed:
        console.show_next(loaded)
    else:
        console.show(nothing_removed(pruned))


def nothing_removed(pruned: Pruned) -> str:
    """Why nothing was, and what to do."""
    found, widths = pruned.found, pruned.result.plan.widths
    if found.alive == found.total:
        given = found.tolerance in (None, ANY_FALL)  # a budget, or exactly one threshold
        cost = "" if given else f" within {found.tolerance:g} points of validation accuracy"
        return (
            f"nothing was removed: no filter can go{cost}. Allow more (--tolerance, --keep-macs), or train so that "
            "filters die: rotated-relu train with --keep-macs or --slope-l1"
        )
    dead = found.total - found.alive
    return f"nothing was removed, although {dead} of {found.total} filters are dead: {widths or held(pruned)}"


def held(pruned: Pruned) -> str:
    """What holds the dead filters."""
    reasons = dict.fromkeys(entry.reason for entry in pruned.result.plan.held)
    return "; ".join(reasons) or "a constant is left of each"


def rounding(text: str) -> int | None:
    """The multiple that ``--round-to`` asks for; None for ``auto``."""
    if text == AUTO:
        return None
    if not text.isdigit() or int(text) < 1:
        raise typer.BadParameter(
            f"{text!r} is neither 'auto' nor a positive whole number", param_hint="--round-to"
        )
    return int(text)


def _show(loaded: RunNetworks, pruned: Pruned) -> None:
    found, certificate = pruned.found, pruned.result.certificate
    title = f"Channels that go: {found.criterion.describe()}"
    console.show(
        console.table(title, ("", "before", "after", "saved"), _rows(loaded, pruned)),
        f"certificate: largest relative difference {certificate.max_relative_difference:.2g} in float64",
    )


def _rows(loaded: RunNetworks, pruned: Pruned) -> list[tuple[str, str, str, str]]:
    from ..core.counting import count_macs, count_parameters

    found, small, example = pruned.found, pruned.result.model, loaded.example_inputs()
    trained = loaded.network("trained")
    macs = [sum(count_macs(net, example).values()) for net in (trained, small)]
    costs: list[tuple[str, float, float]] = [
        ("filters alive", found.total, found.alive),
        ("parameters", count_parameters(trained), count_parameters(small)),
        ("MACs per image", macs[0], macs[1]),
    ]
    rows = [
        (label, console.count(before), console.count(after), console.share(1 - after / before))
        for label, before, after in costs
    ]
    accuracies = console.percent(found.baseline_score), console.percent(found.score)
    if "latency" in found.kept:
        after = found.sweep[-1].cost["latency"]
        times = console.milliseconds(after / found.kept["latency"]), console.milliseconds(after)
        rows.append(("latency, estimated", *times, console.share(1 - found.kept["latency"])))
    change = f"{found.score - found.baseline_score:+.2f} points"
    return [*rows, ("validation accuracy", *accuracies, change)]
