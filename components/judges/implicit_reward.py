"""The implicit reward judge: the policy's preferences since the start, from its own probabilities.

DPO's implicit reward (Rafailov et al. 2023, arXiv 2305.18290, section 5.1) without its factor beta, which changes no
order:

    r(x, y) = log pi_policy(y|x) - log pi_start(y|x), in nats, summed over the response's tokens.

Until a round is promoted, the policy is the start model and every such reward is 0. The judge then gives invalid
verdicts with that reason: alone it is unavailable, and in a jury it abstains.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch

from components import artifacts
from components.config import JudgeSettings, PolicyConfig
from components.data.messages import Messages, format_messages
from components.judges.protocol import Group, Judge, JudgeContext, Opinion, Verdict, judge_alone
from components.judges.registry import AnyJudge
from components.models.loading import give_memory_back, load_policy, load_tokenizer, pick_device, resolve_dtype
from components.models.tokens import ChatTokenizer, NotRendered, load_chat
from components.records import ModelRef
from components.runtime import progress
from components.scoring.response_logps import response_logps

NAME = "implicit_reward"
UNMOVED = (
    "the policy is still the start model, so every implicit reward is 0: "
    "until a round is promoted, another judge has to decide"
)


class Tokens(NamedTuple):
    """A prompt and a response in the policy's tokens."""

    prompt: list[int]
    response: list[int]


class Models(NamedTuple):
    """The models whose log-ratio is the reward."""

    policy: ModelRef
    start: ModelRef
    limits: PolicyConfig
    beta: float = 1.0
    """Scale of the reward."""


Read = Callable[[ChatTokenizer, Messages, str, Tokens | None, PolicyConfig], Tokens | Opinion]
"""(tokenizer, conversation, response, its tokens if the policy sampled it, limits) -> tokens, or why there are none."""


class ImplicitRewardJudge:
    """Score responses by the log-ratio of the policy to the start.

    Holds one model in memory at a time, and none between calls.
    """

    def __init__(
        self,
        name: str,
        models: Models,
        *,
        batch_size: int,
        sampled: Callable[[Sequence[Group]], Mapping[tuple[str, str], Tokens]],
        read: Read,
    ) -> None:
        """Take the models without loading them.

        Args:
            name: The judge's name.
            models: Policy and start, and their scale.
            batch_size: Responses that a model reads together.
            sampled: Returns the tokens of the responses that the policy sampled, by conversation and text.
            read: Returns the tokens of any response.
        """
        self.name = name
        self._models, self._batch_size = models, batch_size
        self._sampled, self._read = sampled, read

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Score every response."""
        return judge_alone(self.name, groups, partial(self._score, self._sampled(groups)))

    def _score(
        self, sampled: Mapping[tuple[str, str], Tokens], distinct: Sequence[tuple[Messages, str]]
    ) -> list[Opinion]:
        policy, start, limits, beta = self._models
        if policy.digest == start.digest:
            return [Opinion(None, UNMOVED)] * len(distinct)
        chat = load_chat(policy, limits)
        inputs = [
            self._read(chat, messages, text, sampled.get((format_messages(messages), text)), limits)
            for messages, text in distinct
        ]
        opinions = {index: opinion for index, opinion in enumerate(inputs) if isinstance(opinion, Opinion)}
        readable = {index: tokens for index, tokens in enumerate(inputs) if isinstance(tokens, Tokens)}
        if readable:
            logps = [self._logps(ref, list(readable.values()), done) for done, ref in enumerate((policy, start))]
            ratios = (beta * (logps[0] - logps[1])).tolist()
            opinions |= {index: Opinion(ratio) for index, ratio in zip(readable, ratios, strict=True)}
        return [opinions[index] for index in range(len(distinct))]

    def _logps(self, ref: ModelRef, rows: Sequence[Tokens], models_done: int) -> torch.Tensor:
        """Return the log-probability of each row's response under one model, (rows,), float64 on the CPU."""
        limits = self._models.limits
        model = load_policy(
            ref, dtype=resolve_dtype(limits.dtype), device=pick_device(), quantization=limits.quantization
        )
        pad_id = load_tokenizer(ref).pad_token_id
        # Equal prompts stand together and are read once. Ids break ties of length, so that batches, and with them the
        # last bits of a score, do not depend on the order of the input.
        order = sorted(range(len(rows)), key=lambda row: (len(rows[row].prompt), rows[row]))
        logps = torch.empty(len(rows), dtype=torch.float64)
        for begin in range(0, len(order), self._batch_size):
            batch = order[begin : begin + self._batch_size]
            prompts, responses = [rows[row].prompt for row in batch], [rows[row].response for row in batch]
            logps[batch] = response_logps(model, pad_id, prompts, responses).double()
            progress.report(
                models_done * len(rows) + begin + len(batch), 2 * len(rows), "log-probabilities of responses"
            )
        del model
        give_memory_back()
        return logps


def load(config: JudgeSettings, context: JudgeContext) -> Judge:
    """Return the judge that reads the context's policy and start.

    Raises:
        ValueError: The context has no models, as outside a campaign.
    """
    if context.policy is None or context.start is None or context.limits is None:
        raise ValueError(
            "judge kind implicit_reward compares a campaign's policy with its start: "
            "use another kind outside a campaign"
        )
    models = Models(context.policy, context.start, context.limits)
    return ImplicitRewardJudge(NAME, models, batch_size=config.batch_size, sampled=_sampled, read=read_tokens)


def digest(config: AnyJudge) -> str:
    """Return the identity of the judge: its kind, since the models come with the context."""
    return artifacts.digest({"kind": config.kind})


def _sampled(groups: Sequence[Group]) -> dict[tuple[str, str], Tokens]:
    """Return the tokens of the responses that the policy sampled, by conversation and text."""
    return {
        (format_messages(group.messages), text): Tokens(list(group.prompt_ids), list(group.tokens[sample_id].token_ids))
        for group in groups
        for sample_id, text in reversed(group.responses)
        if sample_id in group.tokens
    }


def read_tokens(
    chat: ChatTokenizer, messages: Messages, text: str, sampled: Tokens | None, limits: PolicyConfig
) -> Tokens | Opinion:
    """Return the tokens as in training, cut at the policy's limit, or an opinion that says why there are none."""
    prompt = chat.prompt_ids(messages) if sampled is None else sampled.prompt
    if len(prompt) > limits.max_prompt_tokens:
        return Opinion(
            None,
            f"the prompt has {len(prompt)} tokens, more than policy.max_prompt_tokens = {limits.max_prompt_tokens}",
        )
    if sampled is not None:
        # A stop string may end a response before its first token.
        own = sampled.response[: limits.max_response_tokens]
        return Tokens(prompt, own) if own else Opinion(None, "the response has no tokens")
    try:
        response = chat.response_ids(messages, text, max_tokens=limits.max_response_tokens)
    except NotRendered as error:
        return Opinion(None, str(error))
    return Tokens(prompt, response) if response else Opinion(None, "the response has no tokens")
