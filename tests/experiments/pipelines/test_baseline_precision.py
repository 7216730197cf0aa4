"""A pipeline goes on with its runs although the arithmetic was the machine's choice."""

import dataclasses

import pytest

from rotated_relu.core.errors import RunError
from rotated_relu.core.run_directory import Run, write_json
from rotated_relu.experiments.pipelines.baseline import _check_same
from support.training_data import CONFIG


def test_what_a_run_began_with_is_no_other_setting(tmp_path):
    run = Run.create(tmp_path / "run")
    write_json(run.file("config"), dataclasses.replace(CONFIG, precision="32").to_dict())
    _check_same(run, dataclasses.replace(CONFIG, precision="auto"), "begin anew")
    with pytest.raises(RunError, match=r"other settings \(precision .*\); begin anew"):
        _check_same(run, dataclasses.replace(CONFIG, precision="bf16"), "begin anew")
