"""Transforms of log-probabilities, divergences and weighted sums: values worked by hand and identities."""

import math

import pytest
import torch

from components.dpo.losses import (
    DIVERGENCES,
    LOSSES,
    length_desensitised_logps,
    weighted_sum,
    with_divergence,
    wpo_weights,
)

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool()
TOKENS = torch.tensor([[-1.0, -2.0, -4.0, 0.0], [-3.0, -5.0, 0.0, 0.0]], dtype=torch.float64)
PAIR = {
    "policy_chosen_logps": -1.0,
    "policy_rejected_logps": -5.0,
    "reference_chosen_logps": -3.0,
    "reference_rejected_logps": -4.0,
    "chosen_lengths": 2.0,
    "rejected_lengths": 4.0,
    "p": 1.0,
}
VALUES = {name: torch.tensor([value], dtype=torch.float64) for name, value in PAIR.items()}


def nls(logit: float) -> float:
    """-log sigmoid."""
    return math.log(1 + math.exp(-logit))


def test_length_desensitised_logps_by_hand() -> None:
    # Both answers have 2 tokens, the first has a third: -1 - 2 - 0.25 * 4, and -3 - 5 in full.
    logps = length_desensitised_logps(TOKENS, MASK, torch.tensor([2, 2]), ld_alpha=0.25)
    assert logps.tolist() == [-4.0, -8.0]
    assert length_desensitised_logps(TOKENS, MASK, torch.tensor([2, 2]), ld_alpha=1.0).tolist() == [-7.0, -8.0]


def test_length_desensitised_logps_padding_changes_nothing() -> None:
    left, wide = torch.nn.functional.pad(TOKENS, (3, 2), value=-9.0), torch.nn.functional.pad(MASK, (3, 2))
    assert length_desensitised_logps(left, wide, torch.tensor([2, 2]), ld_alpha=0.25).tolist() == [-4.0, -8.0]


def test_wpo_weights_by_hand() -> None:
    # Means over tokens of log pi - log sum pi^2: (-1 - 2 - 4 + 3 * 0.5) / 3 and (-3 - 5 + 2 * 0.5) / 2.
    collisions = torch.full_like(TOKENS, -0.5)
    weights = wpo_weights(TOKENS.clone().requires_grad_(), collisions, MASK)
    assert weights.tolist() == pytest.approx([math.exp(-5.5 / 3), math.exp(-3.5)])
    assert not weights.requires_grad


def test_wpo_expected_ratio_of_a_sampled_token_is_one() -> None:
    probabilities = torch.softmax(torch.randn(1000, dtype=torch.float64), dim=0)
    one_token = torch.ones(1000, 1, dtype=torch.bool)
    collisions = probabilities.square().sum().log().expand(1000, 1)
    weights = wpo_weights(probabilities.log().unsqueeze(1), collisions, one_token)
    assert float(probabilities @ weights) == pytest.approx(1.0)


# Scores of the log-ratios 2 and -1; f'(u) with u = e^2 and e^-1.
SCORES = {
    "reverse_kl": (2.0, -1.0),
    "forward_kl": (1 - math.exp(-2), 1 - math.exp(1)),
    "js": (math.log(2 * math.exp(2) / (1 + math.exp(2))), math.log(2 * math.exp(-1) / (1 + math.exp(-1)))),
    "alpha": ((1 - math.exp(-2 * 0.25)) / 0.25, (1 - math.exp(1 * 0.25)) / 0.25),
}


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_sigmoid_with_divergence_by_hand(divergence: str) -> None:
    loss = with_divergence(LOSSES["sigmoid"], divergence)
    losses, chosen, rejected = loss.apply(VALUES | {"beta": 0.5, "label_smoothing": 0.0, "divergence_alpha": 0.25})
    expected = SCORES[divergence]
    assert losses.item() == pytest.approx(nls(0.5 * (expected[0] - expected[1])), abs=1e-12)
    assert (chosen.item(), rejected.item()) == pytest.approx((0.5 * expected[0], 0.5 * expected[1]), abs=1e-12)
    assert ("divergence_alpha" in loss.settings) == (divergence == "alpha")


