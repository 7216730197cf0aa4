"""A network of somebody's own file with weights of their own, as ``rotated-relu shrink`` gets it."""

import torch
from torch import nn

CODE = '''
import torch.nn.functional as F
from torch import nn

class Root(nn.Module):
    """Functional activations in the root, and a dictionary of outputs."""

    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Linear(784, width), nn.Linear(width, width)
        self.last = nn.Linear(width, 10)

    def forward(self, x):
        return {"logits": self.last(F.relu(self.second(F.relu(self.first(x.flatten(1))))))}

def build(width=16):
    return Root(width)
'''


def write_owner(folder):
    """``owners_net.py`` with a function ``build``, and ``net.pth``, trained for one epoch."""
    (folder / "owners_net.py").write_text(CODE)
    net = train_quickly(built(CODE))
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, folder / "net.pth")
    return folder


def built(code, **options):
    """What ``build`` of some code returns."""
    scope = {"__name__": "owners"}
    exec(code, scope)
    torch.manual_seed(0)
    return scope["build"](**options)


def train_quickly(net, epochs=1, lr=5e-3):
    """One pass over the bundled digits."""
    from rotated_relu.training.data.load import load_images
    from rotated_relu.training.outputs import class_scores

    images = load_images("mnist5k").train
    optimizer = torch.optim.Adam(net.parameters(), lr)
    net.train()
    for _ in range(epochs):
        for indices in torch.randperm(len(images)).split(128):
            optimizer.zero_grad()
            scores = class_scores(net(images.normalised(indices)))
            nn.functional.cross_entropy(scores, images.labels[indices]).backward()
            optimizer.step()
    return net.eval()
