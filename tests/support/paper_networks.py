"""Layer lists of the paper's networks for :func:`paper_count`, derived from their architecture alone.

Each function returns the layers and the full widths of the activations, ordered like the alive lists that
the paper publishes: what the stem feeds, then each activation by depth, then the classes.
"""

from __future__ import annotations

from rotated_relu.core.errors import ShapeError
from rotated_relu.experiments.paper.count import PaperLayer

Layers = tuple[list[PaperLayer], list[int]]


def fcnn_layers(inputs: int = 784, hidden: int = 500, num_classes: int = 10) -> Layers:
    """FCNN with one hidden layer. Alive list: hidden, classes."""
    layers = [
        PaperLayer("fc1", 1, 1, inputs, hidden, (), 0),
        PaperLayer("fc2", 1, 1, hidden, num_classes, (0,), 1),
    ]
    return layers, [hidden, num_classes]


def cifar_resnet_layers(depth: int, num_classes: int = 10, size: int = 32) -> Layers:
    """Post-activation CIFAR ResNet of depth 6n + 2, option-A shortcuts (which have no weights).

    Alive list: stem, two per block (the second after the addition), classes.
    """
    blocks = _blocks_per_stage(depth, 2, 6)
    widths = [16, *(16 * 2**stage for stage in range(3) for _ in range(2 * blocks)), num_classes]
    return _chain(widths, 2 * blocks, size, stream=False), widths


def wrn_layers(
    depth: int, width: int, num_classes: int = 10, size: int = 32, shortcuts: bool = True
) -> Layers:
    """Wide ResNet WRN-depth-width of depth 6n + 4, pre-activation.

    Alive list: the first activation of the first block (which the stem feeds), then every activation, the
    last one being the plain one before the classifier, then the classes.

    Args:
        depth: 6n + 4.
        width: Widening factor k.
        num_classes: Classes.
        size: Height and width of the input image.
        shortcuts: Whether to count the three 1x1 shortcut convolutions. They read the block's first
            activation and write into the residual stream.
    """
    blocks = _blocks_per_stage(depth, 4, 6)
    widths = [16, *(16 * width * 2**stage for stage in range(3) for _ in range(2 * blocks)), num_classes]
    layers = _chain(widths, 2 * blocks, size, stream=True)
    if shortcuts:
        for stage in range(3):
            first = 2 * blocks * stage  # index of the first activation of the stage's first block
            layers.append(
                PaperLayer(
                    f"stage{stage + 1}.shortcut",
                    1,
                    (size // 2**stage) ** 2,
                    widths[first],
                    widths[first + 2],
                    (first,),
                    first + 2,
                    writes_stream=True,
                )
            )
    return layers, widths


def resnet50_layers(num_classes: int = 1000, size: int = 224) -> Layers:
    """ResNet-50 for ImageNet, 1x1 projection shortcuts, stride in the 3x3 convolution (as in torchvision).

    Alive list: stem, three per block (the third after the addition), classes.
    """
    widths, layers = [64], [PaperLayer("stem", 49, (size // 2) ** 2, 3, 64, (), 0)]
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner, output = 64 * 2**stage, 256 * 2**stage
        for block in range(blocks):
            last, positions = len(widths) - 1, (size // 4 // 2**stage) ** 2
            before_stride = positions * 4 if block == 0 and stage > 0 else positions
            name = f"layer{stage + 1}.{block}"
            layers += [
                PaperLayer(f"{name}.conv1", 1, before_stride, widths[last], inner, (last,), last + 1),
                PaperLayer(f"{name}.conv2", 9, positions, inner, inner, (last + 1,), last + 2),
                PaperLayer(f"{name}.conv3", 1, positions, inner, output, (last + 2,), last + 3),
            ]
            if block == 0:
                layers.append(
                    PaperLayer(f"{name}.downsample", 1, positions, widths[last], output, (last,), last + 3)
                )
            widths += [inner, inner, output]
    layers.append(PaperLayer("fc", 1, 1, widths[-1], num_classes, (len(widths) - 1,), len(widths)))
    return layers, [*widths, num_classes]


def _blocks_per_stage(depth: int, extra: int, per_block: int) -> int:
    if depth <= extra or (depth - extra) % per_block:
        raise ShapeError(f"depth {depth} is not {per_block}n + {extra} with n >= 1")
    return (depth - extra) // per_block


def _chain(widths: list[int], per_stage: int, size: int, stream: bool) -> list[PaperLayer]:
    """Stem, then 3x3 convolutions in pairs over three stages of halving size, then the classifier."""
    layers = [PaperLayer("stem", 9, size**2, 3, widths[0], (), 0)]
    for index in range(3 * per_stage):
        stage, place = divmod(index, per_stage)
        layers.append(
            PaperLayer(
                f"stage{stage + 1}.{place // 2}.conv{place % 2 + 1}",
                9,
                (size // 2**stage) ** 2,
                widths[index],
                widths[index + 1],
                (index,),
                index + 1,
                writes_stream=stream and place % 2 == 1,
            )
        )
    last = 3 * per_stage
    layers.append(PaperLayer("classifier", 1, 1, widths[last], widths[last + 1], (last,), last + 1))
    return layers


# Published alive lists, split where the feature map halves. The first activation of a stage's first block
# still has the width and the size of the stage before, so the first list is longer by one.
WRN_40_4_CIFAR10 = [
    [16, 61, 16, 38, 20, 49, 15, 42, 27, 38, 25, 38, 62],
    [127, 54, 82, 37, 63, 50, 60, 44, 58, 36, 40, 128],
    [256, 153, 236, 171, 191, 172, 156, 129, 120, 57, 42, 256],
]
WRN_40_4_CIFAR100 = [
    [15, 57, 32, 58, 31, 54, 28, 48, 22, 40, 22, 35, 64],
    [128, 42, 101, 81, 108, 56, 108, 22, 57, 64, 85, 128],
    [256, 215, 256, 243, 256, 248, 256, 251, 254, 243, 248, 256],
]
WRN_16_4_SVHN = [[8, 45, 10, 23, 61], [128, 91, 123, 122], [252, 222, 131, 256]]
RESNET_56_CIFAR100 = [
    [16, 13, 5, 9, 3, 6, 3, 9, 3, 0, 4, 11, 6, 7, 5, 11, 8, 14, 11],
    [32, 16, 32, 23, 32, 27, 32, 27, 32, 31, 32, 30, 32, 31, 32, 30, 32, 32],
    [64] * 18,
]
# fmt: off
RESNET_50_IMAGENET = [
    64,
    62, 62, 145, 59, 61, 215, 64, 63, 252,
    126, 128, 308, 127, 127, 390, 128, 128, 493, 128, 128, 495,
    256, 256, 341, 256, 256, 436, 256, 256, 561, 256, 256, 742, 256, 256, 834, 256, 256, 852,
    512, 512, 1765, 512, 512, 2047, 512, 512, 680,
    1000,
]
# fmt: on


def flat(stages, classes):
    return [entry for stage in stages for entry in stage] + [classes]
