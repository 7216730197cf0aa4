"""torchvision's vision transformer for images of any size; slopes on the GELU of every MLP.

Source: Dosovitskiy et al., *An Image is Worth 16x16 Words*, 2021; rotated GELU as in Nayak and Kalyani, TMLR 2024.
"""

from __future__ import annotations

import torch
from torch import nn

from ...core.extras import needs
from ..rotate import rotate


def vit(
    num_classes: int = 10,
    rotated: bool = True,
    in_channels: int = 3,
    image_size: int = 32,
    patch_size: int = 4,
    layers: int = 12,
    heads: int = 3,
    width: int = 192,
    mlp: int = 768,
    dropout: float = 0.0,
) -> nn.Module:
    """A ``torchvision.models.VisionTransformer``; by default ViT-Ti with patches of 4 pixels, for 32 x 32 images.

    Args:
        num_classes: Number of outputs.
        rotated: Put one slope on every feature of every MLP.
        in_channels: Channels of the images.
        image_size: Height and width of the images; a multiple of ``patch_size``.
        patch_size: Height and width of a patch.
        layers: Encoder blocks.
        heads: Heads of each attention.
        width: Features of a token; a multiple of ``heads``.
        mlp: Hidden features of each MLP.
        dropout: Probability of dropping a value, in the MLPs and after the attentions.
    """
    needs("torchvision")
    from torchvision.models import VisionTransformer

    net = VisionTransformer(
        image_size, patch_size, layers, heads, width, mlp, dropout=dropout, num_classes=num_classes
    )
    if in_channels != 3:
        net.conv_proj = nn.Conv2d(in_channels, width, patch_size, patch_size)
    # torchvision leaves the classifier at 0. Where weights stay as drawn, slopes would get no gradient.
    nn.init.trunc_normal_(net.heads.head.weight, std=0.02)
    return (
        rotate(net, torch.zeros(1, in_channels, image_size, image_size), init="published") if rotated else net
    )
