"""The Bradley-Terry loss of a reward model. Pure; knows no model."""

from typing import NamedTuple

import torch
from torch.nn.functional import logsigmoid


class RewardLosses(NamedTuple):
    """What comes of a batch of pairs, each (pairs,)."""

    losses: torch.Tensor
    margins: torch.Tensor
    """Reward of chosen minus reward of rejected; its sigmoid is the predicted probability that chosen is preferred."""


def bradley_terry(chosen_rewards: torch.Tensor, rejected_rewards: torch.Tensor, p: torch.Tensor) -> RewardLosses:
    """Negative log-likelihood of the preferences (Bradley and Terry 1952; Ouyang et al.

    2022, arXiv 2203.02155, equation 1).

    loss = -[p log sigmoid(d) + (1 - p) log sigmoid(-d)], d = r(chosen) - r(rejected): the expectation over the label,
    so that the gradient is zero where sigmoid(d) = p.

    Args:
        chosen_rewards: (pairs,) reward of each chosen answer.
        rejected_rewards: (pairs,) reward of each rejected answer.
        p: (pairs,) probability that chosen is really preferred, in [0, 1].
    """
    margins = chosen_rewards - rejected_rewards
    return RewardLosses(-(p * logsigmoid(margins) + (1 - p) * logsigmoid(-margins)), margins)
