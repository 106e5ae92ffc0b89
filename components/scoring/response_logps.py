"""The trainer's forward: log-probabilities of responses, for the policy, the reference and KL estimates alike."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad

from components.models.adapters import unwrapped
from components.runtime import progress
from components.scoring.packed.head import at_temperature
from components.scoring.packed.layout import Packed
from components.scoring.packed.logps import longest_packed, packed_logps, packing_of
from components.scoring.packed.trial import UNLIMITED
from components.scoring.padding_trial import Padding, alone_reason, padding_of

SCORED_TOKENS = 8192
"""Tokens in one forward without gradients."""


class Batch:
    """Prompts and responses of equal count, as rows of one forward."""

    def __init__(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_id: int, device: torch.device
    ) -> None:
        self.prompts, self.responses, self.pad_id, self.device = prompts, responses, pad_id, device
        self.response_width = max(len(response) for response in responses)
        targets = torch.full((len(responses), self.response_width), pad_id, dtype=torch.long)
        for row, response in enumerate(responses):
            targets[row, : len(response)] = torch.tensor(response)
        lengths = torch.tensor([len(response) for response in responses])
        mask = torch.arange(self.response_width) < lengths.unsqueeze(1)
        self.places = mask.flatten().nonzero().squeeze(1).to(device)
        """Index of each response token in a flattened (rows, response width), row by row."""
        self.targets, self.target_mask = targets.to(device), mask.to(device)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt and response."""
        return max(len(prompt) + len(response) for prompt, response in zip(self.prompts, self.responses, strict=True))

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of the response tokens, (tokens,), as (rows, response width), with zeros elsewhere."""
        return (
            values.new_zeros(self.target_mask.numel()).index_copy(0, self.places, values).view(self.target_mask.shape)
        )


class Padded:
    """A batch's tokens as a rectangle in which all responses begin at the same position.

    Prompts are padded on the left and responses on the right, so that the head runs on the response positions only.
    """

    def __init__(self, batch: Batch) -> None:
        self.prompt_width, self.response_width = max(map(len, batch.prompts)), batch.response_width
        shape = (len(batch.prompts), self.prompt_width + self.response_width)
        # Padding tokens' embeddings may be zero, at which some models (Gemma 3n) have no gradient, so that all are NaN.
        ids = torch.tensor([prompt[:1] for prompt in batch.prompts], dtype=torch.long).repeat(1, shape[1])
        mask = torch.zeros(shape, dtype=torch.long)
        for row, (prompt, response) in enumerate(zip(batch.prompts, batch.responses, strict=True)):
            start, end = self.prompt_width - len(prompt), self.prompt_width + len(response)
            ids[row, start:end] = torch.tensor([*prompt, *response])
            mask[row, start:end] = 1
        self.input_ids, self.attention_mask = ids.to(batch.device), mask.to(batch.device)
        self.position_ids = (self.attention_mask.cumsum(dim=1) - 1).clamp(min=0)


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
    if collisions or batch.longest > _longest_packed(model):
        return _padded_scores(
            model, batch, end_ids=end_ids, collisions=collisions, entropies=entropies, temperature=temperature
        )
    tokens = batch.targets.flatten().index_select(0, batch.places)
    columns = torch.stack([tokens, *(torch.full_like(tokens, end_id) for end_id in end_ids)], dim=1)
    layout = Packed(batch.prompts, batch.responses, batch.device, unwrapped(model).dtype)
    of_tokens = torch.empty(len(tokens), device=batch.device) if entropies else None
    logps = packed_logps(model, layout, columns, temperature=temperature, entropies=of_tokens)
    end_logps = batch.spread(logps[:, 1:].logsumexp(dim=1)) if end_ids else None
    spread = None if of_tokens is None else batch.spread(of_tokens)
    return TokenScores(batch.spread(logps[:, 0]), end_logps, None, spread)


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
    packing = packing_of(model, _padded_logps)
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
    return padding_of(model, partial(_logps_padded, model)) == "none"


def _longest_packed(model: Any) -> int:
    """Return the tokens of the longest row that is packed, after a trial of how longer ones are padded."""
    longest = longest_packed(model, _padded_logps)
    if longest < UNLIMITED:
        padding_of(model, partial(_logps_padded, model))
    return longest


def _padded_scores(
    model: torch.nn.Module,
    batch: Batch,
    *,
    end_ids: Sequence[int],
    collisions: bool,
    entropies: bool,
    temperature: float,
) -> TokenScores:
    padding = padding_of(model, partial(_logps_padded, model))
    logits = at_temperature(_padded_logits(model, batch, padding).float(), temperature)
    total, outside = logits.logsumexp(dim=2), ~batch.target_mask
    chosen = logits.gather(2, batch.targets.unsqueeze(2)).squeeze(2)
    end_logits = logits[:, :, list(end_ids)].logsumexp(dim=2) if end_ids else None
    end_logps = None if end_logits is None else (end_logits - total).masked_fill(outside, 0.0)
    log_collisions = ((2 * logits).logsumexp(dim=2) - 2 * total).masked_fill(outside, 0.0) if collisions else None
    of_tokens = _entropies(logits, total).masked_fill(outside, 0.0) if entropies else None
    return TokenScores((chosen - total).masked_fill(outside, 0.0), end_logps, log_collisions, of_tokens)


@torch.no_grad()
def _entropies(logits: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Return the entropy at each position, (batch, width), row by row: all at once would be as large as all logits.

    Args:
        logits: (batch, width, vocabulary).
        total: Their logsumexp, (batch, width).
    """
    rows = [
        torch.special.entr((row - of_row.unsqueeze(1)).exp()).sum(dim=1)
        for row, of_row in zip(logits, total, strict=True)
    ]
    return torch.stack(rows)


