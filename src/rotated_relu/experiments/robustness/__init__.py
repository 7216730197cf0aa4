"""How easily a network is misled: FGSM, PGD and the empirical local Lipschitz constant, under L-infinity.

Requires: a network that takes normalised images, and the mean and standard deviation that they were normalised with.
Ensures: attacks see pixels in [0, 1]; the network is in eval mode meanwhile and its parameters get no gradients.
"""

from .gradient_sign import fgsm, library, pgd
from .lipschitz import local_lipschitz
from .pixels import OnPixels
from .robustness import AttackSettings, Robustness, choose_images, passes, robustness

__all__ = [
    "AttackSettings",
    "OnPixels",
    "Robustness",
    "choose_images",
    "fgsm",
    "library",
    "local_lipschitz",
    "passes",
    "pgd",
    "robustness",
]
