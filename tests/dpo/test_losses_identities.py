"""What must hold for every loss, whatever its formula."""

import math
from typing import Any

import pytest
import torch

from components.dpo.losses import LOSSES, RESPONSE_LOSSES, PairLosses
from components.dpo.losses.interface import describe

SETTINGS = {
    "beta": 0.3,
    "label_smoothing": 0.2,
    "discopop_tau": 0.05,
    "dpop_lambda": 5.0,
    "nll_weight": 0.7,
    "simpo_gamma": 0.5,
    "desirable_weight": 1.5,
    "undesirable_weight": 0.75,
}
COUNT = 64


def available(seed: int = 0, **replaced: torch.Tensor) -> dict[str, Any]:
    chance = torch.Generator().manual_seed(seed)
    logps = -20 * torch.rand(4, COUNT, dtype=torch.float64, generator=chance) - 1
    lengths = torch.randint(1, 30, (2, COUNT), generator=chance)
    named = {
        "policy_chosen_logps": logps[0],
        "policy_rejected_logps": logps[1],
        "reference_chosen_logps": logps[2],
        "reference_rejected_logps": logps[3],
        "chosen_lengths": lengths[0],
        "rejected_lengths": lengths[1],
        "p": torch.rand(COUNT, dtype=torch.float64, generator=chance),
        "reward_shift": torch.tensor(0.0, dtype=torch.float64),
        "kl": torch.tensor(0.0, dtype=torch.float64),
    }
    return SETTINGS | named | replaced


def swapped(values: dict[str, Any]) -> dict[str, Any]:
    def other(name: str) -> str:
        return name.replace("chosen", "rejected") if "chosen" in name else name.replace("rejected", "chosen")

    return {name: values[other(name)] for name in values} | {"p": 1 - values["p"]}


def ones() -> torch.Tensor:
    return torch.ones(COUNT, dtype=torch.float64)


SOFT = [name for name, loss in LOSSES.items() if loss.soft_labels]
REFERENCED = [name for name, loss in LOSSES.items() if loss.needs_reference]


def test_losses_of_hard_labels_only_are_known() -> None:
    assert set(LOSSES) - set(SOFT) == {"aot", "aot_unpaired"}
    assert set(LOSSES) - set(REFERENCED) == {"sft", "simpo", "orpo", "cpo"}


@pytest.mark.parametrize("name", SOFT)
def test_loss_swapped_answers_with_flipped_label_is_unchanged(name: str) -> None:
    values = available(reward_shift=torch.tensor(0.4, dtype=torch.float64), kl=torch.tensor(2.0, dtype=torch.float64))
    forward, backward = LOSSES[name].apply(values), LOSSES[name].apply(swapped(values))
    torch.testing.assert_close(forward.losses, backward.losses)
    torch.testing.assert_close(forward.chosen_rewards, backward.rejected_rewards)


# These have the label's distribution as their target; see their docstrings.
TARGETS = {"exo_pair", "sppo"}


@pytest.mark.parametrize("name", SOFT)
def test_loss_soft_label_is_expectation_over_hard_labels(name: str) -> None:
    values = available()
    hard, flipped = (
        LOSSES[name].apply(values | {"p": ones()}).losses,
        LOSSES[name].apply(values | {"p": 1 - ones()}).losses,
    )
    expectation = values["p"] * hard + (1 - values["p"]) * flipped
    difference = expectation - LOSSES[name].apply(values).losses
    assert bool((difference.abs() < 1e-9 * expectation.abs().clamp(min=1)).all()) == (name not in TARGETS)


def test_sppo_differs_from_sppo_hard_by_the_variance_of_the_target() -> None:
    values = available()
    variance = 2 * values["p"] * (1 - values["p"]) / SETTINGS["beta"] ** 2
    torch.testing.assert_close(LOSSES["sppo_hard"].apply(values).losses, LOSSES["sppo"].apply(values).losses + variance)


def test_robust_loss_mean_over_flipped_labels_is_the_loss_of_clean_ones() -> None:
    values = available()
    flipped = LOSSES["robust"].apply(values | {"p": ones() * (1 - SETTINGS["label_smoothing"])}).losses
    clean = LOSSES["sigmoid"].apply(values | {"p": ones(), "label_smoothing": 0.0}).losses
    torch.testing.assert_close(flipped, clean)


