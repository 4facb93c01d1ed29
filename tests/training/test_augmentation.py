"""Crops and flips against padding and slicing, image by image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipdescent.training.augmentation import crop_and_flip, draw


def stacked_draws(seeds, num_samples, padding, flip=True):
    draws = [
        draw(num_samples, padding=padding, flip=flip, generator=torch.Generator().manual_seed(s))
        for s in seeds
    ]
    return tuple(torch.stack(parts) for parts in zip(*draws, strict=True))


@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    padding=st.integers(0, 5),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_equals_padding_slicing_and_flipping(padding, height, width, seed):
    shape = (2, 3, 2, height, width)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    offsets, flips = stacked_draws([seed, seed + 1], 3, padding)
    out = crop_and_flip(images, offsets, flips, padding=padding)
    for r in range(2):
        for b in range(3):
            padded = torch.nn.functional.pad(images[r, b], [padding] * 4)
            y, x = offsets[r, b].tolist()
            expected = padded[:, y : y + height, x : x + width]
            expected = expected.flip(-1) if flips[r, b] else expected
            torch.testing.assert_close(out[r, b], expected, rtol=0, atol=0)


def test_a_replica_does_not_depend_on_its_stack_mates():
    images = torch.randn(3, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    offsets, flips = stacked_draws([5, 6, 7], 4, 2)
    alone_offsets, alone_flips = stacked_draws([6], 4, 2)
    together = crop_and_flip(images, offsets, flips, padding=2)
    alone = crop_and_flip(images[1:2], alone_offsets, alone_flips, padding=2)
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(offsets[0], offsets[1])


def test_draws_cover_all_offsets_and_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    offsets, flips = draw(4000, padding=2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.random.get_rng_state())
    counts = torch.bincount(offsets.flatten(), minlength=5)
    assert counts.shape == (5,)  # 8000 draws of 5 values: 1600 each, standard deviation 36
    assert (counts - 1600).abs().max() < 5 * 36
    assert abs(int(flips.sum()) - 2000) < 5 * 32
    same, none = draw(4000, padding=2, flip=False, generator=torch.Generator().manual_seed(1))
    assert torch.equal(same, offsets)
    assert not none.any()


def test_outside_is_zero_even_where_the_image_is_not_finite():
    images = torch.full((1, 1, 1, 2, 2), float("inf"))
    out = crop_and_flip(images, torch.tensor([[[2, 1]]]), torch.tensor([[False]]), padding=1)
    assert out.tolist() == [[[[[float("inf"), float("inf")], [0.0, 0.0]]]]]


def test_wrong_shapes_and_padding_are_named():
    images = torch.zeros(2, 3, 1, 4, 4)
    with pytest.raises(ValueError, match=r"need offsets \(2, 3, 2\)"):
        crop_and_flip(
            images, torch.zeros(3, 2, dtype=torch.int64), torch.zeros(2, 3).bool(), padding=1
        )
    with pytest.raises(ValueError, match="padding = -1"):
        draw(3, padding=-1, generator=torch.Generator())
