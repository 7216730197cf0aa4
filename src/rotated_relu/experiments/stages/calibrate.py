"""The latency table of a run: measured in an engine, or read from a file that another machine wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core import messages
from ...core.errors import ArgumentError, FileFormatError, LatencyError
from ...core.messages import Say
from ...core.progress import showing
from ...core.run_directory import Run
from ..run_networks import RunNetworks

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...pruning.latency.table import LatencyTable
    from ...pruning.leaving_out import Loss
    from ...pruning.mask import Mask

MINUTES = 5.0


@dataclass(frozen=True)
class TableChoice:
    """Which times are meant.

    Attributes:
        file: A table that was saved before; None measures.
        engine: In what, without a file.
        batch_size: Examples per call, without a file.
        threads: Of the engine, without a file; None is torch's setting.
        minutes: Time that measuring may take.
    """

    file: str | None = None
    engine: str = "onnxruntime"
    batch_size: int = 1
    threads: int | None = None
    minutes: float = MINUTES

    def obtain(self, net: nn.Module, example_inputs: Tensor, say: Say) -> LatencyTable:
        """The table, with every layer of a network.

        Raises:
            FileFormatError: If the file is none.
            LatencyError: If it lacks a layer of the network, or an operation cannot be measured.
            UnknownNameError, MissingPackageError: If there is no such engine, or it is not installed.
        """
        from ...deploy.latency.calibrate import calibrate
        from ...pruning.latency.model import check_table_for
        from ...pruning.latency.table import LatencyTable

        if self.file is not None:
            table = LatencyTable.load(self.file)
            check_table_for(net, example_inputs, table)
            return table
        say(f"measuring layers in {self.engine} at batch {self.batch_size}, where they are not known yet")
        return calibrate(
            net,
            example_inputs,
            engine=self.engine,
            batch_size=self.batch_size,
            threads=self.threads,
            minutes=self.minutes,
        )

    def for_budget(
        self,
        net: nn.Module,
        example_inputs: Tensor,
        keep: float,
        say: Say,
        round_to: int | None = None,
    ) -> LatencyTable:
        """The table for a training; if it is measured here, it is right about what it chooses for a budget as well.

        Args:
            net: A rotated network.
            example_inputs: As in :func:`rotated_relu.rotate`.
            keep: Share of the milliseconds that may be left, above 0 and at most 1.
            say: Called with what is about to be done.
            round_to: As of :func:`rotated_relu.select_channels`.

        Raises:
            As :meth:`obtain`, and SlopeError: If ``keep`` is less than can be had; says what can.
        """
        from ...deploy.latency.anchoring import anchored
        from ...pruning.budget import SlopeBudget

        table = self.obtain(net, example_inputs, say)
        if self.file is None and keep < 1:
            _say_timing(keep, say)
            return anchored(net, example_inputs, table, keep=keep, round_to=round_to)[0]
        SlopeBudget(net, example_inputs, 1, keep, unit="latency", table=table, round_to=round_to)
        return table

    def chosen(
        self,
        net: nn.Module,
        example_inputs: Tensor,
        keep: float,
        scores: Mapping[str, Tensor],
        say: Say,
        loss: Loss,
    ) -> tuple[LatencyTable, Mask]:
        """The table, and the channels that go by it; arguments and errors as :meth:`for_budget`.

        Args:
            scores: Say which channels of an activation go first.
            loss: Says what blocks are worth, as of :func:`rotated_relu.select_channels`.
        """
        from ...deploy.latency.anchoring import anchored
        from ...pruning.select import choose_channels

        table = self.obtain(net, example_inputs, say)
        say(
            f"choosing channels in steps, to keep {keep:g} of the milliseconds, by what the loss is without them"
        )
        if self.file is None and keep < 1:
            _say_timing(keep, say)
            return anchored(net, example_inputs, table, keep=keep, scores=scores, loss=loss)
        return table, choose_channels(
            net, example_inputs, keep=keep, unit="latency", scores=scores, table=table, loss=loss
        )


def _say_timing(keep: float, say: Say) -> None:
    say(f"timing a network of {keep:.3g} of the milliseconds, whether it has them")


def calibrate_run(
    loaded: RunNetworks,
    choice: TableChoice,
    out: Path | None = None,
    *,
    progress: str = "none",
    say: Say = messages.say,
) -> LatencyTable:
    """Measure the layers of a run's trained network, and keep the table in a file.

    Args:
        loaded: The run.
        choice: Engine, batch size and threads.
        out: The file; ``latency.json`` of the run if None.
        progress: ``auto``, ``bar``, ``lines`` or ``none``.
        say: Called with what is about to be done.

    Raises:
        UnknownNameError, MissingPackageError: If there is no such engine, or it is not installed.
        LatencyError: If an operation cannot be measured, or the file cannot be written or holds something else.
        RunError: If the run has not been trained.
    """
    from ...core.files import check_place

    place = loaded.run.file("latency") if out is None else out
    if out is not None:
        refuse_other_files(out)
    try:
        check_place(place)
    except OSError as error:
        raise LatencyError(f"cannot write {place}: {error.strerror or error}") from error
    with showing(progress, say):
        table = choice.obtain(loaded.network("trained"), loaded.example_inputs(), say)
    table.save(place)
    return table


def refuse_other_files(place: Path) -> None:
    """Only a table is written over.

    Raises:
        LatencyError: If a file of that name holds something else.
    """
    from ...pruning.latency.table import LatencyTable

    if place.is_file():
        try:
            LatencyTable.load(place)
        except FileFormatError as error:
            raise LatencyError(
                f"{place} is there already and no latency table; choose another file"
            ) from error


def table_of(run: Run) -> LatencyTable | None:
    """The table that a run's channels were chosen by, if there is one."""
    from ...pruning.latency.table import LatencyTable

    return LatencyTable.load(run.file("latency")) if run.has("latency") else None


def speedup_budget(
    net: nn.Module,
    example_inputs: Tensor,
    run: Run,
    speedup: float,
    choice: TableChoice,
    say: Say,
    round_to: int | None = None,
) -> dict[str, Any]:
    """Settings of a training that makes a network so many times faster; the table is kept in the run.

    Args:
        net: With its full widths, and slopes.
        example_inputs: For one forward pass.
        run: Where the table is kept; one that is there already is used again, so that a resumed run has its budget.
        speedup: At least 1.
        choice: In which engine, or whose times.
        say: Called with what is about to be done.
        round_to: Widths that are left are multiples of it, if it is above 1.

    Raises:
        ArgumentError: If the speed-up is below 1.
        SlopeError: If it cannot be had; says what can.
    """
    from ...core.arguments import need_number

    if not need_number(speedup, "speedup") >= 1 or speedup == float("inf"):
        raise ArgumentError(f"speedup must be at least 1, got {speedup}")
    if not run.has("latency"):
        table = choice.for_budget(net, example_inputs, 1 / speedup, say, round_to)
        table.save(run.file("latency"))
    return {"keep": 1 / speedup, "unit": "latency", "table": str(run.file("latency").resolve())}
