"""The Bradley-Terry loss of a reward model. Pure; knows no model."""

from typing import NamedTuple

import torch
from torch.nn.functional import logsigmoid


class RewardLosses(NamedTuple):
    """Results per pair, each (pairs,)."""

    losses: torch.Tensor
    margins: torch.Tensor
    """Reward of chosen minus reward of rejected; its sigmoid is the predicted probability that chosen is preferred."""


def bradley_terry(chosen_rewards: torch.Tensor, rejected_rewards: torch.Tensor, p: torch.Tensor) -> RewardLosses:
    """Return the negative log-likelihood of the preferences, and the margins.

    loss = -[p log sigmoid(d) + (1 - p) log sigmoid(-d)], d = r(chosen) - r(rejected). It is the expectation over the
    label, so that the gradient is zero if sigmoid(d) = p. Bradley and Terry 1952; Ouyang et al. 2022, arXiv 2203.02155,
    equation 1.

    Args:
        chosen_rewards: (pairs,) reward of each chosen answer.
        rejected_rewards: (pairs,) reward of each rejected answer.
        p: (pairs,) probability that chosen is really preferred, in [0, 1].
    """
    margins = chosen_rewards - rejected_rewards
    return RewardLosses(-(p * logsigmoid(margins) + (1 - p) * logsigmoid(-margins)), margins)
