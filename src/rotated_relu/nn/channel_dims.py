"""Which dimension of a tensor holds the channels: written by layers, followed through what moves dimensions.

:data:`WRITERS` says where a layer writes its channels, :data:`MOVES` where an operation puts a dimension. Any other
operation keeps the channels where they are if the dimension keeps its size, as pools, upsampling and elementwise
functions do; else nothing is known behind it. A gate that no layer writes to may still be read by one
(:func:`read_as`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from torch import Tensor

from ..graph.einsum import dimension_names
from .recording import Call, Value

_CONVS = frozenset(f"conv{kind}{dims}d" for kind in ("", "_transpose") for dims in (1, 2, 3))
_NORMS = frozenset(["batch_norm", "group_norm", "instance_norm"])
_LAST = frozenset(
    "linear bilinear embedding multi_head_attention_forward lstm gru rnn_tanh rnn_relu addmm layer_norm "
    "rms_norm".split()
)
_PRODUCTS = frozenset(["matmul", "mm", "bmm"])
# The channels stay along their dimension even if it changes size.
_RESIZED = frozenset(
    "cat concat concatenate glu pixel_shuffle pixel_unshuffle chunk split tensor_split split_with_sizes narrow pad "
    "index_select roll flip".split()
)
_RESHAPES = frozenset(
    "view reshape flatten unflatten squeeze unsqueeze view_as reshape_as ravel contiguous clone".split()
)
_REDUCTIONS = frozenset(
    "sum mean nanmean amax amin max min var std norm vector_norm logsumexp prod median argmax argmin".split()
)


def place_channels(call: Call) -> None:
    """Note where the channels of a call's results are; told of every call in order."""
    for output in call.outputs:
        output.dim = _written(call, output)
        if output.dim is None:
            dims = (moved(call, value, value.dim, output) for value in call.inputs if value.dim is not None)
            output.dim = next((dim for dim in dims if dim is not None), None)


def _written(call: Call, output: Value) -> int | None:
    rank = len(output.shape)
    if call.name in _CONVS:
        return 1 if rank == _conv_rank(call) else 0
    if call.name in _NORMS and rank > 1:
        return 1
    if call.name in ("layer_norm", "rms_norm"):
        shape = argument(call, 1, "normalized_shape", ())
        return -1 if not isinstance(shape, (tuple, list)) or len(shape) == 1 else None
    if call.name in _LAST and rank > 0:
        return -1
    if call.name in _PRODUCTS and len(call.args) > 1:
        first, second = call.args[:2]
        if isinstance(first, Value) and isinstance(second, Tensor):
            return -1
        return -2 if isinstance(first, Tensor) and rank > 1 else None
    if call.name == "einsum":
        return _einsum_written(call)
    return None


def _conv_rank(call: Call) -> int:
    """Rank of a batched input of a convolution."""
    return int(call.name[-2]) + 2


def reads(call: Call, value: Value, dim: int) -> bool:
    """Whether a call is a layer that reads channels along this dimension of a value."""
    rank = len(value.shape)
    if not call.args or call.args[0] is not value:
        return False
    if call.name in _CONVS:
        return dim % rank == (1 if rank == _conv_rank(call) else 0)
    if call.name in _NORMS:
        return dim % rank == 1
    if call.name in _PRODUCTS:
        return dim % rank == rank - 1 and len(call.args) > 1 and isinstance(call.args[1], Tensor)
    return call.name in _LAST and dim % rank == rank - 1


def read_as(value: Value, limit: int = 300) -> list[int]:
    """Dimensions of a value that layers read as channels, following it through everything else."""
    rank = len(value.shape)
    if rank < 2:
        return list(range(rank))
    return [dim for dim in range(1, rank) if _reaches_reader(value, dim, limit)]


