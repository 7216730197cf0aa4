"""Measure layers in an engine, and fill the latency tables of :mod:`rotated_relu.pruning.latency`.

From the outside in: :mod:`.calibrate` (a network's table, cached and resumable), :mod:`.widths` (which widths are
measured), :mod:`.measuring` (the time of one operation, from the times of graphs), :mod:`.graphs` and :mod:`.modules`
(those graphs, for engines of either kind), :mod:`.store` (where times are kept); :mod:`.whole` and :mod:`.anchoring`
(whole networks, by which the times of their layers are corrected).
"""