def test_rpo_and_dpop_without_their_addition_are_dpo() -> None:
    values = available() | {"label_smoothing": 0.0, "nll_weight": 0.0, "dpop_lambda": 0.0}
    for name in ("rpo", "dpop"):
        torch.testing.assert_close(LOSSES[name].apply(values).losses, LOSSES["sigmoid"].apply(values).losses)


@pytest.mark.parametrize("name", REFERENCED)
def test_loss_policy_equals_reference_takes_its_expected_value(name: str) -> None:
    values = available()
    if not LOSSES[name].soft_labels:
        values["p"] = ones()
    values |= {f"policy_{side}_logps": values[f"reference_{side}_logps"] for side in ("chosen", "rejected")}
    losses, chosen, rejected = LOSSES[name].apply(values)
    expected = LOSSES[name].expected_first_loss(values["p"], SETTINGS)
    if name == "rpo":
        assert expected is None
    else:
        assert losses.mean().item() == pytest.approx(expected, rel=1e-12)
    assert not chosen.any()
    assert not rejected.any()


def test_expected_first_losses_by_hand() -> None:
    # beta 0.3, eps 0.2, weights 1.5 and 0.75, p = 1 and 0.5. exo: q = 0.8 and 0.5; sppo: targets 0.5 / 0.3 and 0.
    p = torch.tensor([1.0, 0.5], dtype=torch.float64)
    expected = {
        "sigmoid": math.log(2),
        "ipo": 1 / 0.36,
        "hinge": 1.0,
        "exo_pair": (math.log(0.5 / 0.8) / 2 + math.log(0.5 / 0.2) / 2 + 0) / 2,
        "nca_pair": math.log(4),
        "sppo": (2 * (0.5 / 0.3) ** 2 + 0) / 2,
        "discopop": 0.5 * math.log(2) + 0.5 * 1,
        "kto": (1.5 * 0.5 + 0.75 * 0.5) / 2,
    }
    assert {name: LOSSES[name].expected_first_loss(p, SETTINGS) for name in expected} == pytest.approx(expected)
    # Responses: one desirable, 1.5 * 0.5; one either, (1.5 + 0.75) / 2 * 0.5.
    assert RESPONSE_LOSSES["kto"].expected_first_loss(p, SETTINGS) == pytest.approx((0.75 + 0.5625) / 2)
    assert LOSSES["simpo"].expected_first_loss(p, SETTINGS) is None


# Rewards of chosen and rejected, beta times the log-ratio, at which the gradient vanishes for p = 0.7.
SAYS_P = {
    "sigmoid": (math.log(7 / 3), 0.0),
    "ipo": (0.4 / 2, 0.0),
    "exo_pair": (math.log(0.62 / 0.38), 0.0),
    "nca_pair": (math.log(1.4), math.log(0.6)),
    "bco_pair": (math.log(7 / 3), math.log(3 / 7)),
    "sppo": (0.2, -0.2),
    "sppo_hard": (0.2, -0.2),
}


@pytest.mark.parametrize("name", [*SAYS_P, "sigmoid_norm", "ipo_mean"])
def test_loss_gradient_vanishes_where_the_margin_says_p(name: str) -> None:
    base = {"sigmoid_norm": "sigmoid", "ipo_mean": "ipo"}.get(name, name)
    rewards = torch.tensor(SAYS_P[base], dtype=torch.float64) / SETTINGS["beta"]
    if base != name:
        rewards = rewards * 5
    policy = [value.reshape(1).requires_grad_() for value in rewards]
    none = torch.zeros(1, dtype=torch.float64)
    values: dict[str, Any] = {"policy_chosen_logps": policy[0], "policy_rejected_logps": policy[1]}
    values |= {"reference_chosen_logps": none, "reference_rejected_logps": none, "reward_shift": none, "p": none + 0.7}
    values |= {"chosen_lengths": none + 5, "rejected_lengths": none + 5}
    smoothing = {"label_smoothing": 0.2 if name == "exo_pair" else 0.0}
    gradients = torch.autograd.grad(LOSSES[name].apply(SETTINGS | smoothing | values).losses.sum(), policy)
    assert torch.cat(gradients).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_margin_only_says_whether_a_shift_of_both_log_ratios_matters(name: str) -> None:
    values = available() | {"p": ones(), "chosen_lengths": ones(), "rejected_lengths": ones()}
    shifted = values | {f"policy_{side}_logps": values[f"policy_{side}_logps"] - 3 for side in ("chosen", "rejected")}
    same = torch.allclose(LOSSES[name].apply(values).losses, LOSSES[name].apply(shifted).losses, atol=1e-10)
    # AOT compares quantiles of margins, and SimPO's margin is not of log-ratios: no divergence has a place in either.
    assert LOSSES[name].margin_only == (same and name not in {"aot", "aot_unpaired", "simpo"})


