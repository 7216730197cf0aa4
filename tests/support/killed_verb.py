"""``python killed_verb.py VERB ...``: the command line, which says when it begins: to be killed while it works."""

import sys

import torch

torch.set_num_threads(1)

from rotated_relu import cli  # noqa: E402

if __name__ == "__main__":
    print("begun", flush=True)
    cli.main(sys.argv[1:])
