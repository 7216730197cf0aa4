"""One captured network and what follows from it: liveness, channel groups, layers that can be cut."""
