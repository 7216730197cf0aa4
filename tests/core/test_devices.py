"""What ``auto`` stands for."""

import pytest
import torch

from rotated_relu.core.devices import device_type


@pytest.mark.parametrize(
    ("has_cuda", "has_mps", "expected"),
    [(False, False, "cpu"), (True, False, "cuda"), (False, True, "mps"), (True, True, "mps")],
)
def test_what_is_asked_for_else_the_gpu_that_is_there(monkeypatch, has_cuda, has_mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    assert device_type("auto") == expected
    assert [device_type(name) for name in ("cpu", "cuda", "mps")] == ["cpu", "cuda", "mps"]
