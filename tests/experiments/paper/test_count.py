import pytest

from rotated_relu.core.errors import ShapeError
from rotated_relu.experiments.paper.count import PaperLayer, paper_count
from support.paper_networks import (
    RESNET_50_IMAGENET,
    RESNET_56_CIFAR100,
    WRN_16_4_SVHN,
    WRN_40_4_CIFAR10,
    WRN_40_4_CIFAR100,
    cifar_resnet_layers,
    fcnn_layers,
    flat,
    resnet50_layers,
    wrn_layers,
)


def products(stages, index, last_width=None):
    """Sum of neighbouring products in one stage, the entry from the stage before included.

    With ``last_width``, every second product (a block's last convolution) writes that many channels.
    """
    chain = stages[index] if index == 0 else [stages[index - 1][-1], *stages[index]]
    total = 0
    for place in range(len(chain) - 1):
        output = last_width if last_width and place % 2 == 1 else chain[place + 1]
        total += chain[place] * output
    return total


def test_wrn_40_4_cifar10_saves_the_published_64_3_percent_of_memory():
    # Full: stem 27*16 = 432; stage 1: 9*(16*64 + 11*64*64) = 414,720; stage 2: 9*(64*128 + 11*128*128)
    # = 1,695,744; stage 3: 9*(128*256 + 11*256*256) = 6,782,976; classifier 256*10 = 2,560. Sum 8,896,432.
    full = 432 + 414_720 + 1_695_744 + 6_782_976 + 2_560
    # Alive: 16*61 + ... + 38*62 = 12,081; 62*127 + ... + 40*128 = 44,515; 128*256 + ... = 296,335
    sums = [products(WRN_40_4_CIFAR10, stage) for stage in range(3)]
    assert sums == [12_081, 44_515, 296_335]
    alive = 432 + 9 * sum(sums) + 2_560
    layers, widths = wrn_layers(40, 4, shortcuts=False)

    count = paper_count(layers, flat(WRN_40_4_CIFAR10, 10), widths)

    assert (count.full_weights, count.alive_weights) == (full, alive)
    assert round(100 * count.memory_saved, 1) == 64.3  # 1 - 3,179,371 / 8,896,432


def test_wrn_40_4_cifar10_saves_the_published_52_6_percent_of_flops():
    # A block's last convolution writes the residual stream, which has no slopes: it computes all 64, 128, 256
    # channels whatever is alive. Feature maps have 32*32, 16*16 and 8*8 positions; FLOPs are 2 * MACs.
    full = 2 * (1024 * (432 + 414_720) + 256 * 1_695_744 + 64 * 6_782_976 + 2_560)
    stages = [products(WRN_40_4_CIFAR10, stage, 64 * 2**stage) for stage in range(3)]
    alive = 2 * (1024 * (432 + 9 * stages[0]) + 256 * 9 * stages[1] + 64 * 9 * stages[2] + 2_560)
    layers, widths = wrn_layers(40, 4, shortcuts=False)

    count = paper_count(layers, flat(WRN_40_4_CIFAR10, 10), widths)

    assert (count.full_flops, count.alive_flops) == (full, alive)
    assert round(100 * count.flops_saved, 1) == 52.6
    # The figure with alive outputs everywhere would be 70.2 %, and is not the published one.
    plain = 9 * (1024 * 12_081 + 256 * 44_515 + 64 * 296_335) + 1024 * 432 + 2_560
    assert round(100 * (1 - 2 * plain / full), 1) == 70.2


def test_wrn_shortcuts_read_the_first_activation_and_write_the_stream():
    with_them, widths = wrn_layers(40, 4)
    without, _ = wrn_layers(40, 4, shortcuts=False)
    alive = flat(WRN_40_4_CIFAR10, 10)

    more, less = paper_count(with_them, alive, widths), paper_count(without, alive, widths)

    # 16 -> 64 at 32*32, 64 -> 128 at 16*16, 128 -> 256 at 8*8.
    assert more.full_weights - less.full_weights == 16 * 64 + 64 * 128 + 128 * 256
    assert more.full_flops - less.full_flops == 2 * (16 * 64 * 1024 + 64 * 128 * 256 + 128 * 256 * 64)
    # Alive first activations: 16, 62, 128; alive after the block: 16, 54, 153.
    assert more.alive_weights - less.alive_weights == 16 * 16 + 62 * 54 + 128 * 153
    assert more.alive_flops - less.alive_flops == 2 * (16 * 64 * 1024 + 62 * 128 * 256 + 128 * 256 * 64)