@pytest.mark.parametrize("name", LOSSES)
def test_loss_couples_batch_says_whether_other_pairs_matter(name: str) -> None:
    loss, values = LOSSES[name], available() | {"p": ones()}
    whole = loss.apply(values).losses
    half = {
        key: value[: COUNT // 2] if torch.is_tensor(value) and value.ndim else value for key, value in values.items()
    }
    assert loss.couples_batch != torch.allclose(loss.apply(half).losses, whole[: COUNT // 2])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("p", [0.0, 0.6, 1.0])
def test_loss_huge_log_ratios_keep_value_and_gradient_finite(name: str, p: float) -> None:
    if p < 1 and not LOSSES[name].soft_labels:
        p = 1.0
    policy = [torch.tensor(values, requires_grad=True) for values in ([-1.0, -2e4, -1e4, 0.0], [-2e4, -1.0, -1e4, 0.0])]
    values: dict[str, Any] = {"policy_chosen_logps": policy[0], "policy_rejected_logps": policy[1]}
    values |= {"reference_chosen_logps": torch.full((4,), -1e4), "reference_rejected_logps": torch.full((4,), -1e4)}
    values |= {"chosen_lengths": torch.tensor([1, 1, 9, 9]), "rejected_lengths": torch.tensor([1, 1, 9, 9])}
    values |= {"p": torch.full((4,), p), "reward_shift": torch.zeros(()), "kl": torch.zeros(())}
    losses = LOSSES[name].apply(SETTINGS | values).losses
    gradients = torch.autograd.grad(losses.sum(), policy)
    assert torch.isfinite(losses).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_loss_apply_names_what_is_missing() -> None:
    values = available()
    del values["chosen_lengths"], values["simpo_gamma"]
    with pytest.raises(ValueError, match="reads chosen_lengths, simpo_gamma"):
        LOSSES["simpo"].apply(values)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_called_with_log_probabilities_in_order_equals_apply(name: str) -> None:
    loss, values = LOSSES[name], available(p=ones())
    logps = [key for key in values if key.endswith("_logps") and key in loss.inputs]
    others = {key: value for key, value in values.items() if key not in logps}
    called = loss(*(values[key] for key in logps), **others)
    assert torch.equal(called.losses, loss.apply(values).losses)
    with pytest.raises(ValueError, match="zip"):
        loss(*(values[key] for key in logps), values["p"], **others)


def test_loss_needs_are_told_apart() -> None:
    def with_need(need: str) -> set[str]:
        return {name for name, loss in LOSSES.items() if getattr(loss, need)}

    of_lengths = {name for name, loss in LOSSES.items() if {"chosen_lengths", "rejected_lengths"} <= set(loss.inputs)}
    assert of_lengths == {"sigmoid_norm", "ipo_mean", "sft", "rpo", "simpo", "orpo", "cpo"}
    assert with_need("needs_reward_shift") == {"bco_pair"}
    assert with_need("needs_kl") == {"kto"}
    assert with_need("couples_batch") == {"aot", "aot_unpaired"}
    assert {name for name, loss in RESPONSE_LOSSES.items() if loss.needs_kl} == {"kto"}


def test_describe_argument_of_unknown_kind_is_refused() -> None:
    def loss(policy_chosen_logps: torch.Tensor, *, mode: str) -> PairLosses:
        raise NotImplementedError

    with pytest.raises(AssertionError, match="annotate"):
        describe(loss)


def test_describe_tensor_that_is_no_input_or_quantity_is_refused() -> None:
    def loss(margin: torch.Tensor, *, beta: float) -> torch.Tensor:
        raise NotImplementedError

    with pytest.raises(AssertionError, match="parameter margin of loss: a tensor is an input or quantity"):
        describe(loss)
