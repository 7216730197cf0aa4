"""Networks as other people write them, each a file with a function ``build``; small, for the bundled digits."""

# PyTorch's own example for MNIST: functional activations in the root, dropout, log probabilities.
MNIST_EXAMPLE = """
import torch
import torch.nn as nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self):
        super(Net, self).__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, 1)
        self.conv2 = nn.Conv2d(8, 16, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(2304, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        x = self.conv1(x)
        x = F.relu(x)
        x = self.conv2(x)
        x = F.relu(x)
        x = F.max_pool2d(x, 2)
        x = self.dropout1(x)
        x = torch.flatten(x, 1)
        x = self.fc1(x)
        x = F.relu(x)
        x = self.dropout2(x)
        x = self.fc2(x)
        output = F.log_softmax(x, dim=1)
        return output

def build():
    return Net()
"""

# A residual network in the style of many repositories: functions in blocks and root, a dictionary of outputs.
RESIDUAL_WITH_DICTIONARY = """
import torch.nn as nn
import torch.nn.functional as F

class BasicBlock(nn.Module):
    def __init__(self, in_planes, planes, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)

class ResNet(nn.Module):
    def __init__(self, width, num_classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(BasicBlock(width, width), BasicBlock(width, 2 * width, 2))
        self.linear = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer1(out)
        features = F.avg_pool2d(out, out.size(-1)).flatten(1)
        return {"features": features, "logits": self.linear(features)}

def build(width=8):
    return ResNet(width)
"""

# The Hugging Face library's own ResNet: an object with fields as output, keyword arguments beside the pixels.
HUGGING_FACE = """
from transformers import ResNetConfig, ResNetForImageClassification

def build():
    config = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=10
    )
    return ResNetForImageClassification(config)
"""

# timm's ResNet class with squeeze-excite and SiLU.
TIMM = """
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

def build():
    return ResNet(
        BasicBlock, [1, 1, 1, 1], channels=(8, 8, 16, 16), stem_width=8, in_chans=1, num_classes=10,
        act_layer=nn.SiLU, block_args={"attn_layer": "se"},
    )
"""

CODES = {
    "mnist_example": MNIST_EXAMPLE,
    "residual_with_dictionary": RESIDUAL_WITH_DICTIONARY,
    "hugging_face": HUGGING_FACE,
    "timm_resnet": TIMM,
}
NEEDS = {"hugging_face": "transformers", "timm_resnet": "timm"}
