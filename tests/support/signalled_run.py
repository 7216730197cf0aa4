"""``process_run.py``, in which something happens to the second process in the middle of an epoch.

With STRATEGY ``ddp`` it gets TERM and both exit with 143; with ``nan`` its weights break and both exit with 3.
"""

import os
import signal
import sys

import torch

from rotated_relu.core.errors import DivergedError
from rotated_relu.training import Terminated, fit
from rotated_relu.training.engine.step import Stepper
from support.process_run import IMAGES, config_for

original = Stepper.step


def stepped(self, pieces, progress):
    if (progress.epoch, progress.step) == (2, 1) and self.together.rank == 1:
        EVENTS[sys.argv[3]](self)
    original(self, pieces, progress)


def terminate(stepper):
    os.kill(os.getpid(), signal.SIGTERM)


def break_weights(stepper):
    with torch.no_grad():
        stepper.net.fc1.weight[0, 0] = float("nan")


EVENTS = {"ddp": terminate, "nan": break_weights}

if __name__ == "__main__":
    Stepper.step = stepped
    try:
        fit(config_for(sys.argv[2]), sys.argv[1], images=IMAGES, progress="none", device="cpu")
    except Terminated:
        sys.exit(143)
    except DivergedError as error:
        print(error)
        sys.exit(3)
