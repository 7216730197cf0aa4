"""Mirrored and shifted images, compared with all mirrorings and shifts there are."""

import torch

from rotated_relu.training.data.augment import flip_and_crop


def test_every_augmented_image_is_a_shift_of_the_image_or_its_mirror():
    images = torch.randint(1, 255, (32, 2, 5, 6), dtype=torch.uint8)
    out = flip_and_crop(images, 2, flip=True, generator=torch.Generator().manual_seed(0))
    assert out.shape == images.shape
    assert out.is_contiguous(memory_format=torch.channels_last)
    mirrored = 0
    for before, after in zip(images, out, strict=True):
        padded = torch.nn.functional.pad(before, (2, 2, 2, 2))
        flipped = padded.flip(-1)
        crops = [(top, left) for top in range(5) for left in range(5)]
        plain = any(torch.equal(padded[:, t : t + 5, x : x + 6], after) for t, x in crops)
        mirror = any(torch.equal(flipped[:, t : t + 5, x : x + 6], after) for t, x in crops)
        assert plain or mirror
        mirrored += mirror
    # 32 throws of a coin: outside 6..26 once in about ten thousand.
    assert 6 <= mirrored <= 26


def test_augmentation_covers_every_shift_evenly():
    images = torch.zeros(9000, 1, 3, 3, dtype=torch.uint8)
    images[:, :, 1, 1] = 1
    out = flip_and_crop(images, 1, flip=False)
    share = out.float().mean(0)[0]
    # The dot lands on each of the nine places with probability 1/9, standard deviation 0.0033.
    assert (share - 1 / 9).abs().max() < 0.02


def test_no_augmentation_is_the_identity():
    images = torch.randint(0, 255, (4, 3, 5, 5), dtype=torch.uint8)
    assert torch.equal(flip_and_crop(images, 0, flip=False), images)
