"""Log-probabilities of responses in padded batches, for models that cannot be packed.

The head runs on the positions that predict a response's token, and on no padding.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from components.models.adapters import output_head, unwrapped
from components.models.cpu.linear import pad_rows
from components.scoring.batch import Batch
from components.scoring.head import HeadUse, at_temperature, column_logps, entropies_of_logits, head_use, replaced
from components.scoring.padding_trial import Padding, padding_of

OfRows = Callable[[torch.Tensor], torch.Tensor]
"""Takes hidden states (tokens, size) and returns (tokens, anything)."""


class Rectangle:
    """A batch's tokens as a rectangle in which all responses begin at the same position.

    Prompts are padded on the left and responses on the right.
    """

    def __init__(self, batch: Batch, more: int = 0) -> None:
        """Lay the tokens out, with `more` columns of padding than they need."""
        self.prompt_width = max(map(len, batch.prompts)) + more
        shape = (len(batch.prompts), self.prompt_width + batch.response_width)
        # Padding tokens' embeddings may be zero, at which some models (Gemma 3n) have no gradient, so that all are NaN.
        ids = torch.tensor([prompt[:1] for prompt in batch.prompts], dtype=torch.long).repeat(1, shape[1])
        mask = torch.zeros(shape, dtype=torch.long)
        for row, (prompt, response) in enumerate(zip(batch.prompts, batch.responses, strict=True)):
            start, end = self.prompt_width - len(prompt), self.prompt_width + len(response)
            ids[row, start:end] = torch.tensor([*prompt, *response])
            mask[row, start:end] = 1
        self.input_ids, self.attention_mask = ids.to(batch.device), mask.to(batch.device)
        self.position_ids = (self.attention_mask.cumsum(dim=1) - 1).clamp(min=0)


def padded_logps(
    model: torch.nn.Module,
    batch: Batch,
    columns: torch.Tensor,
    *,
    temperature: float = 1.0,
    entropies: torch.Tensor | None = None,
    collisions: bool = False,
    padding: Padding | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return log-probabilities of columns of the vocabulary where the response tokens are predicted.

    Args:
        model: A causal language model.
        batch: Prompts and responses.
        columns: (response tokens, k) token ids.
        temperature: Divides the logits; other values than 1 without gradients only.
        entropies: (response tokens,), fp32, filled with the entropies over the vocabulary; None computes none.
        collisions: Whether to return the collision probabilities, which need all logits.
        padding: Side of the prompts' padding; None takes the one that `row_padding` finds.

    Returns:
        (response tokens, k), fp32, in nats; and log sum over the vocabulary of pi squared, (response tokens,), or None.
    """
    padding, use = padding or row_padding(model), head_use(model)
    parts = [batch]
    if padding == "none":
        rows = zip(batch.prompts, batch.responses, strict=True)
        parts = [Batch([prompt], [response], batch.pad_id, batch.device) for prompt, response in rows]
    logps, log_collisions, first = [], [], 0
    for part in parts:
        own = slice(first, first := first + len(part.places))
        of_part = None if entropies is None else entropies[own]
        if use == "plain" and not collisions:
            logps.append(_of_plain_head(model, part, padding, columns[own], temperature, of_part))
            continue
        logits = at_temperature(_logits(model, part, padding, use).float(), temperature)
        total = logits.logsumexp(dim=1)
        logps.append(logits.gather(1, columns[own]) - total.unsqueeze(1))
        if of_part is not None:
            of_part.copy_(entropies_of_logits(logits, total))
        if collisions:
            log_collisions.append((2 * logits).logsumexp(dim=1) - 2 * total)
    return torch.cat(logps), torch.cat(log_collisions) if collisions else None


def _of_plain_head(
    model: Any,
    batch: Batch,
    padding: Padding,
    columns: torch.Tensor,
    temperature: float,
    entropies: torch.Tensor | None,
) -> torch.Tensor:
    """Return what `padded_logps` does, without ever holding all logits."""
    head = output_head(model)

    def scored(rows: torch.Tensor) -> torch.Tensor:
        return column_logps(rows, head.weight, head.bias, columns, temperature=temperature, entropies=entropies)

    return _forward(model, batch, padding, scored)


