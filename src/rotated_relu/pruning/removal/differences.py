"""How far two outputs are apart, on a scale that no single entry can set.

The difference of each entry is taken relative to the larger of two sizes: that of the entry itself, and the largest of
the entries of common size. Two kinds of entries are not of common size, and are told by a gap of six decimal orders
in which there is none:

- Masks: illegal actions at -1e9, attention at the lowest number. Relative to them an error of 1 in a score would be
  1e-9, and pass. So what lies above a gap is not common. (Relative to itself it is still compared.)
- Rounding noise: a logarithm of a number that is 1 up to rounding is some 1e-16, right in no digit. So what lies
  under a gap is not common if it is below 1e-10; it is compared on the scale of what lies above.

Why not the median: more than half of a policy's actions may be illegal. Why no scale per entry alone: where positive
and negative terms cancel, an entry near 0 carries the rounding of its terms.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

GAP = 20  # powers of 2 without any entry
NOISE = -33  # power of 2, about 1e-10


def difference(expected: Tensor, found: Tensor, noise: int = NOISE) -> tuple[float, float]:
    """Largest absolute and largest relative difference; NaN and infinity only equal themselves.

    ``noise`` is the power of 2 below which entries may be rounding noise; that of float64 by default.
    """
    if not expected.numel():
        return 0.0, 0.0
    one, other = _real(expected), _real(found)
    same = (one == other) | (one.isnan() & other.isnan())
    gap = (one - other).abs().masked_fill(same, 0.0).nan_to_num(torch.inf, torch.inf)
    sizes = one.abs().nan_to_num(0.0, 0.0, 0.0)
    scale = sizes.clamp(min=common_size(sizes, noise) or 1.0)
    return float(gap.max()), float((gap / scale).max())


def common_size(sizes: Tensor, noise: int = NOISE) -> float:
    """Largest entry of common size; of absolute values that are finite."""
    sizes = sizes[sizes > 0]
    if not sizes.numel():
        return 0.0
    exponents = torch.frexp(sizes).exponent
    present = torch.unique(exponents).tolist()
    tops = [one for one, other in itertools.pairwise(present) if other - one > GAP]
    tops = [top for top in tops if top >= noise] or [present[-1]]
    return float(sizes[exponents <= tops[0]].max())


def mostly_finite(output: Tensor, masked: Tensor | None = None) -> bool:
    """Whether there is something to compare: entries, at least half of them finite.

    Args:
        output: Of a network.
        masked: Entries of one example that do not count, from :func:`constant_infinities`.
    """
    finite = output.isfinite()
    if masked is not None and finite.shape[1:] == masked.shape:
        finite = finite[:, ~masked]
    return finite.numel() > 0 and float(finite.double().mean()) >= 0.5


def constant_infinities(outputs: Sequence[Tensor]) -> Tensor | None:
    """Entries that are the same infinity in every example, whatever the input: a mask by design, and no overflow."""
    first = outputs[0]
    if not first.dim() or not len(first) or not first.is_floating_point():
        return None
    alike = [output for output in outputs if output.shape[1:] == first.shape[1:]]
    return torch.stack([(output.isinf() & (output == first[:1])).all(0) for output in alike]).all(0)


def _real(value: Tensor) -> Tensor:
    return torch.view_as_real(value.to(torch.complex128)) if value.is_complex() else value.double()
