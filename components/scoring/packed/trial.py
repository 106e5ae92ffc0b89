"""The trial that decides whether a model may be scored in packed rows, once per model. Knows no head."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch

from components.models.adapters import num_virtual_tokens, unwrapped
from components.models.rotary import UNLIMITED, make_rows_independent, original_context
from components.models.rounding import TIMES, in_fp32, root_mean_square
from components.models.trial_tokens import trial_tokens
from components.scoring.packed.attention import NAME, CannotPack

PROMPTS = (12, 5, 1)
"""Tokens of each prompt of a trial."""
RESPONSES = ((9, 4), (1, 6, 3), (7,))
"""Tokens of each response, per prompt: long and short, alone and beside others."""
DTYPES = (torch.float32, torch.bfloat16)
log = logging.getLogger(__name__)


class Trial(NamedTuple):
    """The two results that a trial compares, for some prompts and responses."""

    plain: Callable[[], torch.Tensor]
    """Computes the result without packing; called before the model's attention is replaced."""
    packed: Callable[[], torch.Tensor]
    """Computes the same result from a packed row; raises CannotPack if that is impossible."""
    errors: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """(result, exact result) -> their differences, in the unit of `tolerance`."""
    tolerance: float
    """Largest difference that rounding makes in fp32."""
    off: str
    """Message about a difference, up to the number."""
    amount: str
    """Format of the number."""


MakeTrial = Callable[[list[list[int]], list[list[int]]], Trial]
"""(prompts, responses of equal count) -> trial; raises CannotPack if the model need not be tried."""


class Packing(NamedTuple):
    """How far a model is scored in packed rows."""

    longest: int
    """Tokens of the longest prompt and response that a packed row computes exactly; 0 if none."""
    reason: str
    """Why longer ones are not packed; empty without a limit."""


_known: "WeakKeyDictionary[torch.nn.Module, Packing]" = WeakKeyDictionary()


def packing(model: Any, trial: MakeTrial) -> Packing:
    """Return how far a model may be packed, tried once per model; if it may not, the reason is logged.

    Args:
        model: A transformers model, a peft wrapper of one, or an engine around either.
        trial: Compares packed rows with plain ones.
    """
    base = unwrapped(model)
    if num_virtual_tokens(model):
        # This is not remembered, since the base may be packed without the adapter that has them.
        return Packing(0, "virtual tokens stand before the prompts")
    if base not in _known:
        _known[base] = _tried(base, trial)
        if not _known[base].longest:
            log.warning("%s: responses are scored in padded batches, which is exact but slower", _known[base].reason)
    return _known[base]


@torch.no_grad()
def _tried(base: Any, trial: MakeTrial) -> Packing:
    name, before = type(base).__name__, base.config._attn_implementation
    if before not in ("sdpa", NAME):
        return Packing(0, f"{name} uses {before} attention")
    if base.dtype not in DTYPES:
        return Packing(0, f"{name} computes in {base.dtype}")
    make_rows_independent(base)
    longest, reason = _limit(base)
    prompts, responses = _rows(base, longest=longest)
    try:
        if not prompts:
            raise CannotPack(f"it {reason}")
        comparison = trial(prompts, responses)
    except CannotPack as error:
        return Packing(0, f"{name} cannot be packed: {error}")
    plain = comparison.plain()
    try:
        _compare(base, comparison, plain)
    except (CannotPack, AttributeError, ImportError, IndexError, RuntimeError, TypeError, ValueError) as error:
        # The model, this torch or this device cannot compute it.
        base.set_attn_implementation(before)
        return Packing(0, f"{name} cannot be packed: {error}")
    return Packing(longest, f"{name} {reason}" if reason else "")


def _rows(base: Any, *, longest: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return prompts and responses of equal count, each prompt and response of at most `longest` tokens together."""
    drawn = iter(trial_tokens(base, [*PROMPTS, *(length for lengths in RESPONSES for length in lengths)]))
    prompts = [next(drawn) for _ in PROMPTS]
    rows = [(prompt, next(drawn)) for prompt, lengths in zip(prompts, RESPONSES, strict=True) for _ in lengths]
    fitting = [row for row in rows if len(row[0]) + len(row[1]) <= longest]
    return [prompt for prompt, _ in fitting], [response for _, response in fitting]


def _compare(base: Any, trial: Trial, plain: torch.Tensor) -> None:
    """Raise CannotPack if a packed row is off by more than rounding explains."""
    if base.dtype == torch.float32:
        base.set_attn_implementation(NAME)
        worst = float(trial.errors(trial.packed(), plain).abs().max())
        if not worst <= trial.tolerance:
            raise CannotPack(f"{trial.off} {trial.amount.format(worst)} in a packed row")
        return
    # The rounding error of a lower precision differs between models: a fixed bound would refuse a model that rounds
    # much, or accept a model that rounds little and is packed wrongly.
    with in_fp32(base):
        exact = trial.plain()
    base.set_attn_implementation(NAME)
    packed, padded = (root_mean_square(trial.errors(result, exact)) for result in (trial.packed(), plain))
    if not packed <= max(TIMES * padded, trial.tolerance):
        amounts = f"{trial.amount.format(packed)} in a packed row, and {trial.amount.format(padded)} in a padded one"
        raise CannotPack(f"{trial.off} {amounts} (root mean squares)")


def _limit(base: Any) -> tuple[int, str]:
    """Return the tokens of the longest row that may be packed, and what sets the limit; empty without one."""
    from transformers import DynamicCache

    layers = DynamicCache(config=base.config).layers
    window = min((layer.sliding_window for layer in layers if getattr(layer, "is_sliding", False)), default=UNLIMITED)
    context = original_context(base)
    if window < UNLIMITED and window <= context:
        return window, f"has a sliding window of {window} tokens"
    # Beyond it the positions of a prompt depend on the length of its response, so responses cannot share the prompt.
    return context, f"has positions that change beyond {context} tokens" if context < UNLIMITED else ""
