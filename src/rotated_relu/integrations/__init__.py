"""The slope penalty in other people's training loops; each file needs its own package, and nobody imports it for you.

``from rotated_relu.integrations.lightning import SlopePenalty`` (or ``.huggingface``, ``.criterion``). See
docs/your-own-loop.md.
"""
