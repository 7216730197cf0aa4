"""One rule per operation: which channels of its arguments and results are the same channel, and which have to stay.

An operation that works for any width merges: position i of the input is position i of the output (``relu``, ``add``,
``cat``, pooling). One with a width written into it fixes (``view(n, 64)``, a pad along channels). Convolutions and
linear layers do neither along their channels: they read some and write others, and may read or write any subset.
"""
