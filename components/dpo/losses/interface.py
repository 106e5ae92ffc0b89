"""What a loss is: what it reads, what it returns and what it must be at the start. Knows no particular loss."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F

PAIR_LOGPS = ("policy_chosen_logps", "policy_rejected_logps", "reference_chosen_logps", "reference_rejected_logps")


class PairLosses(NamedTuple):
    """Per-pair results, each of shape (batch,)."""

    losses: torch.Tensor
    chosen_rewards: torch.Tensor
    """What the loss takes for the reward of the chosen answer, detached: beta * (log pi(y_w|x) - log pi_ref(y_w|x)) unless it says
    otherwise."""
    rejected_rewards: torch.Tensor


class ResponseLosses(NamedTuple):
    """Results of a loss over single responses, each of shape (batch,)."""

    losses: torch.Tensor
    rewards: torch.Tensor
    """beta * (log pi(y|x) - log pi_ref(y|x)), detached."""


Result = TypeVar("Result", PairLosses, ResponseLosses)
FirstLoss = Callable[[torch.Tensor, Mapping[str, float]], float]
"""Takes p (pairs,) of the first step's pairs and the settings; returns the mean loss where policy and reference are the same weights."""


@dataclass(frozen=True)
class Loss(Generic[Result]):
    """A loss with all that a trainer must know to call it: it never has to look at the loss's name."""

    function: Callable[..., Result]
    inputs: tuple[str, ...]
    """Names of the tensors that it reads, in the order of its signature."""
    settings: tuple[str, ...]
    """Names of the numbers that it reads; they come from the configuration."""
    first_loss: FirstLoss | None = None
    """What the loss must be where policy and reference are the same weights; None where that depends on the weights."""
    margin_only: bool = False
    """True where policy and reference matter only through the difference of the two log-ratios (over lengths, where it reads them), so
    that `with_divergence` may replace the log-ratios by another divergence's scores."""
    soft_labels: bool = True
    """False where p must be 1 for every pair; the loss raises ValueError where it is not."""
    couples_batch: bool = False
    """True where a pair's loss depends on the other pairs of its batch: other micro-batches, or pairs of weight 0 that fill one up,
    then change the result."""

    def __call__(self, *inputs: torch.Tensor, **keywords: Any) -> Result:
        """Calls the function as its own signature says."""
        return self.function(*inputs, **keywords)

    @property
    def __signature__(self) -> inspect.Signature:
        """What a call takes, for `inspect.signature` and whoever completes a call: log-probabilities by place, all else by name."""
        kinds = {True: inspect.Parameter.POSITIONAL_OR_KEYWORD, False: inspect.Parameter.KEYWORD_ONLY}
        annotated = dict.fromkeys(self.inputs, torch.Tensor) | dict.fromkeys(self.settings, float)
        parameters = [inspect.Parameter(name, kinds[name.endswith("_logps")], annotation=kind) for name, kind in annotated.items()]
        return inspect.Signature(sorted(parameters, key=lambda parameter: parameter.kind))

    def apply(self, available: Mapping[str, Any]) -> Result:
        """Calls the function with those of the available inputs and settings that it reads.

        Raises:
            ValueError: One that it reads is not available.
        """
        reads = (*self.inputs, *self.settings)
        if missing := [name for name in reads if name not in available]:
            raise ValueError(f"this loss also reads {', '.join(missing)}: pass a value for each")
        return self.function(**{name: available[name] for name in reads})

    def expected_first_loss(self, p: torch.Tensor, settings: Mapping[str, float]) -> float | None:
        """Mean loss of pairs with label probabilities p (pairs,) where policy and reference are the same weights; None if it has none.

        `reward_shift` and `kl` are 0 there. Weights that multiply the losses, as those of WPO, are not counted.
        """
        return None if self.first_loss is None else self.first_loss(p, settings)

    @property
    def needs_reference(self) -> bool:
        """Whether it reads the reference's log-probabilities."""
        return any(name.startswith("reference_") for name in self.inputs)

    @property
    def needs_lengths(self) -> bool:
        """Whether it reads `chosen_lengths` and `rejected_lengths`, (batch,) response tokens."""
        return "chosen_lengths" in self.inputs

    @property
    def needs_reward_shift(self) -> bool:
        """Whether it reads `reward_shift`, the mean of a `RunningMean` over rewards: state that a resumed run must find again."""
        return "reward_shift" in self.inputs

    @property
    def needs_kl(self) -> bool:
        """Whether it reads `kl`, which takes a forward over mismatched prompts and responses (see `unpaired.kto_loss`)."""
        return "kl" in self.inputs


def describe(function: Callable[..., Result], first_loss: FirstLoss | None = None, **says: bool) -> Loss[Result]:
    """Makes the `Loss` of a function; what it reads is taken from its signature, so that the two cannot disagree.

    Args:
        function: Its parameters are tensors and floats, annotated as such.
        first_loss: See `Loss`.
        **says: `margin_only`, `soft_labels` and `couples_batch` of `Loss`.
    """
    parameters = inspect.signature(function).parameters.values()
    inputs = tuple(parameter.name for parameter in parameters if parameter.annotation is torch.Tensor)
    settings = tuple(parameter.name for parameter in parameters if parameter.annotation is float)
    assert len(inputs) + len(settings) == len(parameters), f"{function.__name__}: annotate tensors as torch.Tensor and settings as float"
    return Loss(function, inputs, settings, first_loss, **says)


def smoothed(p: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Probability that chosen is preferred where a share eps of the labels is flipped: q = p (1 - eps) + (1 - p) eps, shape of p."""
    return p * (1 - label_smoothing) + (1 - p) * label_smoothing


def expected_over_label(q: torch.Tensor, as_labelled: torch.Tensor, swapped: torch.Tensor) -> torch.Tensor:
    """Expectation of a loss over the label: q * loss(y_w, y_l) + (1 - q) * loss(y_l, y_w), all (batch,)."""
    return q * as_labelled + (1 - q) * swapped


def cross_entropy(logits: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """-q log sigmoid(logits) - (1 - q) log sigmoid(-logits), all (batch,); its gradient vanishes where sigmoid(logits) = q."""
    return expected_over_label(q, -F.logsigmoid(logits), -F.logsigmoid(-logits))
