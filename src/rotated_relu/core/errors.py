"""Every exception and warning of the package, and the wording of "unknown name" errors.

All exceptions descend from :class:`RotatedReLUError`; each message says what is wrong, where, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RotatedReLUError(Exception):
    """Root of all exceptions that this package raises on purpose."""


class ArgumentError(RotatedReLUError, TypeError, ValueError):
    """A function was given something of another kind, such as a string for a network, or out of range."""


class GateError(RotatedReLUError, ValueError):
    """The activation cannot be rotated, for example because gate(0) is not 0."""


class ShapeError(RotatedReLUError, ValueError):
    """A tensor has the wrong shape, dtype or device for the module that received it."""


class SlopeError(RotatedReLUError, ValueError):
    """Slopes are missing, not finite, or all under the threshold."""


class RotationError(RotatedReLUError):
    """Slopes cannot be put into this model; the message names the call sites."""


class CopyError(RotatedReLUError):
    """A network cannot be copied; the message names the attribute."""


class CaptureError(RotatedReLUError):
    """The model cannot be captured as a graph; the message names operation and module where known."""


class CompactionError(RotatedReLUError):
    """The dead channels could not be removed; the input model was left untouched."""


class CertificateError(CompactionError):
    """The compacted network does not compute what the masked original computes.

    Attributes:
        module: Qualified name of the module where it was noticed, or None.
    """

    def __init__(self, message: str, module: str | None = None) -> None:
        super().__init__(message)
        self.module = module


class PlanError(RotatedReLUError):
    """A compaction plan does not fit the model it is applied to; the message names the first difference."""


class OperationError(RotatedReLUError, ValueError):
    """An operation cannot be registered: it cannot be named, or its rules are missing."""


class FileFormatError(RotatedReLUError):
    """A file is truncated, corrupt, or not one of ours."""


class ThresholdError(RotatedReLUError):
    """No threshold satisfies what was asked for."""


class UnknownNameError(RotatedReLUError, KeyError):
    """A recipe, model, dataset or option name that does not exist; suggests the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name if isinstance(name, str) else "", names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(names)}"
        given = repr(name) if isinstance(name, str) else f"of type {type(name).__name__}"
        self.message = f"unknown {kind} {given}: {hint}"
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class DataError(RotatedReLUError):
    """A dataset cannot be found, read or split."""


class DivergedError(RotatedReLUError):
    """The training loss became NaN or infinite; the last good checkpoint was kept."""


class RunError(RotatedReLUError):
    """A run directory is missing a file, unwritable, full, or belongs to something else."""


class ExportError(RotatedReLUError):
    """The exported file does not compute what the network computes, or cannot be written."""


class LatencyError(RotatedReLUError):
    """A latency table lacks what is asked of it, or holds no times; says which layer and what to do."""


class AttackError(RotatedReLUError):
    """A network cannot be attacked: a setting or the network's scores make no sense."""


class CompilerError(RotatedReLUError):
    """``torch.compile`` does not work on this machine; says what is missing."""


class MissingPackageError(RotatedReLUError, ImportError):
    """An optional package is not installed; names the extra that brings it."""


class RotatedReLUWarning(UserWarning):
    """Root of all warnings of this package."""


class NothingRotatedWarning(RotatedReLUWarning):
    """The model has no activation that could carry slopes."""


class PlainActivationsWarning(RotatedReLUWarning):
    """Some activations got slopes and others, which the message names, cannot."""


class NothingRemovedWarning(RotatedReLUWarning):
    """Compaction found nothing to remove."""


class RuleFailedWarning(RotatedReLUWarning):
    """The rule of an operation failed; the operation was treated as one without a rule: exact, but less sharp."""


class CheckpointWarning(RotatedReLUWarning):
    """A checkpoint could not be read; the run goes on from the one before."""


class FastFormUndoneWarning(RotatedReLUWarning):
    """The network was put back into its plain form, because it was about to be rebuilt."""
