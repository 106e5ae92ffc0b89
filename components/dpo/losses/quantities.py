"""Make what losses depend on from the log-probabilities and lengths of answers. Knows no loss.

A loss says what it reads by the names of its parameters, and so does every function here. A name is one of three
things: an input (`INPUTS`), a setting (annotated as float), or a quantity, which the function of that name makes from
its own parameters. `chosen_` or `rejected_` before a quantity of answers means the answers on that side of the pairs.
So `delta` is made from `chosen_scores` and `rejected_scores`. `chosen_scores` are made from `chosen_log_ratios`, and
these from `policy_chosen_logps` and `reference_chosen_logps`. A quantity that the trainer has at hand is not made: so
log-ratios may be of other sums than likelihoods are (`transforms.length_desensitised_logps`).
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch

Function = Callable[..., torch.Tensor]
PerPair = torch.Tensor
"""(batch,): one value per pair."""
PerResponse = torch.Tensor
"""(batch,): one value per response."""
Scalar = torch.Tensor
"""(): one value for the whole step."""

SIDES = ("chosen", "rejected")
PAIR_LOGPS = ("policy_chosen_logps", "policy_rejected_logps", "reference_chosen_logps", "reference_rejected_logps")
LENGTHS = ("chosen_lengths", "rejected_lengths")
INPUTS = ("policy_logps", "reference_logps", *PAIR_LOGPS, *LENGTHS, "p", "reward_shift", "kl")
"""Tensors that a trainer may have at hand. Log-probabilities are in nats, summed over response tokens, (batch,).
Lengths are response tokens, at least 1, (batch,). For `p`, `reward_shift` and `kl` see the losses that read them."""


def log_ratios(policy_logps: torch.Tensor, reference_logps: torch.Tensor) -> torch.Tensor:
    """Return log pi(y|x) - log pi_ref(y|x), (batch,), in nats."""
    return policy_logps - reference_logps


def mean_scores(scores: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return scores per response token, (batch,). A score is the log-ratio, or what a divergence puts in its place."""
    return scores / lengths


def mean_logps(policy_logps: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return log pi(y|x) / |y|, (batch,), in nats per token."""
    return policy_logps / lengths


def nll(policy_logps: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the negative log-likelihood -log pi(y|x) / |y|, (batch,), in nats per token."""
    return -(policy_logps / lengths)


def score_rewards(scores: torch.Tensor, *, beta: float) -> torch.Tensor:
    """Return DPO's rewards, beta times the score, (batch,)."""
    return beta * scores


def mean_score_rewards(mean_scores: torch.Tensor, *, beta: float) -> torch.Tensor:
    """Return beta times the score per response token, (batch,)."""
    return beta * mean_scores


def logp_rewards(policy_logps: torch.Tensor, *, beta: float) -> torch.Tensor:
    """Return beta log pi(y|x), (batch,): rewards without a reference."""
    return beta * policy_logps


def mean_logp_rewards(mean_logps: torch.Tensor, *, beta: float) -> torch.Tensor:
    """Return beta times the mean log-probability, (batch,): ORPO's rewards."""
    return beta * mean_logps


def simpo_rewards(policy_logps: torch.Tensor, lengths: torch.Tensor, *, beta: float) -> torch.Tensor:
    """Return beta log pi(y|x) / |y|, (batch,): SimPO's rewards. The product comes first, as in the paper's formula."""
    return beta * policy_logps / lengths


def delta(chosen_scores: torch.Tensor, rejected_scores: torch.Tensor) -> torch.Tensor:
    """Return the margin of a pair, (batch,): the score of chosen minus that of rejected."""
    return chosen_scores - rejected_scores


def mean_delta(chosen_mean_scores: torch.Tensor, rejected_mean_scores: torch.Tensor) -> torch.Tensor:
    """Return the margin of scores per response token, (batch,)."""
    return chosen_mean_scores - rejected_mean_scores


def policy_delta(policy_chosen_logps: torch.Tensor, policy_rejected_logps: torch.Tensor) -> torch.Tensor:
    """Return log pi(y_w|x) - log pi(y_l|x), (batch,)."""
    return policy_chosen_logps - policy_rejected_logps


def reference_delta(reference_chosen_logps: torch.Tensor, reference_rejected_logps: torch.Tensor) -> torch.Tensor:
    """Return log pi_ref(y_w|x) - log pi_ref(y_l|x), (batch,)."""
    return reference_chosen_logps - reference_rejected_logps


def compared_with_reference(policy: torch.Tensor, reference: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the quantities of pairs that compare the policy with the reference, by name.

    Args:
        policy: (2, batch) log-probabilities of chosen and of rejected answers under the policy, in nats.
        reference: The same under the reference.
    """
    return {
        "chosen_log_ratios": log_ratios(policy[0], reference[0]),
        "rejected_log_ratios": log_ratios(policy[1], reference[1]),
        "policy_delta": policy_delta(policy[0], policy[1]),
        "reference_delta": reference_delta(reference[0], reference[1]),
    }


class Recipe(NamedTuple):
    """How a quantity is made."""

    function: Function
    sources: dict[str, str]
    """By parameter of the function: the input, setting or quantity that is passed for it."""


@cache
def recipes_of(divergence: Function, rewards: Function) -> dict[str, Recipe]:
    """Return the recipes of all quantities by name.

    Args:
        divergence: Makes `scores` from log-ratios; one of `transforms`.
        rewards: Makes the rewards of answers; a function of this module.
    """
    of_answers = {function.__name__: function for function in (log_ratios, mean_scores, mean_logps, nll)}
    of_answers |= {"scores": divergence, "rewards": rewards}
    of_pairs = {function.__name__: function for function in (delta, mean_delta, policy_delta, reference_delta)}
    recipes = {name: _recipe(function) for name, function in (of_answers | of_pairs).items()}
    sides = {f"{side}_{name}": _recipe(function, side) for side in SIDES for name, function in of_answers.items()}
    return recipes | sides


def _recipe(function: Function, side: str | None = None) -> Recipe:
    parameters = inspect.signature(function).parameters.values()
    return Recipe(function, {parameter.name: _source(parameter, side) for parameter in parameters})


def _source(parameter: inspect.Parameter, side: str | None) -> str:
    if side is None or parameter.annotation is float:
        return parameter.name
    if parameter.name in ("policy_logps", "reference_logps"):
        return parameter.name.replace("_", f"_{side}_")
    return f"{side}_{parameter.name}"


def sources_of(name: str, recipes: Mapping[str, Recipe], available: Collection[str] = ()) -> list[str]:
    """Return the inputs and settings that a quantity is made from in the end, unless it is available itself.

    Any other name stands for itself.
    """
    if name in available or name not in recipes:
        return [name]
    parts = recipes[name].sources.values()
    return [source for part in parts for source in sources_of(part, recipes, available)]


def value_of(name: str, recipes: Mapping[str, Recipe], values: dict[str, Any]) -> Any:
    """Return a quantity, input or setting, and keep in `values` what was made on the way."""
    if name not in values:
        function, sources = recipes[name]
        values[name] = function(**{parameter: value_of(part, recipes, values) for parameter, part in sources.items()})
    return values[name]
