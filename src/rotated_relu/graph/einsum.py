"""The notation of ``torch.einsum``: which dimensions of operands and result are the same one."""

from __future__ import annotations

from collections.abc import Sequence


def dimension_names(equation: str, ranks: Sequence[int]) -> list[list[str]] | None:
    """One name for each dimension of each operand, and of the result, which comes last.

    A name is a letter, or counts the dimensions of an ellipsis from its end. None if the equation takes a diagonal, or
    is not for that many operands.

    Args:
        equation: As ``torch.einsum`` takes it.
        ranks: Number of dimensions of each operand.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        return None
    named = [_named(term, rank) for term, rank in zip(terms, ranks, strict=True)]
    longest = max((sum(name.startswith("...") for name in names) for names in named), default=0)
    if not arrow:  # by default an ellipsis, then the letters that stand once, in alphabetical order
        letters = left.replace(".", "").replace(",", "")
        right = "..." * ("..." in left) + "".join(
            sorted(letter for letter in set(letters) if letters.count(letter) == 1)
        )
    named.append(_named(right, longest + len(right.replace(".", ""))))
    return named if all(len(set(names)) == len(names) for names in named) else None


def _named(term: str, rank: int) -> list[str]:
    before, dots, after = term.partition("...")
    skipped = rank - len(before) - len(after) if dots else 0
    return [*before, *(f"...{place}" for place in range(skipped, 0, -1)), *after]
