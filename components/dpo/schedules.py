"""The learning rate of each step, as a share of its peak. Knows no optimizer."""

import math
from collections.abc import Callable
from typing import NamedTuple

from components.config import TrainingConfig


class Span(NamedTuple):
    """The steps of a training, by number."""

    warmup: int
    decay: int
    """Last steps, over which `wsd` falls."""
    num_steps: int


def linear(step: int, span: Span) -> float:
    """Fall in a straight line, to zero after the last step."""
    return max(0.0, (span.num_steps - step) / max(1, span.num_steps - span.warmup))


def cosine(step: int, span: Span) -> float:
    """Fall as half a cosine, to zero after the last step (Loshchilov and Hutter 2017, arXiv 1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * (1 - linear(step, span))))


def constant(step: int, span: Span) -> float:
    """Stay at the peak."""
    return 1.0


def inverse_sqrt(step: int, span: Span) -> float:
    """Fall as the inverse square root of the steps so far (Vaswani et al. 2017, arXiv 1706.03762)."""
    return math.sqrt(max(1, span.warmup) / (step + 1))


def wsd(step: int, span: Span) -> float:
    """Stay at the peak, then fall in a straight line over the last steps (Hu et al. 2024, arXiv 2404.06395)."""
    return min(1.0, (span.num_steps - step) / max(1, span.decay)) if step < span.num_steps else 0.0


SCHEDULES: dict[str, Callable[[int, Span], float]] = {
    function.__name__: function for function in (linear, cosine, constant, inverse_sqrt, wsd)
}
"""Share of the peak at a step (from 0) behind the warm-up, without a floor."""


def learning_rate_share(training: TrainingConfig, step: int, num_steps: int) -> float:
    """Return the share of the peak learning rate at a step (from 0).

    It rises in a straight line over the warm-up. Then the schedule falls from 1 towards 0, or towards the floor.
    """
    span = Span(round(training.warmup_share * num_steps), round(training.decay_share * num_steps), num_steps)
    if step < span.warmup:
        return (step + 1) / span.warmup
    floor = training.min_learning_rate_share
    return floor + (1 - floor) * SCHEDULES[training.schedule](step, span)


def learning_rates(training: TrainingConfig, num_steps: int) -> list[float]:
    """Return the learning rate of each step."""
    return [training.learning_rate * learning_rate_share(training, step, num_steps) for step in range(num_steps)]
