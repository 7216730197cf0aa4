"""What every test starts from: random numbers of its own, and helpers that programs it starts find too."""

import copy
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


def pytest_collection_modifyitems(items):
    """Files with slow tests first: at the end no worker is left alone with one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def seeded(request):
    seed_by(request.node.nodeid)


@pytest.fixture(autouse=True, scope="session")
def operators_listed_once():
    """``torch.onnx.export`` lists all ONNX operators anew each time: half of what a small network takes."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # another release of torch: exports take longer
        yield
        return
    listed, original = {}, ONNXRegistry.from_torchlib

    def from_torchlib(*args, **options):
        key = (*args, *options.items())
        if key not in listed:
            listed[key] = original(*args, **options)
        found = copy.copy(listed[key])
        found.functions = {target: [*metas] for target, metas in found.functions.items()}
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(from_torchlib))
        yield
