"""Networks of other people's files, from weights to a page, with one command each on a bundled set."""

import json
import sys

import pytest
import torch

from support.command_line import call
from support.owners_network import built, train_quickly
from support.third_party import CODES, NEEDS


@pytest.mark.slow
@pytest.mark.parametrize("name", CODES)
def test_the_whole_path_in_one_command(name, capsys, tmp_path, monkeypatch):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    (tmp_path / f"{name}.py").write_text(CODES[name], encoding="utf-8")
    net = train_quickly(built(CODES[name]), epochs=4, lr=2e-3)
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    monkeypatch.chdir(tmp_path)
    code, out, error = call(
        capsys, "shrink", "--model", f"{name}.py:build", "--weights", "weights.pt", "--data", "mnist5k",
        "--keep-macs", "0.6", "--epochs", "4", "--precision", "32", "--out", "run", "--progress", "none",
    )  # fmt: skip
    sys.modules.pop(name, None)
    assert code == 0, error
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["macs_kept"] <= 0.6
    assert summary["certificate_max_relative_difference"] <= 1e-9
    assert summary["original_test_accuracy"] > 60
    assert summary["shrunk_test_accuracy"] > summary["original_test_accuracy"] - 10
    for file in ("compact.safetensors", "compact.onnx", "classify.py", "report.html"):
        assert f"run/{file}" in out or (tmp_path / "run" / file).exists()
    assert "no result yet" not in (tmp_path / "run" / "report.html").read_text()