def test_alpha_divergence_has_the_two_kl_as_its_ends() -> None:
    ratios = torch.randn(50, dtype=torch.float64)
    for alpha, name in ((0.0, "reverse_kl"), (1.0, "forward_kl")):
        torch.testing.assert_close(DIVERGENCES["alpha"](ratios, divergence_alpha=alpha), DIVERGENCES[name](ratios))
    torch.testing.assert_close(DIVERGENCES["alpha"](ratios, divergence_alpha=1e-9), ratios, atol=1e-6, rtol=0)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_divergence_policy_equals_reference_keeps_the_first_loss(divergence: str) -> None:
    loss = with_divergence(LOSSES["ipo_mean"], divergence)
    settings = {"beta": 0.5, "label_smoothing": 0.0, "divergence_alpha": 0.25}
    logps = {f"policy_{side}_logps": VALUES[f"reference_{side}_logps"] for side in ("chosen", "rejected")}
    assert loss.apply(VALUES | settings | logps).losses.item() == loss.expected_first_loss(VALUES["p"], settings)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_divergence_very_unlikely_answer_keeps_value_and_gradient_finite(divergence: str) -> None:
    loss = with_divergence(LOSSES["sigmoid"], divergence)
    zero = torch.zeros(2)
    policy = [torch.tensor([-5e3, 5e3], requires_grad=True), torch.tensor([5e3, -5e3], requires_grad=True)]
    keywords = {"beta": 10.0, "p": torch.full((2,), 0.7), "label_smoothing": 0.0}
    losses = loss(
        *policy, zero, zero, **keywords, **({"divergence_alpha": 0.9} if divergence == "alpha" else {})
    ).losses
    assert torch.isfinite(losses).all()
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(losses.sum(), policy))


def test_with_divergence_refuses_what_it_cannot_replace() -> None:
    with pytest.raises(ValueError, match="needs a loss of the margin: choose from sigmoid"):
        with_divergence(LOSSES["simpo"], "js")
    with pytest.raises(ValueError, match="'hellinger' is unknown: choose from reverse_kl"):
        with_divergence(LOSSES["sigmoid"], "hellinger")


def test_divergence_of_a_weighted_sum_reaches_every_term() -> None:
    settings = {"beta": 0.5, "label_smoothing": 0.0, "divergence_alpha": 0.25}
    total = with_divergence(weighted_sum({"sigmoid": 2.0, "hinge": 0.5}), "alpha").apply(VALUES | settings)
    expected = SCORES["alpha"][0] - SCORES["alpha"][1]
    assert total.losses.item() == pytest.approx(2 * nls(0.5 * expected) + 0.5 * max(0.0, 1 - 0.5 * expected), abs=1e-12)
    assert total.chosen_rewards.item() == pytest.approx(0.5 * SCORES["alpha"][0], abs=1e-12)


def test_weighted_sum_by_hand() -> None:
    # 2 (-log sigmoid(1.5)) + 3 * 1 / 2; rewards are those of sigmoid, named first.
    total = weighted_sum({"sigmoid": 2.0, "sft": 3.0})
    losses, chosen, rejected = total.apply(VALUES | {"beta": 0.5, "label_smoothing": 0.0})
    assert losses.item() == pytest.approx(2 * nls(1.5) + 1.5, abs=1e-12)
    assert (chosen.item(), rejected.item()) == (1.0, -0.5)


def test_weighted_sum_reads_what_its_parts_read() -> None:
    total = weighted_sum({"simpo": 1.0, "aot": 2.0, "bco_pair": 0.5})
    assert total.inputs[:4] == LOSSES["aot"].inputs[:4]
    assert set(total.inputs[4:]) == {"p", "chosen_lengths", "rejected_lengths", "reward_shift"}
    assert set(total.settings) == {"beta", "label_smoothing", "simpo_gamma"}
    assert (total.couples_batch, total.soft_labels, total.margin_only) == (True, False, False)
    assert total.expected_first_loss(torch.ones(1), {}) is None
    assert not weighted_sum({"simpo": 1.0, "sft": 1.0}).needs_reference


def test_weighted_sum_expected_first_loss_by_hand() -> None:
    total = weighted_sum({"sigmoid": 2.0, "ipo": 0.5})
    assert total.expected_first_loss(torch.ones(1), {"beta": 0.5}) == pytest.approx(2 * math.log(2) + 0.5 * 1.0)
    assert total.margin_only


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "names no loss"),
        ({"dpo": 1.0}, "'dpo' is unknown: choose from sigmoid"),
        ({"sigmoid": 0.0}, "'sigmoid' is 0: give a number above 0"),
        ({"sigmoid": math.inf}, "'sigmoid' is inf"),
    ],
)
def test_weighted_sum_refuses_wrong_weights(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weighted_sum(weights)
