"""The slope penalty and the budget in other people's training loops; nobody imports these files for you.

Each needs its own package: ``from rotated_relu.integrations.lightning import SlopePenalty`` (or ``.huggingface``,
``.criterion``). See docs/your-own-loop.md.
"""
