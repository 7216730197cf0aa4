"""``python -m rotated_relu.cli``: the same as ``rotated-relu``."""

from . import main

main()
