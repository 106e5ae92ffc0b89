"""The interface of a loss: its inputs, its result and its value at the start. Knows no particular loss."""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from components.dpo.losses.quantities import INPUTS, Function, recipes_of, score_rewards, sources_of, value_of
from components.dpo.losses.transforms import reverse_kl_scores


class PairLosses(NamedTuple):
    """Results per pair, each of shape (batch,)."""

    losses: torch.Tensor
    chosen_rewards: torch.Tensor
    """The reward of the chosen answer by this loss, detached: beta (log pi(y_w|x) - log pi_ref(y_w|x)) unless it says
    otherwise."""
    rejected_rewards: torch.Tensor


class ResponseLosses(NamedTuple):
    """Results of a loss over single responses, each of shape (batch,)."""

    losses: torch.Tensor
    rewards: torch.Tensor
    """beta (log pi(y|x) - log pi_ref(y|x)), detached."""


Result = TypeVar("Result", PairLosses, ResponseLosses)
FirstLoss = Callable[[torch.Tensor, Mapping[str, float]], float]
"""Takes p (pairs,) of the first step's pairs and the settings. Returns their mean loss for a policy that is the
reference."""


@dataclass(frozen=True)
class Term(Generic[Result]):
    """A published loss: its formula, and what a trainer must know of it."""

    function: Function
    """Takes what it reads by name; returns losses (batch,)."""
    reads: tuple[str, ...]
    """Names of the inputs, settings and quantities (see `quantities`) that the function takes."""
    result: type[Result]
    rewards: Function = score_rewards
    """Makes the rewards of answers; a function of `quantities`."""
    first_loss: FirstLoss | None = None
    """Mean loss if policy and reference are the same weights; None if that depends on the weights."""
    soft_labels: bool = True
    """False if p must be 1 for every pair; the function raises ValueError if it is not."""
    couples_batch: bool = False
    """True if a pair's loss depends on the other pairs of its batch. Other micro-batches, or pairs of weight 0 that
    fill one up, then change the result."""

    @property
    def rewards_of_result(self) -> tuple[str, ...]:
        """Names of the rewards in the result, which follow the losses."""
        return ("rewards",) if self.result is ResponseLosses else ("chosen_rewards", "rejected_rewards")

    def sources(self, divergence: Function, available: Collection[str] = ()) -> list[str]:
        """Return the inputs, settings and available quantities that the function and the rewards are made from."""
        recipes, names = recipes_of(divergence, self.rewards), (*self.reads, *self.rewards_of_result)
        return [source for name in names for source in sources_of(name, recipes, available)]

    def apply(self, available: Mapping[str, Any], divergence: Function) -> Result:
        """Make what the function reads, call it, and detach the rewards."""
        recipes, values = recipes_of(divergence, self.rewards), dict(available)
        losses = self.function(**{name: value_of(name, recipes, values) for name in self.reads})
        return self.result(losses, *(value_of(name, recipes, values).detach() for name in self.rewards_of_result))


