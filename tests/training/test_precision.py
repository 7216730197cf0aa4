"""The arithmetic of a training that asks for none."""

import dataclasses

import pytest
import torch

from rotated_relu.core.run_directory import read_json
from rotated_relu.training import Config, fit, precision
from rotated_relu.training.precision import native_precision, with_precision
from support.training_data import CONFIG, IMAGES


@pytest.mark.parametrize(("has_it", "expected"), [(True, "bf16"), (False, "32")])
def test_a_processor_gets_what_it_computes_in(monkeypatch, has_it, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: has_it)
    assert native_precision("auto") == native_precision("cpu") == expected


@pytest.mark.parametrize(("has_it", "expected"), [(True, "bf16"), (False, "fp16")])
def test_so_does_a_gpu(monkeypatch, has_it, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_it)
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: False)
    assert native_precision("auto") == native_precision("cuda") == expected
    assert native_precision("cpu") == "32"


def test_on_apples_gpu_it_is_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: True)
    assert native_precision("auto") == native_precision("mps") == "32"


def test_what_is_asked_for_stays(monkeypatch):
    monkeypatch.setattr(precision, "native_precision", lambda device: pytest.fail("looked"))
    for asked in ("bf16", "fp16", "32", "64"):
        config = Config(precision=asked)
        assert with_precision(config, "auto") is config


def test_a_run_says_what_it_got_and_keeps_it_on_another_machine(monkeypatch, tmp_path):
    asked = dataclasses.replace(CONFIG, precision="auto", epochs=1)
    monkeypatch.setattr(precision, "native_precision", lambda device: "32")
    assert fit(asked, tmp_path / "run", images=IMAGES, progress="none").config.precision == "32"
    assert read_json(tmp_path / "run" / "config.json")["precision"] == "32"
    monkeypatch.setattr(precision, "native_precision", lambda device: "bf16")
    assert fit(asked, tmp_path / "run", images=IMAGES, progress="none").config.precision == "32"
