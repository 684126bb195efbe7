"""Shaped advantages: their signs, their bounds, and that no gradient runs through them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sgsd.methods.advantages import entropy_routed, gap_weights, held_to_sign, hint_contrast, masked_quantile


def test_low_entropy_is_drawn_to_the_teacher_and_high_entropy_pushed_away() -> None:
    entropy = torch.tensor([[0.1, 0.2, 0.3, 3.0]])
    gap = torch.tensor([[1.0, -1.0, 1.0, 1.0]])
    routed = entropy_routed(gap, entropy, torch.ones(1, 4).bool(), quantile=0.6)
    assert (routed[0, :2] * gap[0, :2] > 0).all()
    assert routed[0, 3] < 0


def test_entropy_that_never_varies_gives_no_direction() -> None:
    gap, entropy = torch.ones(2, 5), torch.full((2, 5), 0.7)
    assert not entropy_routed(gap, entropy, torch.ones(2, 5).bool(), quantile=0.8).any()


def test_masked_tokens_move_nothing() -> None:
    draw = torch.Generator().manual_seed(0)
    gap, entropy = torch.randn(3, 8, generator=draw), torch.rand(3, 8, generator=draw)
    mask = torch.rand(3, 8, generator=draw) > 0.4
    other = torch.where(mask, gap, 0.0), torch.where(mask, entropy, 99.0)
    found = entropy_routed(torch.where(mask, gap, 0.0), entropy, mask, quantile=0.8)
    torch.testing.assert_close(entropy_routed(*other, mask, quantile=0.8), found)
    assert not found[~mask].any()


def test_quantile_of_what_counts() -> None:
    values = torch.tensor([[1.0, 50.0, 3.0], [7.0, 8.0, 9.0]])
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert masked_quantile(values, mask, 0.5).tolist() == [2.0, 0.0]


def test_what_every_hint_does_cancels() -> None:
    style = torch.randn(2, 1, 6)
    own = torch.randn(2, 3, 6)
    torch.testing.assert_close(hint_contrast(own + style), hint_contrast(own))
    alike = torch.randn(2, 1, 6).expand(2, 4, 6)
    torch.testing.assert_close(hint_contrast(alike), torch.zeros(2, 6), atol=1e-6, rtol=0)


def test_only_hints_that_are_there_are_contrasted() -> None:
    delta = torch.randn(3, 4, 6)
    present = torch.tensor([[True, True, True, False], [False, True, True, True], [True, False, False, False]])
    found = hint_contrast(delta, present)
    torch.testing.assert_close(found[0], hint_contrast(delta[:1, :3])[0])
    assert not found[1:].any()


@given(st.floats(-3, 3, width=32, allow_subnormal=False), st.floats(-3, 3, width=32, allow_subnormal=False))
def test_the_verifier_has_the_last_word(advantage: float, added: float) -> None:
    total = held_to_sign(torch.tensor([[advantage]]), torch.tensor([[added]])).item()
    if advantage == 0:
        assert total == 0
    else:
        assert total * advantage >= 0
        expected = max(0.0, advantage + added) if advantage > 0 else min(0.0, advantage + added)
        assert total == pytest.approx(expected, abs=1e-6)


def test_weights_rise_with_the_teacher_on_success_and_fall_on_failure() -> None:
    gap, advantages = torch.tensor([[0.1, -0.1], [0.1, -0.1]]), torch.tensor([1.0, -1.0])
    plus = gap_weights(gap, advantages, sign="+", low=0.8, high=1.2)
    assert plus[0, 0] > 1 > plus[0, 1]
    assert plus[1, 0] < 1 < plus[1, 1]
    torch.testing.assert_close(gap_weights(gap, advantages, sign="-", low=0.8, high=1.2), 1 / plus)
    wide = gap_weights(50 * gap, advantages, sign="+", low=0.8, high=1.2)
    assert wide.min().item() == pytest.approx(0.8)
    assert wide.max().item() == pytest.approx(1.2)