@dataclass(frozen=True)
class Loss(Generic[Result]):
    """A weighted sum of published losses, mostly of one. A trainer can call it without looking at its name."""

    terms: tuple[tuple[Term[Result], float], ...]
    """Each with its weight. The rewards are those of the first."""
    divergence: Function = reverse_kl_scores
    """Makes the scores from log-ratios."""

    def apply(self, available: Mapping[str, Any]) -> Result:
        """Compute the loss from those of the available inputs, settings and quantities that it reads.

        Raises:
            ValueError: One that it reads is not available.
        """
        sources = dict.fromkeys(source for term, _ in self.terms for source in term.sources(self.divergence, available))
        if missing := [name for name in sources if name not in available]:
            raise ValueError(f"this loss also reads {', '.join(missing)}: pass a value for each")
        results = [term.apply(available, self.divergence) for term, _ in self.terms]
        weighted = [weight * result.losses for result, (_, weight) in zip(results, self.terms, strict=True)]
        return results[0]._replace(losses=torch.stack(weighted).sum(dim=0))

    def __call__(self, *logps: torch.Tensor, **others: Any) -> Result:
        """Compute the loss from log-probabilities in the order of `inputs`, and all else by name."""
        names = [name for name in self.inputs if name.endswith("_logps")]
        return self.apply(dict(zip(names, logps, strict=True)) | others)

    def expected_first_loss(self, p: torch.Tensor, settings: Mapping[str, float]) -> float | None:
        """Return the mean loss of pairs if policy and reference are the same weights; None if that is not known.

        `reward_shift` and `kl` are 0 there. Weights that multiply the losses, such as those of WPO, are not counted.

        Args:
            p: (pairs,) label probabilities.
            settings: Those that the loss reads.
        """
        return None if self.first_loss is None else self.first_loss(p, settings)

    @property
    def first_loss(self) -> FirstLoss | None:
        """Function that computes `expected_first_loss`; None if a term has no known first loss."""
        known = [(term.first_loss, weight) for term, weight in self.terms if term.first_loss is not None]
        if len(known) < len(self.terms):
            return None
        return lambda p, settings: sum(weight * first_loss(p, settings) for first_loss, weight in known)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that it reads, in the order of `INPUTS`."""
        return tuple(name for name in INPUTS if name in self._sources)

    @cached_property
    def settings(self) -> tuple[str, ...]:
        """Names of the numbers that it reads; they come from the configuration."""
        return tuple(name for name in self._sources if name not in INPUTS)

    @cached_property
    def _sources(self) -> dict[str, None]:
        return dict.fromkeys(source for term, _ in self.terms for source in term.sources(self.divergence))

    @property
    def margin_only(self) -> bool:
        """Whether it reads log-probabilities only through `delta` or `mean_delta`, so that a divergence fits in."""
        of_answers = {name for term, _ in self.terms for name in term.reads} - {"p", *self.settings}
        return of_answers <= {"delta", "mean_delta"}

    @property
    def soft_labels(self) -> bool:
        """Whether it takes pairs whose p is not 1."""
        return all(term.soft_labels for term, _ in self.terms)

    @property
    def couples_batch(self) -> bool:
        """Whether a pair's loss depends on the other pairs of its batch."""
        return any(term.couples_batch for term, _ in self.terms)

    @property
    def needs_reference(self) -> bool:
        """Whether it reads the reference's log-probabilities."""
        return any(name.startswith("reference_") for name in self.inputs)

    @property
    def needs_reward_shift(self) -> bool:
        """Whether it reads `reward_shift`, the mean of a `RunningMean` over rewards: state that a resumed run needs."""
        return "reward_shift" in self.inputs

    @property
    def needs_kl(self) -> bool:
        """Whether it reads `kl`, which takes a forward over mismatched prompts and responses (`unpaired.kto_loss`)."""
        return "kl" in self.inputs


def describe(
    function: Function,
    first_loss: FirstLoss | None = None,
    *,
    rewards: Function = score_rewards,
    soft_labels: bool = True,
    couples_batch: bool = False,
) -> Loss[PairLosses]:
    """Return the `Loss` of a function over pairs.

    What it reads is taken from its signature, so that the two cannot disagree.

    Args:
        function: Its parameters are inputs and quantities, annotated as tensors, and settings, annotated as float.
        first_loss: See `Term`, as for the rest.
        rewards: A function of `quantities`.
        soft_labels: Whether p may be below 1.
        couples_batch: Whether a pair's loss depends on the other pairs.
    """
    return Loss(((Term(function, _reads(function), PairLosses, rewards, first_loss, soft_labels, couples_batch), 1.0),))


def describe_responses(function: Function, first_loss: FirstLoss) -> Loss[ResponseLosses]:
    """Return the `Loss` of a function over single responses, as `describe` does for pairs."""
    return Loss(((Term(function, _reads(function), ResponseLosses, first_loss=first_loss), 1.0),))


def _reads(function: Function) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters
    tensors = {*INPUTS, *recipes_of(reverse_kl_scores, score_rewards)}
    for name, parameter in parameters.items():
        where, kind = f"parameter {name} of {function.__name__}", parameter.annotation
        assert kind in (torch.Tensor, float), f"{where}: annotate tensors as torch.Tensor and settings as float"
        assert (kind is torch.Tensor) == (name in tensors), f"{where}: a tensor is an input or quantity of `quantities`"
    return tuple(parameters)
