"""The trainer's forward: log-probabilities of responses, for the policy, the reference and KL estimates alike."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from components.models.adapters import unwrapped
from components.runtime import progress
from components.scoring.batch import Batch
from components.scoring.packed.layout import Packed
from components.scoring.packed.logps import longest_packed, packed_logps, packing_of
from components.scoring.packed.trial import UNLIMITED
from components.scoring.padded import padded_logps, padded_token_logps, row_padding
from components.scoring.padding_trial import alone_reason

SCORED_TOKENS = 8192
"""Tokens in one forward without gradients."""


class TokenScores(NamedTuple):
    """Scores of response tokens, each (batch, response width) in nats and fp32, zero where a row has no token."""

    logps: torch.Tensor
    """log pi(token | the tokens before it)."""
    end_logps: torch.Tensor | None
    """log pi(any of the end tokens | the tokens before it); None without end tokens."""
    log_collisions: torch.Tensor | None
    """log sum over the vocabulary of pi squared; None unless requested."""
    entropies: torch.Tensor | None = None
    """Entropy of pi over the vocabulary, without a gradient; None unless requested."""


def token_scores(
    model: torch.nn.Module,
    batch: Batch,
    *,
    end_ids: Sequence[int] = (),
    collisions: bool = False,
    entropies: bool = False,
    temperature: float = 1.0,
) -> TokenScores:
    """Score each response token, in a packed row if that is exact for the model, else padded; log-softmax in fp32.

    Args:
        model: A causal language model.
        batch: The prompts and responses.
        end_ids: Tokens that end an answer: the log-probability of any of them is also returned at every response
            position.
        collisions: Whether to return the collision probabilities, which need the padded forward.
        entropies: Whether to return the entropies.
        temperature: Divides the logits; other values than 1 without gradients only.
    """
    tokens = batch.targets.flatten().index_select(0, batch.places)
    columns = torch.stack([tokens, *(torch.full_like(tokens, end_id) for end_id in end_ids)], dim=1)
    of_tokens = torch.empty(len(tokens), device=batch.device) if entropies else None
    log_collisions = None
    if collisions or batch.longest > _longest_packed(model):
        logps, log_collisions = padded_logps(
            model, batch, columns, temperature=temperature, entropies=of_tokens, collisions=collisions
        )
    else:
        layout = Packed(batch.prompts, batch.responses, batch.device, unwrapped(model).dtype)
        logps = packed_logps(model, layout, columns, temperature=temperature, entropies=of_tokens)
    return TokenScores(
        batch.spread(logps[:, 0]),
        batch.spread(logps[:, 1:].logsumexp(dim=1)) if end_ids else None,
        None if log_collisions is None else batch.spread(log_collisions),
        None if of_tokens is None else batch.spread(of_tokens),
    )


class ScoringPath(NamedTuple):
    """Which of the two forwards scores the rows."""

    packed: bool
    """Whether all rows are packed."""
    reason: str | None
    """Why some or all rows are padded; None if all are packed."""


def scoring_path(model: torch.nn.Module, longest: int, *, collisions: bool = False) -> ScoringPath:
    """Return which forward `token_scores` uses; every rank must call this.

    Args:
        model: A causal language model.
        longest: Tokens of the longest prompt and response.
        collisions: Whether `token_scores` returns the collision probabilities.
    """
    packing = packing_of(model, padded_token_logps)
    if longest <= packing.longest and not collisions:
        return ScoringPath(True, None)
    reason = packing.reason
    if collisions:
        reason = "collision probabilities (weighting: wpo) need all logits"
    elif packing.longest:
        reason = f"{packing.reason}, and rows are up to {longest} tokens long"
    alone = scores_alone(model)
    return ScoringPath(False, f"{reason}; {alone_reason(model)}, so each is scored alone" if alone else reason)


def scores_alone(model: torch.nn.Module) -> bool:
    """Return whether rows that are not packed take a forward each; every rank must call this."""
    return row_padding(model) == "none"


def _longest_packed(model: Any) -> int:
    """Return the tokens of the longest row that is packed, after a trial of how longer ones are padded."""
    longest = longest_packed(model, padded_token_logps)
    if longest < UNLIMITED:
        row_padding(model)
    return longest


def token_logps(model: torch.nn.Module, batch: Batch, *, temperature: float = 1.0) -> torch.Tensor:
    """Return the log-probability of each response token, (batch, response width), zero where a row has no token.

    The log-softmax is computed in fp32, of logits divided by `temperature`.
    """
    return token_scores(model, batch, temperature=temperature).logps


Summed = Callable[[torch.Tensor, torch.Tensor, list[int]], torch.Tensor]


def plain_sum(logps: torch.Tensor, mask: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Return the sum over all tokens of each response."""
    return logps.sum(dim=1)


