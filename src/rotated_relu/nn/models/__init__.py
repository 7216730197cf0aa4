"""The paper's networks, with their published parameter counts, and torchvision's by name."""

from .blocks import ChannelPadShortcut
from .demo import demo_resnet
from .fcnn import FullyConnected, fcnn
from .preact import PreActResNet, preact_resnet110, preact_resnet164
from .registry import create, names
from .resnet import CifarResNet, resnet20, resnet32, resnet44, resnet56, resnet110
from .vit import vit
from .wide import WideResNet, wrn_16_4, wrn_28_10, wrn_40_4

__all__ = [
    "ChannelPadShortcut",
    "CifarResNet",
    "FullyConnected",
    "PreActResNet",
    "WideResNet",
    "create",
    "demo_resnet",
    "fcnn",
    "names",
    "preact_resnet110",
    "preact_resnet164",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "vit",
    "wrn_16_4",
    "wrn_28_10",
    "wrn_40_4",
]