def _logits(model: Any, batch: Batch, padding: Padding, use: HeadUse) -> torch.Tensor:
    """Return the logits that predict the response tokens, (response tokens, vocabulary)."""
    if use == "unknown":
        return _forward(model, batch, padding, None)
    forward = output_head(model).forward
    return _forward(model, batch, padding, lambda rows: forward(rows.unsqueeze(0)).squeeze(0))


def _forward(model: Any, batch: Batch, padding: Padding, of_rows: OfRows | None) -> torch.Tensor:
    """Run the model with a function in place of its head, on the rows that predict the response tokens.

    Args:
        model: A causal language model.
        batch: Prompts and responses; one of each if `padding` is "none".
        padding: Side of the prompts' padding.
        of_rows: The function; None keeps the head, whose logits are selected instead.

    Returns:
        (response tokens, anything).
    """
    # Few widths, as nearly every batch has one of its own, and products of each are compiled and kept.
    longest = max(map(len, batch.prompts)) + batch.response_width
    more = 0 if padding == "none" else pad_rows(longest, batch.device, unwrapped(model).dtype)
    rectangle = Rectangle(batch, more)
    width, prompt_width = rectangle.input_ids.shape[1], rectangle.prompt_width
    if padding == "left":
        inputs = {"input_ids": rectangle.input_ids, "attention_mask": rectangle.attention_mask}
        inputs["position_ids"] = rectangle.position_ids
        starts = torch.full((len(batch.prompts),), prompt_width - 1, device=batch.device)
    else:
        # A model that would read padding on the left, or that makes its positions itself.
        lengths = rectangle.attention_mask[:, :prompt_width].sum(dim=1, keepdim=True)
        places = (torch.arange(width, device=batch.device) + prompt_width - lengths) % width
        inputs = {"input_ids": rectangle.input_ids.gather(1, places)}
        inputs["attention_mask"] = rectangle.attention_mask.gather(1, places)
        starts = lengths.squeeze(1) - 1
    rows = batch.places // batch.response_width
    positions = starts[rows] + batch.places % batch.response_width

    def selected(states: torch.Tensor) -> torch.Tensor:
        """Return (tokens, size) of (rows, last positions of each, size)."""
        count = states.shape[1]
        return states.flatten(0, 1).index_select(0, rows * count + positions - (width - count))

    keep = _last(model, width - int(starts.min()), rectangle.input_ids)
    if of_rows is None:
        return selected(model(**inputs, logits_to_keep=keep, use_cache=False).logits)
    with replaced(output_head(model), lambda hidden: of_rows(selected(hidden)).unsqueeze(0)):
        logits: torch.Tensor = model(**inputs, logits_to_keep=keep, use_cache=False).logits
    return logits.squeeze(0)


def _last(model: torch.nn.Module, count: int, input_ids: torch.Tensor) -> "int | torch.Tensor":
    """Return which logits a model should compute: the last `count` of each row.

    Told a number, a model whose layers share keys and values drops the other queries in those layers, and remains
    causal only under transformers' own names of attention. It takes places as they are.
    """
    shares = getattr(unwrapped(model).config.get_text_config(), "num_kv_shared_layers", 0)
    width = input_ids.shape[1]
    return torch.arange(width - count, width, device=input_ids.device) if shares else count


def row_padding(model: Any) -> Padding:
    """Return how the rows of a model are padded; every rank must call this."""
    return padding_of(model, partial(_token_logps, model))


def padded_token_logps(
    model: Any, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Return the log-probabilities of response tokens by the padded forward, (tokens,), row by row."""
    return _token_logps(model, row_padding(model), prompts, responses)


def _token_logps(
    model: Any, padding: Padding, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
) -> torch.Tensor:
    batch = Batch(prompts, responses, 0, next(model.parameters()).device)
    tokens = batch.targets.flatten().index_select(0, batch.places)
    return padded_logps(model, batch, tokens.unsqueeze(1), padding=padding)[0].squeeze(1)
