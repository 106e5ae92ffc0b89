import math

import pytest
import torch

from components.dpo.losses import LOSSES, ipo_loss, sigmoid_loss


def tensors(*values: float) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([value], dtype=torch.float64) for value in values)


def ones(count: int = 1) -> torch.Tensor:
    return torch.ones(count, dtype=torch.float64)


def test_sigmoid_loss_by_hand_certain_label() -> None:
    # Margin (-1 + 3) - (-5 + 4) = 3; beta 0.5: -log sigmoid(1.5) = log(1 + e^-1.5).
    losses, chosen, rejected = sigmoid_loss(*tensors(-1, -5, -3, -4), beta=0.5, p=ones(), label_smoothing=0.0)
    assert losses.item() == pytest.approx(math.log(1 + math.exp(-1.5)), abs=1e-12)
    assert (chosen.item(), rejected.item()) == (pytest.approx(1.0), pytest.approx(-0.5))


def test_sigmoid_loss_by_hand_soft_label_and_smoothing() -> None:
    # q = 0.8 * 0.9 + 0.2 * 0.1 = 0.74.
    losses, _, _ = sigmoid_loss(*tensors(-1, -5, -3, -4), beta=0.5, p=0.8 * ones(), label_smoothing=0.1)
    expected = 0.74 * math.log(1 + math.exp(-1.5)) + 0.26 * math.log(1 + math.exp(1.5))
    assert losses.item() == pytest.approx(expected, abs=1e-12)


def test_ipo_loss_by_hand() -> None:
    # Margin 3, target 1 / (2 * 0.25) = 2: (3 - 2)^2 = 1; with q = 0.75: 0.75 * 1 + 0.25 * 25 = 7.
    assert ipo_loss(*tensors(-1, -5, -3, -4), beta=0.25, p=ones(), label_smoothing=0.0).losses.item() == pytest.approx(1.0)
    assert ipo_loss(*tensors(-1, -5, -3, -4), beta=0.25, p=0.75 * ones(), label_smoothing=0.0).losses.item() == pytest.approx(7.0)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_policy_equals_reference_takes_its_known_value(name: str) -> None:
    logps = torch.randn(2, 16, dtype=torch.float64)
    losses, chosen, rejected = LOSSES[name](*logps, *logps, beta=0.1, p=ones(16), label_smoothing=0.0)
    expected = {"sigmoid": math.log(2), "ipo": 25.0}[name]
    torch.testing.assert_close(losses, torch.full_like(losses, expected))
    assert not chosen.any()
    assert not rejected.any()


@pytest.mark.parametrize("name", LOSSES)
def test_loss_swapped_answers_with_flipped_label_is_unchanged(name: str) -> None:
    policy, reference, p = *torch.randn(2, 2, 64, dtype=torch.float64), torch.rand(64, dtype=torch.float64)
    forward = LOSSES[name](*policy, *reference, beta=0.3, p=p, label_smoothing=0.2).losses
    swapped = LOSSES[name](*policy.flip(0), *reference.flip(0), beta=0.3, p=1 - p, label_smoothing=0.2).losses
    torch.testing.assert_close(forward, swapped)


@pytest.mark.parametrize(("name", "margin"), [("sigmoid", math.log(0.7 / 0.3) / 0.1), ("ipo", 0.4 / 0.2)])
def test_loss_gradient_vanishes_where_the_margin_says_p(name: str, margin: float) -> None:
    policy = torch.tensor([margin], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    LOSSES[name](policy, zero, zero, zero, beta=0.1, p=0.7 * ones(), label_smoothing=0.0).losses.sum().backward()
    assert policy.grad is not None
    assert policy.grad.item() == pytest.approx(0.0, abs=1e-12)


def test_sigmoid_loss_huge_margins_stay_finite() -> None:
    policy = torch.tensor([1e4, -1e4], requires_grad=True)
    zero = torch.zeros(2)
    losses = sigmoid_loss(policy, zero, zero, zero, beta=1.0, p=torch.ones(2), label_smoothing=0.0).losses
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert policy.grad is not None
    assert torch.isfinite(policy.grad).all()
