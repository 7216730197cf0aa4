"""Passes over exported ONNX graphs; each states what it requires and ensures.

``pipelines`` says which run in which order. ``fold_slopes``, ``narrow_channels``, ``slices_to_strides``,
``means_to_pools``, ``constant_images`` and ``slope_notes`` hold a pass each. Narrowing stands on ``patterns`` (which
kinds of operation there are), ``channel_demand`` (which channels are read), ``channel_view`` (the algebra),
``selecting`` and ``editing`` (tensors and nodes); its rules are in ``narrow_rules`` and ``narrow_additions``, what they
share in ``narrowing``.
See docs/writing-passes.md.
"""
