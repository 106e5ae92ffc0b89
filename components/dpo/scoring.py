"""The trainer's forward: log-probabilities of responses. Reference, policy and KL estimates all come from here."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from components.padding import left_padding_is_exact


class Batch:
    """Prompts and responses of equal count, padded so that all responses begin at one position.

    Prompts are padded on the left and responses on the right; the head then runs on the response positions only.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> None:
        self.prompt_width = max(len(prompt) for prompt in prompts)
        self.response_width = max(len(response) for response in responses)
        shape = (len(prompts), self.prompt_width + self.response_width)
        ids, mask = torch.full(shape, pad_id, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            start, end = self.prompt_width - len(prompt), self.prompt_width + len(response)
            ids[row, start:end] = torch.tensor([*prompt, *response])
            mask[row, start:end] = 1
        self.input_ids, self.attention_mask = ids.to(device), mask.to(device)
        self.position_ids = (self.attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        self.targets = self.input_ids[:, self.prompt_width :]
        self.target_mask = self.attention_mask[:, self.prompt_width :].bool()


class TokenScores(NamedTuple):
    """What the policy says of response tokens, each (batch, response width) in nats and fp32, zero where a row has no token."""

    logps: torch.Tensor
    """log pi(token | what stands before)."""
    end_logps: torch.Tensor | None
    """log pi(end | what stands before), where an end token was named."""
    log_collisions: torch.Tensor | None
    """log sum over the vocabulary of pi squared, where it was asked for."""


def token_scores(model: torch.nn.Module, batch: Batch, *, end_id: int | None = None, collisions: bool = False) -> TokenScores:
    """Scores each response token; log-softmax in fp32.

    Args:
        model: A causal language model.
        batch: The prompts and responses.
        end_id: Token whose log-probability is wanted at every response position; None wants none.
        collisions: Whether the collision probabilities are wanted.
    """
    logits = (_response_logits if left_padding_is_exact(model) else _plain_response_logits)(model, batch).float()
    total, outside = logits.logsumexp(dim=2), ~batch.target_mask
    chosen = logits.gather(2, batch.targets.unsqueeze(2)).squeeze(2)
    end_logps = None if end_id is None else (logits[:, :, end_id] - total).masked_fill(outside, 0.0)
    log_collisions = ((2 * logits).logsumexp(dim=2) - 2 * total).masked_fill(outside, 0.0) if collisions else None
    return TokenScores((chosen - total).masked_fill(outside, 0.0), end_logps, log_collisions)


def token_logps(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Log-probability of each response token, (batch, response width), zero where a row has no token; log-softmax in fp32."""
    return token_scores(model, batch).logps


def _response_logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Logits that predict the response positions, (batch, response width, vocabulary)."""
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        logits_to_keep=batch.response_width + 1,
        use_cache=False,
    )
    return output.logits[:, :-1]


def _plain_response_logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """The same without padding on the left, for models that would read it; the head runs from the end of the shortest prompt on."""
    width = batch.input_ids.shape[1]
    lengths = batch.attention_mask[:, : batch.prompt_width].sum(dim=1, keepdim=True)
    columns = torch.arange(width, device=lengths.device)
    places = (columns + batch.prompt_width - lengths) % width
    logits = model(
        input_ids=batch.input_ids.gather(1, places),
        attention_mask=batch.attention_mask.gather(1, places),
        logits_to_keep=width - int(lengths.min()) + 1,
        use_cache=False,
    ).logits
    first = logits.shape[1] - width + lengths - 1
    return logits[torch.arange(len(logits), device=lengths.device).unsqueeze(1), first + columns[: batch.response_width]]


Summed = Callable[[torch.Tensor, torch.Tensor, list[int]], torch.Tensor]


def plain_sum(logps: torch.Tensor, mask: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """The sum over all tokens of a response."""
    return logps.sum(dim=1)


@torch.no_grad()
def response_logps(
    model: torch.nn.Module,
    pad_id: int,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    batch_size: int,
    summed: Summed = plain_sum,
) -> torch.Tensor:
    """Scores responses without gradients.

    Args:
        model: A causal language model.
        pad_id: Token that fills the padding.
        prompts: n prompts as token ids.
        responses: n responses as token ids, none of them empty.
        batch_size: Rows in one forward.
        summed: Turns token log-probabilities (rows, width), their mask and the rows' places among the n into (rows,) sums.

    Returns:
        (n,) log-probabilities summed over response tokens, float32 on the CPU. Rows are scored in order of length, so the batches
        hold little padding; the result is in the order given.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]) + len(responses[row]))
    logps = torch.empty(len(prompts))
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        batch = Batch([prompts[row] for row in rows], [responses[row] for row in rows], pad_id, device)
        logps[rows] = summed(token_logps(model, batch), batch.target_mask, rows).cpu()
    return logps
