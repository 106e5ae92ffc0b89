"""Rewards of conversations by a sequence classifier with one output, in packed rows.

Each prompt is read once for all its responses.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from components.models.adapters import unwrapped
from components.scoring.head import replaced
from components.scoring.packed.attention import CannotPack
from components.scoring.packed.forward import packed_forward
from components.scoring.packed.layout import Packed
from components.scoring.packed.trial import Packing, Trial, packing

TOLERANCE = 1e-4
"""Largest difference of a hidden state between packed and plain forward in a trial in fp32, as a share of the largest
hidden state."""


class SplitTexts(NamedTuple):
    """Texts in two parts."""

    shared: list[int]
    """Tokens that all texts begin with; empty if they begin differently."""
    rests: list[list[int]]
    """The rest of each text; never empty."""


def split_shared(texts: Sequence[list[int]], pad_id: int | None) -> SplitTexts:
    """Split texts after the tokens that they share, without the padding tokens at their ends.

    A sequence classifier reads a text's reward at the last token that is not its padding token, so those behind it
    count for nothing.

    Args:
        texts: Token ids, none of them empty.
        pad_id: The padding token of the model's configuration; None without one.
    """
    rows = [_strip_end(ids, pad_id) for ids in texts]
    shared = min(_shared_prefix_length(rows), min(map(len, rows)) - 1)
    return SplitTexts(rows[0][:shared], [row[shared:] for row in rows])


def _shared_prefix_length(texts: Sequence[list[int]]) -> int:
    """Return the number of tokens that all texts begin with."""
    return sum(1 for _ in itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*texts, strict=False)))


def _strip_end(ids: list[int], token: int | None) -> list[int]:
    """Return ids without the repetitions of `token` at the end; at least one id is left."""
    end = len(ids)
    while end > 1 and ids[end - 1] == token:
        end -= 1
    return ids[:end]


def longest_rewarded(model: Any) -> int:
    """Return the tokens of the longest prompt and response whose reward is exact in a packed row.

    The result is 0 if none is exact; the reason is logged.

    Args:
        model: A sequence classifier, a peft wrapper of one, or an engine around either.
    """
    return packing_of_rewards(model).longest


def packing_of_rewards(model: Any) -> Packing:
    """Return how far a model's rewards are packed, and why no further; argument as for `longest_rewarded`."""

    def trial(prompts: list[list[int]], responses: list[list[int]]) -> Trial:
        head = getattr(unwrapped(model), "score", None)
        if not isinstance(head, torch.nn.Module):
            raise CannotPack("it has no head named score")
        texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]

        def plain() -> torch.Tensor:
            with replaced(head, lambda hidden: hidden):
                return _plain(model, texts)

        def packed() -> torch.Tensor:
            layout = Packed(prompts, responses, next(model.parameters()).device, unwrapped(model).dtype, ends=True)
            return _read(model, layout, lambda hidden: hidden)

        return Trial(
            plain=plain,
            packed=packed,
            errors=lambda hidden, exact: (hidden - exact) / exact.abs().max(),
            tolerance=TOLERANCE,
            off="its hidden states are off by",
            amount="{:.2%}",
        )

    return packing(model, trial)


def packed_rewards(model: Any, layout: Packed) -> torch.Tensor:
    """Return the reward of each response.

    Args:
        model: A model whose `longest_rewarded` is not exceeded.
        layout: Prompts and responses, made with `ends`.

    Returns:
        (responses,), in the model's own precision.
    """
    head = unwrapped(model).score
    return _read(model, layout, lambda hidden: type(head).forward(head, hidden)).squeeze(1)


def _read(model: Any, layout: Packed, head: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return a head's outputs for each response's last hidden state, (responses, outputs)."""

    def at_the_ends(hidden: torch.Tensor) -> torch.Tensor:
        outputs = head(hidden.squeeze(0).index_select(0, layout.places))
        # The model returns the outputs of the token that it takes for the last one, so they stand at every token.
        return outputs.reshape(1, 1, -1).expand(1, hidden.shape[1], -1)

    return packed_forward(model, unwrapped(model).score, layout, at_the_ends).view(len(layout.segments), -1)


def _plain(model: Any, texts: list[list[int]]) -> torch.Tensor:
    """Return the model's outputs for each text alone, (texts, outputs)."""
    settings, device = unwrapped(model).config.get_text_config(), next(model.parameters()).device
    # With a padding token, the model would take a last token that equals it for padding, and read an earlier one.
    own, settings.pad_token_id = settings.pad_token_id, None
    try:
        return torch.cat([model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits for ids in texts])
    finally:
        settings.pad_token_id = own
