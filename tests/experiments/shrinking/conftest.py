"""What the tests of shrinking share: somebody's network, and a quick measurement."""

import sys

import pytest

from rotated_relu.experiments.shrinking import delivery
from rotated_relu.experiments.shrinking.settings import Shrinking
from rotated_relu.training.brought import trust as trusted
from support.owners_network import write_owner


@pytest.fixture(scope="session")
def owner(tmp_path_factory):
    """A file of code and a file of weights, as somebody has them."""
    yield write_owner(tmp_path_factory.mktemp("owner"))
    sys.modules.pop("owners_net", None)


@pytest.fixture(scope="session")
def wanted(owner):
    """Makes settings of a shrinking of that network, with some of them changed."""

    def make(**changes):
        made = {"model": f"{owner}/owners_net.py:build", "weights": f"{owner}/net.pth", "data": "mnist5k"}
        return Shrinking(**{**made, "keep": 0.5, "epochs": 2, "precision": "32", **changes})

    return make


@pytest.fixture(scope="session", autouse=True)
def quick_measurements():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery, "ROUNDS", 1)
        patch.setattr(delivery, "BATCH_SIZES", (1,))
        yield


@pytest.fixture(autouse=True)
def nothing_trusted(monkeypatch):
    monkeypatch.setattr(trusted, "_named", set())
