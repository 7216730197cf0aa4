"""From a compacted network to an engine: export, graph passes, timing, the choice of what is fastest."""
