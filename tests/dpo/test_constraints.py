"""Violations worked by hand, their gradients, and the multiplier's course."""

import math

import pytest
import torch

from components.config import ConstraintsConfig
from components.dpo.constraints import Multipliers, Responses, constraints_of, overlong_probability, phrase_probability


def responses(ids: list[list[int]], logps: list[list[float]], end: list[list[float]] | None = None) -> Responses:
    """Rows of token ids, 0 being padding at the end."""
    tokens = torch.tensor(ids)
    values = torch.tensor(logps, dtype=torch.float64, requires_grad=True)
    ends = torch.tensor(end if end is not None else logps, dtype=torch.float64, requires_grad=True)
    return Responses(tokens, tokens != 0, values, ends, torch.zeros(len(tokens)))


def test_phrase_probability_is_the_product_over_the_phrase_and_takes_the_likeliest_place() -> None:
    view = responses(
        [[5, 6, 9, 5, 6], [5, 9, 6, 0, 0]],
        [[math.log(x) for x in row] for row in ([0.5, 0.2, 1, 0.5, 0.8], [0.9, 1, 1, 1, 1])],
    )
    violations = phrase_probability(view, phrases=[[5, 6]])
    assert violations.tolist() == pytest.approx([0.5 * 0.8, 0.0])
    violations.sum().backward()
    assert view.logps.grad is not None
    # d exp(a + b) / da = exp(a + b), at the counted occurrence only.
    assert view.logps.grad[0].tolist() == pytest.approx([0, 0, 0, 0.4, 0.4])
    assert view.logps.grad[1].abs().sum() == 0


def test_phrase_probability_of_several_phrases_is_the_worst_and_padding_never_matches() -> None:
    view = responses([[7, 8, 0]], [[math.log(0.3), math.log(0.6), 0.0]])
    assert phrase_probability(view, phrases=[[7], [8], [0], [8, 0], [7, 8, 0, 0, 0]]).item() == pytest.approx(0.6)


def test_overlong_probability_counts_only_positions_past_the_ceiling() -> None:
    ends = [[math.log(x) for x in row] for row in ([0.1, 0.1, 0.25, 0.5], [0.1, 0.9, 0.1, 0.1])]
    view = responses([[1, 2, 3, 4], [1, 2, 0, 0]], [[0.0] * 4] * 2, ends)
    violations = overlong_probability(view, max_tokens=2)
    assert violations.tolist() == pytest.approx([(0.75 + 0.5) / 2, 0.0])
    violations.sum().backward()
    assert view.end_logps.grad is not None
    assert (view.end_logps.grad[0, 2:] < 0).all()
    assert view.end_logps.grad[0, :2].abs().sum() == 0
    assert view.end_logps.grad[1].abs().sum() == 0


def test_multipliers_rise_above_the_limit_fall_below_it_and_never_below_zero() -> None:
    multipliers = Multipliers(ConstraintsConfig(max_tokens=5, limit=0.1, weight=1.0, step=2.0), ["max_tokens"])
    multipliers.update({"max_tokens": 0.6})
    assert multipliers.values["max_tokens"] == pytest.approx(1.0 + 2.0 * 0.5)
    for _ in range(20):
        multipliers.update({"max_tokens": 0.0})
    assert multipliers.values["max_tokens"] == 0.0


def test_multipliers_of_a_penalty_stay_and_those_of_a_checkpoint_come_back() -> None:
    fixed = Multipliers(ConstraintsConfig(max_tokens=5, mode="penalty", weight=3.0), ["max_tokens"])
    fixed.update({"max_tokens": 1.0})
    assert fixed.values == {"max_tokens": 3.0}
    other = Multipliers(ConstraintsConfig(max_tokens=5), ["max_tokens"])
    other.restore(fixed.values)
    assert other.values == {"max_tokens": 3.0}
    with pytest.raises(ValueError, match=r"has multipliers for .*, but this run has constraints"):
        other.restore({"banned_phrases": 1.0})


def test_constraints_of_config_are_those_that_it_names() -> None:
    def encode(text: str) -> list[int]:
        return [ord(letter) for letter in text]

    assert constraints_of(ConstraintsConfig(), encode=encode) == {}
    chosen = constraints_of(ConstraintsConfig(banned_phrases=("ab",), max_tokens=1), encode=encode)
    assert list(chosen) == ["banned_phrases", "max_tokens"]
    view = responses([encode("xab"), encode("a b")], [[math.log(0.5)] * 3] * 2, [[math.log(0.25)] * 3] * 2)
    assert chosen["banned_phrases"](view).tolist() == pytest.approx([0.25, 0.0])
    assert chosen["max_tokens"](view).tolist() == pytest.approx([0.75, 0.75])


def test_judged_probability_is_the_violation_times_the_geometric_mean_of_the_tokens_probabilities() -> None:
    """By hand: sqrt(0.5 * 0.08) = 0.2, times 0.5; the length of the second, padded response is 1."""
    view = responses(
        [[5, 6], [7, 0], [8, 9]], [[math.log(x) for x in row] for row in ([0.5, 0.08], [0.3, 1], [0.9, 1])]
    )
    view = view._replace(judged=torch.tensor([0.5, 1.0, 0.0]))
    violations = constraints_of(ConstraintsConfig(function="a.py:f"), encode=lambda text: [])["function"](view)
    assert violations.tolist() == pytest.approx([0.1, 0.3, 0.0])
    violations.sum().backward()
    assert view.logps.grad is not None
    # d v exp(mean) / d logp_t = v exp(mean) / length
    assert view.logps.grad.tolist() == [pytest.approx([0.05, 0.05]), pytest.approx([0.3, 0.0]), [0.0, 0.0]]
