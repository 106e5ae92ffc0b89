"""Values worked by hand.

One pair throughout: log-ratio of chosen -1 + 3 = 2, of rejected -5 + 4 = -1, so the margin is 3.
"""

import math
from collections.abc import Callable

import pytest
import torch

from components.dpo.losses import LOSSES, RESPONSE_LOSSES, RunningMean, balanced_weights

PAIR = {
    "policy_chosen_logps": -1.0,
    "policy_rejected_logps": -5.0,
    "reference_chosen_logps": -3.0,
    "reference_rejected_logps": -4.0,
    "chosen_lengths": 2.0,
    "rejected_lengths": 4.0,
}


def scalar(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def loss_of(name: str, **values: float) -> float:
    loss = LOSSES[name]
    inputs = {key: scalar(value) for key, value in (PAIR | values).items() if key in loss.inputs}
    return float(loss.apply(inputs | {key: values[key] for key in loss.settings}).losses)


def nls(logit: float) -> float:
    """-log sigmoid."""
    return math.log(1 + math.exp(-logit))


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


# With beta 0.5: h = 0.5 * 3 = 1.5, rewards 0.5 * 2 = 1 and 0.5 * -1 = -0.5. A soft label of 0.75 with eps 0.1 is q =
# 0.675 + 0.025 = 0.7.
BY_HAND: list[tuple[str, dict[str, float], float]] = [
    ("sigmoid", {"p": 1.0, "beta": 0.5, "label_smoothing": 0.0}, nls(1.5)),
    ("sigmoid", {"p": 0.75, "beta": 0.5, "label_smoothing": 0.1}, 0.7 * nls(1.5) + 0.3 * nls(-1.5)),
    # Means: 2 / 2 = 1 and -1 / 4 = -0.25; h = 0.5 * 1.25.
    ("sigmoid_norm", {"p": 1.0, "beta": 0.5, "label_smoothing": 0.0}, nls(0.625)),
    ("sigmoid_norm", {"p": 0.75, "beta": 0.5, "label_smoothing": 0.1}, 0.7 * nls(0.625) + 0.3 * nls(-0.625)),
    # beta 0.25 asks for 1 / (2 * 0.25) = 2: (3 - 2)^2 = 1 and (3 + 2)^2 = 25; of means (1.25 - 2)^2 = 0.5625 and 3.25^2
    # = 10.5625.
    ("ipo", {"p": 1.0, "beta": 0.25, "label_smoothing": 0.0}, 1.0),
    ("ipo", {"p": 0.75, "beta": 0.25, "label_smoothing": 0.0}, 0.75 * 1 + 0.25 * 25),
    ("ipo_mean", {"p": 1.0, "beta": 0.25, "label_smoothing": 0.0}, 0.5625),
    ("ipo_mean", {"p": 0.75, "beta": 0.25, "label_smoothing": 0.0}, 0.75 * 0.5625 + 0.25 * 10.5625),
    # beta 0.2: h = 0.6, so 0.4 as labelled and 1.6 swapped; beta 0.5: h = 1.5 is beyond the margin, and 2.5 swapped.
    ("hinge", {"p": 1.0, "beta": 0.2, "label_smoothing": 0.0}, 0.4),
    ("hinge", {"p": 0.75, "beta": 0.5, "label_smoothing": 0.0}, 0.25 * 2.5),
    # [0.9 l(h) - 0.1 l(-h)] / 0.8; with p = 0.75: q = (0.75 - 0.1) / 0.8 = 0.8125.
    ("robust", {"p": 1.0, "beta": 0.5, "label_smoothing": 0.1}, (0.9 * nls(1.5) - 0.1 * nls(-1.5)) / 0.8),
    ("robust", {"p": 0.75, "beta": 0.5, "label_smoothing": 0.1}, 0.8125 * nls(1.5) + 0.1875 * nls(-1.5)),
    (
        "exo_pair",
        {"p": 1.0, "beta": 0.5, "label_smoothing": 0.1},
        sigmoid(1.5) * math.log(sigmoid(1.5) / 0.9) + sigmoid(-1.5) * math.log(sigmoid(-1.5) / 0.1),
    ),
    (
        "exo_pair",
        {"p": 0.75, "beta": 0.5, "label_smoothing": 0.1},
        sigmoid(1.5) * math.log(sigmoid(1.5) / 0.7) + sigmoid(-1.5) * math.log(sigmoid(-1.5) / 0.3),
    ),
    # tau 0.5: m = sigmoid(1.5 / 0.5) = sigmoid(3); swapped, h = -1.5 and m = sigmoid(-3).
    ("discopop", {"p": 1.0, "beta": 0.5, "discopop_tau": 0.5}, sigmoid(-3) * nls(1.5) + sigmoid(3) * math.exp(-1.5)),
    (
        "discopop",
        {"p": 0.75, "beta": 0.5, "discopop_tau": 0.5},
        0.75 * (sigmoid(-3) * nls(1.5) + sigmoid(3) * math.exp(-1.5))
        + 0.25 * (sigmoid(3) * nls(-1.5) + sigmoid(-3) * math.exp(1.5)),
    ),
    ("nca_pair", {"p": 1.0, "beta": 0.5}, nls(1) + 0.5 * nls(-1) + 0.5 * nls(0.5)),
    ("nca_pair", {"p": 0.75, "beta": 0.5}, 0.75 * nls(1) + 0.25 * nls(-0.5) + 0.5 * nls(-1) + 0.5 * nls(0.5)),
    # Shift 0.2: chosen 1 - 0.2 = 0.8, rejected -0.5 - 0.2 = -0.7.
    ("bco_pair", {"p": 1.0, "beta": 0.5, "reward_shift": 0.2}, nls(0.8) + nls(0.7)),
    (
        "bco_pair",
        {"p": 0.75, "beta": 0.5, "reward_shift": 0.2},
        0.75 * (nls(0.8) + nls(0.7)) + 0.25 * (nls(-0.8) + nls(-0.7)),
    ),
    # Targets +-0.5 / 0.5 = +-1: (2 - 1)^2 + (-1 + 1)^2. p = 0.75 halves them: (2 - 0.5)^2 + (-1 + 0.5)^2. Swapped and
    # hard: 3^2 + (-2)^2.
    ("sppo", {"p": 1.0, "beta": 0.5}, 1.0),
    ("sppo", {"p": 0.75, "beta": 0.5}, 2.25 + 0.25),
    ("sppo_hard", {"p": 1.0, "beta": 0.5}, 1.0),
    ("sppo_hard", {"p": 0.75, "beta": 0.5}, 0.75 * 1 + 0.25 * 13),
    ("apo_zero", {"p": 1.0, "beta": 0.5}, sigmoid(-1) + sigmoid(-0.5)),
    ("apo_zero", {"p": 0.75, "beta": 0.5}, 0.75 * (sigmoid(-1) + sigmoid(-0.5)) + 0.25 * (sigmoid(0.5) + sigmoid(1))),
    ("apo_down", {"p": 1.0, "beta": 0.5}, sigmoid(1) + sigmoid(-1.5)),
    ("apo_down", {"p": 0.75, "beta": 0.5}, 0.75 * (sigmoid(1) + sigmoid(-1.5)) + 0.25 * (sigmoid(-0.5) + sigmoid(1.5))),
    # Chosen has not fallen below the reference: no penalty. Swapped, rejected has, by 1: -3 - 2 * 1 = -5.
    ("dpop", {"p": 1.0, "beta": 0.5, "dpop_lambda": 2.0}, nls(1.5)),
    ("dpop", {"p": 0.75, "beta": 0.5, "dpop_lambda": 2.0}, 0.75 * nls(1.5) + 0.25 * nls(-2.5)),
    # Chosen falls by 0.5 (log-ratio -3.5 + 3): margin 0.5, less 2 * 0.5.
    ("dpop", {"p": 1.0, "beta": 0.5, "dpop_lambda": 2.0, "policy_chosen_logps": -3.5}, nls(0.5 * (0.5 - 1))),
    # Alone in its batch a pair is its own quantile.
    ("aot", {"p": 1.0, "beta": 0.5, "label_smoothing": 0.1}, 0.9 * nls(1.5) + 0.1 * nls(-1.5)),
    ("aot_unpaired", {"p": 1.0, "beta": 0.5, "label_smoothing": 0.1}, 0.9 * nls(1.5) + 0.1 * nls(-1.5)),
    # KL 0.6: z = 0.3. Desirable 3 * sigmoid(-(1 - 0.3)), undesirable 2 * sigmoid(-0.5 - 0.3); the mean of the two.
    (
        "kto",
        {"p": 1.0, "beta": 0.5, "kl": 0.6, "desirable_weight": 3.0, "undesirable_weight": 2.0},
        (3 * sigmoid(-0.7) + 2 * sigmoid(-0.8)) / 2,
    ),
    (
        "kto",
        {"p": 0.75, "beta": 0.5, "kl": 0.6, "desirable_weight": 3.0, "undesirable_weight": 2.0},
        (0.75 * (3 * sigmoid(-0.7) + 2 * sigmoid(-0.8)) + 0.25 * (2 * sigmoid(0.7) + 3 * sigmoid(0.8))) / 2,
    ),
    # The same with z = 0: desirable 3 * sigmoid(-1), undesirable 2 * sigmoid(-0.5).
    (
        "apo_zero_unpaired",
        {"p": 1.0, "beta": 0.5, "desirable_weight": 3.0, "undesirable_weight": 2.0},
        (3 * sigmoid(-1) + 2 * sigmoid(-0.5)) / 2,
    ),
    (
        "apo_zero_unpaired",
        {"p": 0.75, "beta": 0.5, "desirable_weight": 3.0, "undesirable_weight": 2.0},
        (0.75 * (3 * sigmoid(-1) + 2 * sigmoid(-0.5)) + 0.25 * (2 * sigmoid(1) + 3 * sigmoid(0.5))) / 2,
    ),
    # Mean log-probabilities: -1 / 2 = -0.5 and -5 / 4 = -1.25.
    ("sft", {"p": 1.0}, 0.5),
    ("sft", {"p": 0.75}, 0.75 * 0.5 + 0.25 * 1.25),
    ("rpo", {"p": 1.0, "beta": 0.5, "label_smoothing": 0.0, "nll_weight": 2.0}, nls(1.5) + 2 * 0.5),
    (
        "rpo",
        {"p": 0.75, "beta": 0.5, "label_smoothing": 0.1, "nll_weight": 2.0},
        0.7 * (nls(1.5) + 2 * 0.5) + 0.3 * (nls(-1.5) + 2 * 1.25),
    ),
    # h = 2 * (-0.5 + 1.25) = 1.5, less gamma 0.5; swapped -1.5 - 0.5.
    ("simpo", {"p": 1.0, "beta": 2.0, "label_smoothing": 0.0, "simpo_gamma": 0.5}, nls(1.0)),
    ("simpo", {"p": 0.75, "beta": 2.0, "label_smoothing": 0.1, "simpo_gamma": 0.5}, 0.7 * nls(1.0) + 0.3 * nls(-2.0)),
    # Odds of P = e^-0.5 and e^-1.25: 1 / (e^0.5 - 1) and 1 / (e^1.25 - 1).
    ("orpo", {"p": 1.0, "beta": 0.5}, 0.5 + 0.5 * nls(math.log((math.exp(1.25) - 1) / (math.exp(0.5) - 1)))),
    (
        "orpo",
        {"p": 0.75, "beta": 0.5},
        0.75 * (0.5 + 0.5 * nls(math.log((math.exp(1.25) - 1) / (math.exp(0.5) - 1))))
        + 0.25 * (1.25 + 0.5 * nls(math.log((math.exp(0.5) - 1) / (math.exp(1.25) - 1)))),
    ),
    # h = 0.5 * (-1 + 5) = 2.
    ("cpo", {"p": 1.0, "beta": 0.5, "label_smoothing": 0.0, "nll_weight": 2.0}, nls(2.0) + 2 * 0.5),
    (
        "cpo",
        {"p": 0.75, "beta": 0.5, "label_smoothing": 0.1, "nll_weight": 2.0},
        0.7 * (nls(2.0) + 2 * 0.5) + 0.3 * (nls(-2.0) + 2 * 1.25),
    ),
]


@pytest.mark.parametrize(("name", "values", "expected"), BY_HAND)
def test_loss_by_hand(name: str, values: dict[str, float], expected: float) -> None:
    assert loss_of(name, **values) == pytest.approx(expected, abs=1e-12)


def test_every_loss_is_worked_by_hand() -> None:
    assert {name for name, _, _ in BY_HAND} == set(LOSSES)


# What each loss calls the reward of the pair above, with beta 0.5: of sums 0.5 * 2 and 0.5 * -1.
REWARDS = {
    "sigmoid_norm": (0.5, -0.125),
    "ipo_mean": (0.5, -0.125),
    "sft": (-0.5, -1.25),
    "simpo": (-0.25, -0.625),
    "orpo": (-0.25, -0.625),
    "cpo": (-0.5, -2.5),
}
SETTINGS = {
    "beta": 0.5,
    "label_smoothing": 0.1,
    "discopop_tau": 0.05,
    "dpop_lambda": 5.0,
    "nll_weight": 1.0,
    "simpo_gamma": 0.5,
    "desirable_weight": 1.5,
    "undesirable_weight": 0.75,
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_rewards_by_hand_and_without_gradient(name: str) -> None:
    inputs = {key: scalar(value).requires_grad_() for key, value in (PAIR | {"reward_shift": 0.2, "kl": 0.6}).items()}
    _, chosen, rejected = LOSSES[name].apply(inputs | SETTINGS | {"p": scalar(1.0)})
    assert (chosen.item(), rejected.item()) == pytest.approx(REWARDS.get(name, (1.0, -0.5)), abs=1e-12)
    assert not chosen.requires_grad
    assert not rejected.requires_grad


def test_aot_loss_two_pairs_by_hand() -> None:
    # Policy margins 1 and 4, reference margins 3 and 0. Sorted: 1 against 0 and 4 against 3, so that both differ by 1.
    policy, reference = torch.tensor([[1.0, 4.0], [0.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    losses = LOSSES["aot"](*policy, *reference, beta=0.5, p=torch.ones(2), label_smoothing=0.0).losses
    assert losses.tolist() == pytest.approx([nls(0.5), nls(0.5)])


def test_aot_unpaired_loss_two_pairs_by_hand() -> None:
    # Chosen log-ratios 5 and 1, rejected 0 and 3. Sorted: 1 against 0 and 5 against 3; the first pair has the greater
    # chosen one.
    policy, none = torch.tensor([[5.0, 1.0], [0.0, 3.0]]), torch.zeros(2, 2)
    losses = LOSSES["aot_unpaired"](*policy, *none, beta=0.5, p=torch.ones(2), label_smoothing=0.0).losses
    assert losses.tolist() == pytest.approx([nls(1.0), nls(0.5)])


@pytest.mark.parametrize(
    ("p", "expected"),
    [(1.0, 3 * sigmoid(-0.7)), (0.0, 2 * sigmoid(0.7)), (0.25, 0.25 * 3 * sigmoid(-0.7) + 0.75 * 2 * sigmoid(0.7))],
)
def test_kto_response_by_hand(p: float, expected: float) -> None:
    # Reward 0.5 * (-1 + 3) = 1, z = 0.5 * 0.6 = 0.3.
    weights = {"desirable_weight": 3.0, "undesirable_weight": 2.0}
    losses, rewards = RESPONSE_LOSSES["kto"](scalar(-1), scalar(-3), beta=0.5, p=scalar(p), kl=scalar(0.6), **weights)
    assert losses.item() == pytest.approx(expected, abs=1e-12)
    assert rewards.item() == 1.0


def test_kto_negative_kl_estimate_counts_as_zero() -> None:
    weights = {"desirable_weight": 3.0, "undesirable_weight": 2.0}
    losses, _ = RESPONSE_LOSSES["kto"](scalar(-1), scalar(-3), beta=0.5, p=scalar(1), kl=scalar(-7), **weights)
    assert losses.item() == pytest.approx(3 * sigmoid(-1), abs=1e-12)


def test_apo_zero_unpaired_by_hand() -> None:
    weights = {"desirable_weight": 3.0, "undesirable_weight": 2.0}
    losses, _ = RESPONSE_LOSSES["apo_zero_unpaired"](scalar(-1), scalar(-3), beta=0.5, p=scalar(0.25), **weights)
    assert losses.item() == pytest.approx(0.25 * 3 * sigmoid(-1) + 0.75 * 2 * sigmoid(1), abs=1e-12)


def test_balanced_weights_by_hand() -> None:
    # 10 desirable of 40 weigh 2 each and 30 undesirable 2/3: 20 on both sides, 40 in all.
    assert balanced_weights(10, 30) == pytest.approx((2.0, 2 / 3))
    with pytest.raises(ValueError, match="0 undesirable"):
        balanced_weights(10, 0)


def test_running_mean_by_hand() -> None:
    # (1 + 2 + 3) / 3 = 2, then (6 + 10) / 4 = 4.
    start = RunningMean(torch.tensor(0.0), torch.tensor(0.0))
    first = start.updated(torch.tensor(6.0), torch.tensor(3.0))
    second = first.updated(torch.tensor(10.0, requires_grad=True), torch.tensor(1.0))
    assert (first.mean.item(), second.mean.item(), second.count.item()) == (2.0, 4.0, 4.0)
    assert not second.mean.requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loss_of("robust", p=1.0, beta=0.1, label_smoothing=0.5), r"label_smoothing is 0\.5"),
        (lambda: loss_of("exo_pair", p=1.0, beta=0.1, label_smoothing=0.0), r"label_smoothing is 0"),
        (lambda: loss_of("aot", p=0.9, beta=0.1, label_smoothing=0.0), "hard labels"),
        (lambda: loss_of("aot_unpaired", p=0.9, beta=0.1, label_smoothing=0.0), "hard labels"),
    ],
)
def test_loss_refuses_what_has_no_meaning(call: Callable[[], float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