def _reaches_reader(value: Value, dim: int, limit: int) -> bool:
    waiting, seen = [(value, dim)], {(value, dim)}
    while waiting and len(seen) < limit:
        source, place = waiting.pop(0)
        for user in source.users:
            if reads(user, source, place):
                return True
            if user.outputs and _written(user, user.outputs[0]) is not None:
                continue
            for output in user.outputs:
                after = moved(user, source, place, output)
                if after is not None and (output, after) not in seen:
                    seen.add((output, after))
                    waiting.append((output, after))
    return False


def moved(call: Call, value: Value, dim: int, output: Value) -> int | None:
    """Dimension of a call's result that holds what ``dim`` of an argument held; None if it is not known."""
    rank, name = len(value.shape), call.name
    if not -rank <= dim < rank:
        return None
    if call.args and call.args[0] is value and name in MOVES:
        return MOVES[name](call, dim % rank, value.shape, output.shape)
    if call.args and call.args[0] is value and name in _RESHAPES:
        return _kept(dim, reshaped(value.shape, output.shape, dim % rank), rank, len(output.shape))
    if call.args and call.args[0] is value and name in _REDUCTIONS and len(output.shape) != rank:
        return _reduced(call, dim % rank, rank, len(output.shape))
    if name == "scaled_dot_product_attention":
        return dim if len(call.args) > 2 and call.args[2] is value else None
    if name in _PRODUCTS:
        # Attention: the product keeps rows of its first and columns of its second factor.
        second = len(call.args) > 1 and call.args[1] is value
        return dim if dim % rank == (rank - 1 if second else rank - 2) and rank == len(output.shape) else None
    if name == "einsum":
        return _einsum_moved(call, value, dim % rank)
    if name in _RESIZED and rank == len(output.shape):
        return dim
    return _broadcast(dim, value.shape, output.shape)


