"""Latency as a cost: a table of measured times per layer, and what it says about a captured network.

Nothing here measures: :mod:`rotated_relu.deploy.latency` does, and fills the tables.
"""
