"""What was made from weights that have just been replaced goes, and the user is told.

Requires: the new weights in their place, whole. Ensures: nothing in the run tells of the former ones.
"""

from __future__ import annotations

from ...core.errors import RunError
from ...core.messages import Say
from ...core.run_directory import Run, write_json
from .evaluate import kept_accuracies


def retire(run: Run, written: str, say: Say) -> None:
    """Delete what was made from the weights that ``written`` has just replaced, and say what that was.

    Args:
        run: The run.
        written: ``compact`` or ``finetuned``.
        say: Called with the names of what is deleted.

    Raises:
        RunError: If something cannot be deleted; the new weights are in place.
    """
    _forget_accuracies(run, {written, "finetuned"})
    retired = run.retire(written)
    if retired:
        say(f"deleted, as made from the former network: {', '.join(retired)}")


def _forget_accuracies(run: Run, outdated: set[str]) -> None:
    """Those of other weights stay; a file that cannot be read tells nothing and goes."""
    try:
        known = kept_accuracies(run)
        left = {key: known[key] for key in known if key not in outdated}
    except (RunError, TypeError):
        run.discard("evaluation")
        return
    if len(left) < len(known):
        write_json(run.file("evaluation"), left)