def _broadcast(dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    place = dim if dim < 0 else dim + len(after) - len(before)
    rank = len(after)
    same = -rank <= place < rank and place % rank >= 0 and after[place] == before[dim]
    return place if same else None


def _kept(dim: int, after: int | None, rank: int, rank_after: int) -> int | None:
    """The last dimension is counted from the end if it was before."""
    return -1 if after is not None and dim < 0 and after == rank_after - 1 else after


def reshaped(before: tuple[int, ...], after: tuple[int, ...], dim: int) -> int | None:
    """Where a dimension is after a change of shape that keeps the order of the entries.

    Merged with others it is where they are, so that each entry is a channel of its own. Split into several, the
    innermost part stands for it.
    """
    size, inner = before[dim], prod(before[dim + 1 :])
    for place in range(len(after)):
        behind = prod(after[place + 1 :])
        if behind == inner and after[place] == size:
            return place
    for place in range(len(after)):
        behind = prod(after[place + 1 :])
        if behind <= inner and behind * after[place] >= inner * size and after[place] > 1:
            return place
    for place in reversed(range(len(after))):
        if prod(after[place + 1 :]) == inner and after[place] > 1 and size % after[place] == 0:
            return place
    return None


# --- what moves dimensions -----------------------------------------------------------------------------------------

Move = Callable[[Call, int, tuple[int, ...], tuple[int, ...]], int | None]


def argument(call: Call, position: int, name: str, default: Any = None) -> Any:
    """An argument by position or name."""
    return call.args[position] if len(call.args) > position else call.kwargs.get(name, default)


def _swapped(first: int, second: int, dim: int, rank: int) -> int:
    first, second = first % rank, second % rank
    return second if dim == first else first if dim == second else dim


def _transpose(call: Call, dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    first = argument(call, 1, "dim0", call.kwargs.get("axis0"))
    second = argument(call, 2, "dim1", call.kwargs.get("axis1"))
    return _swapped(first, second, dim, len(before))


def _last_two(call: Call, dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    return _swapped(-1, -2, dim, len(before)) if len(before) > 1 else dim


def _reversed(call: Call, dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    return len(before) - 1 - dim


def _permute(call: Call, dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    dims = argument(call, 1, "dims")
    order = list(call.args[1:]) if isinstance(dims, int) else list(dims)
    return [place % len(before) for place in order].index(dim)


def _movedim(call: Call, dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    rank = len(before)
    source, target = argument(call, 1, "source"), argument(call, 2, "destination")
    sources = [place % rank for place in ([source] if isinstance(source, int) else source)]
    targets = [place % rank for place in ([target] if isinstance(target, int) else target)]
    rest = iter(place for place in range(rank) if place not in sources)
    order = [sources[targets.index(place)] if place in targets else next(rest) for place in range(rank)]
    return order.index(dim)


def _removed(call: Call, dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    """select and unbind."""
    gone = argument(call, 1, "dim", 0) % len(before)
    return None if dim == gone else dim - (dim > gone)


def _indexed(call: Call, dim: int, before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    if not all(
        item is None or item is Ellipsis or type(item) is int or isinstance(item, slice) for item in index
    ):
        return dim if len(before) == len(after) and before[dim] == after[dim] else None
    given = sum(item is not None and item is not Ellipsis for item in index)
    position = at = 0
    for item in [*index, *([] if Ellipsis in index else [Ellipsis])]:
        if item is None:
            at += 1
        elif item is Ellipsis:
            skipped = len(before) - given
            if position <= dim < position + skipped:
                return at + dim - position
            position, at = position + skipped, at + skipped
        else:
            if dim == position:
                return None if type(item) is int else at
            position, at = position + 1, at + (type(item) is not int)
    return None


MOVES: dict[str, Move] = {
    "transpose": _transpose, "swapaxes": _transpose, "swapdims": _transpose,
    "t": _reversed, "T": _reversed, "mT": _last_two, "H": _last_two, "mH": _last_two, "adjoint": _last_two,
    "permute": _permute, "movedim": _movedim, "moveaxis": _movedim,
    "select": _removed, "unbind": _removed, "getitem": _indexed,
}  # fmt: skip


def _reduced(call: Call, dim: int, rank: int, rank_after: int) -> int | None:
    dims = argument(call, 1, "dim", call.kwargs.get("axis"))
    gone = [dims] if isinstance(dims, int) else list(dims) if isinstance(dims, (tuple, list)) else None
    if gone is None or rank_after != rank - len(gone):
        return None
    gone = [place % rank for place in gone]
    return None if dim in gone else dim - sum(place < dim for place in gone)


def _named_dims(call: Call) -> tuple[list[Any], list[list[str]]] | None:
    """Operands of an einsum, and the name of each of their dimensions and of the result's."""
    equation = call.args[0] if call.args else None
    operands = (
        call.args[1] if len(call.args) == 2 and isinstance(call.args[1], (list, tuple)) else call.args[1:]
    )
    if not isinstance(equation, str) or not all(isinstance(operand, (Value, Tensor)) for operand in operands):
        return None
    names = dimension_names(equation, [len(operand.shape) for operand in operands])
    return None if names is None else (list(operands), names)


def _einsum_written(call: Call) -> int | None:
    """A parameter's letters that no other operand has are what it writes."""
    found = _named_dims(call)
    if found is None:
        return None
    operands, (*terms, right) = found
    pairs = zip(terms, operands, strict=True)
    data = {name for term, operand in pairs if isinstance(operand, Value) for name in term}
    written = [name for name in right if name not in data]
    return _from_end(right, written[-1]) if written else None


def _einsum_moved(call: Call, value: Value, dim: int) -> int | None:
    found = _named_dims(call)
    if found is None:
        return None
    operands, (*terms, right) = found
    name = next(term[dim] for term, operand in zip(terms, operands, strict=True) if operand is value)
    return _from_end(right, name) if name in right else None


def _from_end(names: list[str], name: str) -> int:
    """Behind an ellipsis a dimension is counted from the end, since what is before may grow."""
    place = names.index(name)
    return place - len(names) if any(other.startswith("...") for other in names[:place]) else place
