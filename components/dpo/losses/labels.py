"""Expectations over a label that may be wrong. Knows no particular loss."""

import torch
import torch.nn.functional as F


def smoothed(p: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Return q = p (1 - eps) + (1 - p) eps: how likely the label is if a share eps of the labels is flipped.

    Args:
        p: (batch,) probability that chosen is preferred before labels are flipped, in [0, 1].
        label_smoothing: eps, in [0, 0.5).

    Returns:
        (batch,) q.
    """
    return p * (1 - label_smoothing) + (1 - p) * label_smoothing


def expected_over_label(q: torch.Tensor, as_labelled: torch.Tensor, swapped: torch.Tensor) -> torch.Tensor:
    """Return the expectation of a loss over the label: q loss(y_w, y_l) + (1 - q) loss(y_l, y_w), all (batch,)."""
    return q * as_labelled + (1 - q) * swapped


def accuracies(margins: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Return 1 where the margin prefers the answer that the label prefers, 0 where it prefers the other, (batch,).

    A margin of 0 is half right, so that an untrained policy scores 0.5 and not 0. So is any margin at p = 1/2, where
    the label prefers neither. At p < 1/2 the rejected answer is the preferred one.
    """
    agreement = margins * (p - 0.5).sign()
    return (agreement > 0).float() + 0.5 * (agreement == 0).float()


def cross_entropy(logits: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return -q log sigmoid(logits) - (1 - q) log sigmoid(-logits), all (batch,).

    The gradient vanishes at sigmoid(logits) = q.
    """
    return expected_over_label(q, -F.logsigmoid(logits), -F.logsigmoid(-logits))
