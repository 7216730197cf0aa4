"""By what channels are chosen to go: units of cost, names of scores, and one choice as plain data; no torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Unit = Literal["macs", "parameters", "channels", "latency"]
ScoreName = Literal["slope", "consumer", "taylor"]
TrainingScore = Literal["taylor", "slope"]  # those that cost no pass of their own in training
UNITS: tuple[Unit, ...] = get_args(Unit)
COUNTED_UNITS = UNITS[:3]  # those that need nothing but the network; latency needs a table
SCORES: tuple[ScoreName, ...] = get_args(ScoreName)
TRAINING_SCORES: tuple[TrainingScore, ...] = get_args(TrainingScore)
UNIT_LABELS = {"macs": "MACs", "parameters": "parameters", "channels": "channels", "latency": "milliseconds"}
SCORE_LABELS = {"slope": "|slope|", "consumer": "|slope| times the consumers' norm", "taylor": "Taylor score"}


@dataclass(frozen=True)
class Criterion:
    """How it came about which channels go; recorded in plans, results and reports.

    Attributes:
        score: What ranked the channels: one of ``SCORES``, or a name of the caller's; empty if a mask was given.
        per: Unit by whose saving the score was divided, one of ``UNITS``; empty if it was not.
        threshold: Channels whose score is below it go, and those whose slope is 0; None if no threshold was used.
        keep: Shares of the units that a budget allowed, 0 to 1; empty without a budget.
    """

    score: str = ""
    per: str = ""
    threshold: float | None = None
    keep: dict[str, float] = field(default_factory=dict)

    @property
    def by_slope(self) -> bool:
        """Whether the threshold is the paper's zeta: in units of slope, so that a histogram of slopes can show it."""
        return self.score == "slope" and not self.per and self.threshold is not None

    @property
    def score_label(self) -> str:
        """The score in words, with what it is divided by."""
        label = SCORE_LABELS.get(self.score, f"score '{self.score}'" if self.score else "")
        return f"{label} per {UNIT_LABELS.get(self.per, self.per).removesuffix('s')}" if self.per else label

    def describe(self) -> str:
        """The criterion in words, such as ``|slope| below 0.03``."""
        if self.by_slope and self.threshold == 0:
            return "slopes that are exactly 0"
        budget = " and ".join(
            f"{share:g} of the {UNIT_LABELS.get(unit, unit)}" for unit, share in self.keep.items()
        )
        if self.threshold is not None:
            return f"{self.score_label} below {self.threshold:.3g}" + (
                f", to keep {budget}" if budget else ""
            )
        if self.score:
            return f"lowest {self.score_label}" + (f", to keep {budget}" if budget else "")
        return "a mask that was given"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)
