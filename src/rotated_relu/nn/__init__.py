"""Slopes in a network: the activation, how it gets in, the penalty, folding for speed, the paper's networks."""
