"""The vision transformer: torchvision's own in our sizes, with slopes on the MLPs, and what compaction removes."""

import torch

import rotated_relu as rr
from rotated_relu.core.counting import count_macs, count_parameters
from rotated_relu.training import Config, DataConfig, ModelConfig, build_model
from support import nets
from support.training_data import made_images


def small(**options):
    return rr.models.create("vit", 10, image_size=8, layers=2, heads=2, width=8, mlp=16, **options)


def test_parameters_by_hand():
    """Patches 192 * 48 + 192, class token and 65 positions of 192, 12 blocks, norm 384, classifier 192 * 10 + 10.

    A block: two norms of 384, attention 4 * (192 * 192 + 192), MLP 192 * 768 + 768 + 768 * 192 + 192.
    """
    block = 2 * 384 + 4 * (192 * 192 + 192) + 192 * 768 + 768 + 768 * 192 + 192
    plain = 192 * 48 + 192 + 192 + 65 * 192 + 12 * block + 384 + 1930
    assert count_parameters(rr.models.vit(rotated=False)) == plain == 5_362_762
    net = rr.models.vit()
    assert count_parameters(net) == plain + 12 * 768
    assert {tuple(slope.shape) for slope in rr.slopes(net).values()} == {(768,)}


def test_it_is_torchvisions_and_its_classifier_is_not_zero():
    from torchvision.models import VisionTransformer

    net = small(rotated=False)
    assert type(net) is VisionTransformer
    assert net.heads.head.weight.std() > 0.01


def test_the_training_fits_it_to_the_images():
    """Grey images of 8 x 8: one input channel, four patches and the class token."""
    config = Config(
        model=ModelConfig("vit", options={"layers": 1, "heads": 2, "width": 8, "mlp": 16}),
        data=DataConfig("made"),
    )
    net = build_model(config, made_images(12, size=8))
    assert net.conv_proj.weight.shape == (8, 1, 4, 4)
    assert net.seq_length == 5


def test_dead_features_go():
    torch.manual_seed(0)
    net = small(rotated=True)
    names = list(rr.slopes(net))
    nets.kill(net, names[0].removesuffix(".slope"), range(12))
    x = torch.randn(1, 3, 8, 8)
    result = rr.compact(net, x, 1e-12)
    assert result.certificate.max_relative_difference <= 1e-9
    assert count_parameters(net) - count_parameters(result.model) == 12 * (
        8 + 1 + 8 + 1
    )  # fc1, bias, fc2, slope
    before, after = (sum(count_macs(one, x).values()) for one in (net, result.model))
    assert before - after == 5 * 12 * (8 + 8)  # five tokens
