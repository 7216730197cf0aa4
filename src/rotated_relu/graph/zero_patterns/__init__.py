"""One handler per operation: how zero patterns pass through it.

A pattern has the shape of the tensor it stands for; an entry is 0 where the tensor is certainly zero and positive
where it may be non-zero. Patterns are non-negative, so sums never cancel and most linear operations run *as
themselves*. Each handler is written with differentiable torch code: the gradient of the result with respect to an
argument is zero exactly where the argument cannot influence the result, because a product ``a * b`` passes to ``a``
the pattern of ``b``.
"""