def _padded_logps(
    model: torch.nn.Module, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Return the log-probabilities of response tokens by the padded forward, (tokens,), row by row."""
    return _logps_padded(model, padding_of(model, partial(_logps_padded, model)), prompts, responses)


def _logps_padded(
    model: torch.nn.Module, padding: Padding, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Return the same with a padding of choice."""
    batch = Batch(prompts, responses, 0, next(model.parameters()).device)
    logits = _padded_logits(model, batch, padding).float()
    return logits.log_softmax(dim=2).gather(2, batch.targets.unsqueeze(2)).squeeze(2)[batch.target_mask]


def token_logps(model: torch.nn.Module, batch: Batch, *, temperature: float = 1.0) -> torch.Tensor:
    """Return the log-probability of each response token, (batch, response width), zero where a row has no token.

    The log-softmax is computed in fp32, of logits divided by `temperature`.
    """
    return token_scores(model, batch, temperature=temperature).logps


def _padded_logits(model: torch.nn.Module, batch: Batch, padding: Padding) -> torch.Tensor:
    """Return the logits that predict the response positions, (batch, response width, vocabulary)."""
    if padding == "left":
        return _response_logits(model, Padded(batch))
    if padding == "right":
        return _plain_response_logits(model, Padded(batch))
    rows = [
        _plain_response_logits(model, Padded(Batch([prompt], [response], batch.pad_id, batch.device)))
        for prompt, response in zip(batch.prompts, batch.responses, strict=True)
    ]
    return torch.cat([pad(row, (0, 0, 0, batch.response_width - row.shape[1])) for row in rows])


def _response_logits(model: torch.nn.Module, batch: Padded) -> torch.Tensor:
    """Return the logits that predict the response positions, (batch, response width, vocabulary)."""
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        logits_to_keep=_last(model, batch.response_width + 1, batch.input_ids),
        use_cache=False,
    )
    return output.logits[:, :-1]


def _last(model: torch.nn.Module, count: int, input_ids: torch.Tensor) -> "int | torch.Tensor":
    """Return which logits a model should compute: the last `count` of each row.

    Told a number, a model whose layers share keys and values drops the other queries in those layers, and remains
    causal only under transformers' own names of attention. It takes places as they are.
    """
    shares = getattr(unwrapped(model).config.get_text_config(), "num_kv_shared_layers", 0)
    width = input_ids.shape[1]
    return torch.arange(width - count, width, device=input_ids.device) if shares else count


def _plain_response_logits(model: torch.nn.Module, batch: Padded) -> torch.Tensor:
    """Return the same logits without padding on the left, for models that would read the padding.

    The head runs from the end of the shortest prompt on.
    """
    width = batch.input_ids.shape[1]
    lengths = batch.attention_mask[:, : batch.prompt_width].sum(dim=1, keepdim=True)
    columns = torch.arange(width, device=lengths.device)
    places = (columns + batch.prompt_width - lengths) % width
    logits = model(
        input_ids=batch.input_ids.gather(1, places),
        attention_mask=batch.attention_mask.gather(1, places),
        logits_to_keep=_last(model, width - int(lengths.min()) + 1, batch.input_ids),
        use_cache=False,
    ).logits
    first = logits.shape[1] - width + lengths - 1
    return logits[
        torch.arange(len(logits), device=lengths.device).unsqueeze(1), first + columns[: batch.response_width]
    ]


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