@torch.no_grad()
def response_logps(
    model: torch.nn.Module,
    pad_id: int,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    max_tokens: int = SCORED_TOKENS,
    max_rows: int = 0,
    summed: Summed = plain_sum,
    temperature: float = 1.0,
    counted_as: str = "",
) -> torch.Tensor:
    """Score responses without gradients; if weights are sharded over ranks, every rank must call it, with rows or none.

    Args:
        model: A causal language model.
        pad_id: Token that fills the padding.
        prompts: n prompts as token ids.
        responses: n responses as token ids, none of them empty.
        max_tokens: Tokens in one padded forward, including padding; a longer row is alone in one. A packed forward
            holds neither all logits nor more than one layer's states, so it has `SCORED_TOKENS` if that is more.
        max_rows: Rows in one forward; 0 sets no limit.
        summed: Turns token log-probabilities (rows, width), their mask and the rows' indices among the n into (rows,)
            sums.
        temperature: Divides the logits, so that the law is that of responses sampled at this temperature.
        counted_as: What the progress calls the responses; empty reports none.

    Returns:
        (n,) log-probabilities summed over response tokens, float32 on the CPU, in the order of the input. Rows that
        share a prompt are scored together, and so are rows of similar length.
    """
    device = next(model.parameters()).device
    logps = torch.empty(len(prompts))
    longest = max((len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)), default=0)
    packed = longest <= _longest_packed(model)
    limit = max(max_tokens, SCORED_TOKENS) if packed else max_tokens
    own = list(together(prompts, responses, max_tokens=limit, max_rows=max_rows or len(prompts), packed=packed))
    idle = most_forwards(model, len(own)) - len(own)
    scored = 0
    for rows in own:
        if counted_as:
            progress.report(scored, len(prompts), counted_as)
        scored += len(rows)
        batch = Batch([prompts[row] for row in rows], [responses[row] for row in rows], pad_id, device)
        logps[rows] = summed(token_logps(model, batch, temperature=temperature), batch.target_mask, rows).cpu()
    if counted_as:
        progress.report(scored, len(prompts), counted_as)
    for _ in range(idle):
        token_logps(model, Batch([[pad_id]], [[pad_id]], pad_id, device))
    return logps


def most_forwards(model: torch.nn.Module, own: int) -> int:
    """Return how many forwards this rank must make for `own` forwards of its own.

    If weights are sharded, ranks gather them together in every forward, so all make as many as the one with the most:
    a rank that makes fewer lets the others wait for ever. Every rank must call it then.
    """
    # DeepSpeed marks the weights that it shards (ZeRO 3).
    if not hasattr(next(model.parameters()), "ds_id"):
        return own
    most = torch.tensor(own, device=next(model.parameters()).device)
    torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
    return int(most)


def together(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    max_rows: int,
    packed: bool,
) -> Iterator[list[int]]:
    """Yield the rows of each forward, so that rows with the same prompt or of similar length are together.

    Args:
        prompts: n prompts as token ids.
        responses: n responses.
        max_tokens: Tokens in one forward; a longer row is alone in one.
        max_rows: Rows in one forward.
        packed: Whether equal prompts count once; else each row's prompt counts, and so does padding.
    """
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), list(prompts[row]), len(responses[row])))
    rows: list[int] = []
    tokens = widest = 0
    for row in order:
        length, widest = len(responses[row]), max(widest, len(responses[row]))
        if packed:
            more = length if rows and prompts[row] == prompts[rows[-1]] else len(prompts[row]) + length
        else:
            more = (len(rows) + 1) * (len(prompts[row]) + widest) - tokens
        if rows and (len(rows) == max_rows or tokens + more > max_tokens):
            yield rows
            rows, tokens, widest, more = [], 0, length, len(prompts[row]) + length
        rows.append(row)
        tokens += more
    if rows:
        yield rows
