"""Inputs for trying a network."""

import torch

from rotated_relu.core.modules import Call
from rotated_relu.pruning.removal.trials import trials


def shapes(call):
    return [[tuple(value.shape) for value in one.tensors] for (one, *_) in trials(call)]


def test_the_first_is_the_users_own():
    call = Call(torch.ones(2, 3))
    assert trials(call)[0] == [call]


def test_batch_and_image_size_vary():
    assert shapes(Call(torch.ones(1, 3, 8, 8))) == [[(1, 3, 8, 8)]] * 2 + [[(3, 3, 8, 8)], [(2, 3, 40, 40)]]
    assert shapes(Call(torch.ones(1, 3, 224, 224)))[2] == [(3, 3, 128, 128)]


def test_tensors_of_different_length_keep_their_shapes():
    assert shapes(Call(torch.ones(2, 3), torch.ones(5))) == [[(2, 3), (5,)]] * 2


def test_indices_and_masks_are_repeated_and_flags_stay():
    call = Call(torch.tensor([[7], [9]]), mask=torch.tensor([True, False]), deep=True, none=None)
    third = trials(call)[2][0]
    assert third.args[0].flatten().tolist() == [7, 9, 7]
    assert third.kwargs["mask"].tolist() == [True, False, True]
    assert third.kwargs["deep"] is True
    assert third.kwargs["none"] is None


def test_the_alternative_stays_in_the_range_of_the_users_inputs():
    x = torch.rand(4, 6) + 0.1
    for alternatives in trials(Call(x))[1:]:
        within = alternatives[1].args[0]
        assert within.min() >= x.min()
        assert within.max() <= x.max()


def test_precision_and_kind_stay():
    call = Call(
        torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(2, dtype=torch.complex64), torch.tensor(2.0)
    )
    for alternatives in trials(call):
        for one in alternatives:
            assert [value.dtype for value in one.tensors] == [torch.bfloat16, torch.complex64, torch.float32]


def test_labels_of_pixels_follow_the_image():
    label = torch.arange(4).view(1, 1, 2, 2)
    resized = trials(Call(label))[3][0].args[0]
    assert resized.shape == (2, 1, 34, 34)
    assert set(resized.unique().tolist()) == {0, 1, 2, 3}
