"""What the first loss must be where policy and reference are the same weights: checked, not hoped."""

import math
from collections.abc import Mapping

import torch

from components.dpo.objective import PAIR_LOSS, Objective
from components.dpo.policy import begins_elsewhere
from components.records import TrainRequest

LN2_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


class FirstLoss:
    """Checks that the first loss is what it must be when policy and reference are the same weights."""

    def __init__(self, request: TrainRequest, objective: Objective, dtype: torch.dtype) -> None:
        self.same_weights = request.policy.digest == request.reference.digest and not begins_elsewhere(request)
        self.objective, self.tolerance = objective, LN2_TOLERANCE[dtype]
        self.applied = False

    def __call__(self, means: Mapping[str, float], pairs: list[int]) -> None:
        """Compares the means of the first step with what they must be.

        Raises:
            RuntimeError: They are something else, so the reference's log-probabilities are not this policy's.
        """
        expected = self.objective.expected_first_loss(pairs) if self.same_weights else None
        if expected is None:
            return
        loss = means[PAIR_LOSS]
        if abs(loss - expected) > self.tolerance * max(1.0, abs(expected) / math.log(2)):
            raise RuntimeError(
                f"the first loss is {loss:.6f} and not {expected:.6f}, although policy and reference have the same digest: "
                "the reference's log-probabilities are not this policy's"
            )
        self.applied = True
