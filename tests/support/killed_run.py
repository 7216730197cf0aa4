"""``python killed_run.py RUN POINT``: train the small run into RUN, and be killed by SIGKILL at POINT.

POINT is ``never``, or where: ``step-E-S`` (before that step), ``saving-N`` (the N-th checkpoint half-written),
``renaming-N`` (between its two renames), ``logged-E`` (that epoch's numbers written, its checkpoint not),
``validating-E``.
"""

import os
import signal
import sys

import torch

torch.set_num_threads(1)

from rotated_relu.training import fit  # noqa: E402
from rotated_relu.training.engine import checkpoints  # noqa: E402
from rotated_relu.training.engine.logs import Table  # noqa: E402
from rotated_relu.training.engine.step import Stepper  # noqa: E402
from support.training_data import IMAGES, RICH  # noqa: E402


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_step(epoch, step):
    original = Stepper.step

    def stepped(self, pieces, progress):
        if (progress.epoch, progress.step) == (int(epoch), int(step)):
            die()
        original(self, pieces, progress)

    Stepper.step = stepped


def kill_saving(number):
    original, calls = torch.save, []

    def save(state, file):
        calls.append(file)
        original(state, file)
        if len(calls) == int(number):
            file.truncate(1000)
            die()

    checkpoints.torch.save = save


def kill_renaming(number):
    original, calls = os.replace, []

    def replace(source, target):
        original(source, target)
        calls.append(target) if str(target).endswith("previous.ckpt") else None
        if len(calls) == int(number):
            die()

    checkpoints.os.replace = replace


def kill_logged(epoch):
    original = Table.epoch

    def written(self, progress, slopes):
        original(self, progress, slopes)
        if progress.epoch == int(epoch) + 1:
            die()

    Table.epoch = written


def kill_validating(epoch):
    original = Stepper.validate

    def validate(self, split, interrupted):
        calls.append(split)
        if len(calls) == int(epoch) + 1:
            die()
        return original(self, split, interrupted)

    calls = []
    Stepper.validate = validate


KILLERS = {
    "step": kill_at_step,
    "saving": kill_saving,
    "renaming": kill_renaming,
    "logged": kill_logged,
    "validating": kill_validating,
}

if __name__ == "__main__":
    run, point = sys.argv[1:]
    kind, *arguments = point.split("-")
    if kind != "never":
        KILLERS[kind](*arguments)
    fit(RICH, run, images=IMAGES, progress="none", device="cpu")
