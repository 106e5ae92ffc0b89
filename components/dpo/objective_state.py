"""The state that an objective keeps between steps, and restores from the metrics of a resumed run. Knows no model."""

from collections.abc import Mapping, Sequence

import torch

from components.config import ConstraintsConfig
from components.dpo.constraints import Multipliers
from components.dpo.losses.ratios import RunningMean

REWARD_SHIFT, REWARD_COUNT = "reward_shift", "reward_count"


class ObjectiveState:
    """The reward shift of the losses that have one, and the constraints' multipliers."""

    def __init__(self, constraints: ConstraintsConfig, names: Sequence[str], *, shifts_rewards: bool) -> None:
        self.shifts_rewards = shifts_rewards
        self.reward_shift = RunningMean(torch.zeros(()), torch.zeros(()))
        self.multipliers = Multipliers(constraints, names)

    def update(self, means: Mapping[str, float], num_pairs: int) -> None:
        """Update the state with the means of a finished step, which are the same on every rank."""
        if self.shifts_rewards:
            count = torch.tensor(2.0 * num_pairs)
            total = torch.tensor((means["rewards/chosen"] + means["rewards/rejected"]) * num_pairs)
            self.reward_shift = self.reward_shift.updated(total, count)
        self.multipliers.update({name: means[f"constraints/{name}/violation"] for name in self.multipliers.values})

    def record(self) -> dict[str, float]:
        """Return the state as metrics of the step, from which `restore` reads it."""
        metrics = {f"constraints/{name}/multiplier": value for name, value in self.multipliers.values.items()}
        if self.shifts_rewards:
            metrics |= {REWARD_SHIFT: float(self.reward_shift.mean), REWARD_COUNT: float(self.reward_shift.count)}
        return metrics

    def restore(self, metrics: Mapping[str, float]) -> None:
        """Restore the state from the metrics of the last finished step."""
        self.multipliers.restore({name: metrics[f"constraints/{name}/multiplier"] for name in self.multipliers.values})
        if self.shifts_rewards:
            self.reward_shift = RunningMean(torch.tensor(metrics[REWARD_SHIFT]), torch.tensor(metrics[REWARD_COUNT]))


class NoState:
    """The state of an objective that keeps nothing between steps."""

    def update(self, means: Mapping[str, float], num_pairs: int) -> None:
        """Keep nothing."""

    def restore(self, metrics: Mapping[str, float]) -> None:
        """Restore nothing."""
