"""The Bradley-Terry loss: values by hand, gradient against a plain loop."""

import math
import random

import pytest
import torch

from components.reward_model.loss import bradley_terry


def loss_of(chosen: float, rejected: float, p: float) -> float:
    return float(bradley_terry(torch.tensor([chosen]), torch.tensor([rejected]), torch.tensor([p])).losses)


@pytest.mark.parametrize(
    ("chosen", "rejected", "p", "expected"),
    [
        (0.0, 0.0, 1.0, math.log(2)),
        (3.0, 3.0, 0.7, math.log(2)),
        (1.0, 0.0, 1.0, math.log(1 + math.exp(-1))),
        (0.0, 1.0, 1.0, 1 + math.log(1 + math.exp(-1))),
        (2.0, 0.0, 0.75, 0.75 * math.log(1 + math.exp(-2)) + 0.25 * math.log(1 + math.exp(2))),
        (200.0, 0.0, 0.0, 200.0),
    ],
)
def test_bradley_terry_values_by_hand(chosen: float, rejected: float, p: float, expected: float) -> None:
    assert loss_of(chosen, rejected, p) == pytest.approx(expected, rel=1e-6)


def test_bradley_terry_of_swapped_answers_is_the_same_with_the_other_label() -> None:
    assert loss_of(1.5, -0.5, 0.8) == pytest.approx(loss_of(-0.5, 1.5, 0.2), rel=1e-6)


def test_bradley_terry_pulls_no_further_where_the_prediction_is_the_label() -> None:
    chosen = torch.tensor([math.log(0.7 / 0.3)], dtype=torch.float64, requires_grad=True)
    bradley_terry(
        chosen, torch.zeros(1, dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    ).losses.sum().backward()
    assert chosen.grad is not None
    assert float(chosen.grad) == pytest.approx(0, abs=1e-12)


def test_bradley_terry_value_and_gradient_agree_with_a_plain_loop() -> None:
    rng = random.Random(2)
    rows = [(rng.gauss(0, 3), rng.gauss(0, 3), rng.random()) for _ in range(20)]
    chosen, rejected = (
        torch.tensor([row[side] for row in rows], dtype=torch.float64, requires_grad=True) for side in (0, 1)
    )
    result = bradley_terry(chosen, rejected, torch.tensor([p for *_, p in rows], dtype=torch.float64))
    result.losses.sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    for index, (better, worse, p) in enumerate(rows):
        share = 1 / (1 + math.exp(worse - better))
        assert float(result.margins[index].detach()) == pytest.approx(better - worse)
        assert float(result.losses[index].detach()) == pytest.approx(
            -p * math.log(share) - (1 - p) * math.log(1 - share)
        )
        assert float(chosen.grad[index]) == pytest.approx(share - p)
        assert float(rejected.grad[index]) == pytest.approx(p - share)
