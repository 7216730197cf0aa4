"""The training loop: epochs, checkpoints, signals.

Ensures: what a run computes is a function of its settings alone. The whole state is the network, the optimizer, the
average, the loss scale and :class:`Progress`; a checkpoint holds just these, and every draw is a function of the place
in the run (:mod:`rotated_relu.training.engine.seeds`). So a run that was killed ends as the run that never was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...core.errors import RunError
from ...core.run_directory import Run
from ...nn.penalty import count_alive, slope_l1
from ...nn.slopes import slopes
from ..config import Config
from ..data.splits import Split
from . import checkpoints
from .batches import TrainBatches
from .distributed import whole
from .logs import Log
from .progress import Progress, Totals
from .signals import Signals, reason
from .step import Stepper


class Loop:
    """Trains to the end of the run, from wherever it is.

    Args:
        stepper: The network and how it moves.
        batches: The training images.
        validation: The validation images.
        config: The run.
        run: Where checkpoints go; nothing is written if None.
        logs: Where the epochs' numbers go; empty in all processes but the first.
        step_done: Called after every step with the progress.
    """

    def __init__(
        self,
        stepper: Stepper,
        batches: TrainBatches,
        validation: Split,
        config: Config,
        run: Run | None,
        logs: list[Log],
        step_done: Callable[[Progress], None] | None = None,
    ) -> None:
        self.stepper, self.batches, self.validation = stepper, batches, validation
        self.config, self.run, self.logs = config, run, logs
        self.step_done = step_done
        self.together = stepper.together
        self.progress = Progress()
        self.signals = Signals()
        self._kept = self._since = time.monotonic()

    def train(self) -> None:
        """Train; the state is kept after every epoch, every so many minutes and at signals.

        Raises:
            DivergedError: If the loss is not finite; the last good checkpoint is kept.
            KeyboardInterrupt: On Ctrl-C, and :class:`Terminated` on TERM, after the state was kept.
            RunError: If something cannot be written.
        """
        with self.signals:
            self._resume()
            try:
                while self.progress.epoch < self.config.epochs:
                    self._epoch()
            finally:
                for log in self.logs:
                    log.close()

    def _resume(self) -> None:
        state = None
        if self.run is not None:
            state = checkpoints.read(self.run, self.config.identity())
        if state is not None:
            self._take_over(state)
        for log in self.logs:
            log.resume(self.progress)
        self._kept = self._since = time.monotonic()

    def _take_over(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state; whatever it lacks or holds wrongly is one error."""
        try:
            progress = Progress.from_state(state["progress"], self.together.rank, self.together.size)
            progress.check(self.config.epochs, len(self.batches))
            self.load_state(state)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            folder = self.run.checkpoints if self.run else "memory"
            found = " ".join(str(error).split())
            raise RunError(
                f"the checkpoint in {folder} does not fit this network and its settings ({found}); put back a copy, or "
                f"delete {folder} to start over"
            ) from error
        self.progress = progress

    def _epoch(self) -> None:
        progress, stepper = self.progress, self.stepper
        stepper.net.train()
        for pieces in self.batches.epoch(progress.epoch, progress.step):
            stepper.step(pieces, progress)
            if self.step_done is not None:
                self.step_done(progress)
            self.obey(can_keep=progress.step < len(self.batches))
        stepper.check_finite(progress)
        validation = stepper.validate(self.validation, lambda: self._stop() != 0)
        if validation is None:
            self._tick()
            self._keep()
            raise reason(self._stop())
        train = self.together.sum(progress.totals.sums)
        self._tick()
        named = {name: whole(slope.detach()).float().cpu() for name, slope in slopes(stepper.net).items()}
        progress.finish_epoch(self._row(train, validation, named))
        for log in self.logs:
            log.epoch(progress, named)
        self._keep()

    def obey(self, can_keep: bool) -> None:
        """Keep the state if it is time to or a signal asks, and stop if one does; all processes alike."""
        late = can_keep and time.monotonic() - self._kept >= 60 * self.config.keep.minutes
        wanted = can_keep and (self.signals.keep or (late and self.together.first))
        stop, keep = self.together.largest(self.signals.stop or 0, wanted)
        if stop or keep:
            self._tick()
            self.stepper.check_finite(self.progress)
            self._keep()
        if stop:
            raise reason(stop)

    def _stop(self) -> int:
        """The signal that asked to stop, in whichever process; 0 if none did."""
        return self.together.largest(self.signals.stop or 0)[0]

    def _tick(self) -> None:
        """Add the time since the last call to the present epoch's."""
        now = time.monotonic()
        self.progress.seconds += now - self._since
        self._since = now

    def _keep(self) -> None:
        self.signals.keep = False
        self._kept = time.monotonic()
        if self.run is None:
            return
        state = self.state()
        if self.together.first:
            checkpoints.write(self.run, state)

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on; called in all processes together."""
        net, optimizer = _states(self.stepper)
        average = self.stepper.average
        return {
            "config": self.config.identity(),
            "progress": self.progress.state(self.together.each(self.progress.totals.sums)),
            "net": net,
            "optimizer": optimizer,
            "average": None if average is None else average.values,
            "regularizer": self.stepper.regularizer.state_dict(),
            "scale": self.stepper.fabric.strategy.precision.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The reverse of :meth:`state`, but for the progress."""
        _load_states(self.stepper, state["net"], state["optimizer"])
        if self.stepper.average is not None:
            self.stepper.average.load(state["average"])
        self.stepper.regularizer.load_state_dict(state.get("regularizer", state.get("pull", {})))
        self.stepper.fabric.strategy.precision.load_state_dict(state["scale"])

    def _row(self, train: Tensor, validation: Tensor, named: dict[str, Tensor]) -> dict[str, float]:
        """The epoch's line in ``metrics.csv``; accuracies in percent."""
        row: dict[str, float] = {"epoch": self.progress.epoch}
        row |= Totals.row(train, "train") | Totals.row(validation, "validation")
        row["lr"] = self.stepper.learning_rate(self.progress)
        strength = self.stepper.regularizer.strength(self.stepper.position(self.progress))
        row["penalty"] = strength * float(whole(slope_l1(self.stepper.net).detach()))
        return row | count_alive(named.values()) | self.stepper.regularizer.left()


def _is_divided(stepper: Stepper) -> bool:
    return stepper.together.size > 1 and stepper.config.scale.strategy == "fsdp"


def _states(stepper: Stepper) -> tuple[dict[str, Any], dict[str, Any]]:
    """State dicts of network and optimizer; whole ones, in the first process, where they are divided."""
    if not _is_divided(stepper):
        return stepper.net.state_dict(), stepper.optimizer.optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    return get_state_dict(
        stepper.net,
        stepper.optimizer.optimizer,
        options=StateDictOptions(full_state_dict=True, cpu_offload=True),
    )


def _load_states(stepper: Stepper, net: dict[str, Any], optimizer: dict[str, Any]) -> None:
    if not _is_divided(stepper):
        stepper.net.load_state_dict(net)
        stepper.optimizer.optimizer.load_state_dict(optimizer)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    set_state_dict(
        stepper.net,
        stepper.optimizer.optimizer,
        model_state_dict=net,
        optim_state_dict=optimizer,
        options=StateDictOptions(full_state_dict=True),
    )
