"""``process_run.py``, in which the second process gets TERM in the middle of an epoch; both exit with 143."""

import os
import signal
import sys

from process_run import IMAGES, config_for
from rotated_relu.training import Terminated, fit
from rotated_relu.training.stepper import Stepper

original = Stepper.step


def stepped(self, pieces, progress):
    if (progress.epoch, progress.step) == (2, 1) and self.together.rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    original(self, pieces, progress)


if __name__ == "__main__":
    Stepper.step = stepped
    try:
        fit(config_for(sys.argv[2]), sys.argv[1], images=IMAGES, progress="none", device="cpu")
    except Terminated:
        sys.exit(143)
