"""What every test starts from: random numbers of its own, and helpers that programs it starts find too."""

import os
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = str(Path(__file__).parent)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))


def seed_by(name):
    """The same numbers whatever runs before, in whichever process: a failure can be seen again."""
    seed = zlib.crc32(name.encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def pytest_collectstart(collector):
    if isinstance(collector, pytest.Module):
        seed_by(collector.nodeid)  # for what the module draws while it is imported


@pytest.fixture(autouse=True)
def seeded(request):
    seed_by(request.node.nodeid)
