"""Real actions that are squashed into their bounds: their distribution, and that they are learnt."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution

from rattle.samples.spaces import BoxSpace, DiscreteSpace, SquashedBoxSpace, read_action_space

SPACE = SquashedBoxSpace(low=(-3.0, 0.5, -2.0), high=(3.0, 1.0, 2.0))
MIDDLE, HALF = torch.tensor([0.0, 0.75, 0.0]), torch.tensor([3.0, 0.25, 2.0])


@pytest.fixture
def outputs() -> torch.Tensor:
    """Return means and logarithms of standard deviations, (5, 6), that want gradients."""
    generator = torch.Generator().manual_seed(3)
    mean, log_std = torch.randn((5, 3), generator=generator), 0.3 * torch.randn((5, 3), generator=generator)
    return torch.cat([mean, log_std], dim=1).double().requires_grad_()


def transformed(outputs: torch.Tensor) -> TransformedDistribution:
    """Return what PyTorch makes of the same."""
    mean, log_std = outputs.chunk(2, dim=1)
    squash = [TanhTransform(cache_size=1), AffineTransform(MIDDLE.double(), HALF.double(), cache_size=1)]
    return TransformedDistribution(Normal(mean, log_std.exp()), squash)


def test_densities_and_their_gradients_are_those_of_pytorch(outputs: torch.Tensor) -> None:
    drawn = torch.randn((5, 3), generator=torch.Generator().manual_seed(4)).double()
    found = SPACE.distribution(outputs).log_prob(drawn)
    expected = transformed(outputs).log_prob(MIDDLE + HALF * drawn.tanh()).sum(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    weights = torch.arange(1.0, 6.0).double()
    mine, theirs = (torch.autograd.grad((weights * log_prob).sum(), outputs)[0] for log_prob in (found, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_the_entropy_and_its_gradient_are_those_of_the_integral(outputs: torch.Tensor) -> None:
    mean, log_std = outputs.chunk(2, dim=1)
    away = torch.linspace(-9.0, 9.0, 1001).double()[:, None, None]
    squashed = mean + log_std.exp() * away
    densities = transformed(outputs).log_prob(MIDDLE + HALF * squashed.tanh())
    width = 18 / 1000 * Normal(0.0, 1.0).log_prob(away).exp()
    integral, found = -(width * densities).sum(), SPACE.distribution(outputs).entropy()
    torch.testing.assert_close(found, integral, rtol=0.0, atol=1e-3)
    mine, theirs = (torch.autograd.grad(entropy, outputs)[0] for entropy in (found, integral))
    torch.testing.assert_close(mine, theirs, rtol=0.0, atol=1e-3)


@pytest.mark.parametrize("drawn", [20.0, -20.0, 1e4, 0.0])
def test_densities_and_gradients_stay_finite_far_out(drawn: float) -> None:
    outputs = torch.tensor([[drawn, drawn, drawn, 0.0, 0.0, 0.0]], requires_grad=True)
    distribution = SPACE.distribution(outputs)
    log_prob = distribution.log_prob(torch.full((1, 3), drawn, requires_grad=True))
    (log_prob.sum() + distribution.entropy()).backward()
    assert torch.isfinite(log_prob).all()
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()


def numbers() -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Return draws in arrays that are laid out differently, all of the same rows."""
    rows = (np.random.default_rng(0).normal(size=(67, 3)) * 3).astype(np.float32)
    yield rows
    yield np.asfortranarray(rows)
    yield np.repeat(rows, 2, axis=0)[::2]


def test_squashed_numbers_lie_within_the_bounds_with_the_same_bits_in_any_batch() -> None:
    for rows in numbers():
        bounded = SPACE.bound(rows)
        low, high = SPACE.bounds
        assert bounded.dtype == np.float32
        assert ((bounded >= low) & (bounded <= high)).all()
        np.testing.assert_allclose(bounded, MIDDLE.numpy() + HALF.numpy() * np.tanh(rows), rtol=1e-5, atol=1e-6)
        for count in (1, 2, 7, 64):
            assert SPACE.bound(rows[:count]).tobytes() == bounded[:count].tobytes()
        for row in range(len(rows)):
            assert SPACE.bound(rows[row]).tobytes() == bounded[row].tobytes()
    far = SPACE.bound(np.full((1, 3), 1e6, np.float32))
    assert far.tolist() == [[3.0, 1.0, 2.0]]


def test_numbers_without_two_bounds_are_clipped_as_in_a_box() -> None:
    space = SquashedBoxSpace(low=(None, 0.0, 1.0, -1.0), high=(None, None, 1.0, 1.0))
    assert space.half_widths.tolist() == [0.0, 0.0, 0.0, 1.0]
    rows = np.array([[-7.0, -7.0, -7.0, 0.0], [7.0, 7.0, 7.0, 0.0]], np.float32)
    assert space.bound(rows).tolist() == [[-7.0, 0.0, 1.0, 0.0], [7.0, 7.0, 1.0, 0.0]]
    outputs = torch.zeros((1, 8))
    plain = BoxSpace(low=space.low, high=space.high).distribution(outputs)
    assert space.distribution(outputs).log_prob(torch.zeros((1, 4))) == plain.log_prob(torch.zeros((1, 4)))


def test_worlds_are_handed_squashed_numbers_and_others_as_they_were_drawn() -> None:
    rows = np.full((1, 3), 5.0, np.float32)
    assert SPACE.handed_over(rows).tobytes() == SPACE.bound(rows).tobytes()
    assert BoxSpace(low=SPACE.low, high=SPACE.high).handed_over(rows) is rows
    assert DiscreteSpace(n=7).handed_over(rows) is rows


def test_no_environment_declares_squashed_actions() -> None:
    with pytest.raises(ValueError, match="squashed_box"):
        read_action_space(SPACE.describe())
