"""``rotated-relu prune``: threshold search on validation images, compaction, certificate."""

from __future__ import annotations

from typing import Annotated

import typer

from ..core.errors import ThresholdError
from ..experiments.run_networks import RunNetworks, open_run
from ..experiments.stages.prune import TIMED_BATCH_SIZES, Pruned, prune_run
from . import console
from .options import RunPath

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
    threshold: Annotated[
        float | None, typer.Option(help="Instead: exactly this threshold.", show_default=False)
    ] = None,
    score: Annotated[
        str,
        typer.Option(
            metavar="slope|taylor",
            help="Rank channels by |a|, as published, or by what the loss says per MAC, on training images.",
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
) -> None:
    """Find the threshold, remove the dead filters, prove that the output did not change.

    Writes threshold.json and compact.safetensors, and deletes what an earlier prune led to.
    """
    budget = {
        name: share
        for name, share in (("macs", keep_macs), ("parameters", keep_parameters))
        if share is not None
    }
    if budget and threshold is not None:
        raise ThresholdError("give either --threshold or a share to keep, not both")
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
    )
    _show(loaded, pruned)
    console.show(f"next: rotated-relu finetune {run} --epochs 3")


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
    from ..core.counting import count_macs, count_parameters

    found, result, certificate = pruned.found, pruned.result, pruned.result.certificate
    example = loaded.example_inputs()
    rows = []
    for label, count in (
        ("parameters", count_parameters),
        ("MACs per image", lambda net: sum(count_macs(net, example).values())),
    ):
        before, after = count(loaded.network("trained")), count(result.model)
        rows.append((label, console.count(before), console.count(after), console.share(1 - after / before)))
    kept = 1 - found.alive / found.total
    rows.insert(
        0, ("filters alive", console.count(found.total), console.count(found.alive), console.share(kept))
    )
    change = found.score - found.baseline_score
    rows.append(
        (
            "validation accuracy",
            console.percent(found.baseline_score),
            console.percent(found.score),
            f"{change:+.2f} points",
        )
    )
    console.show(
        console.table(f"Threshold {found.value:g}", ("", "before", "after", "saved"), rows),
        f"certificate: largest relative difference {certificate.max_relative_difference:.2g} in float64",
    )
