"""The trial that decides how a model's rows are padded, once per model: a row must score as it does alone."""

import logging
from collections.abc import Callable
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch

from components.models.adapters import unwrapped
from components.models.padding import left_padding_is_exact
from components.models.rotary import UNLIMITED, make_rows_independent, original_context
from components.models.rounding import LOW, TIMES, in_fp32, root_mean_square
from components.models.trial_tokens import trial_tokens

Padding = Literal["left", "right", "none"]
"""Side of a prompt's padding (a response's is on its right); `none`: every row is alone in a forward."""
Score = Callable[[Padding, list[list[int]], list[list[int]]], torch.Tensor]
"""(padding, prompts, responses) -> log-probabilities of the response tokens, row by row."""
PROMPTS, RESPONSES = (12, 5, 1), (4, 9, 6)
"""Tokens of each prompt and response of a trial."""
TOLERANCE = 1e-3
"""Largest difference of a token's log-probability, in nats, between rows together and alone in fp32."""
BLIND_TOLERANCE = 0.1
"""The same, as a root mean square, for a model of lower precision that cannot be run in fp32."""

log = logging.getLogger(__name__)
_known: "WeakKeyDictionary[torch.nn.Module, Padding]" = WeakKeyDictionary()


def padding_of(model: Any, score: Score) -> Padding:
    """Return how the rows of a model are padded; every rank must call this.

    Args:
        model: A causal language model, a peft wrapper of one, or an engine around either.
        score: Scores rows with a padding.
    """
    if model not in _known:
        _known[model] = _tried(model, score)
        if _known[model] == "none":
            log.warning("%s: responses are scored one row at a time, which is slower", alone_reason(model))
    return _known[model]


def alone_reason(model: Any) -> str:
    """Return why rows are scored one at a time."""
    return f"{type(unwrapped(model)).__name__} scores a row differently beside others"


@torch.no_grad()
def _tried(model: Any, score: Score) -> Padding:
    base = unwrapped(model)
    make_rows_independent(base)
    left = left_padding_is_exact(model)
    if not left and original_context(base) < UNLIMITED:
        # The model makes its positions itself, from the widest row.
        return "none"
    drawn = trial_tokens(base, [*PROMPTS, *RESPONSES])
    rows = drawn[: len(PROMPTS)], drawn[len(PROMPTS) :]
    exact, tolerance = _expected(base, score, rows)
    for side in ("left", "right") if left else ("right",):
        try:
            errors = score(side, *rows) - exact
        except (TypeError, ValueError, IndexError, RuntimeError):
            continue
        gap = root_mean_square(errors) if base.dtype in LOW else float(errors.abs().max())
        if gap <= tolerance:
            return side
    return "none"


def _expected(base: Any, score: Score, rows: tuple[list[list[int]], list[list[int]]]) -> tuple[torch.Tensor, float]:
    """Return exact log-probabilities, and how far others may be from them."""
    alone = score("none", *rows)
    if base.dtype not in LOW:
        return alone, TOLERANCE
    try:
        with in_fp32(base):
            exact = score("none", *rows)
    except (TypeError, RuntimeError):
        return alone, BLIND_TOLERANCE
    return exact, max(TOLERANCE, TIMES * root_mean_square(alone - exact))