@pytest.mark.parametrize(
    ("depth", "stages", "classes", "blocks"),
    [(40, WRN_40_4_CIFAR100, 100, 6), (16, WRN_16_4_SVHN, 10, 2)],
)
def test_other_wide_resnets_by_independent_sums(depth, stages, classes, blocks):
    layers, widths = wrn_layers(depth, 4, classes, shortcuts=False)
    stem, last, convs = stages[0][0], stages[2][-1], 2 * blocks - 1
    full = 432 + 9 * (16 * 64 + convs * 64**2 + 64 * 128 + convs * 128**2 + 128 * 256 + convs * 256**2)
    memory = 27 * stem + 9 * sum(products(stages, stage) for stage in range(3)) + last * classes
    stream = [9 * products(stages, stage, 64 * 2**stage) for stage in range(3)]
    macs = 1024 * (27 * stem + stream[0]) + 256 * stream[1] + 64 * stream[2] + last * classes

    count = paper_count(layers, flat(stages, classes), widths)

    assert count.full_weights == full + 256 * classes
    assert count.alive_weights == memory
    assert count.alive_flops == 2 * macs


def test_resnet_56_cifar100_with_a_dead_layer():
    # Post-activation: the slopes after the addition cover the stream, so there is no exception for FLOPs.
    layers, widths = cifar_resnet_layers(56, 100)
    # 9*(18*16*16) = 41,472; 9*(16*32 + 17*32*32) = 161,280; 9*(32*64 + 17*64*64) = 645,120; 64*100; stem 432.
    full = 432 + 41_472 + 161_280 + 645_120 + 6_400
    sums = [9 * products(RESNET_56_CIFAR100, stage) for stage in range(3)]

    count = paper_count(layers, flat(RESNET_56_CIFAR100, 100), widths)

    assert sums[2] == 645_120  # 64 of 64 alive throughout, and all 32 before
    assert count.full_weights == full
    assert count.alive_weights == 432 + sum(sums) + 6_400
    assert count.alive_flops == 2 * (1024 * (432 + sums[0]) + 256 * sums[1] + 64 * sums[2] + 6_400)


def test_resnet_50_counts_projections_and_the_stride_in_the_3x3():
    layers, widths = resnet50_layers()
    # 25,557,032 parameters of the published network, less 53,120 of batch norm and 1,000 biases.
    assert paper_count(layers, widths, widths).full_weights == 25_557_032 - 53_120 - 1_000
    # 4.09 GMACs, the figure that torchvision states.
    assert round(paper_count(layers, widths, widths).full_flops / 2e9, 2) == 4.09

    alive = RESNET_50_IMAGENET
    memory = 147 * 64 + alive[-2] * 1000
    for block in range(16):
        start, one, two, end = alive[3 * block : 3 * block + 4]
        memory += start * one + 9 * one * two + two * end
        if block in (0, 3, 7, 13):
            memory += start * end
    assert paper_count(layers, alive, widths).alive_weights == memory


def test_fcnn():
    layers, widths = fcnn_layers()
    count = paper_count(layers, [123, 10], widths)
    assert count.full_weights == 784 * 500 + 500 * 10
    assert count.alive_weights == 784 * 123 + 123 * 10
    assert count.flops_saved == pytest.approx(1 - 123 / 500)
    assert count.to_dict()["memory_saved"] == pytest.approx(1 - 123 / 500)


def test_flattened_map_depthwise_and_grouped_layers():
    layers = [
        PaperLayer("depthwise", 9, 4, 8, 8, (0,), 1, groups=8),  # 9 * min(6, 4)
        PaperLayer("grouped", 1, 4, 8, 16, (1,), 2, groups=2),  # 4 * 12 / 2
        PaperLayer("flattened", 1, 1, 64, 5, (2,), None),  # 16 channels of 2*2: 12 alive make 48 features
    ]
    count = paper_count(layers, [6, 4, 12], [8, 8, 16])
    assert count.alive_weights == 36 + 24 + 48 * 5
    assert count.full_weights == 72 + 64 + 64 * 5


def test_wrong_alive_lists_are_refused():
    layers, widths = fcnn_layers()
    with pytest.raises(ShapeError, match="3 entries, the network 2"):
        paper_count(layers, [1, 2, 3], widths)
    with pytest.raises(ShapeError, match=r"entry 0 .* is 501"):
        paper_count(layers, [501, 10], widths)
    with pytest.raises(ShapeError, match="layer lost refers to"):
        paper_count([PaperLayer("lost", 1, 1, 4, 4, (7,), None)], [4], [4])
    with pytest.raises(ShapeError, match="depth 41"):
        wrn_layers(41, 4)
